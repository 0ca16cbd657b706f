"""RewardBench 2: best-of-4 in five subsets, and Ties."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasongenrm.benchmarks import loading
from reasongenrm.benchmarks.base import (
    ScoredBenchmark,
    Scoring,
    Table,
    beats,
    check_rows,
    found,
    mean,
    rating,
    readable,
    score_rows,
)
from reasongenrm.records import Drop, PairResult, Row
from reasongenrm.rows.files import RawRow
from reasongenrm.rows.turns import BadRow

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


TIES = "Ties"


ROWS = {"Factuality": 475, "Precise IF": 160, "Math": 183, "Safety": 450, "Focus": 495, TIES: 102}
"""Subset -> rows, as published in the dataset card."""


TABLE = Table("RewardBench 2", False, {name: {name: 1} for name in ROWS}, ROWS)


COLUMNS = ("id", "prompt", "chosen", "rejected", "subset", "num_correct", "num_incorrect")


UNREADABLE = 0.25
"""Credit of a best-of-4 row that a judge leaves open (upstream `run_generative_v2.py`: "effectively a tie")."""


_TIES_ID = re.compile(r"(ref|tied):(\d+)")


def best_of_n(row: Row, results: Mapping[str, PairResult]) -> float:
    """Return the credit of a row with one right answer.

    With a score per answer: 1/k where the right answer is among the k that share the highest score, else 0. Of a
    judge that compares: 1 where the right answer beats every wrong one, 0 where it does not; where only what
    cannot be read stands between the two, 0.25.
    """
    compared = found(row, results)
    if all(result.scores is not None for result in compared):
        ratings = rating(row, results)
        best = max(ratings)
        return 1 / ratings.count(best) if ratings[0] == best else 0.0
    if any(readable(result) and not beats(result) for result in compared):
        return 0.0
    if all(readable(result) for result in compared):
        return 1.0
    # A score that is not finite is a fault of the scalar head, as in RewardBench v1.
    return UNREADABLE if any(result.verdicts for result in compared) else 0.0


def _credits(rows: Sequence[Row], results: Mapping[str, PairResult]) -> dict[str, list[float]]:
    credits: dict[str, list[float]] = {}
    for row in rows:
        if row.subset != TIES:
            credits.setdefault(row.subset, []).append(best_of_n(row, results))
    ties = [row for row in rows if row.subset == TIES]
    return credits | ({TIES: ties_credits(ties, results)} if ties else {})


@dataclass(frozen=True, slots=True)
class RewardBench2(Scoring):
    """RewardBench 2; the score is the plain mean of the six subsets.

    Attributes:
        name, split: see `Benchmark`.
    """

    name: str = TABLE.name
    split: str = "test"

    def rows(
        self, path: str, *, split: str | None = None, revision: str | None = None, limit: int | None = None
    ) -> Iterator[Row | Drop]:
        """See `Benchmark`; the columns are `prompt`, `chosen` and `rejected` (lists), `subset`, for Ties `id`."""
        raw = loading.raw_rows(path, COLUMNS, split=split or self.split, revision=revision, limit=limit)
        hint = f"a row has the columns {', '.join(COLUMNS[:5])}"
        return loading.parsed_rows(raw, _parse, location=path, hint=hint)

    def score_details(
        self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
    ) -> ScoredBenchmark:
        """See `Benchmark`. The details are the terms of Ties."""
        check_rows(rows)
        details = ties_details([row for row in rows if row.subset == TIES], results)
        return score_rows(TABLE, rows, results, _credits, seed=seed, details=details)


def _parse(raw: RawRow) -> Row:
    subset = loading.one_of(raw, "subset", {name: name for name in ROWS} | {"ties": TIES})
    right, wrong = loading.texts(raw, "chosen"), loading.texts(raw, "rejected")
    for name, answers in (("num_correct", right), ("num_incorrect", wrong)):
        said = raw.columns.get(name)
        if said is not None and said != len(answers):
            problem = f"`{name}` is {said!r}, but there are {len(answers)} such answers."
            raise BadRow("bad_count", problem)
    if subset != TIES and len(right) != 1:
        raise BadRow(
            "many_right", f"`chosen` has {len(right)} answers; outside of Ties exactly one is right."
        )
    details = _ties_id(loading.text(raw, "id")) if subset == TIES else {}
    return Row.make(subset, loading.prompt(raw, "prompt"), right, wrong, details=details)


def _ties_id(name: str) -> dict[str, Any]:
    named = _TIES_ID.fullmatch(name.strip())
    if named is None:
        raise BadRow("bad_id", f"`id` is {name[:40]!r}; a row of Ties is called ref:N or tied:N.")
    return {"kind": named[1], "number": int(named[2])}
