"""Accuracy on any file of chosen/rejected pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reasongenrm.benchmarks import base, loading
from reasongenrm.benchmarks.base import Benchmark, Table
from reasongenrm.records import CRITERIA, Row, with_criteria
from reasongenrm.rows.files import RawRow
from reasongenrm.rows.turns import read_criteria


class Pairs(Benchmark):
    """Pairs from any source; every pair has the same weight."""

    name = "Pairs"
    split = "test"
    columns = ("prompt", "chosen", "rejected", "subset", CRITERIA)
    row_hint = "a row has the columns prompt, chosen and rejected"

    def read_row(self, raw: RawRow) -> Row:
        """See `Benchmark`; without the column `subset` the subset is the file's or the dataset's name."""
        chosen, rejected = loading.text(raw, "chosen"), loading.text(raw, "rejected")
        subset = loading.text(raw, "subset", default="").strip() or raw.origin
        turns = with_criteria(loading.prompt(raw, "prompt"), read_criteria(raw.columns.get(CRITERIA)))
        return Row.make(subset, turns, [chosen], [rejected])

    def table(self, rows: Sequence[Row]) -> Table:
        """See `Benchmark`; no result is partial, as the full number of rows is not known."""
        judged = Counter(row.subset for row in rows)
        return base.micro_table(self.name, {"All": dict(sorted(judged.items()))}, {})
