"""Rank the answers to one prompt with a pairwise judge: tournaments, and Bradley-Terry ratings of their games."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Literal, get_args

from reasongenrm.chat.verdict import winner_by_share
from reasongenrm.errors import ConfigError
from reasongenrm.judge.ask import preference
from reasongenrm.judge.strengths import SAME, fit_pairs
from reasongenrm.records import Comparison, unit_hash


@dataclass(frozen=True, slots=True)
class Game:
    """One comparison of two answers.

    Attributes:
        first, second: indices of the answers; the comparison's `A` and `B`.
        comparison: the judge's result.
    """

    first: int
    second: int
    comparison: Comparison

    @property
    def winner(self) -> int | None:
        """The better answer; in a tie, the one that P(A) favours; None if P(A) is missing or even."""
        letter = self.comparison.winner
        if letter == "tie" and self.comparison.prob_a is not None:
            letter = winner_by_share(self.comparison.prob_a)
        return {"A": self.first, "B": self.second}.get(str(letter))


def bradley_terry(games: Sequence[Game], n: int, *, prior: float = 0.5) -> list[float]:
    """Return each answer's log-strength θ in nats, with mean 0; see `strengths.fit_pairs`.

    Args:
        games: in any order; games that could not be read are left out.
        n: number of answers.
        prior: virtual games per answer, above 0.
    """
    pairs = [(game.first, game.second) for game in games]
    return list(fit_pairs(pairs, [preference(game.comparison) for game in games], n, prior=prior).values)


Compare = Callable[[Sequence[tuple[int, int]]], Sequence[Comparison]]
"""Judges all games of a round: (i, j) shows answer i first; returns one comparison per pair, in the order of the pairs."""

Method = Literal["round_robin", "knockout"]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Answers in order, and the games that decided it.

    Attributes:
        order: indices of the answers, best first.
        ratings: Bradley-Terry strengths in nats with mean 0, one per answer, by index; not comparable between rankings.
        games: all games, in the order in which they were played.
        unread: number of games that could not be read.
    """

    order: tuple[int, ...]
    ratings: tuple[float, ...]
    games: tuple[Game, ...]
    unread: int


def rank(n: int, compare: Compare, *, method: Method = "round_robin", seed: int = 0) -> Ranking:
    """Rank n answers by the games of a tournament; equal answers are ordered by index.

    - `round_robin`: every pair once, n(n−1)/2 games in one round; ordered by rating.
    - `knockout`: n−1 games in ⌈log2 n⌉ rounds, in a bracket drawn from the seed; the first seeds get the byes
      where n is not a power of two. Ordered by the round reached, then by rating. A tied game goes to the answer that
      P(A) favours, and to the earlier seed if P(A) is missing or even, or if nothing could be read.

    A game that could not be read gives no points, and counts in `unread`. Which answer is shown first is a
    function of the pair, and each answer is first in half of its possible games. A single answer is ranked without a
    game.

    Args:
        n: number of answers, at least 1.
        compare: the judge; called once per round, with at least one game.
        method: the tournament.
        seed: of the bracket.

    Raises:
        ConfigError: no answers, or an unknown method.
    """
    if n < 1:
        raise ConfigError("no answers to rank", location="n", hint="give at least one")
    if method not in get_args(Method):
        hint = f"one of {', '.join(get_args(Method))}"
        raise ConfigError(f"unknown method {method!r}", location="method", hint=hint)
    reached = [0] * n
    if method == "round_robin":
        games = _play(list(combinations(range(n), 2)), compare)
    else:
        seeded = sorted(range(n), key=lambda answer: unit_hash("placement", seed, answer))
        games, reached = _knockout(seeded, compare)
    ratings = bradley_terry(games, n)
    order = sorted(_by_rating(ratings), key=lambda answer: -reached[answer])  # stable
    unread = sum(game.comparison.winner is None for game in games)
    return Ranking(tuple(order), tuple(ratings), tuple(games), unread)


def game_order(pair: tuple[int, int]) -> tuple[int, int]:
    """Return the two answers of a game, the one that is shown first in front.

    The lower index is first if the sum is odd. That is fair to each answer, also with a judge of one order, and a pair
    has the same order in every tournament, so that a judge that keeps its completions is not asked again.
    """
    return (min(pair), max(pair)) if sum(pair) % 2 else (max(pair), min(pair))


def _play(pairs: Sequence[tuple[int, int]], compare: Compare) -> list[Game]:
    """Judge all games of a round."""
    ordered = list(map(game_order, pairs))
    comparisons = compare(ordered) if ordered else []
    return [Game(*pair, comparison) for pair, comparison in zip(ordered, comparisons, strict=True)]


def _knockout(seeded: Sequence[int], compare: Compare) -> tuple[list[Game], list[int]]:
    """Return all games, and how many rounds each answer survived."""
    n = len(seeded)
    field = [0]  # seeds in the order of the bracket, the first two to meet last; seeds from n on are byes
    while len(field) < n:
        field = [one for seed in field for one in (seed, 2 * len(field) - 1 - seed)]
    games: list[Game] = []
    reached = [0] * n
    while len(field) > 1:
        matches = [(min(pair), max(pair)) for pair in zip(field[::2], field[1::2], strict=True)]
        played = _play([(seeded[one], seeded[other]) for one, other in matches if other < n], compare)
        winners = {game.winner for game in played}
        field = [other if other < n and seeded[other] in winners else one for one, other in matches]
        for seed in field:
            reached[seeded[seed]] += 1
        games += played
    return games, reached


def _by_rating(ratings: Sequence[float]) -> list[int]:
    """Order answers by rating, the highest first; those within SAME of their neighbour by index."""
    order = sorted(range(len(ratings)), key=lambda answer: -ratings[answer])
    group, groups = 0, dict.fromkeys(order, 0)
    for better, worse in pairwise(order):
        group += ratings[better] - ratings[worse] > SAME
        groups[worse] = group
    return sorted(order, key=lambda answer: (groups[answer], answer))
