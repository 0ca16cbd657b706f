"""LLMBar in its own format: which output follows the instruction, even if the other one looks better.

Evaluating Large Language Models at Evaluating Instruction Following. Zeng et al. 2023,
https://arxiv.org/abs/2310.07641
Upstream: `LLMEvaluator/evaluate.py` and README of https://github.com/princeton-nlp/LLMBar
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from reasongenrm.benchmarks import base, loading
from reasongenrm.benchmarks.base import Benchmark, Results, Shares, Table
from reasongenrm.records import PairResult, Row
from reasongenrm.rows.files import RawRow
from reasongenrm.rows.turns import BadRow, quoted

ROWS = {"Natural": 100, "Neighbor": 134, "GPTInst": 92, "GPTOut": 47, "Manual": 46}
"""Subset -> instances, as published (419 in all)."""

TABLE = Table(
    "LLMBar",
    {"Natural": {"Natural": 1}, "Adversarial": dict.fromkeys(list(ROWS)[1:], 1)},
    ROWS,
    section_weights={"Adversarial": 4},  # the paper's "Average" is over the five subsets
)


class LLMBar(Benchmark):
    """LLMBar; the score is the plain mean of its five subsets."""

    name, fixed_table = TABLE.name, TABLE
    split = "test"  # the hub has no split that can be read, only a script
    columns = ("input", "output_1", "output_2", "label", "subset")
    row_hint = "a row has the columns input, output_1, output_2 and label (1 or 2)"
    array_file = "dataset.json"  # upstream's folders also have the results of evaluators

    def read_row(self, raw: RawRow) -> Row:
        """See `Benchmark`.

        The subset is a column, or part of the file's path, as in upstream's `Adversarial/Manual/dataset.json`.
        """
        right = loading.one_of(raw, "label", {"1": 0, "2": 1})
        outputs = [loading.text(raw, "output_1"), loading.text(raw, "output_2")]
        turns = loading.prompt(raw, "input")
        return Row.make(_subset(raw), turns, [outputs[right]], [outputs[1 - right]])

    def row_credit(self, row: Row, results: Sequence[PairResult]) -> float:
        """Return the share of the orders in which the right output was named; all other outcomes are wrong.

        Equal scores are half right, and so is an answer without a readable rating: upstream's rating evaluators then name
        the first output, which is right in one of the two orders.
        """
        (result,) = results
        if result.verdicts:
            return base.correct_share(result)
        equal = result.scores is not None and result.scores[0] == result.scores[1]
        return 0.5 if equal else result.credit

    def details(self, rows: Sequence[Row], results: Results, sections: Shares) -> Shares:
        """Return `agreement`, upstream's positional agreement rate (None with one order)."""
        inconsistent = base.inconsistent_share(rows, results)
        return {"agreement": None if inconsistent is None else 1 - inconsistent}


def _subset(raw: RawRow) -> str:
    """Return the subset named by the column, or by the innermost part of the file's path that names one."""
    column = raw.columns.get("subset")
    parts = [column] if isinstance(column, str) else Path(raw.file).parts[-3:]
    for part in reversed(parts):
        words = re.split(r"[^a-z]+", part.lower())
        names = [subset for subset in ROWS if subset.lower() in words]
        if len(names) > 1:
            raise BadRow("unknown_subset", f"{quoted(part)} names {len(names)} subsets: {', '.join(names)}.")
        if names:
            return names[0]
    raise BadRow("unknown_subset", f"Unknown subset {quoted('/'.join(parts))}; use {', '.join(ROWS)}.")
