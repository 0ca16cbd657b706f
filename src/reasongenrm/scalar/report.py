"""Report of `reasongenrm scalar evaluate`: scores as CSV, a figure, metrics as Markdown and JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, replace
from functools import partial
from pathlib import Path
from typing import Any

from scipy.stats import rankdata

from reasongenrm.metrics.calibration import Calibration
from reasongenrm.metrics.intervals import Interval
from reasongenrm.report.charts import panels
from reasongenrm.report.pages import printable
from reasongenrm.report.tables import MISSING, escape_markdown, grid, one_line
from reasongenrm.rows.csv_line import csv_cell, csv_line
from reasongenrm.scalar.metrics import (
    AnswerPair,
    AnswerScore,
    ScalarMetrics,
    ScoreDistribution,
    Statistic,
    answers_by_prompt,
    best_and_worst,
)
from reasongenrm.store import atomic_writer, to_json, write_json, write_text


def score_panels(answers: Sequence[AnswerScore], metrics: ScalarMetrics, title: str) -> bytes:
    """Return a PNG of four panels: scores of chosen and rejected, by rank, reliability, by length.

    The same answers, in whatever order, give the same bytes.
    """
    scores, ranks, lengths = (partial(draw, answers=answers) for draw in (_histogram, _by_rank, _by_length))
    return panels([scores, ranks, partial(_reliability, calibration=metrics.calibration), lengths], title)


def _histogram(axes: Any, answers: Sequence[AnswerScore]) -> None:
    """Draw the scores of chosen and rejected answers in common bins; without ranks, of all answers."""
    import numpy as np

    chosen, rejected = best_and_worst(answers)
    series = {"chosen": chosen, "rejected": rejected} if chosen else {"all answers": list(answers)}
    values = [answer.score for group in series.values() for answer in group]
    axes.set(xlabel="score", ylabel="answers", title="scores")
    if not values:
        _note(axes, "no answers")
        return
    low, high = min(values), max(values)
    pad = 0.0 if low < high else max(0.5, abs(low) / 1000)  # equal scores need a bin of some width
    edges = np.linspace(low - pad, high + pad, 31)
    for name, group in series.items():
        counts, _ = np.histogram([answer.score for answer in group], edges)
        axes.stairs(counts, edges, label=name, fill=True, alpha=0.5)
    axes.legend(fontsize=8)


def _by_rank(axes: Any, answers: Sequence[AnswerScore]) -> None:
    by_rank: dict[float, list[float]] = {}
    for answer in answers:
        if answer.rank is not None:
            by_rank.setdefault(answer.rank, []).append(answer.score)
    axes.set(xlabel="rank (1 is best)", ylabel="score", title="score against rank")
    if not by_rank:
        _note(axes, "no ranks")
        return
    ranks = sorted(by_rank)
    points = [(rank, score) for rank in ranks for score in sorted(by_rank[rank])]
    axes.scatter(*zip(*points, strict=True), s=8, alpha=0.35)
    means = [sum(sorted(by_rank[rank])) / len(by_rank[rank]) for rank in ranks]
    axes.plot(ranks, means, color="C1", marker="o", markersize=4, label="mean")
    axes.legend(fontsize=8)


def _reliability(axes: Any, calibration: Calibration | None) -> None:
    """Draw observed over predicted; a dot's area is the share of the pairs in its bin."""
    axes.set(xlabel="predicted σ(Δ)", ylabel="observed", title="P(the first is better)")
    axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    if calibration is None:
        _note(axes, "no pairs")
        return
    bins = [b for b in calibration.reliability if b.n]
    total = sum(b.n for b in bins)
    predicted, observed = [b.predicted for b in bins], [b.observed for b in bins]
    axes.plot([0, 1], [0, 1], color="#999", linestyle="--", linewidth=1)
    axes.plot(predicted, observed, color="C0", linewidth=1)
    axes.scatter(predicted, observed, s=[8 + 220 * b.n / total for b in bins], color="C0")


def _by_length(axes: Any, answers: Sequence[AnswerScore]) -> None:
    axes.set(xlabel="length (tokens)", ylabel="score", title="score against length")
    if not answers:
        _note(axes, "no answers")
        return
    for truncated, name in ((False, "whole"), (True, "truncated")):
        points = sorted((a.tokens, a.score) for a in answers if a.truncated == truncated)
        if points:
            axes.scatter(*zip(*points, strict=True), s=8, alpha=0.35, label=name)
    if any(answer.truncated for answer in answers):
        axes.legend(fontsize=8)


def _note(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


COLUMNS = ("prompt_id", "prompt", "answer", "rank", "score", "score_rank_in_prompt", "tokens", "truncated")
"""Columns of `evaluation_results.csv`, before the answers' extra columns."""


def write_scalar_report(
    folder: Path,
    answers: Sequence[AnswerScore],
    metrics: ScalarMetrics,
    *,
    model: str,
    settings: Mapping[str, Any],
) -> None:
    """Write `evaluation_results.csv`, `reward_scores.png`, `summary.md` and `metrics.json`.

    The same arguments give the same bytes; each file is written atomically.

    Args:
        folder: made if absent.
        answers: one row of the CSV each, in this order.
        metrics: of these answers.
        model: name of the head, for the titles.
        settings: how the scores were made, as plain JSON values.

    Raises:
        DataError: a file cannot be written.
    """
    write_text(folder / "evaluation_results.csv", results_csv(answers))
    with atomic_writer(folder / "reward_scores.png") as out:
        out.write(score_panels(answers, metrics, f"Scores of {model}"))
    write_text(folder / "summary.md", summary(metrics, model=model, settings=settings))
    numbers = {"model": model, "settings": dict(settings), "metrics": metrics_json(metrics)}
    write_json(folder / "metrics.json", numbers)


def results_csv(answers: Sequence[AnswerScore]) -> str:
    """Return one row per answer under a header: COLUMNS, then the answers' extra columns as they first occur.

    `score_rank_in_prompt` is 1 for the highest score of the prompt; equal scores share the mean of their ranks. A
    missing value is an empty cell. An extra column with the name of one of COLUMNS becomes `input_<name>`. Texts are
    not changed, even if they begin with `=`: a spreadsheet must import these columns as text.
    """
    extras = list(dict.fromkeys(name for answer in answers for name in answer.extra))
    header = list(COLUMNS)
    for name in extras:
        while name in header:
            name = f"input_{name}"
        header.append(name)
    score_ranks: dict[int, float] = {}
    for group in answers_by_prompt(answers):
        score_ranks |= zip(
            map(id, group), rankdata([-answer.score for answer in group]).tolist(), strict=True
        )
    lines = [csv_line(header)]
    for answer in answers:
        values = to_json(answer) | {"score_rank_in_prompt": score_ranks[id(answer)]}
        lines.append(csv_line(map(_integral, (*map(values.get, COLUMNS), *map(answer.extra.get, extras)))))
    return "".join(lines)


def _integral(value: Any) -> Any:
    """Return a float without a fraction as an integer, any other value unchanged."""
    integral = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if integral else value


def metrics_json(metrics: ScalarMetrics) -> dict[str, Any]:
    """Return the metrics as plain JSON values, with the level of the intervals; of a mistake the prompt's id and numbers."""
    return asdict(replace(metrics, mistakes=())) | {
        "level": 0.95,
        "mistakes": [
            {
                "prompt_id": pair.better.prompt_id,
                "margin": pair.margin,
                "score_better": pair.better.score,
                "score_worse": pair.worse.score,
                "rank_better": pair.better.rank,
                "rank_worse": pair.worse.rank,
            }
            for pair in metrics.mistakes
        ],
    }


def metrics_line(metrics: ScalarMetrics) -> str:
    """Return the main numbers in one line."""

    def part(name: str, statistic: Statistic, scale: int, digits: int) -> str:
        if statistic.value is None:
            return f"{name} {MISSING}"
        numbers = (statistic.value, *(statistic.interval or ()))
        value, *ends = (f"{scale * number:.{digits}f}" for number in numbers)
        return f"{name} {value}" + (f" [{', '.join(ends)}]" if ends else "")

    parts = (
        f"{metrics.pairs} pairs of {metrics.accuracy.prompts} prompts",
        part("accuracy", metrics.accuracy, 100, 1),
        part("Spearman", metrics.spearman, 1, 2),
        part("Kendall", metrics.kendall, 1, 2),
    )
    return ", ".join(parts)


def summary(metrics: ScalarMetrics, *, model: str, settings: Mapping[str, Any]) -> str:
    """Return the metrics as Markdown: counts, each metric with its meaning, scores, the worst mistakes."""
    facts = (f"{key}: {csv_cell(value) or 'none'}" for key, value in settings.items())
    parts = [
        f"# Scalar reward model: {escape_markdown(model)}\n",
        "".join(f"- {escape_markdown(fact)}\n" for fact in facts),
        _counts(metrics) + "\n",
        "![Scores](reward_scores.png)\n",
        f"## Agreement with ranks\n\n{_agreement(metrics)}",
        "## Scores\n\n" + _distributions(metrics),
        "## Most confident mistakes\n\n" + _mistakes(metrics.mistakes) if metrics.pairs else "",
    ]
    return printable("\n".join(part for part in parts if part))


def _counts(metrics: ScalarMetrics) -> str:
    counts = {
        "prompts": metrics.prompts,
        "prompts without two different ranks (not in the agreement)": metrics.unranked_prompts,
        "prompts with different ranks but equal scores (not in the correlations)": metrics.constant_prompts,
        "answers": metrics.answers,
        "answers with a rank": metrics.ranked_answers,
        "answers cut to fit the model": metrics.truncated,
        "pairs of answers to one prompt with different ranks": metrics.pairs,
        "pairs with equal scores": metrics.tied_pairs,
    }
    return grid(("count", "n"), [(label, f"{n:,}") for label, n in counts.items()])


def _agreement(metrics: ScalarMetrics) -> str:
    if not metrics.pairs:
        intro = "No prompt has two different ranks, so this report cannot say whether the scores are right."
    else:
        intro = (
            f"Intervals (95%) are bootstraps over whole prompts ({metrics.accuracy.prompts:,} have pairs), since pairs of "
            "one prompt are not independent. "
            "Rank 1 is the best. s is a score, Δ = s(better) − s(worse), and σ(Δ) = 1 / (1 + exp(−Δ))."
        )
    rows = [
        (name, meaning, _number(value.value), _interval(value.interval), f"{value.prompts:,}")
        if isinstance(value, Statistic)
        else (name, meaning, _number(value), MISSING, MISSING)
        for name, meaning, value in _metric_rows(metrics)
    ]
    headings = ("metric", "meaning", "value", "interval", "prompts")
    return f"{intro}\n\n{grid(headings, rows, text_columns=2)}\n"


def _metric_rows(metrics: ScalarMetrics) -> Iterator[tuple[str, str, Statistic | float | None]]:
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
        "pair accuracy where it has fewer; if much lower than the line above, the head prefers long answers",
        lengths.shorter_accuracy,
    )


def _distributions(metrics: ScalarMetrics) -> str:
    def row(name: str, scores: ScoreDistribution | None) -> list[str]:
        if scores is None:
            return [name, "0", *[MISSING] * 7]
        n, *numbers = astuple(scores)
        return [name, f"{n:,}", *map(_number, numbers)]

    headings = ("answers", "n", "mean", "sd", "minimum", "25%", "median", "75%", "maximum")
    rows = [
        row("all", metrics.scores),
        row("chosen (best rank of their prompt)", metrics.chosen),
        row("rejected (worst rank of their prompt)", metrics.rejected),
    ]
    return grid(headings, rows) + "\n"


def _mistakes(mistakes: Sequence[AnswerPair]) -> str:
    if not mistakes:
        return "None: in no pair does the worse answer have the higher score.\n"
    rows = []
    for pair in mistakes:
        texts = (pair.better.prompt, pair.better.answer, pair.worse.answer)
        numbers = (pair.better.score, pair.worse.score, pair.margin)
        rows.append([*(one_line(text, 200) for text in texts), *map(_number, numbers)])
    return grid(("prompt", "better", "worse", "s(better)", "s(worse)", "Δ"), rows, text_columns=3) + "\n"


def _number(value: float | None) -> str:
    return MISSING if value is None else f"{value + 0.0:.4g}"  # + 0.0: no "-0"


def _interval(interval: Interval | None) -> str:
    return MISSING if interval is None else f"[{_number(interval[0])}, {_number(interval[1])}]"
