"""RMB: pairs and best-of-n lists from 49 everyday scenarios, for helpfulness and for harmlessness.

Sources: the paper, Zhou et al. 2024, arXiv 2410.09893; upstream `eval/scripts/my_run_rm.py`, README and
`RMB_dataset/` of github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasongenrm.benchmarks import loading
from reasongenrm.benchmarks.base import (
    ScoredBenchmark,
    Scoring,
    Table,
    beats,
    by_row,
    check_rows,
    mean,
    mean_credit,
    score_rows,
)
from reasongenrm.records import Drop, PairResult, Row
from reasongenrm.rows.files import RawRow
from reasongenrm.rows.turns import BadRow, check_text, is_list, kind_of

PAIRWISE, BON = "Pairwise", "BoN"
GOALS = ("Helpfulness", "Harmlessness")
SECTIONS = tuple(f"{goal} {kind}" for goal in GOALS for kind in (BON, PAIRWISE))
COLUMNS = ("pairwise_uid", "pair_uid", "bon_uid", "category_path", "conversation_input", "chosen", "reject",
           "bon_best", "loser_list")  # fmt: skip


def row_credit(row: Row, results: Sequence[PairResult]) -> float:
    """Return a pair's credit; of a list, 1 where the best answer beats every other one, else 0."""
    if row.details["kind"] == PAIRWISE:
        return mean_credit(row, results)
    return float(all(beats(result) for result in results))


@dataclass(frozen=True, slots=True)
class RMB(Scoring):
    """RMB; the score is the mean of its four parts, as in the paper's leaderboard.

    Attributes:
        name, split: see `Benchmark`; it is published as files, so that a split means nothing.
    """

    name: str = "RMB"
    split: str = "test"

    def rows(
        self, path: str, *, split: str | None = None, revision: str | None = None, limit: int | None = None
    ) -> Iterator[Row | Drop]:
        """See `Benchmark`; a path is a file of upstream's `RMB_dataset`, or a folder of it.

        Pairs have the columns `conversation_input`, `chosen` and `reject` (objects with `answer`), lists have
        `conversation_input`, `bon_best` and `loser_list`; both have `category_path` (or it is the file's path).
        """
        raw = loading.raw_rows(path, COLUMNS, split=split or self.split, revision=revision, limit=limit)
        hint = "a row has conversation_input, and chosen and reject, or bon_best and loser_list"
        return loading.parsed_rows(raw, _parse, location=path, hint=hint)

    def score_details(
        self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
    ) -> ScoredBenchmark:
        """See `Benchmark`. In each of the four parts every row counts alike; details: the mean of each goal."""
        check_rows(rows)
        judged = Counter((row.details["section"], row.subset) for row in rows)
        sections: dict[str, dict[str, int]] = {section: {} for section in SECTIONS}
        for section, subset in sorted(judged):
            sections[section][subset] = judged[section, subset]
        missing = [section for section in SECTIONS if not sections[section]]
        table = Table(self.name, False, sections, {})
        scored = score_rows(table, rows, results, by_row(row_credit), seed=seed, missing=missing)
        for goal in GOALS:
            parts = [scored.score.sections[f"{goal} {kind}"] for kind in (BON, PAIRWISE)]
            known = [part for part in parts if part is not None]
            scored.score.details[goal] = mean(known) if known else None
        return scored


def _parse(raw: RawRow) -> Row:
    turns = loading.prompt(raw, "conversation_input")
    if raw.columns.get("bon_best") is not None:
        kind, right = BON, _answer(raw.columns["bon_best"], "bon_best")
        losers = loading.column(raw, "loser_list")
        if not is_list(losers) or not losers:
            raise BadRow("no_answer", "`loser_list` must be a list of at least one answer.")
        wrong = [_answer(loser, f"loser_list[{number}]") for number, loser in enumerate(losers)]
    else:
        kind, right = PAIRWISE, _answer(loading.column(raw, "chosen"), "chosen")
        wrong = [_answer(loading.column(raw, "reject"), "reject")]
    goal, category = _category(raw)
    return Row.make(
        f"{kind}/{category}", turns, [right], wrong, details={"kind": kind, "section": f"{goal} {kind}"}
    )


def _answer(value: object, name: str) -> str:
    if not isinstance(value, Mapping):
        raise BadRow("bad_type", f"`{name}` is {kind_of(value)}; make it an object with `answer`.")
    return check_text(value.get("answer"), f"{name}.answer")


def _category(raw: RawRow) -> tuple[str, str]:
    """Return the goal, and the path from the goal on: `Helpfulness`, `Helpfulness/Chat/Discussion`."""
    said = raw.columns.get("category_path")
    file = raw.location.rpartition("[")[0] or raw.location
    path = Path(check_text(said, "category_path") if said is not None else file).parts
    for goal in GOALS:
        if goal in path:
            category = "/".join(path[path.index(goal) :])
            return goal, category.removesuffix(".json")
    shown = "/".join(path[-3:])[:80]
    raise BadRow("unknown_goal", f"`category_path` is {shown!r}; it must name {' or '.join(GOALS)}.")
