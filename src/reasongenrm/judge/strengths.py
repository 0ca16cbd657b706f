"""Strengths of answers with their uncertainty, from comparisons of two (Bradley-Terry) or of several (Luce)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

SAME = 1e-9
"""Strengths that differ by no more are tied: above the rounding error of a strength, and below the effect of one game."""
DECIMALS = 10
"""Of a strength. Further digits depend on the processor, and equal games should leave equal files on all machines."""

Matrix = Any
"""A numpy array: numpy is imported where it is used."""


@dataclass(frozen=True, slots=True)
class Strengths:
    """Log-strengths θ of n answers in nats, with mean 0: P(i beats j) = 1 / (1 + exp(θj − θi)).

    Attributes:
        values: θ.
        covariance: n × n, of the estimates: the inverse of the negative Hessian of the log-posterior at its maximum
            (Laplace's approximation). Each game counts as one draw, also where the judge states a probability.
    """

    values: tuple[float, ...]
    covariance: Matrix


def fit_pairs(
    pairs: Sequence[tuple[int, int]], points: Sequence[float | None], n: int, *, prior: float = 0.5
) -> Strengths:
    """Return the strengths by which n answers win these games.

    Maximises Σ points · log P over the games plus, for each answer, `prior` virtual games, half won and half lost, against
    an opponent of strength 0. The prior keeps an unbeaten answer finite, gives an answer without games strength 0, and
    connects groups that never met; up to a prior of 1, an answer that wins all its games outright still ranks above all
    its opponents. As the prior goes to 0 this becomes maximum likelihood, where that exists (Hunter 2004 gives the
    condition).

    Sources: R. A. Bradley and M. E. Terry, "Rank Analysis of Incomplete Block Designs: I. The Method of Paired
    Comparisons", Biometrika 39 (1952); D. R. Hunter, "MM Algorithms for Generalized Bradley-Terry Models", Annals of
    Statistics 32 (2004). Hunter's MM steps converge slowly where only the prior limits an answer; these are Newton's.

    Args:
        pairs: (i, j) of each game.
        points: P(i is better) of each game, in [0, 1]; None for a game that could not be read, which is left out.
        n: number of answers.
        prior: virtual games per answer, above 0: without them an unbeaten answer has no finite strength.
    """
    import numpy as np

    won = np.zeros((n, n))
    for (first, second), value in zip(pairs, points, strict=True):
        if value is not None:
            won[first, second] += value
            won[second, first] += 1 - value
    played, total = won + won.T, won.sum(axis=1) + prior / 2

    def derivatives(strengths: Matrix) -> tuple[Matrix, Matrix]:
        # The logistic function, without overflow.
        chance = (1 + np.tanh((strengths[:, None] - strengths) / 2)) / 2
        virtual = (1 + np.tanh(strengths / 2)) / 2
        gradient = total - (played * chance).sum(axis=1) - prior * virtual
        curvature = played * chance * (1 - chance)
        return gradient, np.diag(curvature.sum(axis=1) + prior * virtual * (1 - virtual)) - curvature

    return _maximise(derivatives, n)


def fit_lists(
    lists: Sequence[Sequence[int]], shares: Sequence[Sequence[float] | None], n: int, *, prior: float = 0.5
) -> Strengths:
    """Return the strengths by which n answers are chosen as the best of these lists.

    P(i is the best of a list) = exp θi / Σ exp θj over the list; a list of two is a game of `fit_pairs`, with the same
    prior.

    Source: R. D. Luce, "Individual Choice Behavior" (1959); Hunter 2004 (see `fit_pairs`), section 5.

    Args:
        lists: indices of the answers of each list.
        shares: P(best) of each answer of a list, in its order, with sum 1; None for a list that could not be read.
        n: number of answers.
        prior: see `fit_pairs`.
    """
    import numpy as np

    read = [
        (np.array(one), np.array(share))
        for one, share in zip(lists, shares, strict=True)
        if share is not None
    ]

    def derivatives(strengths: Matrix) -> tuple[Matrix, Matrix]:
        virtual = (1 + np.tanh(strengths / 2)) / 2
        gradient = prior * (0.5 - virtual)
        hessian = np.diag(prior * virtual * (1 - virtual))
        for index, share in read:
            odds = np.exp(strengths[index] - strengths[index].max())
            chance = odds / odds.sum()
            gradient[index] += share - chance
            hessian[np.ix_(index, index)] += np.diag(chance) - np.outer(chance, chance)
        return gradient, hessian

    return _maximise(derivatives, n)


def _maximise(derivatives: Callable[[Matrix], tuple[Matrix, Matrix]], n: int) -> Strengths:
    """Return the maximum of a concave function, from its gradient and its negative Hessian."""
    import numpy as np

    strengths, hessian = np.zeros(n), np.eye(n)
    if not n:
        return Strengths((), hessian)
    for _ in range(1000):  # at most 500 nats: the likelihood is flat beyond that
        gradient, hessian = derivatives(strengths)
        step = np.linalg.solve(hessian, gradient)
        # Within half a nat the curvature changes too little for Newton's step to overshoot: the likelihood always
        # grows (F. Bach, "Self-concordant analysis for logistic regression", Electronic Journal of Statistics 4, 2010).
        strengths = strengths + step / max(1, 2 * np.abs(step).max())
        if np.ptp(step) < SAME:  # a common shift does not count: it is subtracted below
            break
    centre = np.eye(n) - 1 / n
    covariance = centre @ np.linalg.pinv(hessian, hermitian=True) @ centre
    values = np.round(strengths - strengths.mean(), DECIMALS) + 0.0  # no -0.0
    return Strengths(tuple(values.tolist()), covariance)
