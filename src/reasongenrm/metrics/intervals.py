"""Confidence intervals of counts, means and differences; McNemar's test of two models; Holm's correction."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Interval = tuple[float, float]

_Z = 1.959963984540054  # the 97.5% quantile of the normal distribution

Aggregate = Callable[[Mapping[str, Any]], Any]
"""From the mean credit per subset to one score; arithmetic only, as it also receives arrays of shape (resamples,)."""


def wilson_interval(successes: float, n: int) -> Interval:
    """Return the 95% Wilson score interval of a share (Wilson 1927, JASA 22:209-212; no continuity correction).

    A sum of credits in [0, 1] may stand for the number of successes. The interval is then too wide rather than too
    narrow: no variable on [0, 1] varies more than one that is 0 or 1 with the same mean.

    Raises:
        ValueError: `n` is not positive, or `successes` is not in 0..n.
    """
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n}")
    share, denominator = successes / n, 2 * (n + _Z**2)
    middle = (2 * n * share + _Z**2) / denominator
    half = _Z / denominator * math.sqrt(4 * n * share * (1 - share) + _Z**2)
    return middle - half if successes else 0.0, middle + half if successes < n else 1.0


def share_interval(values: Sequence[float], *, seed: int) -> Interval:
    """Return the 95% interval of a mean: Wilson's if every value is 0 or 1, otherwise the bootstrap's."""
    if all(value in (0, 1) for value in values):
        return wilson_interval(int(sum(values)), len(values))
    return bootstrap_interval({"": values}, lambda means: means[""], seed=seed)


def _resampled_means(columns: Sequence[Sequence[float]], rng: Any, resamples: int) -> Any:
    """Resample rows with replacement; return the columns' means, shape (resamples, columns).

    Credits take few distinct values, so drawing how often each distinct row occurs (a multinomial) is the
    same bootstrap at a fraction of the cost, and does not depend on the order of the rows.
    """
    import numpy as np

    rows = np.asarray(columns, dtype=float).T  # (rows, columns)
    distinct, occurrences = np.unique(rows, axis=0, return_counts=True)
    drawn = rng.multinomial(len(rows), occurrences / len(rows), size=resamples)
    return drawn @ distinct / len(rows)


def _percentiles(values: Any, level: float = 0.95) -> Interval:
    import numpy as np

    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(
    credits: Mapping[str, Sequence[float]],
    aggregate: Aggregate,
    *,
    seed: int,
    resamples: int = 2000,
) -> Interval:
    """Return the 95% percentile bootstrap interval of a score (Efron & Tibshirani 1993, ch. 13).

    Rows are resampled within their subset, as the benchmark's subsets are fixed by design. The interval has
    no width where all rows of every subset have the same credit; `wilson_interval` is then the better guide.

    Args:
        credits: subset -> the credit of each row in [0, 1]; no subset may be empty.
        aggregate: from the subsets' means to the score.
        seed: the same credits and seed give the same interval; the order of the rows does not matter.
    """
    return bootstrap_intervals(credits, {"": aggregate}, seed=seed, resamples=resamples)[""]


def bootstrap_intervals(
    credits: Mapping[str, Sequence[float]],
    aggregates: Mapping[str, Aggregate],
    *,
    seed: int,
    resamples: int = 2000,
) -> dict[str, Interval]:
    """Return the interval of several scores of the same credits, name -> interval; see `bootstrap_interval`."""
    import numpy as np

    rng = np.random.default_rng(seed)
    means = {name: _resampled_means([credits[name]], rng, resamples)[:, 0] for name in sorted(credits)}
    return {name: _percentiles(aggregate(means)) for name, aggregate in aggregates.items()}


def clustered_interval(
    totals: Sequence[float],
    counts: Sequence[int],
    *,
    seed: int,
    resamples: int = 2000,
    level: float = 0.95,
) -> Interval | None:
    """Return the percentile bootstrap interval of a mean over rows in clusters, such as the pairs of a prompt.

    The mean is sum(totals) / sum(counts). Rows of one cluster are not independent, so whole clusters are
    drawn with replacement (the cluster bootstrap: Field & Welsh 2007, Journal of the Royal Statistical
    Society B 69:369-390).

    Args:
        totals: sum of the rows' values in each cluster, finite, shape (clusters,).
        counts: number of rows in each cluster, at least one, shape (clusters,).
        seed: the same clusters and seed give the same interval; the order of the clusters does not matter.

    Returns:
        None with fewer than two clusters: one cluster does not show how clusters differ.
    """
    import numpy as np

    if len(totals) < 2:
        return None
    rng = np.random.default_rng(seed)
    block = max(1, 5_000_000 // len(totals))  # a draw has one number per cluster; this bounds the memory
    means = [
        _resampled_means([totals, counts], rng, min(block, resamples - done))
        for done in range(0, resamples, block)
    ]
    drawn = np.concatenate(means)
    return _percentiles(drawn[:, 0] / drawn[:, 1], level)


def clustered_weights(clusters: Sequence[Any], *, seed: int, resamples: int = 1000) -> Any:
    """Return how often each row occurs in each resample of whole clusters, shape (resamples, rows).

    With it the interval of any weighted statistic is that of the cluster bootstrap, see `clustered_interval`.

    Args:
        clusters: the cluster of each row.
        seed: the same clusters and seed give the same weights.
    """
    import numpy as np

    numbers = {name: number for number, name in enumerate(dict.fromkeys(clusters))}
    count = len(numbers)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(count, np.full(count, 1 / count), size=resamples).astype(float)
    return drawn[:, [numbers[cluster] for cluster in clusters]]


def percentile_interval(values: Any) -> Interval | None:
    """Return the 95% interval of a statistic's values in resamples; None if half of them are NaN: it is undefined there."""
    import numpy as np

    defined = values[~np.isnan(values)]
    return _percentiles(defined) if 2 * len(defined) > len(values) else None


def clustered_pair_interval(
    clusters: Sequence[tuple[int, int]], values: Sequence[float], *, seed: int, resamples: int = 1000
) -> Interval | None:
    """Return the 95% percentile bootstrap interval of a mean over pairs of rows, whose rows are in the same or two clusters.

    Whole clusters are drawn with replacement: a pair of two clusters counts as often as both are drawn together, one inside a cluster
    as often as that one.

    Args:
        clusters: the clusters of the two rows of each pair, numbered from 0, shape (pairs, 2).
        values: one per pair.

    Returns:
        None with fewer than two clusters.
    """
    import numpy as np

    table = np.asarray(clusters, dtype=int).reshape(-1, 2)
    names, numbers = np.unique(table, return_inverse=True)
    count = len(names)
    if count < 2:
        return None
    first, second = numbers.reshape(-1, 2).T
    sums, sizes = np.zeros((count, count)), np.zeros((count, count))
    np.add.at(sums, (first, second), np.asarray(values, dtype=float))
    np.add.at(sizes, (first, second), 1.0)
    weights = clustered_weights(range(count), seed=seed, resamples=resamples)

    def totals(matrix: Any) -> Any:
        own = np.diag(matrix)
        return ((weights @ (matrix - np.diag(own))) * weights).sum(axis=1) + weights @ own

    with np.errstate(invalid="ignore"):
        return percentile_interval(totals(sums) / totals(sizes))


def paired_interval(
    ours: Mapping[str, Sequence[float]],
    theirs: Mapping[str, Sequence[float]],
    aggregate: Aggregate,
    *,
    seed: int,
    resamples: int = 2000,
) -> Interval:
    """Return the 95% paired bootstrap interval of our score minus theirs.

    Both models' credits of a row are drawn together, so that the difficulty of a row cancels out.

    Args:
        ours, theirs: subset -> the credit of each row; the same subsets, the same rows in the same order.
        aggregate: from the subsets' means to the score.

    Raises:
        ValueError: the two do not have the same subsets with the same numbers of rows.
    """
    import numpy as np

    if {name: len(rows) for name, rows in ours.items()} != {name: len(rows) for name, rows in theirs.items()}:
        raise ValueError("a paired comparison needs the same rows on both sides")
    rng = np.random.default_rng(seed)
    pairs = {name: _resampled_means([ours[name], theirs[name]], rng, resamples) for name in sorted(ours)}
    differences = aggregate({name: means[:, 0] for name, means in pairs.items()}) - aggregate(
        {name: means[:, 1] for name, means in pairs.items()}
    )
    return _percentiles(differences)


@dataclass(frozen=True, slots=True)
class McNemar:
    """Result of McNemar's test.

    Attributes:
        better: number of rows that our model has right and theirs wrong.
        worse: number of rows that our model has wrong and theirs right.
        p: two-sided p-value in (0, 1] of the hypothesis that both are equally likely; 1 if the models differ on no row.
    """

    better: int
    worse: int
    p: float


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> McNemar:
    """Return McNemar's exact test of whether two models are right on equally many rows.

    Rows that both models have right, or both wrong, do not count; of the others, the number that our model has right
    is binomial with probability 1/2 if there is no difference. Exact for any number of rows, conservative for few. Source:
    Q. McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages",
    Psychometrika 12 (1947), with the binomial distribution in place of his normal approximation.

    Args:
        ours, theirs: whether the model has each row right; the same rows in the same order.

    Raises:
        ValueError: the two do not have the same number of rows.
    """
    from scipy.stats import binomtest

    counts = Counter(zip(ours, theirs, strict=True))
    better, worse = counts[True, False], counts[False, True]
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return McNemar(better, worse, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for being several, in their order.

    Those at or below a level are the hypotheses that Holm's step-down procedure rejects at that level, which keeps
    the probability of any false rejection below it, however the tests depend on each other. Source: S. Holm, "A
    Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted
