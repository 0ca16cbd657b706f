"""The report of `reasongenrm scalar evaluate`: scores as CSV, a figure, the numbers as Markdown and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from reasongenrm.metrics.calibration import Calibration
from reasongenrm.metrics.intervals import Interval
from reasongenrm.report.charts import panels
from reasongenrm.report.pages import printable
from reasongenrm.report.tables import MISSING, escape_markdown, grid
from reasongenrm.scalar.metrics import (
    Distribution,
    Measured,
    ScalarMetrics,
    ScoredAnswer,
    ScoredPair,
    best_and_worst,
)
from reasongenrm.store import replacing, write_json, write_text

_BINS = 30


def scores_picture(answers: Sequence[ScoredAnswer], metrics: ScalarMetrics, title: str) -> bytes:
    """Return a PNG of four panels: scores of chosen and rejected, by rank, reliability, by length.

    The same answers, in whatever order, give the same bytes.

    Args:
        answers: what `metrics` is of.
        metrics: of which the reliability is drawn.
        title: stands above the panels.
    """
    draw: list[Callable[[Any], None]] = [
        partial(_histogram, answers=answers),
        partial(_by_rank, answers=answers),
        partial(_reliability, calibration=metrics.calibration),
        partial(_by_length, answers=answers),
    ]
    return panels(draw, title)


def _histogram(axes: Any, answers: Sequence[ScoredAnswer]) -> None:
    """Draw the scores of chosen and rejected answers over common bins; without ranks, of all answers."""
    import numpy as np

    chosen, rejected = best_and_worst(answers)
    series = {"chosen": chosen, "rejected": rejected} if chosen else {"all answers": list(answers)}
    values = [answer.score for some in series.values() for answer in some]
    axes.set(xlabel="score", ylabel="answers", title="scores")
    if not values:
        _nothing(axes, "no answers")
        return
    low, high = min(values), max(values)
    pad = 0.0 if low < high else max(0.5, abs(low) / 1000)  # equal scores need a bin that is not empty
    edges = np.linspace(low - pad, high + pad, _BINS + 1)
    for name, some in series.items():
        counts, _ = np.histogram([answer.score for answer in some], edges)
        axes.stairs(counts, edges, label=name, fill=True, alpha=0.5)
    axes.legend(fontsize=8)


def _by_rank(axes: Any, answers: Sequence[ScoredAnswer]) -> None:
    by_rank: dict[float, list[float]] = {}
    for answer in answers:
        if answer.rank is not None:
            by_rank.setdefault(answer.rank, []).append(answer.score)
    axes.set(xlabel="rank (1 is best)", ylabel="score", title="score against rank")
    if not by_rank:
        _nothing(axes, "no ranks")
        return
    ranks = sorted(by_rank)
    points = [(rank, score) for rank in ranks for score in sorted(by_rank[rank])]
    axes.scatter(*zip(*points, strict=True), s=8, alpha=0.35)
    means = [sum(sorted(by_rank[rank])) / len(by_rank[rank]) for rank in ranks]
    axes.plot(ranks, means, color="C1", marker="o", markersize=4, label="mean")
    axes.legend(fontsize=8)


def _reliability(axes: Any, calibration: Calibration | None) -> None:
    """Draw observed over predicted; a dot's area is the share of the pairs that lie in its bin."""
    axes.set(xlabel="predicted σ(Δ)", ylabel="observed", title="P(the first is better)")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    if calibration is None:
        _nothing(axes, "no pairs")
        return
    full = [one for one in calibration.reliability if one.n]
    total = sum(one.n for one in full)
    predicted, observed = [one.predicted for one in full], [one.observed for one in full]
    axes.plot([0, 1], [0, 1], color="#999", linestyle="--", linewidth=1)
    axes.plot(predicted, observed, color="C0", linewidth=1)
    axes.scatter(predicted, observed, s=[8 + 220 * one.n / total for one in full], color="C0")


def _by_length(axes: Any, answers: Sequence[ScoredAnswer]) -> None:
    axes.set(xlabel="length (tokens)", ylabel="score", title="score against length")
    if not answers:
        _nothing(axes, "no answers")
        return
    for truncated, name in ((False, "whole"), (True, "truncated")):
        points = sorted((a.tokens, a.score) for a in answers if a.truncated == truncated)
        if points:
            axes.scatter(*zip(*points, strict=True), s=8, alpha=0.35, label=name)
    if any(answer.truncated for answer in answers):
        axes.legend(fontsize=8)


def _nothing(axes: Any, why: str) -> None:
    axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)


_PLACE = "score_rank_in_prompt"


COLUMNS = ("prompt_id", "prompt", "answer", "rank", "score", _PLACE, "tokens", "truncated")


_SHOWN = 200  # characters of a text in summary.md; the CSV has all of it


def write_scalar_report(
    folder: Path,
    answers: Sequence[ScoredAnswer],
    metrics: ScalarMetrics,
    *,
    model: str,
    settings: Mapping[str, Any],
) -> tuple[Path, ...]:
    """Write `evaluation_results.csv`, `reward_scores.png`, `summary.md`, `metrics.json`; return their paths.

    The same arguments give the same bytes; each file is whole or as it was.

    Args:
        folder: made if absent.
        answers: one row of the CSV each, in this order.
        metrics: of these answers.
        model: name of the head, for the titles.
        settings: plain JSON values that say how the scores were made; printed and written as they are.

    Raises:
        DataError: a file cannot be written.
    """
    paths = tuple(
        folder / name
        for name in ("evaluation_results.csv", "reward_scores.png", "summary.md", "metrics.json")
    )
    write_text(paths[0], results_csv(answers))
    with replacing(paths[1]) as out:
        out.write(scores_picture(answers, metrics, f"Scores of {model}"))
    write_text(paths[2], summary(metrics, model=model, settings=settings))
    write_json(paths[3], {"model": model, "settings": dict(settings), "metrics": plain(metrics)})
    return paths


def results_csv(answers: Sequence[ScoredAnswer]) -> str:
    """Return one row per answer under a header: COLUMNS, then the answers' extra columns as they first occur.

    `score_rank_in_prompt` is 1 for the highest score of the prompt; equal scores share the mean of their
    ranks. What is absent is an empty cell. An extra column with the name of one of COLUMNS becomes
    `input_<name>`. Texts stand as they are, also one that begins with `=`: a spreadsheet must import these
    columns as text.
    """
    extras = list(dict.fromkeys(name for answer in answers for name in answer.extra))
    header = list(COLUMNS)
    for name in extras:
        while name in header:
            name = f"input_{name}"
        header.append(name)
    lines = [_line(header)]
    for answer, place in zip(answers, _score_ranks(answers), strict=True):
        own = [getattr(answer, name) if name != _PLACE else place for name in COLUMNS]
        lines.append(_line([*own, *(answer.extra.get(name) for name in extras)]))
    return printable("".join(lines))


def _score_ranks(answers: Sequence[ScoredAnswer]) -> list[float]:
    from scipy.stats import rankdata

    places: dict[str, list[int]] = {}
    for at, answer in enumerate(answers):
        places.setdefault(answer.prompt_id, []).append(at)
    found = [0.0] * len(answers)
    for group in places.values():
        for at, rank in zip(group, rankdata([-answers[at].score for at in group]).tolist(), strict=True):
            found[at] = rank
    return found


def _line(cells: Sequence[Any]) -> str:
    """Return one CSV line, ended by a line feed."""
    out = io.StringIO(newline="")
    # Told to end lines with a line feed alone, the csv module (3.11) puts no quotes around a carriage return.
    csv.writer(out, lineterminator="\r\n").writerow(map(_cell, cells))
    return out.getvalue().removesuffix("\r\n") + "\n"


def _cell(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(float(value))
    if isinstance(value, bool | list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def plain(metrics: ScalarMetrics) -> dict[str, Any]:
    """Return the metrics as plain JSON values; of a mistake its prompt's id and its numbers."""
    return asdict(replace(metrics, mistakes=())) | {
        "mistakes": [
            {
                "prompt_id": pair.prompt_id,
                "margin": pair.margin,
                "score_better": pair.better.score,
                "score_worse": pair.worse.score,
                "rank_better": pair.better.rank,
                "rank_worse": pair.worse.rank,
            }
            for pair in metrics.mistakes
        ]
    }


def summary(metrics: ScalarMetrics, *, model: str, settings: Mapping[str, Any]) -> str:
    """Return the numbers as Markdown: counts, each metric and what it means, scores, the worst mistakes."""
    facts = (f"{key}: {_cell(value) or 'none'}" for key, value in settings.items())
    parts = [
        f"# Scalar reward model: {escape_markdown(model)}\n",
        "".join(f"- {escape_markdown(fact)}\n" for fact in facts),
        grid(("count", "n"), list(_counts(metrics))) + "\n",
        "![Scores](reward_scores.png)\n",
        f"## Agreement with ranks\n\n{_agreement(metrics)}",
        "## Scores\n\n" + _distributions(metrics),
        "## Most confident mistakes\n\n" + _mistakes(metrics.mistakes) if metrics.pairs else "",
    ]
    return printable("\n".join(part for part in parts if part))


def _counts(metrics: ScalarMetrics) -> Iterator[tuple[str, str]]:
    for label, n in (
        ("prompts", metrics.prompts),
        (
            "prompts without two answers of different rank (in no number of agreement)",
            metrics.unranked_prompts,
        ),
        (
            "prompts whose ranked answers have one score (in no correlation with ranks)",
            metrics.constant_prompts,
        ),
        ("answers", metrics.answers),
        ("answers with a rank", metrics.ranked_answers),
        ("answers cut to fit the model", metrics.truncated),
        ("pairs of answers of one prompt with unequal rank", metrics.pairs),
        ("pairs with equal scores", metrics.tied_pairs),
    ):
        yield label, f"{n:,}"


def _agreement(metrics: ScalarMetrics) -> str:
    if not metrics.pairs:
        said = (
            "No prompt has two answers of different rank: nothing here says whether the scores are right.\n\n"
        )
    else:
        said = (
            f"Intervals ({100 * metrics.level:g}%) are bootstraps over prompts, since pairs of one prompt "
            "are not independent. Rank 1 is the best. s is a score, Δ = s(better) − s(worse), and "
            "σ(Δ) = 1 / (1 + exp(−Δ)).\n\n"
        )
    rows = [
        (name, meaning, _number(one.value), _ends(one.interval), f"{one.prompts:,}")
        if isinstance(one, Measured)
        else (name, meaning, _number(one), MISSING, MISSING)
        for name, meaning, one in _meanings(metrics)
    ]
    return said + grid(("metric", "meaning", "value", "interval", "prompts"), rows, text_columns=2) + "\n"


def _meanings(metrics: ScalarMetrics) -> Iterator[tuple[str, str, Measured | float | None]]:
    """Yield each metric's name, its formula in words, and its value."""
    fit, lengths = metrics.calibration, metrics.lengths
    ece, brier, loss = (fit.ece, fit.brier, fit.log_loss) if fit else (None, None, None)
    yield "pair accuracy", "share of pairs with Δ > 0; Δ = 0 counts one half; chance is 0.5", metrics.accuracy
    yield (
        "Spearman's ρ",
        "mean over prompts of the Pearson correlation of the ranks of s and −rank; 1 is agreement",
        metrics.spearman,
    )
    yield (
        "Kendall's τ-b",
        "mean over prompts of (C − D) / √((P − T)(P − U)) of s and −rank: C of P twos in one order, D in "
        "opposite ones, T tied in s, U in rank",
        metrics.kendall,
    )
    yield "reward gap", "mean of Δ over pairs, in units of score", metrics.gap
    yield "Cohen's d", "reward gap / √((var s(better) + var s(worse)) / 2) over pairs", metrics.cohen_d
    yield "Bradley-Terry loss", "mean of −log σ(Δ) over pairs, in nats; 0.693 for equal scores", loss
    yield "Brier score", "mean of (1 − σ(Δ))² over pairs; 0.25 for equal scores, 0 is best", brier
    yield (
        "ECE",
        "Σ n_b/N · |share of first answers better − mean σ| over ten bins b; each pair in a random order",
        ece,
    )
    yield (
        "length, within prompts",
        "mean over prompts of Spearman's ρ of s and tokens; far from 0: the score follows length",
        lengths.within,
    )
    yield "length, over all", "Spearman's ρ of s and tokens over all answers", lengths.overall
    yield (
        f"accuracy, better is longer ({lengths.longer_pairs:,} pairs)",
        "pair accuracy where the better answer has more tokens",
        lengths.longer_accuracy,
    )
    yield (
        f"accuracy, better is shorter ({lengths.shorter_pairs:,} pairs)",
        "pair accuracy where it has fewer; much lower than the line above: a taste for length",
        lengths.shorter_accuracy,
    )


def _distributions(metrics: ScalarMetrics) -> str:
    def row(name: str, of: Distribution | None) -> list[str]:
        if of is None:
            return [name, "0", *[MISSING] * 7]
        numbers = (of.mean, of.sd, of.minimum, of.first_quartile, of.median, of.third_quartile, of.maximum)
        return [name, f"{of.n:,}", *map(_number, numbers)]

    headings = ("answers", "n", "mean", "sd", "minimum", "25%", "median", "75%", "maximum")
    rows = [
        row("all", metrics.scores),
        row("chosen (best rank of their prompt)", metrics.chosen),
        row("rejected (worst rank of their prompt)", metrics.rejected),
    ]
    return grid(headings, rows) + "\n"


def _mistakes(mistakes: Sequence[ScoredPair]) -> str:
    if not mistakes:
        return "None: no pair has a higher score for its worse answer.\n"
    rows = [
        (
            *(_short(text) for text in (pair.better.prompt, pair.better.answer, pair.worse.answer)),
            *(_number(value) for value in (pair.better.score, pair.worse.score, pair.margin)),
        )
        for pair in mistakes
    ]
    return grid(("prompt", "better", "worse", "s(better)", "s(worse)", "Δ"), rows, text_columns=3) + "\n"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value + 0.0:.4g}"  # + 0.0: no "-0"


def _ends(interval: Interval | None) -> str:
    return MISSING if interval is None else f"[{_number(interval[0])}, {_number(interval[1])}]"
