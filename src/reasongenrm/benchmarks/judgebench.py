"""JudgeBench: pairs with an objectively right answer, judged in both orders.

Sources: the paper, Tan et al. 2024, arXiv 2410.12784; upstream `utils/metrics.py` (compute_final_metrics) and
`run_judge.py` of github.com/ScalerLab/JudgeBench.
"""

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
    decisions_differ,
    found,
    mean,
    micro_table,
    score_rows,
)
from reasongenrm.records import Drop, PairResult, Row
from reasongenrm.rows.files import RawRow
from reasongenrm.rows.turns import BadRow

NAME = "JudgeBench"
CATEGORIES = ("Knowledge", "Reasoning", "Math", "Coding")
OTHER = "Other"
"""The category of a source that JudgeBench does not have, in a file of the same form."""

ROWS = {
    "gpt": {"Knowledge": 154, "Reasoning": 98, "Math": 56, "Coding": 42},
    "claude": {"Knowledge": 154, "Reasoning": 51, "Math": 34, "Coding": 31},
}
"""Split -> category -> pairs, as published: 350 and 270."""

COLUMNS = ("pair_id", "source", "question", "response_model", "response_A", "response_B", "label")
_WINNERS = {"A>B": "A", "B>A": "B"}


def net(result: PairResult) -> int:
    """Return a pair's counter: 1 up for every order that is right, 1 down for one that is wrong, 0 for the rest."""
    outcomes = Counter(result.outcomes)
    return outcomes["correct"] - outcomes["wrong"]


def row_credit(row: Row, results: Sequence[PairResult]) -> float:
    """Return 1 where the counter is above 0, else 0."""
    return float(net(results[0]) > 0)


def category(source: str) -> str:
    """Return the category of a source."""
    if source.startswith("mmlu-pro"):
        return "Knowledge"
    names = {"livebench-reasoning": "Reasoning", "livebench-math": "Math", "livecodebench": "Coding"}
    return names.get(source, OTHER)


@dataclass(frozen=True, slots=True)
class JudgeBench(Scoring):
    """JudgeBench; the score is the share of all pairs that are right (categories are not averaged).

    Attributes:
        name, split: see `Benchmark`; the other split is `claude`.
    """

    name: str = NAME
    split: str = "gpt"

    def rows(
        self, path: str, *, split: str | None = None, revision: str | None = None, limit: int | None = None
    ) -> Iterator[Row | Drop]:
        """See `Benchmark`; the columns are `question`, `response_A`, `response_B`, `label`, `source`."""
        read = split or self.split
        raw = loading.raw_rows(path, COLUMNS, split=read, revision=revision, limit=limit)
        hint = "a row has the columns source, question, response_A, response_B and label (A>B or B>A)"
        return loading.parsed_rows(raw, lambda row: _parse(row, read), location=path, hint=hint)

    def score_details(
        self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
    ) -> ScoredBenchmark:
        """See `Benchmark`.

        Details: `net` (share of right pairs less that of wrong ones), `tied` (counter 0), `inconsistent` (the two
        orders decide differently; None where no pair has two), `macro` (plain mean of the categories).
        """
        check_rows(rows)
        judged = Counter(row.subset for row in rows)
        published: Counter[str] = Counter()
        for split in {row.details["split"] for row in rows}:
            published.update(ROWS.get(split, {}))
        names = [*CATEGORIES, *([OTHER] if OTHER in judged else [])]
        table = micro_table(self.name, {name: {name: judged[name]} for name in names}, published)
        details = _details(rows, results)
        scored = score_rows(table, rows, results, by_row(row_credit), seed=seed, details=details)
        counted = [accuracy for accuracy in scored.score.sections.values() if accuracy is not None]
        scored.score.details["macro"] = mean(counted)
        return scored


def _details(rows: Sequence[Row], results: Mapping[str, PairResult]) -> dict[str, float | None]:
    pairs = [result for row in rows for result in found(row, results)]
    counters = [net(pair) for pair in pairs]
    differ = [differs for pair in pairs if (differs := decisions_differ(pair)) is not None]
    return {
        "net": mean([float((counter > 0) - (counter < 0)) for counter in counters]),
        "tied": mean([float(counter == 0) for counter in counters]),
        "inconsistent": mean([float(differs) for differs in differ]) if differ else None,
    }


def _parse(raw: RawRow, split: str) -> Row:
    winner = loading.one_of(raw, "label", _WINNERS)
    first, second = loading.text(raw, "response_A"), loading.text(raw, "response_B")
    right, wrong = (first, second) if winner == "A" else (second, first)
    source = loading.text(raw, "source").strip()
    if not source:
        raise BadRow("bad_source", "`source` is empty; it says which category the pair belongs to.")
    author = str(raw.columns.get("response_model") or "").lower()
    details = {"source": source, "split": next((name for name in ROWS if name in author), split)}
    return Row.make(category(source), loading.prompt(raw, "question"), [right], [wrong], details=details)
