"""Report of `reasongenrm distil evaluate`: metrics as JSON, a figure, the scores, and one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scipy.stats import rankdata

from reasongenrm.report.pages import render
from reasongenrm.report.tables import MISSING, TextTable
from reasongenrm.scalar.agreement import Correlations, JudgeAgreement, ScoreCalibration
from reasongenrm.scalar.agreement_chart import agreement_panels
from reasongenrm.scalar.metrics import Statistic
from reasongenrm.scalar.reply_pairs import GapAgreement, ScoredReply
from reasongenrm.store import atomic_writer, to_json, write_json, write_jsonl, write_text

SHOWN = 10
"""Replies with the largest differences that the page shows."""


def write_agreement_report(
    folder: Path,
    replies: Sequence[ScoredReply],
    metrics: JudgeAgreement,
    *,
    name: str,
    facts: Mapping[str, Any],
    loss_curve: bytes | None = None,
) -> None:
    """Write `scores.jsonl`, `agreement.png`, `report.html` and, last, `metrics.json`.

    The same arguments give the same bytes; each file is written atomically.

    Args:
        folder: made if absent.
        replies: the scored replies.
        metrics: of these replies.
        name: of the run, for the titles.
        facts: what was trained and judged, and how, as plain JSON values.
        loss_curve: PNG of the training's losses.

    Raises:
        DataError: a file cannot be written.
    """
    picture = agreement_panels(replies, metrics, f"Head and judge: {name}")
    texts = ("context", "message", "response", "rationale")
    rows = ({key: value for key, value in to_json(reply).items() if key not in texts} for reply in replies)
    write_jsonl(folder / "scores.jsonl", rows)
    with atomic_writer(folder / "agreement.png") as out:
        out.write(picture)
    write_text(
        folder / "report.html", page(replies, metrics, name=name, facts=facts, pictures=(picture, loss_curve))
    )
    numbers = asdict(metrics)
    head = {"name": name, "facts": dict(facts), "level": 0.95} | numbers.pop("correlations")
    write_json(folder / "metrics.json", head | numbers)


def agreement_line(metrics: JudgeAgreement) -> str:
    """Return the main numbers in one line."""
    parts = [
        f"{metrics.replies} held-out replies of {metrics.conversations} conversations",
        f"Spearman {cell(metrics.correlations.spearman)}",
        f"Pearson {cell(metrics.correlations.pearson)}",
    ]
    if metrics.error is not None:
        parts.append(f"mean absolute error {cell(metrics.error)}")
    if metrics.same_message[0].pairs:
        parts.append(f"pairs of replies to one message {cell(metrics.same_message[0].agreement)}")
    return ", ".join(parts)


def cell(statistic: Statistic | None) -> str:
    """Return a number with its interval."""
    if statistic is None or statistic.value is None:
        return MISSING
    text = f"{statistic.value + 0.0:.3f}"  # + 0.0: no "-0.000"
    if statistic.interval is None:
        return text
    low, high = statistic.interval
    return f"{text} [{low:.3f}, {high:.3f}]"


def page(
    replies: Sequence[ScoredReply],
    metrics: JudgeAgreement,
    *,
    name: str,
    facts: Mapping[str, Any],
    pictures: tuple[bytes, bytes | None],
) -> str:
    """Return the report as one HTML document; all text is escaped, and nothing is loaded from the network."""
    figure, losses = pictures
    sections = [
        _section(
            "Agreement", [_agreement(metrics)], pictures=[("Scores, calibration, pairs and criteria", figure)]
        ),
        _section("Pairs", list(_pair_tables(metrics)), texts=[_PAIRS]),
        _section("Criteria", [_criteria(metrics)]) if metrics.criteria else None,
        _section("The judge against itself", [_retest(metrics)], texts=[_RETEST]),
        _section("People", [_people(metrics)]) if metrics.people else None,
        _section("Calibration", [_calibration(metrics)]),
        _section("Largest differences", [], cards=list(_differences(replies, metrics))),
        _section("How it was made", [_facts(facts)], pictures=[("Loss", losses)] if losses else []),
    ]
    return render(
        "agreement_report.html.jinja",
        title=f"A head that repeats a judge: {name}",
        summary=list(_summary(metrics)),
        sections=[section for section in sections if section],
    )


def _section(title: str, tables: list[TextTable], **parts: Any) -> dict[str, Any]:
    return {"title": title, "texts": [], "tables": tables, "pictures": [], "cards": []} | parts


_PAIRS = (
    "Share of the pairs that the head orders as the judge does, by the difference of the judge's weighted scores; equal scores of the "
    "head count one half, pairs with equal scores of the judge are left out, and chance is 0.5."
)
_RETEST = (
    "Two samples of the judge for the same reply also differ. The head is compared with the mean of the samples; the ceiling is what a "
    "head without any error of its own would reach."
)


def _summary(metrics: JudgeAgreement) -> Iterator[str]:
    numbers = metrics.correlations
    yield (
        f"On {metrics.replies:,} replies of {metrics.conversations:,} conversations that the training did not read, Spearman's correlation "
        f"of the head's scores with the judge's is {cell(numbers.spearman)}, Pearson's {cell(numbers.pearson)}."
    )
    if metrics.error is not None:
        text = f"The mean absolute error is {cell(metrics.error)} on the judge's scale from 0 to 1"
        if metrics.error_of_mean is not None:
            text += (
                f"; it would be {metrics.error_of_mean:.3f} if every reply got the mean score of the training"
            )
        yield text + "."
    else:
        yield "The head has learned from pairs: its scores order replies, and are not on the judge's scale."
    retest = metrics.retest
    if retest is None:
        yield "Each reply was judged once, so the judge's agreement with itself, which is the ceiling, is not known."
    else:
        yield f"The judge agrees with itself with Spearman's {cell(retest.correlations.spearman)} (one sample against another one)."
    yield "Intervals (95%) are bootstraps over whole conversations: replies to one message are not independent."


def _agreement(metrics: JudgeAgreement) -> TextTable:
    rows = [
        *_correlation_rows(metrics.correlations, "of head and judge"),
        ("mean absolute error", "mean of |head − judge|", cell(metrics.error)),
        (
            "error of the mean",
            "the same for a head that gives every reply the mean training score",
            MISSING if metrics.error_of_mean is None else f"{metrics.error_of_mean:.3f}",
        ),
        (
            "length, head",
            "Spearman's ρ of the head's score and the tokens of the response",
            cell(metrics.length_head),
        ),
        (
            "length, judge",
            "the same for the judge's; far apart: the head has learned length",
            cell(metrics.length_judge),
        ),
        ("truncated", "replies that were cut to fit the head; they count", f"{metrics.truncated:,}"),
    ]
    return TextTable(("metric", "meaning", "value [95%]"), tuple(rows), text_columns=2)


def _correlation_rows(numbers: Correlations, text: str) -> list[tuple[str, str, str]]:
    return [
        ("Pearson's r", f"linear correlation {text}", cell(numbers.pearson)),
        ("Spearman's ρ", f"correlation of the ranks {text}", cell(numbers.spearman)),
        (
            "Kendall's τ-b",
            f"pairs in the same order minus pairs in opposite ones, {text}",
            cell(numbers.kendall),
        ),
    ]


def _pair_tables(metrics: JudgeAgreement) -> Iterator[TextTable]:
    yield _gap_table("Replies to one message", metrics.same_message)
    yield _gap_table("Any two replies", metrics.any_message)


def _gap_table(title: str, gaps: Sequence[GapAgreement]) -> TextTable:
    rows = [
        (
            "all" if number == 0 else f"{gap.low:g} < gap ≤ {gap.high:g}",
            f"{gap.pairs:,}",
            f"{gap.agreement.prompts:,}",
            cell(gap.agreement),
        )
        for number, gap in enumerate(gaps)
    ]
    headings = ("difference of the judge's scores", "pairs", "conversations", "agreement [95%]")
    return TextTable(headings, tuple(rows), title=title)


def _criteria(metrics: JudgeAgreement) -> TextTable:
    rows = [
        (name, f"{one.replies:,}", cell(one.spearman), cell(one.error))
        for name, one in metrics.criteria.items()
    ]
    headings = ("criterion", "replies", "Spearman's ρ [95%]", "mean absolute error [95%]")
    own = any(one.error is not None for one in metrics.criteria.values())
    note = (
        "Errors are in units of the criterion's own scale."
        if own
        else "The head has one score: it is compared with the judge's score for each criterion."
    )
    return TextTable(headings, tuple(rows), notes=(note,))


def _retest(metrics: JudgeAgreement) -> TextTable:
    retest = metrics.retest
    headings = ("metric", "meaning", "value [95%]")
    if retest is None:
        row = ("not measured", "set judge.samples to 2 or more, and judge.temperature above 0", MISSING)
        return TextTable(headings, (row,), text_columns=2)
    text = f"of two samples; {retest.replies:,} replies with {retest.samples:.3g} samples on average"
    rows = [
        *_correlation_rows(retest.correlations, text),
        ("mean absolute difference", "of the weighted scores of two samples", cell(retest.error)),
        (
            "reliability of the mean",
            "k·r / (1 + (k − 1)·r), Spearman and Brown 1910",
            _number(retest.reliability),
        ),
        (
            "ceiling",
            "its root: Pearson's r of a head that knows the judge's true mean",
            _number(retest.ceiling),
        ),
    ]
    return TextTable(headings, tuple(rows), text_columns=2)


def _people(metrics: JudgeAgreement) -> TextTable:
    people = metrics.people
    assert people is not None
    rows = [
        (who, cell(numbers.spearman), cell(numbers.kendall), f"{pairs.pairs:,}", cell(pairs.agreement))
        for who, numbers, pairs in (
            ("head", people.head, people.head_pairs),
            ("judge", people.judge, people.judge_pairs),
        )
    ]
    headings = (
        "against people",
        "Spearman's ρ [95%]",
        "Kendall's τ-b [95%]",
        "pairs",
        "pairs of one message [95%]",
    )
    return TextTable(headings, tuple(rows), notes=(f"{people.replies:,} replies have a score by people.",))


def _calibration(metrics: JudgeAgreement) -> TextTable:
    fit = metrics.calibration
    if fit is None:
        return TextTable(("calibration",), (("there are no pairs of replies to one message",),))
    if isinstance(fit, ScoreCalibration):
        headings = ("head's mean", "judge's mean", "replies")
        note = (
            f"Calibration error (mean |judge − head| over bins, weighted): {_number(fit.error)}; line: judge = "
            f"{_number(fit.intercept)} + {_number(fit.slope)} · head."
        )
    else:
        headings = ("σ(difference)", "share right", "pairs")
        note = (
            "Of the probability that the first of two replies to one message is better: ECE "
            f"{fit.ece:.3f}, Brier score {fit.brier:.3f} (0.25 for equal scores), log-loss {fit.log_loss:.3f} nats (0.693)."
        )
    rows = [(_number(b.predicted), _number(b.observed), f"{b.n:,}") for b in fit.reliability]
    return TextTable(headings, tuple(rows), text_columns=0, notes=(note,))


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value + 0.0:.3f}"


def _differences(replies: Sequence[ScoredReply], metrics: JudgeAgreement) -> Iterator[dict[str, Any]]:
    """Yield the replies on which head and judge differ most: in scores, or in ranks where the head has no such scale."""
    columns = [[reply.head for reply in replies], [reply.judge for reply in replies]]
    head, judge = columns if metrics.error is not None else map(rankdata, columns)
    order = sorted(range(len(replies)), key=lambda n: (-abs(head[n] - judge[n]), replies[n].id))
    for number in order[:SHOWN]:
        reply = replies[number]
        texts = {
            "Context": reply.context,
            "Message": reply.message,
            "Response": reply.response,
            "The judge's rationale": reply.rationale,
        }
        yield {
            "title": f"Judge {reply.judge:.2f}, head {reply.head:.2f}",
            "texts": [(name, text) for name, text in texts.items() if text],
        }


def _facts(facts: Mapping[str, Any]) -> TextTable:
    rows = [(key, MISSING if value is None else str(value)) for key, value in facts.items()]
    return TextTable(("fact", "value"), tuple(rows), text_columns=2)
