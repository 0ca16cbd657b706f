"""`Benchmark`: rows in, one official score out; and what the metrics of all benchmarks share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from reasongenrm.errors import DataError
from reasongenrm.metrics.intervals import Interval, bootstrap_interval, paired_difference, wilson_interval
from reasongenrm.metrics.scores import BenchmarkScore, Counts, SubsetScore
from reasongenrm.records import Drop, PairResult, Row, Verdict

if TYPE_CHECKING:
    pass


class Benchmark(Protocol):
    """One benchmark: how its rows are read, and its official metric."""

    @property
    def name(self) -> str:
        """The name in tables."""
        ...

    @property
    def split(self) -> str:
        """The split of its hub dataset that is read when the recipe names none."""
        ...

    def rows(
        self, path: str, *, split: str | None = None, revision: str | None = None, limit: int | None = None
    ) -> Iterator[Row | Drop]:
        """Yield one item per row of a hub dataset or a local file in the benchmark's own format.

        Only rows that cannot be read are Drops (stage `load`); row ids are distinct.

        Raises:
            ConfigError: a negative limit, or a revision of a local path.
            DataError: nothing is at `path`, or no row can be read.
        """
        ...

    def score_details(
        self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
    ) -> ScoredBenchmark:
        """Return the official score with what it was computed from; see `score`."""
        ...

    def score(
        self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
    ) -> BenchmarkScore:
        """Return the official score.

        Args:
            rows: the rows that were judged.
            results: pair id -> result, one for every pair of every row.
            seed: of the bootstrap behind the interval.
        """
        ...


def rating(row: Row, results: Mapping[str, PairResult]) -> list[float]:
    """Return one number per answer of a row, the higher the better.

    The scores that a scalar head, or a judge that rates, gave the answers; of a judge that compares (or where a
    comparison of the row has no scores), the mean credit of an answer in its comparisons, in [0, 1]. Every
    answer must be in some comparison.
    """
    pairs = [(results[pair.id], place) for pair, place in zip(row.pairs, row.places, strict=True)]
    scored = all(result.scores is not None for result, _ in pairs)  # scores and credits have no common scale
    found: list[list[float]] = [[] for _ in row.answers]
    for result, (right, wrong) in pairs:
        values = result.scores if scored and result.scores else (result.credit, 1 - result.credit)
        found[right].append(values[0])
        found[wrong].append(values[1])
    return [_mean(values) for values in found]


def _mean(values: Sequence[float]) -> float:
    """Return the mean; of equal values, that value itself, so that equal scores stay equal."""
    return values[0] if min(values) == max(values) else math.fsum(values) / len(values)


RowCredit = Callable[[Row, Sequence[PairResult]], float]
"""From a row and the results of its comparisons, in the order of `Row.places`, to its credit."""


Credits = Callable[[Sequence[Row], Mapping[str, PairResult]], dict[str, list[float]]]
"""From rows and results to the credits of every subset; their mean is the subset's accuracy."""


@dataclass(frozen=True, slots=True)
class Table:
    """A benchmark's sections.

    Attributes:
        name: the benchmark's name.
        toy: whether it is the suite's own.
        sections: section -> subset -> weight within the section.
        published_rows: subset -> how many rows were published; empty where nothing was.
        section_weights: section -> weight within the score; 1 where it names none.
    """

    name: str
    toy: bool
    sections: Mapping[str, Mapping[str, int]]
    published_rows: Mapping[str, int]
    section_weights: Mapping[str, float] = field(default_factory=dict)

    @property
    def subsets(self) -> list[str]:
        """The subsets of all sections, in the table's order."""
        return [subset for weights in self.sections.values() for subset in weights]


@dataclass(frozen=True, slots=True)
class ScoredBenchmark:
    """An official score, and what it was computed from.

    Attributes:
        score: the score.
        table: the sections over which the means of the credits were aggregated.
        credits: subset -> the credit of every row (of RewardBench 2's Ties: of every question).
    """

    score: BenchmarkScore
    table: Table
    credits: Mapping[str, Sequence[float]]


class Scoring(ABC):
    """What every benchmark object inherits: its score is that of its working."""

    __slots__ = ()

    @abstractmethod
    def score_details(
        self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
    ) -> ScoredBenchmark:
        """See `Benchmark`."""

    def score(
        self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
    ) -> BenchmarkScore:
        """See `Benchmark`."""
        return self.score_details(rows, results, seed=seed).score


def micro_table(name: str, sections: Mapping[str, Mapping[str, int]], published: Mapping[str, int]) -> Table:
    """Return a table in which every row counts alike.

    Args:
        sections: section -> subset -> rows judged.
        published: see `Table.published_rows`.
    """
    return Table(name, False, sections, published, {s: sum(rows.values()) for s, rows in sections.items()})


def aggregate(table: Table, means: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the sections' accuracies and their weighted mean, the score.

    A section's accuracy is the mean of its subsets' accuracies weighted by the table. A section of which no
    subset is present is None, and is left out of the score (RewardBench's own code counts it as 0, which would
    make a partial benchmark look like a bad model).

    Args:
        means: subset -> mean credit: floats, or arrays of one shape, such as the bootstrap's.
    """
    sections: dict[str, Any] = {}
    for section, weights in table.sections.items():
        present = {subset: weight for subset, weight in weights.items() if subset in means}
        weighted = sum(weight * means[subset] for subset, weight in present.items())
        sections[section] = weighted / sum(present.values()) if present else None
    counted = {name: accuracy for name, accuracy in sections.items() if accuracy is not None}
    heavy = {name: table.section_weights.get(name, 1) for name in counted}
    return sections, sum(heavy[name] * counted[name] for name in counted) / sum(heavy.values())


def mean(values: Sequence[float]) -> float:
    """Return the mean, the same in whatever order the values come."""
    return math.fsum(values) / len(values)


def found(row: Row, results: Mapping[str, PairResult]) -> list[PairResult]:
    """Return the results of a row's comparisons, in the order of its places."""
    return [results[pair.id] for pair in row.pairs]


def by_row(credit: RowCredit) -> Credits:
    """Return the credits of a metric in which every row has its own."""

    def credits(rows: Sequence[Row], results: Mapping[str, PairResult]) -> dict[str, list[float]]:
        of_subset: defaultdict[str, list[float]] = defaultdict(list)
        for row in rows:
            of_subset[row.subset].append(credit(row, found(row, results)))
        return dict(of_subset)

    return credits


def mean_credit(row: Row, results: Sequence[PairResult]) -> float:
    """Return the mean credit of a row's comparisons: a tie, or what cannot be read, is half right."""
    return mean([result.credit for result in results])


def hits(result: PairResult) -> float:
    """Return the share of a comparison's orders in which the right answer was named; all else is wrong."""
    return mean([float(outcome == "correct") for outcome in result.outcomes])


def beats(result: PairResult) -> bool:
    """Whether the right answer beats the wrong one over all orders: more than half of the credit."""
    return result.credit > 0.5


def readable(result: PairResult) -> bool:
    """Whether any order of a comparison says something: an answer, or that both are equal."""
    return any(outcome in ("correct", "wrong", "tie") for outcome in result.outcomes)


def strictly(result: PairResult) -> PairResult:
    """Return a judge's comparison as one that is right if every order is, and else wrong.

    What a scalar head scored, or a judge rated, has no order and stays as it is.
    """
    if result.scores is not None or not result.verdicts:
        return result
    right = min(result.correct) == 1
    return replace(result, correct=(float(right),), outcomes=("correct" if right else "wrong",))


def share_interval(values: Sequence[float], *, seed: int) -> Interval:
    """Return the 95% interval of a mean: Wilson's where every value is 0 or 1, else the bootstrap's."""
    if all(value in (0, 1) for value in values):
        return wilson_interval(int(sum(values)), len(values))
    return bootstrap_interval({"": values}, lambda means: means[""], seed=seed)


def decisions_differ(result: PairResult) -> bool | None:
    """Whether the orders of a comparison name different winners; None where only one order was judged.

    A tie, and what cannot be read, are decisions of their own.
    """
    if len(result.outcomes) < 2:
        return None
    decisions = {name if name in ("correct", "wrong", "tie") else None for name in result.outcomes}
    return len(decisions) > 1


def tally(
    table: Table,
    credits: Mapping[str, Sequence[float]],
    strict: Mapping[str, Sequence[float]],
    results: Mapping[str, Sequence[PairResult]],
    *,
    rows: Mapping[str, int],
    seed: int,
    missing: Sequence[str] | None = None,
    details: Mapping[str, float | None] | None = None,
) -> ScoredBenchmark:
    """Return the result that some subsets' credits make. It does not depend on the order of the rows.

    Args:
        credits, strict: subset -> credits, and the same of "right in every order".
        results: subset -> all its comparisons.
        rows: subset -> rows judged.
        seed: of the bootstraps.
        missing: what is absent or incomplete; by default the table's subsets with fewer rows than published.
        details: see `BenchmarkScore`.
    """
    means, strict_means = (
        {name: mean(values) for name, values in some.items()} for some in (credits, strict)
    )
    sections, overall = aggregate(table, means)
    if missing is None:
        published = table.published_rows
        missing = [name for name in table.subsets if rows.get(name, 0) < published.get(name, 1)]
    every = [result for some in results.values() for result in some]
    letters = Counter(v.winner for result in every for v in result.verdicts if v.winner in ("A", "B"))
    score = BenchmarkScore(
        benchmark=table.name,
        toy=table.toy,
        partial=bool(missing),
        missing=tuple(missing),
        score=overall,
        interval=bootstrap_interval(credits, lambda drawn: aggregate(table, drawn)[1], seed=seed),
        strict=aggregate(table, strict_means)[1],
        swap_mean=mean([result.credit for result in every]),
        position_bias=letters["A"] / letters.total() if letters else None,
        sections=sections,
        subsets={
            name: SubsetScore(
                section=section,
                weight=weight,
                rows=rows[name],
                accuracy=means[name],
                strict=strict_means[name],
                strict_interval=share_interval(strict[name], seed=seed),
                counts=Counts.of(results[name]),
            )
            for section, weights in table.sections.items()
            for name, weight in weights.items()
            if name in credits
        },
        rows=sum(rows.values()),
        counts=Counts.of(every),
        details=dict(details or {}),
    )
    return ScoredBenchmark(score, table, credits)


def score_rows(
    table: Table,
    rows: Sequence[Row],
    results: Mapping[str, PairResult],
    credits: Credits,
    *,
    seed: int,
    missing: Sequence[str] | None = None,
    details: Mapping[str, float | None] | None = None,
) -> ScoredBenchmark:
    """Return the result of some judged rows under a metric; for the arguments see `tally`.

    Raises:
        DataError: no rows.
    """
    check_rows(rows)
    of_subset: defaultdict[str, list[PairResult]] = defaultdict(list)
    for row in rows:
        of_subset[row.subset] += found(row, results)
    return tally(
        table,
        credits(rows, results),
        credits(rows, {name: strictly(result) for name, result in results.items()}),
        of_subset,
        rows=Counter(row.subset for row in rows),
        seed=seed,
        missing=missing,
        details=details,
    )


def check_rows(rows: Iterable[Row]) -> None:
    """Check that there is something to score.

    Raises:
        DataError: no rows.
    """
    if not any(True for _ in rows):
        raise DataError("no rows to score", hint="judge a benchmark first")


def score_difference(
    ours: ScoredBenchmark, theirs: ScoredBenchmark, *, seed: int = 0
) -> tuple[float, Interval]:
    """Return how much higher our official score is than theirs, and the 95% paired bootstrap interval of that.

    The difference is exactly that of the two scores. Rows are resampled within their subsets, both models' credits
    of a row together, and the official aggregate is taken of every resample.

    Args:
        ours, theirs: of the same rows in the same order.
        seed: of the bootstrap; the order of the rows does not matter to it.

    Raises:
        ValueError: the two are not of the same rows.
    """
    if ours.table != theirs.table:
        raise ValueError("a paired comparison needs the same rows on both sides")
    _, interval = paired_difference(
        ours.credits, theirs.credits, lambda means: aggregate(ours.table, means)[1], seed=seed
    )
    return ours.score.score - theirs.score.score, interval


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
