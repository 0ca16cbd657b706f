"""HelpSteer3 with human checklists: pairs, and the points by which people preferred one answer.

Outcome Accuracy is Not Enough: Aligning the Reasoning Process of Reward Models. Wang et al. 2026,
https://arxiv.org/abs/2602.04649 (RationaleRM; data `Qwen/RationaleRM`, configurations `test` and `full`), from HelpSteer3,
https://arxiv.org/abs/2505.11475
The score is the accuracy; how many of the points a judge's reasons contain is measured by `reasongenrm rationale`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from reasongenrm.benchmarks import base, loading
from reasongenrm.benchmarks.base import Benchmark, Table
from reasongenrm.data.helpsteer3 import CHECKLIST, better_answer, checklist
from reasongenrm.records import Row
from reasongenrm.rows.files import RawRow

POINTS = "points"
"""Details of a row: the human points; they call the answers as the file does, `Response 1` and `Response 2`."""
FIRST = "chosen_is_response_1"
"""Details of a row: whether its right answer is `Response 1`."""


class HelpSteer3(Benchmark):
    """HelpSteer3's preferences; every pair has the same weight."""

    name = "HelpSteer3"
    split = "test"
    columns = ("domain", "context", "response1", "response2", "overall_preference", "human-checklist")
    row_hint = "a row has the columns context, response1, response2, overall_preference and human-checklist"

    def read_row(self, raw: RawRow) -> Row:
        """See `Benchmark`; `overall_preference` is below 0 where the first answer is better; 0 is a Drop (`human_tie`)."""
        answers = [loading.text(raw, "response1"), loading.text(raw, "response2")]
        right = better_answer(loading.column(raw, "overall_preference"))
        details = {POINTS: checklist(raw.columns.get(CHECKLIST)), FIRST: right == 0}
        domain = loading.text(raw, "domain", default="").strip() or "unknown"
        turns = loading.prompt(raw, "context")
        return Row.make(domain, turns, [answers[right]], [answers[1 - right]], details=details)

    def table(self, rows: Sequence[Row]) -> Table:
        """See `Benchmark`; no result is partial, as the number of rows per domain is not published."""
        judged = Counter(row.subset for row in rows)
        return base.micro_table(
            self.name, {name: {name: count} for name, count in sorted(judged.items())}, {}
        )
