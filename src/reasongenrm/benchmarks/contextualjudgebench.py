"""ContextualJudgeBench: answers to questions about a given text, and summaries of it; a pair counts only if both orders are right.

Does Context Matter? ContextualJudgeBench for Evaluating LLM-based Judges in Contextual Settings. Xu et al. 2025,
https://arxiv.org/abs/2503.15620
Upstream: `main_eval.py` and `utils/utils.py` (compute_acc) of https://github.com/SalesforceAIResearch/ContextualJudgeBench
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from reasongenrm.benchmarks import base, loading
from reasongenrm.benchmarks.base import Benchmark, Results, Shares, Table
from reasongenrm.records import Message, PairResult, Row
from reasongenrm.rows.files import RawRow, has_splits
from reasongenrm.rows.turns import BadRow, quoted

SPLITS = (
    "refusal_answerable", "refusal_unanswerable", "faithfulness_qa", "faithfulness_summ", "completeness_qa",
    "completeness_summ", "conciseness_qa", "conciseness_summ",
)  # fmt: skip
"""Splits of the hub dataset; rows per split are not published."""
ROWS = 2000
"""Pairs of all splits, as published."""

ALL = "all"
"""The split that reads all of them."""


class ContextualJudgeBench(Benchmark):
    """ContextualJudgeBench; the score is the mean of the splits' consistent accuracies.

    The judge is shown the text, and then the question, as one user turn.
    """

    name = "ContextualJudgeBench"
    split = ALL
    columns = ("question", "context", "positive_response", "negative_response", "split")
    split_column = "split"
    row_hint = "a row has the columns question, context, positive_response and negative_response"

    def splits(self, file: str, split: str | None) -> list[str]:
        """See `Benchmark`; `all` reads every split; a file without splits is read once."""
        if split not in (None, ALL):
            return [str(split)]
        return list(SPLITS) if has_splits(file) else [self.split]

    def read_row(self, raw: RawRow) -> Row:
        """See `Benchmark`; the split is that of the hub, else the column `split`, else a part of the file's name."""
        context, question = loading.text(raw, "context"), loading.text(raw, "question")
        text = f"Context:\n{context}\n\nQuestion:\n{question}" if context.strip() else question
        answers = [[loading.text(raw, f"{kind}_response")] for kind in ("positive", "negative")]
        return Row.make(_split(raw), [Message(role="user", content=text)], *answers)

    def table(self, rows: Sequence[Row]) -> Table:
        """See `Benchmark`; every split has the same weight."""
        return Table(self.name, {split: {split: 1} for split in SPLITS}, published_total=ROWS)

    def row_credit(self, row: Row, results: Sequence[PairResult]) -> float:
        """Return 1 if every order is right, otherwise 0: upstream's consistent accuracy."""
        return float(all(outcome == "correct" for result in results for outcome in result.outcomes))

    def details(self, rows: Sequence[Row], results: Results, sections: Shares) -> Shares:
        """Return `consistency` (share of pairs whose orders decide alike), and the means of three kinds of splits."""
        inconsistent = base.inconsistent_share(rows, results)
        details: Shares = {"consistency": None if inconsistent is None else 1 - inconsistent}
        for end, name in (("_qa", "QA"), ("_summ", "summarization"), ("able", "refusal")):
            parts = [value for split, value in sections.items() if value is not None and split.endswith(end)]
            details[name] = fmean(parts) if parts else None
        return details


def _split(raw: RawRow) -> str:
    for name in (raw.columns.get("split"), raw.origin):
        found = [split for split in SPLITS if isinstance(name, str) and split in name.lower()]
        if found:
            return found[0]
    names = ", ".join(SPLITS)
    raise BadRow(
        "unknown_split", f"The file is {quoted(raw.origin)}; name it, or the column `split`, one of {names}."
    )
