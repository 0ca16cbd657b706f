"""McNemar's test: two models on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class McNemar:
    """The rows on which two models differ.

    Attributes:
        better: number of rows that ours has right and theirs has wrong.
        worse: number of rows that ours has wrong and theirs has right.
        p: two-sided p-value in (0, 1] of "either is as likely"; 1 where they differ on no row.
    """

    better: int
    worse: int
    p: float


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> McNemar:
    """Return McNemar's exact test of whether two models are right on equally many rows.

    Rows that both have right, or both wrong, say nothing of it; of the others ours has a share that is binomial with
    probability 1/2 if there is no difference. Exact for any number of rows, and conservative for few. Source:
    Q. McNemar, "Note on the Sampling Error of the Difference Between Correlated Proportions or Percentages",
    Psychometrika 12 (1947), with the binomial distribution in place of his normal approximation.

    Args:
        ours, theirs: whether each model has a row right; the same rows in the same order.

    Raises:
        ValueError: the two do not have the same number of rows.
    """
    from scipy.stats import binomtest

    if len(ours) != len(theirs):
        raise ValueError("a paired comparison needs the same rows on both sides")
    better = sum(bool(our and not their) for our, their in zip(ours, theirs, strict=True))
    worse = sum(bool(their and not our) for our, their in zip(ours, theirs, strict=True))
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return McNemar(better, worse, p)
