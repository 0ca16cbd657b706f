"""What criteria are worth: how often the verdict by one agrees with the labels, and the weights of several together.

A criterion is kept where its verdicts agree with the preference labels, as in OpenRubrics' consistency filter (Liu et al. 2025,
arXiv:2510.07743), here for one criterion over many rows in place of one rubric per row; and those whose verdicts say nothing new are
left out, the aim of Auto-Rubric's selection (Xie et al. 2025, arXiv:2510.17314).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from reasongenrm.metrics.intervals import Interval, clustered_interval, wilson_interval


@dataclass(frozen=True, slots=True)
class CriterionVerdicts:
    """The verdicts of a judge by one criterion, one per row.

    Attributes:
        preferences: P(the preferred answer is better); None where nothing can be read.
        decided: whether every order could be read, and all name the same answer.
    """

    preferences: tuple[float | None, ...]
    decided: tuple[bool, ...]

    def results(self) -> list[str]:
        """Return `right`, `wrong` or `undecided` per row."""
        return [
            ("right" if (p or 0.0) > 0.5 else "wrong") if decided else "undecided"
            for p, decided in zip(self.preferences, self.decided, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Share:
    """A share of rows, with its 95% interval.

    Attributes:
        value: in [0, 1]; None without rows.
        interval: None without rows.
        rows: number of rows.
    """

    value: float | None
    interval: Interval | None
    rows: int


@dataclass(frozen=True, slots=True)
class Worth:
    """What a criterion is worth alone.

    Attributes:
        accuracy: share of right verdicts among the rows that it decides.
        coverage: share of the rows that it decides.
        unread: number of rows without any verdict.
    """

    accuracy: Share
    coverage: float
    unread: int


def credit_share(credits: Sequence[float], clusters: Sequence[str], *, seed: int) -> Share:
    """Return the mean of credits in [0, 1]; the interval is Wilson's, or the cluster bootstrap's where rows share a cluster.

    Args:
        credits: one per row.
        clusters: one name per row, such as its prompt's.
        seed: of the bootstrap.
    """
    if not credits:
        return Share(None, None, 0)
    totals: dict[str, list[float]] = {}
    for credit, cluster in zip(credits, clusters, strict=True):
        totals.setdefault(cluster, []).append(credit)
    interval = None
    if len(totals) < len(credits) and 0 < sum(credits) < len(credits):
        counts = [len(rows) for rows in totals.values()]
        interval = clustered_interval([sum(rows) for rows in totals.values()], counts, seed=seed)
    return Share(fmean(credits), interval or wilson_interval(sum(credits), len(credits)), len(credits))


def worth(verdicts: CriterionVerdicts, clusters: Sequence[str], *, seed: int) -> Worth:
    """Return what a criterion is worth alone; see `credit_share`."""
    results = verdicts.results()
    decided = [(r == "right", c) for r, c in zip(results, clusters, strict=True) if r != "undecided"]
    accuracy = credit_share([float(right) for right, _ in decided], [c for _, c in decided], seed=seed)
    unread = sum(p is None for p in verdicts.preferences)
    return Worth(accuracy, len(decided) / len(results) if results else 0.0, unread)


def same_verdicts(one: CriterionVerdicts, other: CriterionVerdicts) -> float:
    """Return the share of rows with the same result, `right`, `wrong` or `undecided`."""
    pairs = list(zip(one.results(), other.results(), strict=True))
    return sum(a == b for a, b in pairs) / len(pairs) if pairs else 1.0


def fitted_weights(verdicts: Mapping[str, CriterionVerdicts]) -> dict[str, float]:
    """Return the weight of each criterion that helps to predict the labels beside the others; their mean is 1.

    They are the coefficients of a logistic regression of the label on `2P - 1` of every criterion, 0 where it cannot be read, without an
    intercept, as the order of two answers says nothing (Bradley-Terry with features; L2 penalty 1). Criteria with a
    coefficient of 0 or less are left out, the lowest first, and the rest is fitted again: a rubric has positive weights.

    Args:
        verdicts: name -> verdicts, all on the same rows, at least one.
    """
    names = list(verdicts)
    while len(names) > 1:
        coefficients = _coefficients([verdicts[name] for name in names])
        lowest = min(range(len(names)), key=lambda place: coefficients[place])
        if coefficients[lowest] > 0:
            mean = fmean(coefficients)
            return {name: value / mean for name, value in zip(names, coefficients, strict=True)}
        del names[lowest]
    return dict.fromkeys(names, 1.0)


def _coefficients(verdicts: Sequence[CriterionVerdicts]) -> list[float]:
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    rows = np.array([[0.0 if p is None else 2 * p - 1 for p in one.preferences] for one in verdicts]).T
    # Each row also with its answers exchanged: two labels, and no direction is favoured.
    features, labels = np.vstack([rows, -rows]), np.repeat([1, 0], len(rows))
    model = LogisticRegression(fit_intercept=False, C=1.0, max_iter=1000).fit(features, labels)
    return [float(value) for value in model.coef_[0]]


def weighted_credits(verdicts: Mapping[str, CriterionVerdicts], weights: Mapping[str, float]) -> list[float]:
    """Return the credit of Σ weight · P / Σ weight per row: 1 above 0.5, 0 below, 0.5 at a tie or where nothing can be read."""
    credits = []
    for row in range(len(next(iter(verdicts.values())).preferences)):
        read = {n: p for n in weights if (p := verdicts[n].preferences[row]) is not None}
        total = sum(weights[name] for name in read)
        share = sum(weights[name] * p for name, p in read.items()) / total if total else 0.5
        credits.append(1.0 if share > 0.5 else 0.0 if share < 0.5 else 0.5)
    return credits
