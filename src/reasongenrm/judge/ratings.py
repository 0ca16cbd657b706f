"""What games between answers say of each answer: Bradley-Terry strengths and Elo ratings, pure functions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from reasongenrm.records import Comparison

SAME = 1e-9
"""Ratings that differ by no more are tied: it is above what rounding does to them, and below what a game does."""


@dataclass(frozen=True, slots=True)
class Game:
    """One comparison of two answers.

    Attributes:
        first, second: indices of the answers; the comparison's `A` and `B`.
        comparison: what the judge said.
    """

    first: int
    second: int
    comparison: Comparison

    @property
    def points(self) -> float | None:
        """The first answer's points in [0, 1], the second has the rest: P(A) where the judge gives it, else 1, 0.5 for
        a tie, or 0; None when nothing could be read, and then neither has any."""
        if self.comparison.winner is None:
            return None
        if self.comparison.prob_a is not None:
            return self.comparison.prob_a
        return {"A": 1.0, "tie": 0.5, "B": 0.0}[self.comparison.winner]

    @property
    def winner(self) -> int | None:
        """The better answer; of a tie, the one that P(A) leans to; None where there is neither verdict nor lean."""
        leaning = self.points if self.comparison.winner == "tie" else None
        if self.comparison.winner == "A" or (leaning is not None and leaning > 0.5):
            return self.first
        if self.comparison.winner == "B" or (leaning is not None and leaning < 0.5):
            return self.second
        return None


def bradley_terry(games: Sequence[Game], n: int, *, prior: float = 0.5) -> list[float]:
    """Return each answer's log-strength θ in nats, with mean 0: P(i beats j) = 1 / (1 + exp(θj − θi)).

    Maximises Σ points · log P over the games plus, for each answer, `prior` virtual games, half won and half
    lost, against an opponent of strength 0. That keeps an unbeaten answer finite, puts one without games at that
    strength, and ties together groups that never met; and up to a prior of 1, an answer that wins all its games
    outright still ranks above all it met. As the prior goes to 0 this becomes maximum likelihood, where that
    exists (Hunter 2004 says where).

    Sources: R. A. Bradley and M. E. Terry, "Rank Analysis of Incomplete Block Designs: I. The Method of Paired
    Comparisons", Biometrika 39 (1952); D. R. Hunter, "MM Algorithms for Generalized Bradley-Terry Models", Annals of
    Statistics 32 (2004). Hunter's MM steps are many where the prior alone holds an answer back, so these are Newton's.

    Args:
        games: in any order; what could not be read is left out.
        n: number of answers.
        prior: virtual games per answer, above 0.

    Raises:
        ValueError: the prior is not positive.
    """
    import numpy as np

    if prior <= 0:
        raise ValueError("the prior must be positive: without it an unbeaten answer has no finite strength")
    won = np.zeros((n, n))
    for game in games:
        if game.points is not None:
            won[game.first, game.second] += game.points
            won[game.second, game.first] += 1 - game.points
    played, total = won + won.T, won.sum(axis=1) + prior / 2
    strengths = np.zeros(n)
    for _ in range(1000):  # 500 nats: what lies further out is held by next to nothing
        # The logistic curve, without overflow.
        chance = (1 + np.tanh((strengths[:, None] - strengths) / 2)) / 2
        virtual = (1 + np.tanh(strengths / 2)) / 2
        slope = total - (played * chance).sum(axis=1) - prior * virtual
        bend = played * chance * (1 - chance)
        step = np.linalg.solve(np.diag(bend.sum(axis=1) + prior * virtual * (1 - virtual)) - bend, slope)
        # Within half a nat the curve's bend changes too little for Newton's step to overshoot: it always climbs
        # (F. Bach, "Self-concordant analysis for logistic regression", Electronic Journal of Statistics 4, 2010).
        strengths = strengths + step / max(1, 2 * np.abs(step).max())
        if np.ptp(step) < SAME:  # a shift of all does not count: it is taken out below
            break
    return [float(value) for value in strengths - strengths.mean()]


def elo(
    games: Sequence[Game], n: int, *, k: float = 16, start: float = 1000, passes: int = 20, seed: int = 0
) -> list[float]:
    """Return each answer's Elo rating in points: 400 / ln 10 ≈ 173.7 points are one nat of `bradley_terry`.

    After each game the first answer gains k · (points − expected), and the second loses as much, where expected
    = 1 / (1 + 10^((other − own) / 400)). What comes out depends on the order of the games, so it is the mean over
    several orders drawn by the seed, whatever order they come in. The mean of all ratings stays `start`. With few
    games ratings stay near it: their order means more than their distance. Source: A. E. Elo, The Rating of
    Chessplayers, Past and Present (1978).

    Args:
        games: in any order; what could not be read is left out.
        n: number of answers.
        k: most points that one game can move.
        start: everybody's rating before the first game.
        passes: number of orders.
        seed: of the orders.
    """
    results = sorted((game.first, game.second, game.points) for game in games if game.points is not None)
    draw = random.Random(seed)
    sums = [0.0] * n
    for _ in range(passes):
        draw.shuffle(results)
        ratings = [float(start)] * n
        for first, second, points in results:
            expected = 1 / (1 + 10 ** ((ratings[second] - ratings[first]) / 400))
            ratings[first] += k * (points - expected)
            ratings[second] -= k * (points - expected)
        sums = [total + rating for total, rating in zip(sums, ratings, strict=True)]
    return [total / passes for total in sums]
