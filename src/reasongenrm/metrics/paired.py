"""McNemar's test: two models on the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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

    if len(ours) != len(theirs):
        raise ValueError("a paired comparison needs the same rows on both sides")
    better = sum(bool(our and not their) for our, their in zip(ours, theirs, strict=True))
    worse = sum(bool(their and not our) for our, their in zip(ours, theirs, strict=True))
    p = float(binomtest(better, better + worse).pvalue) if better + worse else 1.0
    return McNemar(better, worse, p)
