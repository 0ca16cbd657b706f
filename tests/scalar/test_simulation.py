"""Simulations with a known reward: recovered, or not where the model cannot represent it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.metrics.intervals import wilson_interval
from reasongenrm.scalar.chance import chance_interval, permutation_p_value
from reasongenrm.scalar.simulation import (
    PAIR_COUNTS,
    error_curve,
    interaction_reward,
    learned_order,
    log_slope,
    nonlinear_figure,
    nonlinear_fit,
    nonlinear_table,
    reward_error,
)

pytestmark = pytest.mark.unit


def test_the_simulation_recovers_the_reward() -> None:
    errors = error_curve(PAIR_COUNTS, repeats=20, seed=0)
    assert -0.6 < log_slope(PAIR_COUNTS, errors) < -0.4
    assert errors[-1] < 0.05  # of a reward of length 1
    assert errors[:1] == error_curve(PAIR_COUNTS[:1], repeats=20, seed=0)
    assert reward_error(500, seed=1) != reward_error(500, seed=2)


@given(st.floats(-2, 2), st.floats(0.1, 10))
@settings(max_examples=20)
def test_the_slope_of_a_power(exponent: float, scale: float) -> None:
    assert log_slope(PAIR_COUNTS, [scale * n**exponent for n in PAIR_COUNTS]) == pytest.approx(
        exponent, abs=1e-9
    )


def test_two_layers_learn_an_interaction_and_one_does_not() -> None:
    fit = nonlinear_fit(1000, steps=150, seed=1)
    low, high = chance_interval(fit.held_out, level=0.999)
    assert low < fit.correct["linear"] / fit.held_out < high
    assert fit.correct["two layers"] > 0.9 * fit.correct["true reward"]
    # Of two answers a person prefers the one with the higher true reward in E[sigma(|lead|)] of the cases.
    first, second = np.random.default_rng(9).standard_normal((2, 100_000, 2))
    lead = np.abs(interaction_reward(first) - interaction_reward(second))
    expected = float(np.mean(1 / (1 + np.exp(-lead))))
    low, high = wilson_interval(fit.correct["true reward"], fit.held_out)
    assert low < expected < high
    places = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    one, other, mirrored = fit.rewards["two layers"](places)
    assert min(one, mirrored) > other + 1  # the true difference is 4 nats
    assert fit.parameters["two layers"] == 16 * 2 + 16 + 16
    assert nonlinear_table(fit).count("\n") == 4
    assert nonlinear_figure(fit) == nonlinear_figure(fit)


def test_an_order_is_learned_and_permuted_ranks_are_not() -> None:
    order = learned_order(permutations=60, seed=3)
    assert order.pairs == 20 * 6 and len(order.null) == 60
    assert order.accuracy > chance_interval(order.pairs)[1]
    assert permutation_p_value(order.accuracy, order.null) == 1 / 61
    assert abs(np.mean(order.null) - 0.5) < 0.06
    assert np.std(order.null) > np.sqrt(0.25 / order.pairs)  # wider than guesses of independent pairs
    assert learned_order(permutations=2, seed=3).null == order.null[:2]
