"""The explanation's pictures as PNG bytes: the same numbers give the same bytes, and no display is needed."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reasongenrm.report.charts import bar_chart
from reasongenrm.scalar.explain import DELTAS, PAIRS, error_curve, gradient, loss, loss_table
from reasongenrm.store import replacing

POINTS = ((1.5, -1.0), (-0.5, -2.0), (1.25, 0.75), (-1.0, 1.0))
"""(Z_a, Z_b) of pairs in the margin's picture: two lead by enough, one by too little, one is wrong."""


def loss_figure() -> bytes:
    """Draw the loss and its gradient over delta, with the rows of the loss table, and return a PNG."""
    figure, (left, right) = _figure(height=3.4, columns=2)
    deltas = np.linspace(-6, 6, 241)
    left.plot(deltas, loss(deltas), label="no margin")
    left.plot(deltas, loss(deltas, 1), color="C0", linestyle="--", linewidth=1, label="margin 1")
    right.plot(deltas, gradient(deltas), color="C1", label="no margin")
    right.plot(deltas, gradient(deltas, 1), color="C1", linestyle="--", linewidth=1, label="margin 1")
    rows = loss_table(DELTAS)
    left.plot(DELTAS, [row.loss for row in rows], "o", color="C0", markersize=4)
    right.plot(DELTAS, [row.gradient for row in rows], "o", color="C1", markersize=4)
    left.set(title=r"loss $-\log\,\sigma(\Delta)$", ylabel="nats")
    right.set(title=r"its gradient $-(1-\sigma(\Delta))$")
    for axes in (left, right):
        axes.set_xlabel(r"$\Delta = Z_a - Z_b$ (nats)")
        axes.axvline(0, color="#999", linewidth=0.8)
        axes.grid(alpha=0.3)
        axes.legend()
    return _encoded(figure)


def margin_figure(margin: float = 1.0) -> bytes:
    """Draw pairs in the plane of their scores, with their distances to the line to be below, as a PNG.

    The distance of (Z_a, Z_b) to the line Z_a = Z_b is delta / sqrt(2), and to the line Z_a = Z_b + margin it
    is (delta - margin) / sqrt(2), both negative on the wrong side.

    Args:
        margin: by how much the preferred answer is to lead, in nats.
    """
    figure, panels = _figure(height=4.0, columns=2)
    for axes, shift in zip(panels, (0.0, margin), strict=True):
        ends = np.array([-2.5, 2.5])
        axes.fill_between(ends, ends - shift, -2.5, color="C2", alpha=0.12, linewidth=0)
        axes.plot(ends, ends, color="#333", linewidth=1.2, label=r"$Z_a = Z_b$")
        if shift:
            axes.plot(
                ends, ends - shift, color="#333", linewidth=1.2, linestyle="--", label=r"$Z_a = Z_b + m$"
            )
        for first, second in POINTS:
            lead = first - second - shift
            color = "C2" if lead > 0 else "C3"
            foot = (first - lead / 2, second + lead / 2)  # of the perpendicular to the line
            axes.plot([first, foot[0]], [second, foot[1]], color=color, linewidth=1)
            axes.plot(first, second, "o", color=color, markersize=5)
            axes.annotate(
                f"{lead / 2**0.5:+.2f}".replace("-", "−"),
                (first, second),
                xytext=(4, 5),
                textcoords="offset points",
                fontsize=9,
            )
        axes.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal", ylabel=r"$Z_b$ (nats)")
        axes.set_xlabel(r"$Z_a$ (nats), the preferred answer")
        axes.set_title(
            rf"margin {shift:g}: $(\Delta - {shift:g})\,/\,\sqrt{{2}}$"
            if shift
            else r"no margin: $\Delta\,/\,\sqrt{2}$"
        )
        axes.grid(alpha=0.3)
        axes.legend(loc="upper left", fontsize=9)
    return _encoded(figure)


def simulation_figure(ns: Sequence[int], errors: Sequence[float]) -> bytes:
    """Draw the error of the recovered reward over the number of preferences, and return a PNG.

    Args:
        ns: numbers of preferences.
        errors: the mean error of each (`simulation.error_curve`).
    """
    figure, (axes,) = _figure(height=3.6, columns=1)
    counts = np.asarray(ns, dtype=np.float64)
    # The c of c / sqrt(n) that is nearest in the logarithm.
    scale = np.exp(np.mean(np.log(errors) + 0.5 * np.log(counts)))
    axes.plot(
        counts, scale / np.sqrt(counts), color="#999", linestyle="--", label=rf"{scale:.1f} / $\sqrt{{n}}$"
    )
    axes.plot(counts, errors, "o", label="mean error of the fit")
    axes.set(xscale="log", yscale="log", title="A reward recovered from noisy preferences")
    axes.set(xlabel="preferences n", ylabel=r"$\|\hat{w} - w^*\|$")
    axes.set_xticks(ns, labels=[f"{n:,}" for n in ns])
    axes.minorticks_off()
    steps = [
        tick for tick in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if min(errors) / 2 < tick < 2 * max(errors)
    ]
    axes.set_yticks(steps, labels=[f"{tick:g}" for tick in steps])
    axes.grid(alpha=0.3)
    axes.legend()
    return _encoded(figure)


def scores_figure(scores: Mapping[str, float], title: str) -> bytes:
    """Draw one bar per answer, and return a PNG.

    Args:
        scores: name of an answer -> its score, in nats up to a constant.
        title: the prompt.
    """
    return bar_chart(scores, title, "score Z (nats; only differences count)")


def write_figures(folder: Path) -> list[Path]:
    """Write the pictures that need no model, `reward-*.png`, and return their paths.

    Args:
        folder: made if absent; the pages' own is `docs/images`.
    """
    pictures = {
        "reward-loss.png": loss_figure(),
        "reward-margin.png": margin_figure(),
        "reward-simulation.png": simulation_figure(PAIRS, error_curve()),
    }
    for name, content in pictures.items():
        with replacing(folder / name) as out:
            out.write(content)
    return [folder / name for name in pictures]


def _figure(height: float, columns: int) -> tuple[Any, Any]:
    """Return a figure of 7 by `height` inches, and its axes from left to right."""
    # The object interface needs no display and leaves pyplot's global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, columns, squeeze=False)[0]


def _encoded(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, dpi=100, format="png", metadata={"Software": None})  # no version in the bytes
    return out.getvalue()
