"""RewardBench v1: its rows as pairs, and the official score.

Sources: the paper, Lambert et al. 2024, arXiv 2403.13787; upstream `rewardbench/utils.py`
(calculate_scores_per_section), `scripts/run_generative.py` and `scripts/run_rm.py` of
github.com/allenai/reward-bench. The section tables are in `rewardbench_table.py`.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from reasongenrm.benchmarks.base import Row
from reasongenrm.benchmarks.common import (
    Scoring,
    Table,
    Working,
    tally,
)
from reasongenrm.benchmarks.rewardbench_table import (
    PRIOR_SETS,
    REWARDBENCH,
    TOY,
    WITH_PRIOR_SETS,
    table_for,
)
from reasongenrm.benchmarks.rows import COLUMNS, to_pair
from reasongenrm.errors import DataError
from reasongenrm.reading import read_rows
from reasongenrm.records import Drop, PairResult, PreferencePair, Verdict
from reasongenrm.report.scores import BenchmarkScore


def load_benchmark(
    path: str, *, split: str = "filtered", revision: str | None = None, limit: int | None = None
) -> Iterator[PreferencePair | Drop]:
    """Yield a benchmark's rows as pairs whose `source` is the subset; a row that cannot be read is a Drop.

    Only unreadable rows are dropped: an empty answer, or two equal answers, is still a row to be judged. A
    repeated row keeps its content id with `-2`, `-3`, … added.

    Args:
        path, split, revision, limit: see `reading.read_rows`; the columns are `prompt` (one user turn as a
            string, or a list of messages), `chosen`, `rejected`, `subset`.

    Raises:
        ConfigError: a negative limit, or a revision of a local path.
        DataError: nothing is at `path`, a file lacks a column, no row can be read, or a subset is unknown
            (see `table_for`).
    """
    copies: Counter[str] = Counter()
    subsets: set[str] = set()
    for row in read_rows(path, required=COLUMNS, split=split, revision=revision, limit=limit):
        pair = row if isinstance(row, Drop) else to_pair(row)
        if isinstance(pair, Drop):
            yield pair
            continue
        if pair.source not in subsets:  # now, not after hours of judging
            subsets.add(pair.source)
            table_for(subsets, where=row.where)
        copies[pair.id] += 1
        yield pair if copies[pair.id] == 1 else replace(pair, id=f"{pair.id}-{copies[pair.id]}")
    if not copies:
        raise DataError("no readable row", where=path, mend=f"a row has the columns {', '.join(COLUMNS)}")


def judge_result(pair_id: str, subset: str, verdicts: Sequence[Verdict]) -> PairResult:
    """Return a judged row, one entry per verdict. Order AB means that the chosen answer stands as A.

    Credit 1 for the chosen answer's letter, 0 for the other, 0.5 for a tie and for whatever names no letter
    (upstream `scripts/run_generative.py`, where everything but a letter is "effectively a tie").
    """
    assert verdicts, f"row {pair_id} has no verdict"
    credits, outcomes = [], []
    for verdict in verdicts:
        if verdict.outcome == "ok":
            assert verdict.winner in ("A", "B"), f"verdict {verdict.id} is ok and names no letter"
            right = (verdict.winner == "A") == (verdict.order == "AB")
            credits.append(1.0 if right else 0.0)
            outcomes.append("correct" if right else "wrong")
        else:
            credits.append(0.5)
            outcomes.append(verdict.outcome)
    return PairResult(pair_id, subset, tuple(verdicts), tuple(credits), tuple(outcomes))


def scalar_result(pair_id: str, subset: str, chosen_score: float, rejected_score: float) -> PairResult:
    """Return a row scored by a scalar head: credit 1 where the chosen answer's score is strictly the higher.

    Equal scores have credit 0 (upstream `scripts/run_rm.py`: chosen > rejected) and the outcome `tie`. A
    score that is not finite has credit 0, the outcome `error`, and is not kept, as JSON cannot hold it.
    """
    scores = (chosen_score, rejected_score)
    if not all(map(math.isfinite, scores)):
        return PairResult(pair_id, subset, (), (0.0,), ("error",))
    right = chosen_score > rejected_score
    outcome = "correct" if right else "tie" if chosen_score == rejected_score else "wrong"
    return PairResult(pair_id, subset, (), (float(right),), (outcome,), scores)


def score(results: Iterable[PairResult], *, seed: int = 0) -> BenchmarkScore:
    """Return the official score of some judged rows, with all that a report says about it.

    A row's credit is the mean over its orders. The result does not depend on the order of the rows.

    Args:
        seed: of the bootstrap behind the score's interval.

    Raises:
        DataError: no rows, or subsets that no table holds.
    """
    return _worked(results, seed=seed).score


def _worked(results: Iterable[PairResult], *, seed: int) -> Working:
    by_subset: defaultdict[str, list[PairResult]] = defaultdict(list)
    for result in results:
        by_subset[result.subset].append(result)
    if not by_subset:
        raise DataError("no rows to score", mend="judge a benchmark first")
    return _tallied(table_for(by_subset), by_subset, seed=seed)


def _tallied(table: Table, by_subset: Mapping[str, Sequence[PairResult]], *, seed: int) -> Working:
    return tally(
        table,
        {name: [row.credit for row in rows] for name, rows in by_subset.items()},
        {name: [float(min(row.correct) == 1) for row in rows] for name, rows in by_subset.items()},
        by_subset,
        rows={name: len(rows) for name, rows in by_subset.items()},
        seed=seed,
    )


@dataclass(frozen=True, slots=True)
class RewardBench(Scoring):
    """RewardBench v1, or the toy benchmark of the same form.

    Attributes:
        prior_sets: whether the prior sets are read too, as a fifth section of half weight.
        prior_path: the prior sets: a hub dataset with one split per set, or a folder that holds a `.jsonl` or
            `.parquet` file per set (`shp.jsonl`, or the hub's `shp-00000-of-00001.parquet`).
        split: see `Benchmark`.
    """

    prior_sets: bool = False
    prior_path: str = "allenai/pref-test-sets"
    split: str = "filtered"

    @property
    def name(self) -> str:
        """See `Benchmark`."""
        return (WITH_PRIOR_SETS if self.prior_sets else REWARDBENCH).name

    def rows(
        self, path: str, *, split: str | None = None, revision: str | None = None, limit: int | None = None
    ) -> Iterator[Row | Drop]:
        """See `Benchmark` and `load_benchmark`; the revision is that of `path`, not of the prior sets."""
        pairs = load_benchmark(path, split=split or self.split, revision=revision, limit=limit)
        if self.prior_sets:
            pairs = islice(chain(pairs, _prior_pairs(self.prior_path)), limit)
        for pair in pairs:
            yield pair if isinstance(pair, Drop) else _row(pair)

    def work(self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0) -> Working:
        """See `Benchmark` and `score`."""
        judged = [results[pair.id] for row in rows for pair in row.pairs]
        if not self.prior_sets or all(result.subset in TOY.subsets for result in judged):
            return _worked(judged, seed=seed)
        by_subset: defaultdict[str, list[PairResult]] = defaultdict(list)
        for result in judged:
            by_subset[result.subset].append(result)
        table_for(set(by_subset) - set(PRIOR_SETS))  # refuses toy and unknown subsets
        return _tallied(WITH_PRIOR_SETS, by_subset, seed=seed)


def _row(pair: PreferencePair) -> Row:
    return Row(pair.id, pair.source, pair.history, (pair.chosen, pair.rejected), 1, ((0, 1),))


def _prior_pairs(path: str) -> Iterator[PreferencePair | Drop]:
    """Yield the rows of the prior sets; a set's own column `subset` (a finer one) is not used."""
    copies: Counter[str] = Counter()
    for name in PRIOR_SETS:
        file = next((f for f in _prior_files(path, name) if f.is_file()), None)
        for raw in read_rows(str(file or path), required=COLUMNS[:3], split=name):
            if isinstance(raw, Drop):
                yield raw
                continue
            pair = to_pair(replace(raw, columns=raw.columns | {"subset": name}))
            if isinstance(pair, PreferencePair):
                copies[pair.id] += 1
                # The set's name keeps the ids apart from those of RewardBench's own rows.
                count = f"-{copies[pair.id]}" if copies[pair.id] > 1 else ""
                pair = replace(pair, id=f"{pair.id}-{name}{count}")
            yield pair


def _prior_files(path: str, name: str) -> list[Path]:
    folder = Path(path).expanduser()
    return [folder / f"{name}{suffix}" for suffix in (".jsonl", ".parquet")]
