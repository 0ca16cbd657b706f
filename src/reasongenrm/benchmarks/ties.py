"""The Ties subset of RewardBench 2: are all right answers above all wrong ones, and close to each other?

Source: upstream `rewardbench/utils.py` (`_compute_prompt_stats`, `process_single_model`) of
github.com/allenai/reward-bench. A question is asked twice: `ref:N` has one right answer, `tied:N` has several.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reasongenrm.benchmarks.base import Row, rating
from reasongenrm.benchmarks.common import mean
from reasongenrm.records import PairResult

WEIGHTS = {
    "tied accuracy": 0.30,
    "ref accuracy": 0.30,
    "correctness preferred": 0.20,
    "correctness preferred hard": 0.20,
    "margin": 0.01,
}
"""What the score is made of; with the margin's term it can reach 1.01."""

_DIGITS = 12  # ratings are means of few credits: two that are equal on paper must be equal here


@dataclass(frozen=True, slots=True)
class _Asked:
    """How one row was rated.

    Attributes:
        gap: from the best wrong answer up to the worst right one.
        spread: from the worst right answer up to the best one; 0 for a single one.
    """

    gap: float
    spread: float

    @classmethod
    def of(cls, row: Row, results: Mapping[str, PairResult]) -> _Asked:
        ratings = rating(row, results)
        right, wrong = ratings[: row.right], ratings[row.right :]
        return cls(round(min(right) - max(wrong), _DIGITS), round(max(right) - min(right), _DIGITS))


def _margin(gap: float, spread: float) -> float:
    """Return tanh(gap / spread - 1); without a spread its limit, and 0 where there is no gap either."""
    if spread == 0:
        return float((gap > 0) - (gap < 0))
    return math.tanh(gap / spread - 1)


_ACCURACIES: dict[str, tuple[str, Callable[[_Asked], float]]] = {
    "tied accuracy": ("tied", lambda asked: float(asked.gap > 0)),
    "ref accuracy": ("ref", lambda asked: float(asked.gap > 0)),
}
_MARGINS: dict[str, Callable[[_Asked, _Asked], float]] = {
    "correctness preferred": lambda ref, tied: float(tied.gap > tied.spread),
    "correctness preferred hard": lambda ref, tied: float(min(ref.gap, tied.gap) > tied.spread),
    "margin": lambda ref, tied: _margin(min(ref.gap, tied.gap), tied.spread),
}


def ties_terms(rows: Sequence[Row], results: Mapping[str, PairResult]) -> dict[str, dict[str, float]]:
    """Return the terms of WEIGHTS, term -> question -> value; a term's mean is what upstream publishes.

    The accuracies are over the rows of their kind, the others over the questions asked in both.

    Args:
        rows: with `details` `kind` (`ref` or `tied`) and `number`.
    """
    copies: Counter[tuple[str, int]] = Counter()
    asked: dict[str, dict[str, _Asked]] = {"ref": {}, "tied": {}}
    for row in rows:
        kind, number = row.details["kind"], row.details["number"]
        copies[kind, number] += 1
        asked[kind][f"{number}.{copies[kind, number]}"] = _Asked.of(row, results)
    both = sorted(asked["ref"].keys() & asked["tied"].keys())
    terms = {
        name: {question: value(one) for question, one in asked[kind].items()}
        for name, (kind, value) in _ACCURACIES.items()
    }
    for name, compared in _MARGINS.items():
        terms[name] = {q: compared(asked["ref"][q], asked["tied"][q]) for q in both}
    return terms


def ties_credits(rows: Sequence[Row], results: Mapping[str, PairResult]) -> list[float]:
    """Return one credit per question whose mean is the official score.

    Where every question is asked in both ways, a question's credit is the weighted sum of its terms. In a part of
    the benchmark a term's mean is over fewer questions, and a term that nothing tells about is left out; upstream
    gives no score then.
    """
    terms = {name: values for name, values in ties_terms(rows, results).items() if values}
    questions = sorted(set().union(*terms.values()))
    whole = math.fsum(WEIGHTS[name] for name in terms if name != "margin")
    return [
        math.fsum(
            WEIGHTS[name] * values.get(question, 0.0) * len(questions) / len(values)
            for name, values in terms.items()
        )
        / whole
        for question in questions
    ]


def ties_details(rows: Sequence[Row], results: Mapping[str, PairResult]) -> dict[str, float | None]:
    """Return the mean of every term, None where nothing tells about it."""
    terms = ties_terms(rows, results)
    return {f"Ties {name}": mean(list(values.values())) if values else None for name, values in terms.items()}
