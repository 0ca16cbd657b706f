"""RM-Bench: three right and three wrong answers, each in three styles.

RM-Bench: Benchmarking Reward Models of Language Models with Subtlety and Style. Liu et al. 2024,
https://arxiv.org/abs/2410.16184
Upstream: README ("how to compute the accuracy") and `scripts/utils.py` (compute_accuracy) of
https://github.com/THU-KEG/RM-Bench
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from reasongenrm.benchmarks import base, loading
from reasongenrm.benchmarks.base import Benchmark, Results, Shares, Table
from reasongenrm.records import PairResult, Row
from reasongenrm.rows.files import RawRow
from reasongenrm.rows.turns import BadRow, quoted

STYLES = ("concise", "detailed", "markdown")
"""The order of the answers in `chosen` and in `rejected`, from the plainest to the richest."""

ROWS = {"chat": 129, "math": 529, "code": 228, "safety-refuse": 284, "safety-response": 157}
"""Subset -> rows, as published (1,327 in all)."""

SECTIONS = {
    "Chat": ("chat",),
    "Math": ("math",),
    "Code": ("code",),
    "Safety": ("safety-refuse", "safety-response"),
}
"""Domain -> its subsets."""

Safety = Literal["pooled", "halves"]

HALVES = "RM-Bench (safety: mean of its halves)"
"""Name of the benchmark whose safety is the mean of its two subsets."""

# Domain -> pattern of its names: the domain itself, RewardBench's subset of the row, or the file's name.
_DOMAINS = {
    "safety-refuse": r"safety.refuse|should.refuse|refusals",
    "safety-response": r"safety.response|should.respond",
    "chat": r"chat|alpacaeval",
    "math": r"math",
    "code": r"code|hep|human.?eval",
}

_CELLS = tuple((i, j) for i in range(3) for j in range(3))
LEVELS = {
    "hard": tuple((i, j) for i, j in _CELLS if i < j),  # the right answer has the plainer style
    "normal": tuple((i, j) for i, j in _CELLS if i == j),
    "easy": tuple((i, j) for i, j in _CELLS if i > j),
}
"""Difficulty -> cells (style of the right answer, style of the wrong one)."""


class RMBench(Benchmark):
    """RM-Bench; the score is the plain mean of the four domains.

    Args:
        safety: `pooled` gives every row of the domain safety the same weight, as upstream's code does
            (`split_dataset_by_domain` in `scripts/utils.py`); `halves` is the mean of its two subsets.
    """

    name = "RM-Bench"
    split = "train"
    columns = ("id", "prompt", "chosen", "rejected", "domain", "subset")
    row_hint = "a row has the columns prompt, chosen, rejected (three answers each) and domain"
    array_file = "total_dataset.json"  # of upstream's data folder: contains the rows of all its files

    def __init__(self, *, safety: Safety = "pooled") -> None:
        self.safety = safety
        if safety == "halves":
            self.name = HALVES

    def table(self, rows: Sequence[Row]) -> Table:
        """See `Benchmark`; where safety is pooled, its subsets weigh as many as they have rows judged."""
        judged = Counter(row.subset for row in rows)
        pooled = self.safety == "pooled" and any(judged[name] for name in SECTIONS["Safety"])
        sections = {
            section: {name: judged[name] if pooled and len(names) > 1 else 1 for name in names}
            for section, names in SECTIONS.items()
        }
        return Table(self.name, sections, ROWS)

    def read_row(self, raw: RawRow) -> Row:
        """See `Benchmark`; the default of `domain` is that of `subset` (a RewardBench subset), or of the file's name."""
        right, wrong = loading.texts(raw, "chosen"), loading.texts(raw, "rejected")
        for name, answers in (("chosen", right), ("rejected", wrong)):
            if len(answers) != len(STYLES):
                problem = f"`{name}` has {len(answers)} answers; it needs one per style: {', '.join(STYLES)}."
                raise BadRow("bad_count", problem)
        return Row.make(_domain(raw), loading.prompt(raw, "prompt"), right, wrong)

    def row_credit(self, row: Row, results: Sequence[PairResult]) -> float:
        """Return the mean over the nine comparisons, which is also the mean of hard, normal and easy.

        A comparison counts the share of its orders in which the right answer was named; a tie is wrong.
        """
        return fmean(base.correct_share(result) for result in results)

    def details(self, rows: Sequence[Row], results: Results, sections: Shares) -> Shares:
        """Return the matrix of styles; hard, normal and easy over the domains, and for every domain."""
        table = self.table(rows)
        shares: dict[tuple[int, int], dict[str, list[float]]] = {cell: {} for cell in _CELLS}
        for row in rows:
            for (right, wrong), result in zip(row.places, base.row_results(row, results), strict=True):
                shares[right, wrong - 3].setdefault(row.subset, []).append(base.correct_share(result))
        matrix = {
            cell: base.aggregate(table, {s: fmean(values) for s, values in shares[cell].items()})
            for cell in _CELLS
        }
        details: Shares = {level: fmean(matrix[cell][1] for cell in cells) for level, cells in LEVELS.items()}
        for i, j in _CELLS:
            details[f"{STYLES[i]} > {STYLES[j]}"] = matrix[i, j][1]
        for section in table.sections:
            for level, cells in LEVELS.items():
                values = [matrix[cell][0][section] for cell in cells]
                details[f"{section} {level}"] = None if None in values else fmean(values)
        return details


def _domain(raw: RawRow) -> str:
    names = [name for name in (raw.columns.get("domain"), raw.columns.get("subset")) if isinstance(name, str)]
    for name in (*names, raw.origin):
        for domain, pattern in _DOMAINS.items():
            if re.search(pattern, name.lower()):
                return domain
    listed = " or ".join(map(quoted, (*names, raw.origin)))
    raise BadRow("unknown_domain", f"Unknown domain {listed}; use {', '.join(ROWS)}.")
