"""Agreement of annotators: Kendall's W."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def kendall_w(ranks: Sequence[Sequence[float]]) -> float | None:
    """Return Kendall's coefficient of concordance, in [0, 1]: 1 when all annotators order alike.

    W = 12·S / (m²·(n³ − n) − m·T), where S is the sum of squared deviations of the n rank sums from their mean and T
    the sum of t³ − t over every annotator's groups of t tied answers. Source: M. G. Kendall and B. Babington Smith,
    "The Problem of m Rankings", Annals of Mathematical Statistics 10 (1939); the correction for ties: M. G. Kendall,
    Rank Correlation Methods (1948).

    Args:
        ranks: m rows (annotators) of n ranks (answers), n >= 2; of a tie each gets the mean of the shared ranks.

    Returns:
        None where every annotator ties all answers: there is no order to agree on.
    """
    m, n = len(ranks), len(ranks[0])
    sums = [sum(column) for column in zip(*ranks, strict=True)]
    mean = m * (n + 1) / 2
    ties = sum(t**3 - t for row in ranks for t in Counter(row).values())
    whole = m * m * (n**3 - n) - m * ties
    return 12 * sum((total - mean) ** 2 for total in sums) / whole if whole else None
