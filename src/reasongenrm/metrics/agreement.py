"""Agreement of annotators' ranks: Kendall's W with its p-value, and Kendall's tau-b of pairs of annotators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations


def kendall_w(ranks: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return Kendall's coefficient of concordance W, in [0, 1], and its p-value.

    W is 1 when all annotators give the same order: W = 12·S / (m²·(n³ − n) − m·T), where S is the sum of squared
    deviations of the n rank sums from their mean and T the sum of t³ − t over every annotator's groups of t tied
    answers. The p-value is the probability of a W at least as large among random ranks, from m(n−1)W ~ χ²(n−1)
    (the Friedman test's statistic); it is rough for few annotators or answers. Source: M. G. Kendall and B. Babington
    Smith, "The Problem of m Rankings", Annals of Mathematical Statistics 10 (1939); the correction for ties: M. G.
    Kendall, Rank Correlation Methods (1948).

    Args:
        ranks: m rows (annotators) of n ranks (answers), n >= 2; tied answers have the mean of the ranks they share.

    Returns:
        None where every annotator ties all answers: then there is no order to agree on.
    """
    from scipy.stats import chi2

    m, n = len(ranks), len(ranks[0])
    sums = [sum(column) for column in zip(*ranks, strict=True)]
    mean = m * (n + 1) / 2
    ties = sum(t**3 - t for row in ranks for t in Counter(row).values())
    largest = m * m * (n**3 - n) - m * ties
    if not largest:
        return None
    w = 12 * sum((total - mean) ** 2 for total in sums) / largest
    return w, float(chi2.sf(m * (n - 1) * w, n - 1))


def pairwise_tau_b(ranks_by_annotator: Mapping[str, Mapping[int, float]]) -> Iterator[float | None]:
    """Yield Kendall's tau-b, in [-1, 1], of every two annotators who both ranked at least two of the same answers.

    It is taken over the answers that both ranked; None where one of the two ties all of these. Source: M. G. Kendall,
    "The Treatment of Ties in Ranking Problems", Biometrika 33 (1945).

    Args:
        ranks_by_annotator: annotator -> answer -> rank.
    """
    from scipy.stats import kendalltau

    for one, other in combinations(ranks_by_annotator.values(), 2):
        shared = [answer for answer in one if answer in other]
        ranks = [one[answer] for answer in shared], [other[answer] for answer in shared]
        if len(shared) >= 2:
            # scipy returns NaN for constant ranks, some versions with a warning.
            constant = min(len(set(values)) for values in ranks) == 1
            yield None if constant else float(kendalltau(*ranks).statistic)
