"""The picture of `reasongenrm scalar evaluate`: how scores lie, and what they go with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from reasongenrm.report.plots import panels
from reasongenrm.report.scalar_answers import ScoredAnswer, best_and_worst
from reasongenrm.report.scalar_calibration import Calibration
from reasongenrm.report.scalar_metrics import ScalarMetrics

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
