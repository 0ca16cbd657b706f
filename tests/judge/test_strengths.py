"""Strengths and their uncertainty, against numerical derivatives and against repeated draws."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.judge.strengths import fit_lists, fit_pairs
from reasongenrm.rewards.estimates import mean_points, win_chances
from reasongenrm.rewards.plans import Texts, all_pairs, regular

pytestmark = pytest.mark.unit

GAMES = st.lists(
    st.tuples(st.permutations(range(5)).map(lambda order: tuple(order[:2])), st.floats(0, 1)), max_size=12
)


@settings(max_examples=40)
@given(GAMES, st.sampled_from([0.1, 0.5, 2.0]))
def test_a_list_of_two_is_a_game(games: list[tuple[tuple[int, int], float]], prior: float) -> None:
    pairs, points = [pair for pair, _ in games], [value for _, value in games]
    by_pairs = fit_pairs([*pairs, (0, 1)], [*points, None], 5, prior=prior)
    shares = [*((value, 1 - value) for value in points), None]
    by_lists = fit_lists([*pairs, (0, 1)], shares, 5, prior=prior)
    assert by_lists.values == pytest.approx(by_pairs.values, abs=1e-6)
    assert by_lists.covariance == pytest.approx(by_pairs.covariance, abs=1e-6)


def log_posterior(theta: np.ndarray, lists: list[tuple[int, ...]], shares: list[tuple[float, ...]]) -> float:
    """What `fit_lists` maximises, with a prior of 0.5, written out."""
    total = 0.0
    for one, share in zip(lists, shares, strict=True):
        normal = math.log(sum(math.exp(theta[i]) for i in one))
        total += sum(p * (theta[i] - normal) for i, p in zip(one, share, strict=True))
    return total + sum(0.25 * (x - 2 * math.log1p(math.exp(x))) for x in theta)


def test_the_fit_is_the_maximum_and_its_covariance_the_inverse_hessian() -> None:
    lists = [(0, 1, 2, 3), (3, 1), (2, 0, 4)]
    shares = [(0.5, 0.2, 0.2, 0.1), (0.3, 0.7), (0.0, 0.0, 1.0)]
    fit = fit_lists(lists, shares, 5)
    step, unit = 1e-4, np.eye(5)
    values = np.array(fit.values)
    # The strengths are centred; the prior is not: its maximum is a common shift away.
    shift = max(np.linspace(-2, 2, 4001), key=lambda c: log_posterior(values + c, lists, shares))
    top = values + shift

    def at(direction: np.ndarray) -> float:
        return log_posterior(top + step * direction, lists, shares)

    gradient = [(at(e) - at(-e)) / (2 * step) for e in unit]
    assert gradient == pytest.approx([0] * 5, abs=2e-3)
    hessian = [[(at(a + b) - at(a - b) - at(b - a) + at(-a - b)) / (4 * step**2) for a in unit] for b in unit]
    centre = np.eye(5) - 1 / 5
    expected = centre @ np.linalg.inv(-np.array(hessian)) @ centre
    assert fit.covariance == pytest.approx(expected, abs=2e-3)


def test_the_points_of_all_pairs_are_the_win_chances_at_maximum_likelihood() -> None:
    draw = np.random.default_rng(1)
    texts = Texts.of([f"{i}" for i in range(7)])
    pairs = all_pairs(7)
    points = [float(value) for value in draw.uniform(0.05, 0.95, len(pairs))]
    likely, _ = win_chances(texts, fit_pairs(pairs, points, 7, prior=1e-9), [True] * 7)
    assert mean_points(texts, pairs, points)[0] == pytest.approx(likely, abs=1e-6)


@pytest.mark.parametrize("plan", [all_pairs(8), regular(8, 4)], ids=["all", "regular"])
def test_the_errors_are_those_of_repeated_judgements(plan: list[tuple[int, int]]) -> None:
    """Verdicts are drawn 400 times from known strengths: the rewards vary as much as their errors say."""
    draw, truth = np.random.default_rng(2), np.linspace(-1, 1, 8)
    texts = Texts.of([f"{i}" for i in range(8)])
    chance = [1 / (1 + math.exp(truth[j] - truth[i])) for i, j in plan]
    rewards, errors = [], []
    for _ in range(400):
        points = [float(draw.random() < p) for p in chance]
        reward, error = win_chances(texts, fit_pairs(plan, points, 8), [True] * 8)
        rewards.append(reward)
        errors.append(error)
    ratio = np.std(rewards, axis=0) / np.sqrt(np.mean(np.square(np.array(errors)), axis=0))
    assert 0.8 < ratio.mean() < 1.2, "with four games each they are about a tenth too small"


def test_an_error_falls_with_the_number_of_games() -> None:
    errors = []
    for times in (1, 4):
        games = list(itertools.combinations(range(4), 2)) * times
        texts = Texts.of(["a", "b", "c", "d"])
        _, error = win_chances(texts, fit_pairs(games, [0.6] * len(games), 4), [True] * 4)
        errors.append(error[0])
    assert errors[0] and errors[1] == pytest.approx(errors[0] / 2, rel=0.15)
