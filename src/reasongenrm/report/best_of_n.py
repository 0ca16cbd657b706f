"""Chart of the expected score of the best of N replies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasongenrm.report.charts import encode_png, figure

LABELS = {"score": "score of the head", "judge_score": "score of the judge, reply chosen by the head"}
"""Curves of a report, and what they show."""


def best_of_n_chart(report: Mapping[str, Any]) -> bytes:
    """Draw the expected scores of the best of N against N, with their intervals, and return a PNG.

    Args:
        report: `messages`, `n`, and for each curve a list of points `n`, `expected`, `low`, `high` (None without an interval).
    """
    drawing, [[axes]] = figure(height=4)
    for number, (key, label) in enumerate(LABELS.items()):
        if points := report.get(key):
            at = [point["n"] for point in points]
            axes.plot(at, [p["expected"] for p in points], marker="o", markersize=3, label=label)
            if points[0]["low"] is not None:
                low, high = ([point[end] for point in points] for end in ("low", "high"))
                axes.fill_between(at, low, high, alpha=0.2, color=f"C{number}", linewidth=0)
    if axes.lines:
        axes.legend()
    else:
        text = "no message has all its samples"
        axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    if report["n"] > 8:
        axes.set_xscale("log", base=2)
    axes.set(xlabel="N (replies to each message)", ylabel="expected score of the best")
    axes.set_title(f"Best of N, {report['messages']} messages, 95 % intervals over messages")
    axes.grid(alpha=0.3)
    return encode_png(drawing, dpi=120)
