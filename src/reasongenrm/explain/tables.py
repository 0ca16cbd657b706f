"""The explanation's numbers as Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from reasongenrm.explain.bradley_terry import Comparison, LossRow
from reasongenrm.explain.sequence import ShownSequence
from reasongenrm.report.markdown import grid


def loss_markdown(rows: Sequence[LossRow]) -> str:
    """Return the loss table; three decimals, the differences as they are."""
    cells = [[f"{row.delta:g}", *(f"{value:.3f}" for value in row[1:])] for row in rows]
    return grid(["Δ", "σ(Δ)", "loss", "gradient"], cells, text_columns=0)


def sequence_markdown(shown: ShownSequence) -> str:
    """Return one row per run of tokens of one part."""
    places = [f"{run.first}" if run.first == run.last else f"{run.first}–{run.last}" for run in shown.runs]
    rows = [(run.part, place, run.text) for run, place in zip(shown.runs, places, strict=True)]
    return grid(["part", "positions", "tokens"], rows, text_columns=3)


def simulation_markdown(ns: Sequence[int], errors: Sequence[float]) -> str:
    """Return one row per number of preferences; error × √n stays the same where the law holds."""
    rows = [(f"{n:,}", f"{error:.4f}", f"{error * n**0.5:.2f}") for n, error in zip(ns, errors, strict=True)]
    return grid(["preferences n", "error", "error × √n"], rows, text_columns=0)


def scores_markdown(answers: Mapping[str, str], scores: Mapping[str, float]) -> str:
    """Return one row per answer, with its text and its score.

    Args:
        answers: name -> text.
        scores: name -> score.
    """
    rows = [(name, text, f"{scores[name]:+.3f}") for name, text in answers.items()]
    return grid(["answer", "text", "score Z"], rows, text_columns=2)


def comparisons_markdown(comparisons: Sequence[Comparison]) -> str:
    """Return one row per pair of answers."""
    rows = [(one.first, one.second, f"{one.delta:+.3f}", f"{one.probability:.3f}") for one in comparisons]
    return grid(["a", "b", "Δ = Z_a - Z_b", "σ(Δ)"], rows, text_columns=2)
