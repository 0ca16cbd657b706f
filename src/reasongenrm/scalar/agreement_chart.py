"""The figure of `reasongenrm distil evaluate`: six panels as one PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from reasongenrm.metrics.calibration import Calibration
from reasongenrm.report.charts import panels
from reasongenrm.scalar.agreement import JudgeAgreement, ScoreCalibration
from reasongenrm.scalar.metrics import Statistic
from reasongenrm.scalar.reply_pairs import GapAgreement, ScoredReply


def agreement_panels(replies: Sequence[ScoredReply], metrics: JudgeAgreement, title: str) -> bytes:
    """Return a PNG: head against judge, both distributions, calibration, pairs by gap, correlations, criteria.

    The same replies give the same bytes.
    """
    judge_scale = metrics.error is not None
    bars: dict[str, Statistic] = {"head, judge": metrics.correlations.spearman}
    if metrics.retest is not None:
        bars["judge, judge again"] = metrics.retest.correlations.spearman
    if metrics.people is not None:
        bars |= {"head, people": metrics.people.head.spearman, "judge, people": metrics.people.judge.spearman}
    criteria = {name: one.spearman for name, one in metrics.criteria.items()}
    return panels(
        [
            partial(_scatter, replies, judge_scale),
            partial(_distributions, replies, judge_scale),
            partial(_calibration, metrics.calibration),
            partial(_gaps, metrics.same_message, metrics.any_message),
            partial(_bars, bars, "Spearman's ρ of two scores"),
            partial(_bars, criteria, "Spearman's ρ by criterion"),
        ],
        title,
    )


def _scatter(replies: Sequence[ScoredReply], judge_scale: bool, axes: Any) -> None:
    points = sorted((reply.head, reply.judge) for reply in replies)
    axes.scatter(*zip(*points, strict=True), s=9, alpha=0.45)
    if judge_scale:
        axes.plot([0, 1], [0, 1], color="#999", linestyle="--", linewidth=1)
    axes.set(xlabel="head", ylabel="judge", title="head against judge")


def _distributions(replies: Sequence[ScoredReply], judge_scale: bool, axes: Any) -> None:
    import numpy as np

    series = {"judge": [reply.judge for reply in replies], "head": [reply.head for reply in replies]}
    if not judge_scale:
        del series["judge"]
    values = [value for column in series.values() for value in column]
    low, high = min(values), max(values)
    pad = 0.0 if low < high else 0.5  # equal scores need a bin of some width
    edges = np.linspace(low - pad, high + pad, 21)
    for name, column in series.items():
        axes.stairs(np.histogram(column, edges)[0], edges, label=name, fill=True, alpha=0.5)
    axes.set(xlabel="score", ylabel="replies", title="distribution of the scores")
    axes.legend(fontsize=8)


def _calibration(fit: ScoreCalibration | Calibration | None, axes: Any) -> None:
    """Draw observed over predicted; a dot's area is the share of the replies or pairs in its bin."""
    pairs = isinstance(fit, Calibration)
    axes.set(
        xlabel="σ(difference)" if pairs else "head's mean", ylabel="share right" if pairs else "judge's mean"
    )
    axes.set(title="calibration of pairs" if pairs else "calibration")
    if fit is None:
        axes.text(0.5, 0.5, "no pairs", ha="center", va="center", transform=axes.transAxes)
        return
    bins = [b for b in fit.reliability if b.n]
    total = sum(b.n for b in bins)
    axes.plot([0, 1], [0, 1], color="#999", linestyle="--", linewidth=1)
    predicted, observed = [b.predicted for b in bins], [b.observed for b in bins]
    axes.plot(predicted, observed, color="C0", linewidth=1)
    axes.scatter(predicted, observed, s=[8 + 220 * b.n / total for b in bins], color="C0")


def _gaps(same: Sequence[GapAgreement], spread: Sequence[GapAgreement], axes: Any) -> None:
    for number, (name, gaps) in enumerate(
        {"of one message": same[1:], "any two replies": spread[1:]}.items()
    ):
        points = [
            (place + 0.12 * (2 * number - 1), gap.agreement)
            for place, gap in enumerate(gaps)
            if gap.agreement.value is not None
        ]
        _with_intervals(axes, points, f"C{number}", name)
    axes.axhline(0.5, color="#999", linestyle="--", linewidth=1)
    axes.set_xticks(range(len(same) - 1), labels=[f"≤ {gap.high:g}" for gap in same[1:]])
    axes.set(
        xlabel="difference of the judge's scores", ylabel="share in the judge's order", ylim=(-0.03, 1.03)
    )
    axes.set(title="pairs in the judge's order")
    axes.legend(fontsize=8)


def _with_intervals(axes: Any, points: Sequence[tuple[float, Statistic]], color: str, label: str) -> None:
    places = [place for place, _ in points]
    values = [statistic.value or 0.0 for _, statistic in points]
    ends = [statistic.interval or (statistic.value, statistic.value) for _, statistic in points]
    below = [max(0.0, value - (low or 0.0)) for value, (low, _) in zip(values, ends, strict=True)]
    above = [max(0.0, (high or 0.0) - value) for value, (_, high) in zip(values, ends, strict=True)]
    axes.errorbar(
        places, values, yerr=[below, above], fmt="o", markersize=4, capsize=2, color=color, label=label
    )


def _bars(statistics: Mapping[str, Statistic], title: str, axes: Any) -> None:
    known = {name: one for name, one in statistics.items() if one.value is not None}
    for place, statistic in enumerate(known.values()):
        axes.barh(place, statistic.value, height=0.6, color="#4878a8")
        if statistic.interval is not None:
            axes.plot(statistic.interval, [place, place], color="#333", linewidth=1.2)
    axes.set_yticks(range(len(known)), labels=[name[:24] for name in known])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(max(len(known), 1) - 0.4, -0.6)
    axes.set_xlim(min(0.0, *(min(one.interval or (one.value or 0.0, 0.0)) for one in known.values()), 0.0), 1)
    axes.set_title(title, fontsize=11)
    axes.grid(axis="x", alpha=0.3)
