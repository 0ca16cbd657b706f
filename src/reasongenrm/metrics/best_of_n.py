"""Expected value of the best of N samples, estimated from M >= N samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from statistics import fmean


def best_of_n_curve(scores: Sequence[float], values: Sequence[float] | None = None) -> list[float]:
    """Return the expected value of the best of N samples for N = 1 … M, from M samples of one distribution.

    The best of N is the one with the highest score; its value may be another number, such as the score of the judge that a
    head repeats. The estimate for N is the mean over all subsets of N samples, Σ C(i-1, N-1) / C(M, N) · v_i over the samples
    in ascending order of their scores. It is unbiased (a U-statistic: W. Hoeffding, Annals of Mathematical Statistics 19,
    1948, 293-325; for best of N: R. Nakano et al., "WebGPT", arXiv:2112.09332, appendix I, used in the same way by L. Gao et
    al., arXiv:2210.10760; for values 0 and 1 it is pass@k: M. Chen et al., arXiv:2107.03374). Of equal scores each is the
    best equally often.

    Args:
        scores: of M samples; repeated texts count as often as they were sampled.
        values: one per sample; by default the scores.

    Raises:
        ValueError: no samples, or another number of values.
    """
    pairs = sorted(zip(scores, scores if values is None else values, strict=True))
    if not pairs:
        raise ValueError("no samples")
    ascending: list[float] = []
    for _, group in groupby(pairs, key=lambda pair: pair[0]):
        tied = [value for _, value in group]
        ascending += [fmean(tied)] * len(tied)
    return [_mean_of_best(ascending, number) for number in range(1, len(ascending) + 1)]


def _mean_of_best(ascending: Sequence[float], number: int) -> float:
    """Return the mean over all subsets of `number` values of the last value in each."""
    count = len(ascending)
    weight, total = number / count, 0.0  # C(M-1, N-1) / C(M, N)
    for rank in range(count, number - 1, -1):
        total += weight * ascending[rank - 1]
        if rank > 1:
            weight *= (rank - number) / (rank - 1)
    return total
