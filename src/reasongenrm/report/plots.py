"""Pictures of numbers."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def loss_curve(log: Sequence[Mapping[str, Any]], png_path: Path, title: str) -> None:
    """Draw a trainer's log history as a PNG: the losses over optimiser steps.

    Args:
        log: entries of `Trainer.state.log_history`; those with `step` and `loss` or `eval_loss` are drawn.
        png_path: the file to write; the same log gives the same bytes.
        title: stands above the curve.
    """
    figure, axes = _figure(height=4)
    for key, label in (("loss", "training loss"), ("eval_loss", "evaluation loss")):
        points = [(entry["step"], entry[key]) for entry in log if key in entry and "step" in entry]
        if points:
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, label=label, marker="o" if len(points) < 30 else None, markersize=3)
    if axes.lines:
        axes.legend()
    else:
        axes.text(0.5, 0.5, "no loss was logged", ha="center", va="center", transform=axes.transAxes)
    axes.set(xlabel="step", ylabel="loss (nats)")
    axes.set_title(title, parse_math=False)  # a `$` in a name is a dollar
    axes.grid(alpha=0.3)
    png_path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(png_path, dpi=120, metadata={"Software": None})


def bar_chart(
    values: Mapping[str, float], title: str, axis: str, *, marks: Mapping[str, float] | None = None
) -> bytes:
    """Draw one horizontal bar per value, the first on top, and return a PNG; the same values give the same bytes.

    Args:
        values: label -> length; labels longer than 48 characters are shortened.
        axis: what the lengths are, with their unit.
        marks: name -> a value at which a vertical line stands.
    """
    figure, axes = _figure(height=1.2 + 0.28 * max(len(values), 2))
    places = range(len(values))
    axes.barh(places, list(values.values()), color="#4878a8", height=0.7)
    labels = [label if len(label) <= 48 else label[:47] + "…" for label in values]
    axes.set_yticks(places, labels=labels)
    for tick in axes.get_yticklabels():
        tick.set_parse_math(False)
    axes.set_ylim(len(values) - 0.4, -0.6)  # the first on top
    for number, (name, value) in enumerate((marks or {}).items()):
        axes.axvline(value, color=f"C{number + 1}", linestyle="--", label=name)
    if marks:
        axes.legend()
    axes.set(xlabel=axis)
    axes.grid(axis="x", alpha=0.3)
    return _png(figure, axes, title)


def histogram(
    lower_ends: Sequence[float],
    series: Mapping[str, Sequence[int]],
    title: str,
    axis: str,
    *,
    logarithmic: bool = False,
    marks: Mapping[str, float] | None = None,
) -> bytes:
    """Draw counts over bins as one step line per series, and return a PNG; the same counts give the same bytes.

    Args:
        lower_ends: where each bin begins, ascending; the last bin is as wide as the one before.
        series: name -> count in each bin.
        axis: what is binned, with its unit.
        logarithmic: whether the horizontal axis is.
        marks: name -> a value at which a vertical line stands.
    """
    figure, axes = _figure(height=3.4)
    if lower_ends:
        ends = list(lower_ends)
        ends.append(ends[-1] + (ends[-1] - ends[-2] if len(ends) > 1 else 1))
        for name, counts in series.items():
            axes.stairs(counts, ends, label=name, fill=len(series) == 1, linewidth=1.5)
    for number, (name, value) in enumerate((marks or {}).items()):
        axes.axvline(value, color=f"C{len(series) + number}", linestyle="--", label=name)
    if logarithmic:
        axes.set_xscale("symlog", linthresh=1)
    if lower_ends or marks:
        legend = axes.legend()
        for text in legend.get_texts():
            text.set_parse_math(False)
    axes.set(xlabel=axis, ylabel="count")
    axes.grid(alpha=0.3)
    return _png(figure, axes, title)


def _figure(height: float) -> tuple[Any, Any]:
    """Return a figure of 7 by `height` inches, and its axes."""
    # The object interface needs no display and leaves pyplot's global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: Any, axes: Any, title: str) -> bytes:
    axes.set_title(title, parse_math=False)  # a `$` in a name is a dollar
    out = io.BytesIO()
    with warnings.catch_warnings():
        # A label in a script that matplotlib's own font lacks is drawn as boxes; the table beside it has the text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(out, dpi=100, format="png", metadata={"Software": None})
    return out.getvalue()
