"""Accuracy on any file of chosen/rejected pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reasongenrm.benchmarks import base, loading
from reasongenrm.benchmarks.base import Benchmark, Table
from reasongenrm.records import Row
from reasongenrm.rows.files import RawRow


class Pairs(Benchmark):
    """Pairs from any source; every pair has the same weight."""

    name = "Pairs"
    split = "test"
    columns = ("prompt", "chosen", "rejected", "subset")
    row_hint = "a row has the columns prompt, chosen and rejected"

    def read_row(self, raw: RawRow) -> Row:
        """See `Benchmark`; without the column `subset` the subset is the file's or the dataset's name."""
        chosen, rejected = loading.text(raw, "chosen"), loading.text(raw, "rejected")
        subset = loading.text(raw, "subset", default="").strip() or raw.origin
        return Row.make(subset, loading.prompt(raw, "prompt"), [chosen], [rejected])

    def table(self, rows: Sequence[Row]) -> Table:
        """See `Benchmark`; no result is partial, as the full number of rows is not known."""
        judged = Counter(row.subset for row in rows)
        return base.micro_table(self.name, {"All": dict(sorted(judged.items()))}, {})
