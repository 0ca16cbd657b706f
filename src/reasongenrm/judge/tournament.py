"""Rank the answers to one prompt by a pairwise judge: the games, and the strengths they give."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any, Literal, get_args

from reasongenrm.errors import ConfigError
from reasongenrm.records import Comparison, unit_hash

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


Compare = Callable[[Sequence[tuple[int, int]]], Sequence[Comparison]]
"""Judge all games of a round: (i, j) puts answer i first; one comparison per pair, in the order of the pairs."""


Method = Literal["round_robin", "knockout", "swiss"]


Rating = Literal["bradley_terry", "elo"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """The answers in order, and the games that put them there.

    Attributes:
        order: indices of the answers, best first.
        ratings: one per answer, by index: Bradley-Terry in nats with mean 0, or Elo points. Comparable within one
            ranking alone.
        games: all games, in the order they were asked.
        unread: number of games of which nothing could be read.
    """

    order: tuple[int, ...]
    ratings: tuple[float, ...]
    games: tuple[Game, ...]
    unread: int


def rank(
    n: int,
    compare: Compare,
    *,
    method: Method = "round_robin",
    rating: Rating = "bradley_terry",
    rounds: int | None = None,
    seed: int = 0,
) -> Ranking:
    """Rank n answers by the games of a tournament; answers that stay level are ordered by the lower index.

    - `round_robin`: every pair once, n(n−1)/2 games in one round; ordered by rating.
    - `knockout`: n−1 games in ⌈log2 n⌉ rounds, in a bracket drawn by the seed, the first seeds having the byes
      where n is no power of two; ordered by the round reached, then by rating. A tied game goes to the answer that
      P(A) leans to, and to the earlier seed where there is no lean or nothing could be read.
    - `swiss`: each round pairs answers of like points that have not met, from the top down; of an odd number, the
      one left over has a bye, nobody twice, worth a point in the pairing and nothing in the ratings; ordered by
      rating. With the top paired first and the bye last, those without a loss meet each other: of ⌈log2 n⌉ rounds
      without ties one is left, and an answer that beats all others is it.

    A game of which nothing could be read counts for nobody, and in `unread`. Which answer stands first is a
    function of the pair, such that each does so in half of its possible games. One answer is ranked without a game.

    Args:
        n: number of answers, at least 1.
        compare: the judge; called once per round, with at least one game.
        method: the tournament.
        rating: see `bradley_terry` and `elo`.
        rounds: of the Swiss tournament; ⌈log2 n⌉ when None. At most ⌈n/2⌉: so long each answer has as many
            opponents left as it takes for a round without a rematch (Dirac's theorem on Hamiltonian cycles, 1952).
        seed: draws the bracket and the first Swiss round, and orders the games for Elo.

    Raises:
        ConfigError: no answers, an unknown method or rating, or rounds that cannot be played.
    """
    _check(n, method, rating, rounds)
    placed = sorted(range(n), key=lambda answer: unit_hash("placement", seed, answer))
    reached = [0] * n
    if method == "round_robin":
        games = _play(list(combinations(range(n), 2)), compare)
    elif method == "knockout":
        games, reached = _knockout(placed, compare)
    else:
        games = _swiss(placed, compare, (n - 1).bit_length() if rounds is None else rounds)
    ratings = bradley_terry(games, n) if rating == "bradley_terry" else elo(games, n, seed=seed)
    order = sorted(_by_rating(ratings), key=lambda answer: -reached[answer])  # stable
    return Ranking(
        tuple(order), tuple(ratings), tuple(games), sum(game.comparison.winner is None for game in games)
    )


def best_of_n(n: int, compare: Compare, *, seed: int = 0) -> int:
    """Return the index of the best of n answers: the winner of a knockout, in n−1 games (see `rank`).

    Raises:
        ConfigError: no answers.
    """
    return rank(n, compare, method="knockout", seed=seed).order[0]


def _check(n: int, method: str, rating: str, rounds: int | None) -> None:
    if n < 1:
        raise ConfigError("there is no answer to rank", location="n", hint="give at least one")
    for key, value, known in (("method", method, get_args(Method)), ("rating", rating, get_args(Rating))):
        if value not in known:
            raise ConfigError(f"unknown {key} {value!r}", location=key, hint=f"one of {', '.join(known)}")
    if rounds is None:
        return
    if method != "swiss":
        raise ConfigError(
            f"a {method} has no number of rounds to set", location="rounds", hint="leave it out"
        )
    if not 1 <= rounds <= (n + 1) // 2:
        raise ConfigError(
            f"{rounds} Swiss rounds of {n} answers cannot be played without a rematch",
            location="rounds",
            hint=f"1 to {(n + 1) // 2}, or method round_robin, which asks every pair",
        )


def seated(pair: tuple[int, int]) -> tuple[int, int]:
    """Return the two answers of a game, the one that stands first in front.

    The lower index does where the sum is odd: fair to each answer, also with a judge of one order, and a pair stands
    the same way in every tournament, so that a judge that keeps its completions is not asked again.
    """
    return (min(pair), max(pair)) if sum(pair) % 2 else (max(pair), min(pair))


def _play(pairs: Sequence[tuple[int, int]], compare: Compare) -> list[Game]:
    """Ask for all games of a round."""
    seats = list(map(seated, pairs))
    comparisons = compare(seats) if seats else []
    return [Game(*seat, comparison) for seat, comparison in zip(seats, comparisons, strict=True)]


def _knockout(placed: Sequence[int], compare: Compare) -> tuple[list[Game], list[int]]:
    """Return all games, and how many rounds each answer survived."""
    n = len(placed)
    field = [0]  # seeds in the order of the bracket, the first two to meet last; those from n on are byes
    while len(field) < n:
        field = [one for seed in field for one in (seed, 2 * len(field) - 1 - seed)]
    games: list[Game] = []
    reached = [0] * n
    while len(field) > 1:
        matches = [(min(pair), max(pair)) for pair in zip(field[::2], field[1::2], strict=True)]
        played = _play([(placed[one], placed[other]) for one, other in matches if other < n], compare)
        winners = {game.winner for game in played}
        field = [other if other < n and placed[other] in winners else one for one, other in matches]
        for seed in field:
            reached[placed[seed]] += 1
        games += played
    return games, reached


def _swiss(placed: Sequence[int], compare: Compare, rounds: int) -> list[Game]:
    import numpy as np

    n = len(placed)
    bye = [n] if n % 2 else []  # an opponent whom everybody beats, and meets but once
    points = [0.0] * n
    met = np.eye(n + 1, dtype=bool)
    games: list[Game] = []
    for _ in range(rounds):
        standing = sorted(placed, key=lambda answer: -points[answer])  # stable: ties stay as placed
        pairs = _pairing([*standing, *bye], met)
        for one, other in pairs:
            met[one, other] = met[other, one] = True
            if other == n:
                points[one] += 1
        played = _play([pair for pair in pairs if n not in pair], compare)
        games += played
        for game in played:
            if game.points is not None:
                points[game.first] += game.points
                points[game.second] += 1 - game.points
    return games


def _pairing(standing: Sequence[int], met: Any) -> list[tuple[int, int]]:
    """Pair all without a rematch, from the top down, each with the nearest that leaves the others a way to do so."""
    left = list(standing)
    pairs = []
    while left:
        top, *others = left
        for other in others:
            left = [answer for answer in others if answer != other]
            if not met[top, other] and _pairable(left, met):
                pairs.append((top, other))
                break
        else:
            raise AssertionError("more rounds than `rank` allows")
    return pairs


def _pairable(answers: Sequence[int], met: Any) -> bool:
    """Whether an even number of answers can be paired without a rematch.

    They can when each may still play half of them (Dirac's theorem). Else Tutte's matrix tells, which is regular for
    almost all values of its variables if there is a pairing, and for none if there is not (W. T. Tutte, "The
    Factorization of Linear Graphs", 1947; with random values: L. Lovász, "On Determinants, Matchings, and Random
    Algorithms", 1979).
    """
    import numpy as np

    free = ~met[np.ix_(answers, answers)]
    if 2 * free.sum(axis=1).min(initial=len(answers)) >= len(answers):
        return True
    half = np.triu(free * np.random.default_rng(0).random(free.shape))
    return int(np.linalg.matrix_rank(half - half.T)) == len(answers)


def _by_rating(ratings: Sequence[float]) -> list[int]:
    """Order answers by rating, the highest first; those within SAME of their neighbour by the lower index."""
    order = sorted(range(len(ratings)), key=lambda answer: -ratings[answer])
    group, groups = 0, dict.fromkeys(order, 0)
    for better, worse in pairwise(order):
        group += ratings[better] - ratings[worse] > SAME
        groups[worse] = group
    return sorted(order, key=lambda answer: (groups[answer], answer))
