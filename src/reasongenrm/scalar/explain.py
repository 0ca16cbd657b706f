"""Tables and PNG figures of docs/reward-modeling.md and of notebooks/analyse.ipynb; their numbers are in `losses` and `simulation`.

`python -m reasongenrm.scalar.explain docs/images` draws the figures of docs/reward-modeling.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from reasongenrm.report.charts import encode_png, figure
from reasongenrm.report.tables import grid
from reasongenrm.scalar.chance import chance_figure
from reasongenrm.scalar.losses import (
    DELTAS,
    cross_entropy,
    gradient,
    hinge,
    hinge_gradient,
    loss,
    probability,
    squared,
    squared_error_gradient,
    squared_gradient,
)
from reasongenrm.scalar.sequence import sequence_figure
from reasongenrm.scalar.simulation import (
    PAIR_COUNTS,
    error_curve,
    error_figure,
    learned_order,
    nonlinear_figure,
    nonlinear_fit,
)
from reasongenrm.scalar.tiny import word_tokenizer
from reasongenrm.store import atomic_writer

QUESTION = "Which country owns Antarctica?"
"""The prompt of the sequence figure."""

RESPONSES = {"a": "No country owns it.", "b": "It belongs to Norway."}
"""The two responses of the sequence figure, the preferred one first."""

LABELS = (0.5, 0.7, 0.9, 1.0)
"""Labels of the figure of the logarithm: the share of people who prefer the first answer."""

_POINTS = ((1.5, -1.0), (-0.5, -2.0), (1.25, 0.75), (-1.0, 1.0))
"""(Z_a, Z_b) of the pairs in the margin figure: two lead by enough, one by too little, one is in the wrong order."""


def score_table(answers: Mapping[str, str], scores: Mapping[str, float]) -> str:
    """Return a Markdown table with the text and the score of each answer, both by the answer's name."""
    rows = [(name, text, f"{scores[name]:+.3f}") for name, text in answers.items()]
    return grid(["answer", "text", "score Z"], rows, text_columns=2)


def difference_table(scores: Mapping[str, float]) -> str:
    """Return a Markdown table with the difference and the probability of each pair of answers to one prompt, by name."""
    deltas = {(a, b): scores[a] - scores[b] for a, b in combinations(scores, 2)}
    rows = [(a, b, f"{delta:+.3f}", f"{float(probability(delta)):.3f}") for (a, b), delta in deltas.items()]
    return grid(["a", "b", "Δ = Z_a - Z_b", "σ(Δ)"], rows, text_columns=2)


def loss_figure() -> bytes:
    """Draw the loss and its gradient over delta, with dots at the rows of the loss table, and return a PNG."""
    drawing, [panels] = figure(3.4, columns=2)
    deltas = np.linspace(-6, 6, 241)
    titles = (r"loss $-\log\,\sigma(\Delta)$", r"its gradient $-(1-\sigma(\Delta))$")
    for axes, function, title, color in zip(panels, (loss, gradient), titles, ("C0", "C1"), strict=True):
        axes.plot(deltas, function(deltas), color=color, label="no margin")
        axes.plot(deltas, function(deltas, 1), color=color, linestyle="--", linewidth=1, label="margin 1")
        axes.plot(DELTAS, function(DELTAS), "o", color=color, markersize=4)
        axes.set(title=title, xlabel=r"$\Delta = Z_a - Z_b$ (nats)")
        axes.axvline(0, color="#999", linewidth=0.8)
        axes.grid(alpha=0.3)
        axes.legend()
    panels[0].set_ylabel("nats")
    return encode_png(drawing)


def margin_figure(margin: float = 1.0) -> bytes:
    """Draw pairs in the plane of their scores, with their distances to the line of equal scores, as a PNG.

    The distance of (Z_a, Z_b) to the line Z_a = Z_b is delta / sqrt(2), and to the line Z_a = Z_b + margin it
    is (delta - margin) / sqrt(2), both negative on the wrong side.

    Args:
        margin: the required lead of the preferred answer, in nats.
    """
    drawing, [[plain, shifted]] = figure(4.0, columns=2)
    _draw_distances(plain, 0.0)
    plain.set_title(r"no margin: $\Delta\,/\,\sqrt{2}$")
    _draw_distances(shifted, margin)
    shifted.set_title(rf"margin {margin:g}: $(\Delta - {margin:g})\,/\,\sqrt{{2}}$")
    return encode_png(drawing)


def _draw_distances(axes: Any, margin: float) -> None:
    """Draw the points and their distances to the line Z_a = Z_b + margin."""
    ends = np.array([-2.5, 2.5])
    axes.fill_between(ends, ends - margin, -2.5, color="C2", alpha=0.12, linewidth=0)
    axes.plot(ends, ends, color="#333", linewidth=1.2, label=r"$Z_a = Z_b$")
    if margin:
        axes.plot(ends, ends - margin, color="#333", linewidth=1.2, linestyle="--", label=r"$Z_a = Z_b + m$")
    for first, second in _POINTS:
        lead = first - second - margin
        color = "C2" if lead > 0 else "C3"
        foot = (first - lead / 2, second + lead / 2)  # of the perpendicular to the line
        axes.plot([first, foot[0]], [second, foot[1]], color=color, linewidth=1)
        axes.plot(first, second, "o", color=color, markersize=5)
        label = f"{lead / 2**0.5:+.2f}".replace("-", "−")
        axes.annotate(label, (first, second), xytext=(4, 5), textcoords="offset points", fontsize=9)
    axes.set(xlim=(-2.5, 2.5), ylim=(-2.5, 2.5), aspect="equal")
    axes.set(xlabel=r"$Z_a$ (nats), the preferred answer", ylabel=r"$Z_b$ (nats)")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=9)


def logarithm_figure() -> bytes:
    """Draw the cross-entropy for several labels with its minima, and how hard a pair pulls with and without a logarithm."""
    drawing, [[losses, pulls]] = figure(3.4, columns=2)
    deltas = np.linspace(-6, 6, 241)
    for number, label in enumerate(LABELS):
        losses.plot(deltas, cross_entropy(deltas, label), color=f"C{number}", label=f"Y = {label:g}")
        if label < 1:
            lowest = np.log(label / (1 - label))  # where sigma(delta) = Y
            losses.plot(lowest, cross_entropy(lowest, label), "o", color=f"C{number}", markersize=5)
    losses.set(title="cross-entropy with the label Y", ylabel="nats", ylim=(0, 4))
    pulls.plot(deltas, -gradient(deltas), color="C3", label=r"$-\log\,\sigma(\Delta)$")
    pulls.plot(deltas, -squared_error_gradient(deltas), color="C4", label=r"$(1-\sigma(\Delta))^2$")
    pulls.set(title="pull of a pair, −d loss / dΔ")
    _finish(losses, pulls)
    return encode_png(drawing)


def families_figure() -> bytes:
    """Draw the losses of a pair with their gradients, all with a margin or target of 1 where they have one, as a PNG."""
    drawing, [[losses, slopes]] = figure(3.6, columns=2)
    deltas = np.linspace(-3, 4, 281)
    for label, value, slope in (
        ("logistic", loss(deltas), gradient(deltas)),
        ("logistic, margin 1", loss(deltas, 1), gradient(deltas, 1)),
        ("hinge, margin 1", hinge(deltas), hinge_gradient(deltas)),
        ("squared, target 1", squared(deltas), squared_gradient(deltas)),
    ):
        losses.plot(deltas, value, label=label)
        slopes.plot(deltas, slope, label=label)
    losses.set(title="loss", ylim=(0, 4))
    slopes.set(title="d loss / dΔ", ylim=(-2.5, 2.5))
    _finish(losses, slopes)
    return encode_png(drawing)


def _finish(*panels: Any) -> None:
    """Label the axis of differences, and add a grid and a legend."""
    for axes in panels:
        axes.set_xlabel(r"$\Delta = Z_a - Z_b$ (nats)")
        axes.axvline(0, color="#999", linewidth=0.8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)


def example_sequences() -> bytes:
    """Draw QUESTION and RESPONSES as `sequence_figure`, with a tokenizer that has their words, and return a PNG."""
    return sequence_figure(word_tokenizer([QUESTION, *RESPONSES.values()]), QUESTION, RESPONSES)


def order_figure() -> bytes:
    """Draw the accuracy of `learned_order` among those with permuted ranks, and return a PNG."""
    order = learned_order()
    return chance_figure(
        order.accuracy, order.null, order.pairs, "An order learned from 60 prompts, tested on 20 others"
    )


def write_figures(folder: Path) -> list[Path]:
    """Write the figures of docs/reward-modeling.md, `reward-*.png`, and return their paths."""
    pictures = {
        "reward-sequence.png": example_sequences(),
        "reward-loss.png": loss_figure(),
        "reward-logarithm.png": logarithm_figure(),
        "reward-margin.png": margin_figure(),
        "reward-families.png": families_figure(),
        "reward-simulation.png": error_figure(PAIR_COUNTS, error_curve()),
        "reward-nonlinear.png": nonlinear_figure(nonlinear_fit()),
        "reward-chance.png": order_figure(),
    }
    for name, content in pictures.items():
        with atomic_writer(folder / name) as out:
            out.write(content)
    return [folder / name for name in pictures]


if __name__ == "__main__":
    print(*write_figures(Path(sys.argv[1])), sep="\n")
