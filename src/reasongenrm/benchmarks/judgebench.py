"""JudgeBench: pairs with an objectively right answer, judged in both orders.

JudgeBench: A Benchmark for Evaluating LLM-based Judges. Tan et al. 2024, https://arxiv.org/abs/2410.12784
Upstream: `utils/metrics.py` (compute_final_metrics) and `run_judge.py` of https://github.com/ScalerLab/JudgeBench
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from reasongenrm.benchmarks import base, loading
from reasongenrm.benchmarks.base import Benchmark, Results, Shares, Table
from reasongenrm.records import Drop, PairResult, Row
from reasongenrm.rows.files import RawRow, has_splits
from reasongenrm.rows.turns import BadRow

CATEGORIES = ("Knowledge", "Reasoning", "Math", "Coding")
OTHER = "Other"
"""The category of sources that JudgeBench does not have, in a file of the same form."""

ROWS = {
    "gpt": {"Knowledge": 154, "Reasoning": 98, "Math": 56, "Coding": 42},
    "claude": {"Knowledge": 154, "Reasoning": 51, "Math": 34, "Coding": 31},
}
"""Split -> category -> pairs, as published: 350 (answers of GPT-4o) and 270 (answers of Claude 3.5 Sonnet)."""

BOTH = "both"
"""The split that reads all of them."""


def net(result: PairResult) -> int:
    """Return the counter of a pair: plus 1 for every order that is right, minus 1 for every order that is wrong."""
    outcomes = Counter(result.outcomes)
    return outcomes["correct"] - outcomes["wrong"]


def category(source: str) -> str:
    """Return the category of a source."""
    if source.startswith("mmlu-pro"):
        return "Knowledge"
    names = {"livebench-reasoning": "Reasoning", "livebench-math": "Math", "livecodebench": "Coding"}
    return names.get(source, OTHER)


class JudgeBench(Benchmark):
    """JudgeBench; the score is the share of all pairs that are right (categories are not averaged)."""

    name = "JudgeBench"
    split = "gpt"  # or claude, or both
    columns = ("pair_id", "source", "question", "response_model", "response_A", "response_B", "label")
    row_hint = "a row has the columns source, question, response_A, response_B and label (A>B or B>A)"

    def splits(self, file: str, split: str | None) -> list[str]:
        """See `Benchmark`; `both` reads gpt, then claude; a file without splits is read once."""
        if split != BOTH:
            return super().splits(file, split)
        return list(ROWS) if has_splits(file) else [self.split]

    def rows(self, path: str, *, split: str | None = None, **options: Any) -> Iterator[Row | Drop]:
        """See `Benchmark`; a row belongs to the split of its `response_model`, without that to the split that is read."""
        unnamed = self.split if split in (None, BOTH) else split
        for row in super().rows(path, split=split, **options):
            if isinstance(row, Row) and row.details["split"] is None:
                row = replace(row, details={**row.details, "split": unnamed})
            yield row

    def read_row(self, raw: RawRow) -> Row:
        right = loading.one_of(raw, "label", {"A>B": 0, "B>A": 1})
        answers = [loading.text(raw, "response_A"), loading.text(raw, "response_B")]
        source = loading.text(raw, "source").strip()
        if not source:
            raise BadRow("bad_source", "`source` is empty; it must name the dataset of the question.")
        author = str(raw.columns.get("response_model") or "").lower()
        details = {"source": source, "split": next((name for name in ROWS if name in author), None)}
        turns = loading.prompt(raw, "question")
        return Row.make(category(source), turns, [answers[right]], [answers[1 - right]], details=details)

    def table(self, rows: Sequence[Row]) -> Table:
        """See `Benchmark`; every pair has the same weight."""
        judged = Counter(row.subset for row in rows)
        published: Counter[str] = Counter()
        for split in {row.details["split"] for row in rows}:
            published.update(ROWS.get(split, {}))
        names = [*CATEGORIES, *([OTHER] if OTHER in judged else [])]
        return base.micro_table(self.name, {name: {name: judged[name]} for name in names}, published)

    def row_credit(self, row: Row, results: Sequence[PairResult]) -> float:
        """Return 1 if the counter is above 0, otherwise 0."""
        return float(net(results[0]) > 0)

    def details(self, rows: Sequence[Row], results: Results, sections: Shares) -> Shares:
        """Return `net` (share of right pairs minus share of wrong pairs), `tied` (counter 0), `inconsistent`, `macro`.

        `inconsistent` pairs have orders that decide differently; `macro` is the plain mean of the categories. With rows
        of both splits there is also the score of each: `gpt` and `claude`.
        """
        counters = [net(result) for row in rows for result in base.row_results(row, results)]
        splits = {row.details["split"] for row in rows}
        credits = {
            split: [net(results[row.pairs[0].id]) > 0 for row in rows if row.details["split"] == split]
            for split in (ROWS if len(splits) > 1 else ())
        }
        return {split: base.share(shares) for split, shares in credits.items()} | {
            "net": fmean((counter > 0) - (counter < 0) for counter in counters),
            "tied": fmean(counter == 0 for counter in counters),
            "inconsistent": base.inconsistent_share(rows, results),
            "macro": fmean(accuracy for accuracy in sections.values() if accuracy is not None),
        }
