"""RM-Bench: three right and three wrong answers in three styles; is substance seen through style?

Sources: the paper, Liu et al. 2024, arXiv 2410.16184; upstream README ("how to compute the accuracy") and
`scripts/utils.py` (compute_accuracy) of github.com/THU-KEG/RM-Bench.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasongenrm.benchmarks import loading
from reasongenrm.benchmarks.base import (
    ScoredBenchmark,
    Scoring,
    Table,
    aggregate,
    by_row,
    check_rows,
    found,
    hits,
    mean,
    score_rows,
)
from reasongenrm.records import Drop, PairResult, Row
from reasongenrm.rows.files import RawRow
from reasongenrm.rows.turns import BadRow

STYLES = ("concise", "detailed", "markdown")
"""The order of the answers in `chosen` and in `rejected`, from the plainest to the richest."""

ROWS = {"chat": 129, "math": 529, "code": 228, "safety-refuse": 284, "safety-response": 157}
"""Subset -> rows, as published (1,327 in all)."""

TABLE = Table(
    "RM-Bench",
    False,
    {
        "Chat": {"chat": 1},
        "Math": {"math": 1},
        "Code": {"code": 1},
        "Safety": {"safety-refuse": 1, "safety-response": 1},
    },
    ROWS,
)
COLUMNS = ("id", "prompt", "chosen", "rejected", "domain", "subset")

# What a row is called where it does not name its domain: by RewardBench's subset it was made from, or its file.
_DOMAINS = {
    "safety-refuse": r"safety.refuse|should.refuse|refusals",
    "safety-response": r"safety.response|should.respond",
    "chat": r"chat|alpacaeval",
    "math": r"math",
    "code": r"code|hep|human.?eval",
}

_Cell = tuple[int, int]
_CELLS: tuple[_Cell, ...] = tuple((i, j) for i in range(3) for j in range(3))
LEVELS: dict[str, tuple[_Cell, ...]] = {
    "hard": tuple((i, j) for i, j in _CELLS if i < j),  # the right answer has the plainer style
    "normal": tuple((i, j) for i, j in _CELLS if i == j),
    "easy": tuple((i, j) for i, j in _CELLS if i > j),
}
"""Difficulty -> cells (style of the right answer, style of the wrong one)."""


def row_credit(row: Row, results: Sequence[PairResult]) -> float:
    """Return the mean over the nine comparisons, which is the mean of hard, normal and easy too.

    A comparison counts the share of its orders in which the right answer was named; a tie is wrong.
    """
    return mean([hits(result) for result in results])


def _details(rows: Sequence[Row], results: Mapping[str, PairResult]) -> dict[str, float | None]:
    """Return the matrix, hard, normal and easy over the domains, and those of every domain."""
    counted: dict[_Cell, dict[str, list[float]]] = {cell: {} for cell in _CELLS}
    for row in rows:
        for (right, wrong), result in zip(row.places, found(row, results), strict=True):
            counted[right, wrong - 3].setdefault(row.subset, []).append(hits(result))
    matrix = {
        cell: aggregate(TABLE, {s: mean(values) for s, values in counted[cell].items()}) for cell in _CELLS
    }
    details: dict[str, float | None] = {
        level: mean([matrix[cell][1] for cell in cells]) for level, cells in LEVELS.items()
    }
    for i, j in _CELLS:
        details[f"{STYLES[i]} > {STYLES[j]}"] = matrix[i, j][1]
    for section in TABLE.sections:
        for level, cells in LEVELS.items():
            values = [matrix[cell][0][section] for cell in cells]
            details[f"{section} {level}"] = None if None in values else mean(values)
    return details


@dataclass(frozen=True, slots=True)
class RMBench(Scoring):
    """RM-Bench; the score is the plain mean of the four domains.

    Attributes:
        name, split: see `Benchmark`.
    """

    name: str = TABLE.name
    split: str = "train"

    def rows(
        self, path: str, *, split: str | None = None, revision: str | None = None, limit: int | None = None
    ) -> Iterator[Row | Drop]:
        """See `Benchmark`; the columns are `prompt`, `chosen` and `rejected` (three each), `domain`.

        Without `domain` it is that of `subset` (the RewardBench subset of the row), or of the file's name. Of
        upstream's data folder only `total_dataset.json` is read, which holds all the others.
        """
        whole = Path(path).expanduser() / "total_dataset.json"
        path = str(whole) if whole.is_file() else path
        raw = loading.raw_rows(path, COLUMNS, split=split or self.split, revision=revision, limit=limit)
        hint = "a row has the columns prompt, chosen, rejected (three answers each) and domain"
        return loading.parsed_rows(raw, _parse, location=path, hint=hint)

    def score_details(
        self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
    ) -> ScoredBenchmark:
        """See `Benchmark`. The details are the matrix of styles, and hard, normal and easy."""
        check_rows(rows)
        details = _details(rows, results)
        return score_rows(TABLE, rows, results, by_row(row_credit), seed=seed, details=details)


def _parse(raw: RawRow) -> Row:
    right, wrong = loading.texts(raw, "chosen"), loading.texts(raw, "rejected")
    for name, answers in (("chosen", right), ("rejected", wrong)):
        if len(answers) != len(STYLES):
            problem = (
                f"`{name}` has {len(answers)} answers; RM-Bench has one per style ({', '.join(STYLES)})."
            )
            raise BadRow("bad_count", problem)
    return Row.make(_domain(raw), loading.prompt(raw, "prompt"), right, wrong)


def _domain(raw: RawRow) -> str:
    names = [name for name in (raw.columns.get("domain"), raw.columns.get("subset")) if isinstance(name, str)]
    for name in (*names, raw.origin):
        for domain, pattern in _DOMAINS.items():
            if re.search(pattern, name.lower()):
                return domain
    shown = " or ".join(repr(name[:40]) for name in (*names, raw.origin))
    raise BadRow("unknown_domain", f"No domain is called {shown}; use {', '.join(ROWS)}.")
