"""Two models on the same rows of a benchmark: the difference of their official scores, whatever the benchmark."""

from __future__ import annotations

from reasongenrm.benchmarks.common import Working, aggregate
from reasongenrm.report.stats import Interval, paired_difference


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
