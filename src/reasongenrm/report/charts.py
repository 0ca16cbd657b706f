"""Charts as PNG or SVG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reasongenrm.metrics.diagnostics import Bin


Estimate = tuple[float, float | None, float | None]
"""A value with the ends of its interval, or None where nobody knows them."""


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
    axes.set_yticks(places, labels=[_short(label) for label in values])
    _plain(axes.get_yticklabels())
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
        _plain(axes.legend().get_texts())
    axes.set(xlabel=axis, ylabel="count")
    axes.grid(alpha=0.3)
    return _png(figure, axes, title)


def interval_bars(
    groups: Sequence[str], series: Mapping[str, Sequence[Estimate | None]], title: str, axis: str
) -> bytes:
    """Draw one bar per group and series, with its interval, on a scale from 0 to 1, and return a PNG.

    The first group stands on top, and within it the first series.

    Args:
        groups: what stands on the vertical axis.
        series: name -> one estimate per group, None where there is none.
        axis: what the lengths are, with their unit.
    """
    thick = 0.8 / max(len(series), 1)
    figure, axes = _figure(height=1.3 + max(len(groups), 1) * max(0.34, 0.17 * len(series)))
    for number, (name, estimates) in enumerate(series.items()):
        drawn = [(at, *known) for at, known in enumerate(estimates) if known is not None]
        places = [at + thick * (number - (len(series) - 1) / 2) for at, *_ in drawn]
        color = f"C{number}"
        axes.barh(places, [value for _, value, *_ in drawn], height=thick, color=color, label=name)
        whiskers = [
            (place, value, low, high)
            for place, (_, value, low, high) in zip(places, drawn, strict=True)
            if low is not None and high is not None
        ]
        if whiskers:
            at, values, lows, highs = zip(*whiskers, strict=True)
            # An interval need not hold its value in the last bit.
            ends = [
                [max(v - low, 0) for v, low in zip(values, lows, strict=True)],
                [max(high - v, 0) for v, high in zip(values, highs, strict=True)],
            ]
            axes.errorbar(values, at, xerr=ends, fmt="none", ecolor="#333", elinewidth=0.9, capsize=1.5)
    axes.set_yticks(range(len(groups)), labels=[_short(group) for group in groups])
    _plain(axes.get_yticklabels())
    axes.set_ylim(max(len(groups), 1) - 0.4, -0.6)
    axes.set(xlabel=axis, xlim=(0, 1))
    axes.grid(axis="x", alpha=0.3)
    if series:
        legend = figure.legend(loc="outside lower center", ncols=min(len(series), 4), frameon=False)
        _plain(legend.get_texts())
    return _png(figure, axes, title)


def reliability_diagram(series: Mapping[str, Sequence[Bin]], title: str) -> bytes:
    """Draw accuracy over confidence, one panel per series, and return a PNG.

    A dot is a bin, its area the share of the series that lies in it; on the diagonal, confidence is accuracy.
    """
    columns = min(len(series), 4) or 1
    lines = -(-len(series) // columns) or 1
    figure, panels = _figure(height=0.8 + (4.2, 3.2, 2.5, 2.1)[columns - 1] * lines, shape=(lines, columns))
    for number, axes in enumerate(panels.flat):
        axes.set_visible(number < max(len(series), 1))
    for number, (axes, (name, bins)) in enumerate(zip(panels.flat, series.items(), strict=False)):
        full = [b for b in bins if b.confidence is not None and b.accuracy is not None]
        total = sum(b.n for b in full)
        if not full:
            axes.text(0.75, 0.25, "no probabilities", ha="center", va="center")
        axes.plot([0.5, 1], [0.5, 1], color="#999", linestyle="--", linewidth=1)
        axes.plot([b.confidence for b in full], [b.accuracy for b in full], color=f"C{number}", linewidth=1)
        sizes = [8 + 220 * b.n / total for b in full]
        axes.scatter([b.confidence for b in full], [b.accuracy for b in full], s=sizes, color=f"C{number}")
        axes.set(xlim=(0.48, 1.02), ylim=(-0.03, 1.03), xlabel="confidence", ylabel="accuracy")
        axes.set_title(_short(name, 28), fontsize=10, parse_math=False)
        axes.grid(alpha=0.3)
    figure.suptitle(title, parse_math=False)
    return _encoded(figure)


def bias_chart(biases: Mapping[str, tuple[float | None, float | None]], title: str) -> bytes:
    """Draw position and length bias side by side, one bar per model, and return a PNG.

    Args:
        biases: name -> (share of A, length bias); None is left out.
    """
    figure, panels = _figure(height=1.4 + 0.3 * max(len(biases), 2), shape=(1, 2))
    names = list(biases)
    for column, (axes, axis, unbiased) in enumerate(
        zip(panels.flat, ("share of A among verdicts", "length bias"), (0.5, 0.0), strict=True)
    ):
        drawn = [(at, value) for at, name in enumerate(names) if (value := biases[name][column]) is not None]
        reach = 0.5 if column == 0 else max(0.1, *(1.1 * abs(value) for _, value in drawn), 0)
        axes.barh(
            [at for at, _ in drawn],
            [value - unbiased for _, value in drawn],
            left=unbiased,
            height=0.7,
            color=[f"C{at}" for at, _ in drawn],
        )
        axes.axvline(unbiased, color="#333", linewidth=1)
        axes.set(xlabel=axis, xlim=(unbiased - reach, unbiased + reach))
        axes.set_yticks(range(len(names)), labels=[_short(name, 28) for name in names] if column == 0 else [])
        _plain(axes.get_yticklabels())
        axes.set_ylim(max(len(names), 1) - 0.4, -0.6)
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(title, parse_math=False)
    return _encoded(figure)


def panels(draw: Sequence[Callable[[Any], None]], title: str) -> bytes:
    """Draw pictures, two beside each other, and return a PNG; the same pictures give the same bytes.

    Args:
        draw: each draws into the matplotlib axes that it is given.
        title: stands above all; shortened.
    """
    lines = -(-len(draw) // 2) or 1
    figure, grid = _figure(height=0.6 + 3 * lines, shape=(lines, 2))
    for axes in grid.flat[len(draw) :]:
        axes.set_visible(False)
    for axes, picture in zip(grid.flat, draw, strict=False):
        picture(axes)
    figure.suptitle(_short(" ".join(title.split()), 80), parse_math=False)
    return _encoded(figure)


def _short(label: str, longest: int = 48) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"


def _plain(texts: Sequence[Any]) -> None:
    """Take a `$` in a label for a dollar."""
    for text in texts:
        text.set_parse_math(False)


def _figure(height: float, shape: tuple[int, int] | None = None) -> tuple[Any, Any]:
    """Return a figure of 7 by `height` inches, and its axes, or an array of axes of some shape (lines, columns)."""
    # The object interface needs no display and leaves pyplot's global state alone.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot() if shape is None else figure.subplots(*shape, squeeze=False)


def _png(figure: Any, axes: Any, title: str) -> bytes:
    axes.set_title(title, parse_math=False)  # a `$` in a name is a dollar
    return _encoded(figure)


def _encoded(figure: Any) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings():
        # A label in a script that matplotlib's own font lacks is drawn as boxes; the table beside it has the text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(out, dpi=100, format="png", metadata={"Software": None})
    return out.getvalue()
