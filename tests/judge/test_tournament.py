"""Tournaments that find the best answer, unread games, and ratings that agree with the literature."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from reasongenrm.errors import ConfigError
from reasongenrm.judge.ask import preference
from reasongenrm.judge.tournament import Game, Ranking, bradley_terry, rank
from reasongenrm.records import Comparison, unit_hash

pytestmark = pytest.mark.unit

quick = settings(max_examples=60, deadline=None)
METHODS: tuple[Any, ...] = ("round_robin", "knockout")


def judged(winner: Any, prob_a: float | None = None) -> Comparison:
    outcome: Any = {None: "unparsed", "tie": "tie"}.get(winner, "ok")
    return Comparison("game", winner, prob_a, "", outcome, (), 0, 0)


def a_beats_b(times: int, first: int, second: int) -> list[Game]:
    return [Game(first, second, judged("A"))] * times


class Judge:
    """Gives the comparisons of `opinion`, and records the rounds."""

    def __init__(self, opinion: Callable[[int, int], Comparison]) -> None:
        self.opinion = opinion
        self.rounds: list[list[tuple[int, int]]] = []

    def __call__(self, pairs: Sequence[tuple[int, int]]) -> list[Comparison]:
        assert pairs, "an empty round is not asked"
        self.rounds.append(list(pairs))
        return [self.opinion(*pair) for pair in pairs]


def consistent(strengths: Sequence[float], *, soft: bool = False) -> Judge:
    def opinion(first: int, second: int) -> Comparison:
        lead = strengths[first] - strengths[second]
        return judged("A" if lead > 0 else "B", 1 / (1 + math.exp(-lead)) if soft else None)

    return Judge(opinion)


def fickle(seed: int) -> Judge:
    draw = random.Random(seed)
    return Judge(lambda first, second: judged(draw.choice(["A", "B", "tie", None])))


def strengths(least: int, most: int) -> st.SearchStrategy[list[int]]:
    return st.integers(least, most).flatmap(lambda n: st.permutations(range(n)))


def pairs_of(games: Sequence[Game]) -> Counter[frozenset[int]]:
    return Counter(frozenset((game.first, game.second)) for game in games)


def ranked_fairly(ranking: Ranking, n: int, judge: Judge) -> None:
    """Properties of every ranking, by any judge."""
    assert sorted(ranking.order) == list(range(n)) and len(ranking.ratings) == n
    assert [(game.first, game.second) for game in ranking.games] == [
        p for round_pairs in judge.rounds for p in round_pairs
    ]
    assert ranking.unread == sum(game.comparison.winner is None for game in ranking.games)
    assert max(pairs_of(ranking.games).values(), default=1) == 1  # no rematch
    if len(judge.rounds) > 1:
        for round_pairs in judge.rounds:
            assert len({answer for pair in round_pairs for answer in pair}) == 2 * len(
                round_pairs
            )  # one game each per round


@quick
@given(strengths(2, 9), st.booleans())
def test_a_round_robin_of_a_consistent_judge_gives_the_order_of_the_strengths(
    strong: list[int], soft: bool
) -> None:
    judge, n = consistent(strong, soft=soft), len(strong)
    ranking = rank(n, judge)
    assert list(ranking.order) == sorted(range(n), key=lambda answer: -strong[answer])
    assert len(ranking.games) == n * (n - 1) // 2 and len(judge.rounds) == 1
    ranked_fairly(ranking, n, judge)


@quick
@given(strengths(2, 33), st.integers(0, 99))
def test_the_best_of_n_answers_wins_a_knockout_of_n_minus_1_games(strong: list[int], seed: int) -> None:
    judge, n = consistent(strong), len(strong)
    ranking = rank(n, judge, method="knockout", seed=seed)
    assert ranking.order[0] == strong.index(n - 1)
    assert ranking.order[1] in (ranking.games[-1].first, ranking.games[-1].second)  # the lost finalist
    assert len(ranking.games) == n - 1 and len(judge.rounds) == math.ceil(math.log2(n))
    ranked_fairly(ranking, n, judge)


@quick
@given(st.integers(1, 24), st.integers(0, 99), st.sampled_from(METHODS))
def test_the_rules_of_a_tournament_hold_for_a_random_judge(n: int, seed: int, method: Any) -> None:
    judge = fickle(seed)
    ranked_fairly(rank(n, judge, method=method, seed=seed), n, judge)


@pytest.mark.parametrize("method", METHODS)
def test_without_readable_games_all_ratings_are_equal(method: Any) -> None:
    judge = Judge(lambda first, second: judged(None))
    ranking = rank(6, judge, method=method, seed=4)
    assert ranking.ratings == (0.0,) * 6 and ranking.unread == len(ranking.games) > 0
    if method != "knockout":
        assert ranking.order == tuple(range(6))  # all level: the lower index first
    ranked_fairly(ranking, 6, judge)


@pytest.mark.parametrize("method", METHODS)
def test_equal_answers_keep_their_order(method: Any) -> None:
    ranking = rank(7, Judge(lambda first, second: judged("tie")), method=method)
    assert ranking.ratings == pytest.approx([0.0] * 7, abs=1e-9) and ranking.unread == 0
    if method != "knockout":
        assert ranking.order == tuple(range(7))


def test_equal_points_against_different_opponents_are_a_tie_in_a_round_robin() -> None:
    # 1 beats 3, 3 beats 2, 2 beats 1, and all beat 0: equal but for rounding.
    beaten = {1: (3, 0), 3: (2, 0), 2: (1, 0), 0: ()}
    judge = Judge(lambda first, second: judged("A" if second in beaten[first] else "B"))
    assert rank(4, judge).order == (1, 2, 3, 0)
    # Two pairs of equal points whose games differ: 0 and 3 have two, 1 and 2 have one.
    beaten = {0: (1, 2), 1: (3,), 2: (1,), 3: (0, 2)}
    ranking = rank(4, Judge(lambda first, second: judged("A" if second in beaten[first] else "B")))
    assert ranking.order == (0, 3, 1, 2)
    assert ranking.ratings[0] == pytest.approx(ranking.ratings[3], abs=1e-9)


def test_an_unread_game_gives_no_points_and_is_not_a_tie() -> None:
    games = [*a_beats_b(3, 0, 1), *a_beats_b(1, 1, 2)]
    ratings = bradley_terry(games, 3)
    assert bradley_terry([*games, Game(0, 2, judged(None, 0.9))], 3) == ratings
    assert bradley_terry([*games, Game(0, 2, judged("tie"))], 3) != pytest.approx(ratings, abs=0.01)


def test_points_are_the_probability_or_else_the_verdict() -> None:
    assert [preference(judged(winner)) for winner in ("A", "tie", "B", None)] == [1, 0.5, 0, None]
    assert [preference(judged(winner, 0.7)) for winner in ("A", "tie", "B", None)] == [0.7, 0.7, 0.7, None]
    ranking = rank(
        2, Judge(lambda first, second: judged("A" if first == 0 else "B", 0.8 if first == 0 else 0.2))
    )
    # One game of 0.8 and half a virtual draw each: 0.8 + 1/4 = σ(2θ) + σ(θ)/2 for strengths ±θ.
    theta = ranking.ratings[0]
    assert 1 / (1 + math.exp(-2 * theta)) + 0.5 / (1 + math.exp(-theta)) == pytest.approx(1.05)
    assert theta == pytest.approx(-ranking.ratings[1])


def test_the_verdict_decides_the_winner_and_the_probability_a_tie() -> None:
    comparisons = [
        ("A", None),
        ("B", None),
        ("A", 0.4),
        ("tie", 0.6),
        ("tie", 0.4),
        ("tie", 0.5),
        ("tie", None),
        (None, 0.9),
    ]
    assert [Game(5, 8, judged(*one)).winner for one in comparisons] == [5, 8, 5, 5, 8, None, None, None]


@quick
@given(strengths(2, 17), st.integers(0, 9))
def test_the_probability_decides_a_knockout_of_ties(strong: list[int], seed: int) -> None:
    judge = Judge(lambda first, second: judged("tie", 0.5 + (strong[first] - strong[second]) / 100))
    ranking = rank(len(strong), judge, method="knockout", seed=seed)
    assert ranking.order[0] == strong.index(len(strong) - 1)


@quick
@given(
    st.integers(2, 17), st.integers(0, 99), st.sampled_from([judged(None), judged("tie"), judged("tie", 0.5)])
)
def test_the_earlier_seed_wins_an_undecided_knockout_game(n: int, seed: int, undecided: Comparison) -> None:
    ranking = rank(n, Judge(lambda first, second: undecided), method="knockout", seed=seed)
    placed = sorted(range(n), key=lambda answer: unit_hash("placement", seed, answer))
    assert list(ranking.order[:2]) == placed[:2]  # the first two seeds are in different halves
    byes = 2 ** math.ceil(math.log2(n)) - n
    first_round = {
        answer for game in ranking.games[: (n - byes) // 2] for answer in (game.first, game.second)
    }
    assert len(first_round) == n - byes
    if byes:
        assert ranking.order[0] not in first_round  # byes go to the first seeds
    assert ranking.unread == (n - 1 if undecided.winner is None else 0)


def test_the_seed_draws_the_bracket() -> None:
    def first_round(seed: int) -> set[frozenset[int]]:
        judge = consistent(range(16))
        rank(16, judge, method="knockout", seed=seed)
        return {frozenset(pair) for pair in judge.rounds[0]}

    assert first_round(1) == first_round(1)
    met = Counter(pair for seed in range(300) for pair in first_round(seed))
    assert (
        len(met) == 120 and max(met.values()) < 3 * 20
    )  # each of the 120 pairs is drawn, 20 times on average


@pytest.mark.parametrize("n", [2, 5, 8])
def test_each_answer_is_first_in_half_of_its_games_and_a_pair_keeps_its_order(n: int) -> None:
    whole = rank(n, consistent(range(n))).games
    firsts = Counter(game.first for game in whole)
    assert all(abs(firsts[answer] - (n - 1) / 2) <= 0.5 for answer in range(n))
    seats = {(game.first, game.second) for game in whole}
    knockout = rank(n, consistent(range(n)), method="knockout").games
    assert {(game.first, game.second) for game in knockout} <= seats


@pytest.mark.parametrize("method", METHODS)
def test_a_single_answer_is_ranked_without_a_game(method: Any) -> None:
    judge = consistent([1.0])
    assert rank(1, judge, method=method) == Ranking((0,), (0.0,), (), 0)
    assert judge.rounds == []


@pytest.mark.parametrize(
    ("n", "wrong", "names"),
    [
        (0, {}, "n: no answers to rank"),
        (3, {"method": "swiss"}, "method: unknown method 'swiss'.*round_robin, knockout"),
    ],
)
def test_invalid_arguments_are_refused_before_any_game(n: int, wrong: Any, names: str) -> None:
    judge = consistent(range(9))
    with pytest.raises(ConfigError, match=names):
        rank(n, judge, **wrong)
    assert judge.rounds == []


def test_a_missing_comparison_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        rank(3, lambda pairs: [judged("A")])


@st.composite
def some_games(draw: st.DrawFn) -> tuple[int, list[Game]]:
    n = draw(st.integers(2, 7))
    pair = st.permutations(range(n)).map(lambda order: order[:2])
    share = st.floats(0, 1).map(lambda p: judged("A" if p > 0.5 else "B", p))
    verdict = st.sampled_from(["A", "B", "tie", None]).map(judged)
    games = draw(st.lists(st.tuples(pair, st.one_of(share, verdict)), max_size=30))
    return n, [Game(i, j, comparison) for (i, j), comparison in games]


@quick
@given(some_games(), st.randoms(use_true_random=False))
def test_bradley_terry_does_not_depend_on_the_order_of_answers_and_games(
    played: Any, shuffler: random.Random
) -> None:
    n, games = played
    names = list(range(n))
    shuffler.shuffle(names)
    renamed = [Game(names[game.first], names[game.second], game.comparison) for game in games]
    shuffler.shuffle(renamed)
    rated, again = bradley_terry(games, n), bradley_terry(renamed, n)
    assert [again[names[answer]] for answer in range(n)] == pytest.approx(rated, abs=1e-7)
    assert math.fsum(rated) == pytest.approx(0, abs=1e-9)


def likeliest(games: Sequence[Game], n: int, prior: float) -> list[float]:
    """The strengths by a general optimiser of the penalised likelihood."""
    points_of_games = [(game.first, game.second, preference(game.comparison)) for game in games]
    counted = [(first, second, points) for first, second, points in points_of_games if points is not None]

    def cost(strong: Any) -> float:
        games_cost = sum(
            points * np.logaddexp(0, strong[j] - strong[i])
            + (1 - points) * np.logaddexp(0, strong[i] - strong[j])
            for i, j, points in counted
        )
        return float(games_cost + prior / 2 * (np.logaddexp(0, strong) + np.logaddexp(0, -strong)).sum())

    strengths_found = minimize(cost, np.zeros(n), method="BFGS", options={"gtol": 1e-7}).x
    return list(strengths_found - strengths_found.mean())


@quick
@given(some_games(), st.sampled_from([0.1, 0.5, 2.0]))
def test_bradley_terry_agrees_with_an_optimiser_that_knows_only_the_likelihood(
    played: Any, prior: float
) -> None:
    n, games = played
    assert bradley_terry(games, n, prior=prior) == pytest.approx(likeliest(games, n, prior), abs=2e-4)


def test_bradley_terry_converges_where_a_full_newton_step_overshoots() -> None:
    chain = {(0, 1): 1, (1, 2): 1, (2, 3): 1, (3, 4): 5, (4, 5): 5, (6, 5): 1}
    games = [game for (better, worse), times in chain.items() for game in a_beats_b(times, better, worse)]
    strong = bradley_terry(games, 10, prior=0.01)
    assert strong == pytest.approx(likeliest(games, 10, 0.01), abs=0.02)


def test_bradley_terry_gives_the_published_strengths_of_four_journals() -> None:
    # Citations among Biometrika, Communications in Statistics, JASA and JRSS-B (S. M. Stigler, Statistical Science 9,
    # 1994; A. Agresti, Categorical Data Analysis, 2002, p. 448): a cited journal beats the one that cites it. The
    # strengths relative to Biometrika's are those of H. Turner and D. Firth, J. Stat. Software 48(9), 2012, section 2.1.
    citations = {
        (0, 1): (730, 33), (0, 2): (498, 320), (0, 3): (221, 284),
        (1, 2): (68, 813), (1, 3): (17, 276), (2, 3): (142, 325),
    }  # fmt: skip
    games = [
        g for (i, j), (won, lost) in citations.items() for g in a_beats_b(won, i, j) + a_beats_b(lost, j, i)
    ]
    strong = bradley_terry(games, 4, prior=1e-6)
    assert [value - strong[0] for value in strong[1:]] == pytest.approx([-2.9491, -0.4796, 0.2690], abs=5e-5)
    assert bradley_terry(games, 4) == pytest.approx(
        strong, abs=0.005
    )  # the default prior hardly moves 3727 games


def test_bradley_terry_of_two_is_the_log_odds_of_their_games() -> None:
    strong = bradley_terry(a_beats_b(30, 0, 1) + a_beats_b(10, 1, 0), 2, prior=1e-6)
    assert strong == pytest.approx([math.log(3) / 2, -math.log(3) / 2], abs=1e-5)


@quick
@given(some_games(), st.sampled_from([0.01, 0.5, 1.0]))
def test_with_a_prior_an_unbeaten_answer_is_finite_and_above_its_opponents(played: Any, prior: float) -> None:
    n, games = played
    others = [game for game in games if 0 not in (game.first, game.second)]
    met = sorted({game.first for game in others})
    strong = bradley_terry(
        others + [game for other in met for game in a_beats_b(1, 0, other)], n, prior=prior
    )
    assert all(map(math.isfinite, strong)) and all(strong[0] > strong[other] for other in met)


def test_the_prior_connects_groups_that_never_met() -> None:
    strong = bradley_terry(a_beats_b(4, 0, 1) + a_beats_b(4, 2, 3), 5)
    assert strong[0] == pytest.approx(strong[2]) and strong[1] == pytest.approx(strong[3])
    assert strong[0] > strong[4] > strong[1] and strong[4] == pytest.approx(0, abs=1e-9)
