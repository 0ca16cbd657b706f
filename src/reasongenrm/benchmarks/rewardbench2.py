"""RewardBench 2: best-of-4 in five subsets, and Ties.

Sources: the paper, Malik et al. 2025, arXiv 2506.01937; upstream `scripts/run_v2.py`,
`scripts/run_generative_v2.py` and `rewardbench/utils.py` (reroll_and_score_dataset, process_single_model) of
github.com/allenai/reward-bench.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasongenrm.benchmarks import loading
from reasongenrm.benchmarks.base import Row, rating
from reasongenrm.benchmarks.common import (
    Scoring,
    Table,
    Working,
    beats,
    check_rows,
    found,
    readable,
    score_rows,
)
from reasongenrm.benchmarks.ties import ties_credits, ties_details
from reasongenrm.data.turns import BadRow
from reasongenrm.reading import RawRow
from reasongenrm.records import Drop, PairResult

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
        mend = f"a row has the columns {', '.join(COLUMNS[:5])}"
        return loading.parsed_rows(raw, _parse, where=path, mend=mend)

    def work(self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0) -> Working:
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
            what = f"`{name}` is {said!r}, but there are {len(answers)} such answers."
            raise BadRow("bad_count", what)
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
