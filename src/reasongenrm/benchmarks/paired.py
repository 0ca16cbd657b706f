"""Two models on the same rows of a benchmark: the difference of their official scores, whatever the benchmark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reasongenrm.benchmarks.base import Benchmark, Row
from reasongenrm.benchmarks.common import NOTED, Table, aggregate
from reasongenrm.records import PairResult
from reasongenrm.report.scores import BenchmarkScore
from reasongenrm.report.stats import Interval, paired_difference


@dataclass(frozen=True, slots=True)
class Working:
    """An official score, and what it was computed from.

    Attributes:
        score: the score.
        table: the sections over which the means of the credits were aggregated.
        credits: subset -> the credit of every row (of RewardBench 2's Ties: of every question).
    """

    score: BenchmarkScore
    table: Table
    credits: Mapping[str, Sequence[float]]


def working(
    benchmark: Benchmark, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
) -> Working:
    """Return a benchmark's official score with the credits it was computed from.

    They are those of this very score: `tally`, through which every benchmark's score goes, notes them down. A second
    list of what each benchmark credits could come to differ from the scores.

    Args:
        benchmark, rows, results, seed: see `Benchmark.score`.

    Raises:
        DataError: no rows, or rows that the benchmark does not have.
    """
    noted: list[tuple[Table, Mapping[str, Sequence[float]]]] = []
    token = NOTED.set(noted)
    try:
        score = benchmark.score(rows, results, seed=seed)
    finally:
        NOTED.reset(token)
    ((table, credits),) = noted
    return Working(score, table, credits)


def score_difference(ours: Working, theirs: Working, *, seed: int = 0) -> tuple[float, Interval]:
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
