"""Charts as PNG: the same values give the same bytes, and no display is needed."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from reasongenrm.metrics.calibration import ReliabilityBin
from reasongenrm.metrics.intervals import Interval

Estimate = tuple[float | None, Interval | None]
"""A value with its interval; None where it is not known."""


def figure(height: float, lines: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """Return a figure 7 inches wide and `height` inches high, and its axes, an array of shape (lines, columns)."""
    # The object interface needs no display and leaves pyplot's global state alone.
    from matplotlib.figure import Figure

    drawing = Figure(figsize=(7, height), layout="constrained")
    return drawing, drawing.subplots(lines, columns, squeeze=False)


def encode_png(drawing: Any, *, dpi: int = 100) -> bytes:
    """Return a figure as a PNG without a version of matplotlib in its bytes."""
    out = io.BytesIO()
    with warnings.catch_warnings():
        # A label in a script that matplotlib's own font lacks is drawn as boxes; the table beside it has the text.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawing.savefig(out, dpi=dpi, format="png", metadata={"Software": None})
    return out.getvalue()


def loss_curve(log: Sequence[Mapping[str, Any]], png_path: Path, title: str) -> None:
    """Draw a trainer's log history as a PNG: the losses over optimizer steps.

    Args:
        log: entries of `Trainer.state.log_history`; those with `step` and `loss` or `eval_loss` are drawn.
        png_path: the file to write.
        title: the text above the curve.
    """
    drawing, [[axes]] = figure(height=4)
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
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    png_path.parent.mkdir(parents=True, exist_ok=True)
    png_path.write_bytes(encode_png(drawing, dpi=120))


CURVES: tuple[tuple[str, dict[str, str]], ...] = (
    ("loss", {"loss": "training", "eval_loss": "evaluation"}),
    ("reward", {"reward": "all terms, weighted", "rewards/*/mean": "*"}),
    ("share of verdicts", {"readable": "readable", "right": "right"}),
    ("both orders agree", {"consistency": "name the same answer", "both_right": "name the right one"}),
    ("completion length (tokens)", {"completions/mean_length": ""}),
    ("entropy (nats)", {"entropy": ""}),
    ("accuracy of the implicit reward", {"rewards/accuracies": ""}),
    ("implicit reward", {"rewards/chosen": "chosen", "rewards/rejected": "rejected"}),
    ("verdict margin (logits)", {"margin": "right letter - wrong letter", "margin_loss": "hinge loss"}),
    ("token accuracy", {"mean_token_accuracy": ""}),
    ("KL to the reference (nats)", {"kl": ""}),
    ("gradient norm", {"grad_norm": ""}),
    ("learning rate", {"learning_rate": ""}),
)
"""Panels of a training's curves: title, and the keys of metrics.jsonl with their labels; `*` is any name."""


def training_curves(rows: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """Draw the curves of a training over its optimizer steps, a panel per quantity that was logged, and return a PNG.

    Args:
        rows: lines of metrics.jsonl; a vertical line marks those with an `alarm`.
        title: the text above all.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    alarms = [row["step"] for row in rows if "alarm" in row]
    pictures = []
    for panel, patterns in CURVES:
        lines = {
            label.replace("*", name): [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            for pattern, label in patterns.items()
            for key in keys
            if (name := _filled(pattern, key)) is not None
        }
        if lines := {label: points for label, points in lines.items() if points}:
            pictures.append(partial(_draw_curves, panel, lines, alarms))
    return panels(pictures or [partial(_draw_curves, "nothing was logged", {}, [])], title)


def _filled(pattern: str, key: str) -> str | None:
    """Return the part of a key that matches the pattern's `*` (`""` without a `*`), or None if the key does not match."""
    before, _, after = pattern.partition("*")
    if "*" not in pattern:
        return "" if key == pattern else None
    fits = key.startswith(before) and key.endswith(after) and len(key) > len(before) + len(after)
    return key[len(before) : len(key) - len(after)] if fits else None


def _draw_curves(
    title: str, lines: Mapping[str, Sequence[tuple[int, float]]], alarms: Sequence[int], axes: Any
) -> None:
    for label, points in lines.items():
        marker = "o" if len(points) < 30 else None
        axes.plot(*zip(*points, strict=True), label=label, marker=marker, markersize=2.5, linewidth=1.2)
    for number, step in enumerate(alarms):
        axes.axvline(step, color="#c03030", linestyle="--", linewidth=1, label="" if number else "alarm")
    if len(lines) > 1 or alarms:
        _no_math(axes.legend(fontsize=7).get_texts())
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.set(xlabel="step")
    axes.grid(alpha=0.3)


def bar_chart(
    values: Mapping[str, float], title: str, axis: str, *, marks: Mapping[str, float] | None = None
) -> bytes:
    """Draw one horizontal bar per value, the first on top, and return a PNG.

    Args:
        values: label -> length; labels longer than 48 characters are shortened.
        title: the text above the bars.
        axis: what the lengths are, with their unit.
        marks: name -> the value of a vertical line.
    """
    drawing, [[axes]] = figure(height=1.2 + 0.28 * max(len(values), 2))
    axes.barh(range(len(values)), list(values.values()), color="#4878a8", height=0.7)
    _label_bars(axes, list(values))
    _draw_marks(axes, marks, 1)
    if marks:
        axes.legend()
    axes.set(xlabel=axis)
    axes.set_title(title, parse_math=False)
    return encode_png(drawing)


def histogram(
    lower_ends: Sequence[float],
    series: Mapping[str, Sequence[int]],
    title: str,
    axis: str,
    *,
    logarithmic: bool = False,
    marks: Mapping[str, float] | None = None,
) -> bytes:
    """Draw counts over bins as one step line per series, and return a PNG.

    Args:
        lower_ends: the lower end of each bin, ascending; the last bin is as wide as the one before.
        series: name -> count in each bin.
        title: the text above the bins.
        axis: what is binned, with its unit.
        logarithmic: whether the horizontal axis is.
        marks: name -> the value of a vertical line.
    """
    drawing, [[axes]] = figure(height=3.4)
    if lower_ends:
        ends = list(lower_ends)
        ends.append(ends[-1] + (ends[-1] - ends[-2] if len(ends) > 1 else 1))
        for name, counts in series.items():
            axes.stairs(counts, ends, label=name, fill=len(series) == 1, linewidth=1.5)
    _draw_marks(axes, marks, len(series))
    if logarithmic:
        axes.set_xscale("symlog", linthresh=1)
    if lower_ends or marks:
        _no_math(axes.legend().get_texts())
    axes.set(xlabel=axis, ylabel="count")
    axes.set_title(title, parse_math=False)
    axes.grid(alpha=0.3)
    return encode_png(drawing)


def interval_bars(
    groups: Sequence[str], series: Mapping[str, Sequence[Estimate]], title: str, axis: str
) -> bytes:
    """Draw one bar per group and series, with its interval, on a scale from 0 to 1, and return a PNG.

    Args:
        groups: labels of the vertical axis, the first on top.
        series: name -> one estimate per group; the first is on top within its group.
        title: the text above the bars.
        axis: what the lengths are, with their unit.
    """
    import numpy as np

    height = 0.8 / max(len(series), 1)
    drawing, [[axes]] = figure(height=1.3 + max(len(groups), 1) * max(0.34, 0.17 * len(series)))
    for number, (name, estimates) in enumerate(series.items()):
        places = np.arange(len(groups)) + height * (number - (len(series) - 1) / 2)
        table = [(value, *(interval or (None, None))) for value, interval in estimates]
        # None becomes NaN, which is not drawn.
        values, low, high = np.array(table, dtype=float).reshape(-1, 3).T
        axes.barh(places, values, height=height, color=f"C{number}", label=name)
        # An interval need not contain its value in the last bit.
        ends = np.maximum((values - low, high - values), 0)
        style = {"fmt": "none", "ecolor": "#333", "elinewidth": 0.9, "capsize": 1.5}
        axes.errorbar(values, places, xerr=ends, **style)
    _label_bars(axes, groups)
    axes.set(xlabel=axis, xlim=(0, 1))
    axes.set_title(title, parse_math=False)
    if series:
        legend = drawing.legend(loc="outside lower center", ncols=min(len(series), 4), frameon=False)
        _no_math(legend.get_texts())
    return encode_png(drawing)


def reliability_diagram(series: Mapping[str, Sequence[ReliabilityBin]], title: str) -> bytes:
    """Draw accuracy over confidence, one panel per series, and return a PNG.

    The area of a dot is the share of the series that lies in its bin; on the diagonal, confidence is accuracy.
    """
    columns = min(len(series), 4)
    lines = -(-len(series) // columns)
    drawing, grid = figure(0.8 + (4.2, 3.2, 2.5, 2.1)[columns - 1] * lines, lines, columns)
    for axes in grid.flat[len(series) :]:
        axes.set_visible(False)
    for number, (axes, (name, bins)) in enumerate(zip(grid.flat, series.items(), strict=False)):
        full = [b for b in bins if b.predicted is not None and b.observed is not None]
        total = sum(b.n for b in full)
        if not full:
            axes.text(0.75, 0.25, "no probabilities", ha="center", va="center")
        confidences, accuracies = [b.predicted for b in full], [b.observed for b in full]
        axes.plot([0.5, 1], [0.5, 1], color="#999", linestyle="--", linewidth=1)
        axes.plot(confidences, accuracies, color=f"C{number}", linewidth=1)
        axes.scatter(confidences, accuracies, s=[8 + 220 * b.n / total for b in full], color=f"C{number}")
        axes.set(xlim=(0.48, 1.02), ylim=(-0.03, 1.03), xlabel="confidence", ylabel="accuracy")
        axes.set_title(_short(name, 28), fontsize=10, parse_math=False)
        axes.grid(alpha=0.3)
    drawing.suptitle(title, parse_math=False)
    return encode_png(drawing)


def bias_chart(biases: Mapping[str, tuple[float | None, float | None]], title: str) -> bytes:
    """Draw position and length bias in two panels, one bar per model, and return a PNG.

    Args:
        biases: name -> (share of A, length bias); None is left out.
        title: the text above both panels.
    """
    drawing, grid = figure(1.4 + 0.3 * max(len(biases), 2), columns=2)
    panels = (("share of A among verdicts", 0.5), ("length bias", 0.0))
    for column, (axes, (label, unbiased)) in enumerate(zip(grid.flat, panels, strict=True)):
        bars = [(at, share) for at, pair in enumerate(biases.values()) if (share := pair[column]) is not None]
        reach = 0.5 if column == 0 else max(0.1, *(1.1 * abs(value) for _, value in bars), 0)
        axes.barh(
            [at for at, _ in bars],
            [value - unbiased for _, value in bars],
            left=unbiased,
            height=0.7,
            color=[f"C{at}" for at, _ in bars],
        )
        axes.axvline(unbiased, color="#333", linewidth=1)
        axes.set(xlabel=label, xlim=(unbiased - reach, unbiased + reach))
        _label_bars(axes, list(biases), 28)
        if column:
            axes.set_yticks(range(len(biases)), labels=[])
    drawing.suptitle(title, parse_math=False)
    return encode_png(drawing)


def panels(draw: Sequence[Callable[[Any], None]], title: str) -> bytes:
    """Draw pictures in two columns and return a PNG.

    Args:
        draw: functions that draw into the matplotlib axes that they are passed.
        title: the text above all; shortened.
    """
    lines = -(-len(draw) // 2)
    drawing, grid = figure(0.6 + 3 * lines, lines, 2)
    for axes in grid.flat[len(draw) :]:
        axes.set_visible(False)
    for axes, picture in zip(grid.flat, draw, strict=False):
        picture(axes)
    drawing.suptitle(_short(" ".join(title.split()), 80), parse_math=False)
    return encode_png(drawing)


def _short(label: str, longest: int = 48) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"


def _no_math(texts: Sequence[Any]) -> None:
    """Show a `$` in a label as a dollar."""
    for text in texts:
        text.set_parse_math(False)


def _label_bars(axes: Any, labels: Sequence[str], longest: int = 48) -> None:
    """Label horizontal bars at 0, 1, 2, …, the first on top."""
    axes.set_yticks(range(len(labels)), labels=[_short(label, longest) for label in labels])
    _no_math(axes.get_yticklabels())
    axes.set_ylim(max(len(labels), 1) - 0.4, -0.6)
    axes.grid(axis="x", alpha=0.3)


def _draw_marks(axes: Any, marks: Mapping[str, float] | None, first_color: int) -> None:
    """Draw a named vertical line at each value."""
    for number, (name, value) in enumerate((marks or {}).items(), first_color):
        axes.axvline(value, color=f"C{number}", linestyle="--", label=name)
