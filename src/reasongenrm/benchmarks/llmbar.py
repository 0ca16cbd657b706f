"""LLMBar in its own format: which output follows the instruction, also where the other one looks better.

Sources: the paper, Zeng et al. 2023, arXiv 2310.07641; upstream `LLMEvaluator/evaluate.py` and README of
github.com/princeton-nlp/LLMBar.
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
    by_row,
    check_rows,
    decisions_differ,
    found,
    hits,
    mean,
    score_rows,
)
from reasongenrm.records import Drop, PairResult, Row
from reasongenrm.rows.files import RawRow
from reasongenrm.rows.turns import BadRow

ROWS = {"Natural": 100, "Neighbor": 134, "GPTInst": 92, "GPTOut": 47, "Manual": 46}
"""Subset -> instances, as published (419 in all)."""

TABLE = Table(
    "LLMBar",
    False,
    {"Natural": {"Natural": 1}, "Adversarial": dict.fromkeys(list(ROWS)[1:], 1)},
    ROWS,
    section_weights={"Adversarial": 4},  # the paper's "Average" is over the five subsets
)
COLUMNS = ("input", "output_1", "output_2", "label", "subset")


def row_credit(row: Row, results: Sequence[PairResult]) -> float:
    """Return the share of the orders in which the right output was named; all else is wrong.

    Equal scores are half right: upstream's rating evaluators name the first output, which is right in one order.
    """
    (result,) = results
    if result.scores is not None and result.scores[0] == result.scores[1]:
        return 0.5
    return hits(result)


@dataclass(frozen=True, slots=True)
class LLMBar(Scoring):
    """LLMBar; the score is the plain mean of its five subsets.

    Attributes:
        name, split: see `Benchmark`; no split of it can be read from the hub, which holds a script only.
    """

    name: str = TABLE.name
    split: str = "test"

    def rows(
        self, path: str, *, split: str | None = None, revision: str | None = None, limit: int | None = None
    ) -> Iterator[Row | Drop]:
        """See `Benchmark`; the columns are `input`, `output_1`, `output_2` and `label` (1 or 2).

        The subset is a column, or part of the file's path, as in upstream's `Adversarial/Manual/dataset.json`. Of
        upstream's folders only files of that name are read: evaluators' results lie beside them.
        """
        folder = Path(path).expanduser()
        files = sorted(folder.rglob("dataset.json")) if folder.is_dir() else []
        if files:
            raw = loading.files_rows(files, revision=revision, limit=limit)
        else:
            raw = loading.raw_rows(path, COLUMNS, split=split or self.split, revision=revision, limit=limit)
        hint = "a row has the columns input, output_1, output_2 and label (1 or 2)"
        return loading.parsed_rows(raw, _parse, location=path, hint=hint)

    def score_details(
        self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
    ) -> ScoredBenchmark:
        """See `Benchmark`. Detail: `agreement`, upstream's positional agreement rate (None with one order)."""
        check_rows(rows)
        pairs = [result for row in rows for result in found(row, results)]
        differ = [differs for pair in pairs if (differs := decisions_differ(pair)) is not None]
        agreement = 1 - mean([float(differs) for differs in differ]) if differ else None
        details = {"agreement": agreement}
        return score_rows(TABLE, rows, results, by_row(row_credit), seed=seed, details=details)


def _parse(raw: RawRow) -> Row:
    right = loading.one_of(raw, "label", {"1": 0, "2": 1})
    outputs = [loading.text(raw, "output_1"), loading.text(raw, "output_2")]
    turns = loading.prompt(raw, "input")
    return Row.make(_subset(raw), turns, [outputs[right]], [outputs[1 - right]])


def _subset(raw: RawRow) -> str:
    said = raw.columns.get("subset")
    named = said if isinstance(said, str) else "/".join(Path(raw.location).parts[-3:])
    words = set(re.split(r"[^a-z]+", named.lower()))
    for subset in ROWS:
        if subset.lower() in words:
            return subset
    raise BadRow("unknown_subset", f"No subset is called {named[:80]!r}; use {', '.join(ROWS)}.")
