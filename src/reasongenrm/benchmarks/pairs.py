"""Anybody's pairs: the share of pairs in which the chosen answer is preferred."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from reasongenrm.benchmarks import loading
from reasongenrm.benchmarks.base import (
    ScoredBenchmark,
    Scoring,
    by_row,
    check_rows,
    mean_credit,
    micro_table,
    score_rows,
)
from reasongenrm.records import Drop, PairResult, Row
from reasongenrm.rows.files import RawRow

COLUMNS = ("prompt", "chosen", "rejected", "subset")
SECTION = "All"


@dataclass(frozen=True, slots=True)
class Pairs(Scoring):
    """Pairs of any source; every pair counts alike.

    Attributes:
        name, split: see `Benchmark`.
    """

    name: str = "Pairs"
    split: str = "test"

    def rows(
        self, path: str, *, split: str | None = None, revision: str | None = None, limit: int | None = None
    ) -> Iterator[Row | Drop]:
        """See `Benchmark`; the columns are `prompt`, `chosen`, `rejected` and, where there are any, `subset`.

        Without `subset` it is the file's or the dataset's name.
        """
        raw = loading.raw_rows(path, COLUMNS, split=split or self.split, revision=revision, limit=limit)
        hint = "a row has the columns prompt, chosen and rejected"
        return loading.parsed_rows(raw, _parse, location=path, hint=hint)

    def score_details(
        self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
    ) -> ScoredBenchmark:
        """See `Benchmark`. Nobody published what is missing, so that no result is partial."""
        check_rows(rows)
        judged = Counter(row.subset for row in rows)
        table = micro_table(self.name, {SECTION: {name: judged[name] for name in sorted(judged)}}, {})
        return score_rows(table, rows, results, by_row(mean_credit), seed=seed)


def _parse(raw: RawRow) -> Row:
    chosen, rejected = loading.text(raw, "chosen"), loading.text(raw, "rejected")
    subset = raw.origin if raw.columns.get("subset") is None else loading.text(raw, "subset").strip()
    return Row.make(subset or raw.origin, loading.prompt(raw, "prompt"), [chosen], [rejected])
