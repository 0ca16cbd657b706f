"""RubricBench: hard pairs with experts' rubrics; each is judged with the rubric, and by the judge's own criteria.

RubricBench: Aligning Model-Generated Rubrics with Human Standards. Zhang et al. 2026, https://arxiv.org/abs/2603.01562
Data: `DonJoey/rubricbench`, 1,147 pairs. Its card does not say what `label` means; here 0 is the first answer and 1 the second.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from reasongenrm.benchmarks import base, loading
from reasongenrm.benchmarks.base import Benchmark, Results, Shares, Table
from reasongenrm.records import Drop, Row, with_criteria
from reasongenrm.rows.files import RawRow
from reasongenrm.rows.turns import BadRow, is_list, read_criteria

OWN, GIVEN = "Own criteria", "Given rubric"
"""How a row is judged: without its rubric, and with it."""

ROWS = 1147
"""Pairs, as published."""

_LABELS = {"0": 0, "1": 1, "A": 0, "B": 1, "response_a": 0, "response_b": 1}


class RubricBench(Benchmark):
    """RubricBench; every row is judged twice. The score is the accuracy by the judge's own criteria.

    The headline is `gap`, the accuracy with the rubric minus that without.
    """

    name = "RubricBench"
    split = "train"
    columns = ("case_id", "instruction", "response_a", "response_b", "label", "rubrics", "domain")
    row_hint = "a row has the columns instruction, response_a, response_b, label, rubrics and domain"

    def rows(self, path: str, **options: Any) -> Iterator[Row | Drop]:
        """See `Benchmark`; two rows for each pair, the second with its rubric as criteria before the conversation."""
        for row in super().rows(path, **options):
            if isinstance(row, Drop):
                yield row
                continue
            rubric, domain = row.details["rubric"], row.subset
            details = {"pair": row.id}
            yield replace(row, subset=f"{OWN}/{domain}", details=details)
            history = tuple(with_criteria(row.history, rubric))
            given = replace(row, subset=f"{GIVEN}/{domain}", history=history, details=details)
            yield replace(given, id=f"{row.id}-rubric")

    def read_row(self, raw: RawRow) -> Row:
        right = loading.one_of(raw, "label", _LABELS)
        answers = [loading.text(raw, f"response_{letter}") for letter in "ab"]
        domain = loading.text(raw, "domain", default="").strip() or "unknown"
        turns = loading.prompt(raw, "instruction")
        rubric = _rubric(loading.column(raw, "rubrics"))
        return Row.make(domain, turns, [answers[right]], [answers[1 - right]], details={"rubric": rubric})

    def table(self, rows: Sequence[Row]) -> Table:
        """See `Benchmark`; every pair has the same weight. The rows with a rubric count in no score, unless there are no others."""
        judged = Counter(row.subset for row in rows)
        sections = {
            way: {name: count for name, count in sorted(judged.items()) if name.startswith(f"{way}/")}
            for way in (OWN, GIVEN)
        }
        weights = {GIVEN: 0.0} if sections[OWN] else {}
        return Table(
            self.name,
            sections,
            section_weights=weights,
            published_section_rows=dict.fromkeys((OWN, GIVEN), ROWS),
        )

    def details(self, rows: Sequence[Row], results: Results, sections: Shares) -> Shares:
        """Return `gap`, and `given` and `own`, all over the pairs that were judged both ways."""
        credits: dict[str, dict[str, float]] = {OWN: {}, GIVEN: {}}
        for row in rows:
            way = row.subset.partition("/")[0]
            credits[way][row.details["pair"]] = self.row_credit(row, base.row_results(row, results))
        both = sorted(credits[OWN].keys() & credits[GIVEN].keys())
        own, given = (base.share(credits[way][pair] for pair in both) for way in (OWN, GIVEN))
        gap = None if own is None or given is None else given - own
        return {"gap": gap, "given": given, "own": own}


def _rubric(value: Any) -> str:
    """Return the rubric as text: one as it is, a list (also as JSON) as lines that begin with `- `."""
    if isinstance(value, str) and value.strip().startswith("["):
        with suppress(ValueError):  # a text that begins with a bracket
            value = json.loads(value)
    if is_list(value):
        value = [
            item.get("criterion") or item.get("text") if isinstance(item, dict) else item for item in value
        ]
    rubric = read_criteria(value)
    if not rubric.strip():
        raise BadRow("no_rubric", "`rubrics` is empty; a row of this benchmark has one.")
    return rubric
