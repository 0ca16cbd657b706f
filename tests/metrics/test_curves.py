"""Alarms over the rows of a training: they are raised where they should be, and noise raises few."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.metrics.curves import diverged_since, reward_alarms, reward_rises

pytestmark = pytest.mark.unit


def loss_rows(losses: Sequence[float], every: int = 5) -> list[dict[str, Any]]:
    return [{"step": every * number, "loss": loss} for number, loss in enumerate(losses, 1)]


def reward_rows(rewards: Sequence[float], checks: Sequence[float], key: str = "consistency") -> list[Any]:
    pairs = zip(rewards, checks, strict=True)
    return [{"step": 5 * n, "loss": 0.0, "reward": r, key: c} for n, (r, c) in enumerate(pairs, 1)]


def first_alarm(rows: list[dict[str, Any]]) -> str | None:
    """The first alarm that a training with these rows would raise."""
    found = (reward_alarms(rows[:count]) for count in range(1, len(rows) + 1))
    return next((str(alarms[0]) for alarms in found if alarms), None)


REAL_LOSSES = {
    "demo, reasons": "0.108 0.076 0.051 0.054 0.058 0.064 0.071 0.039 0.048 0.057 0.028 0.051 0.063 0.052 0.031 0.046 0.044 0.028 0.043 0.054 0.033 0.055 0.033 0.027 0.038 0.032 0.033 0.042 0.043 0.048 0.021 0.042 0.027 0.034 0.028 0.048 0.035 0.033 0.029 0.034",
    "demo, verdicts": "2.047 0.478 0.22 0.178 0.179 0.177 0.171 0.176 0.174 0.174 0.177 0.176 0.173 0.173 0.177 0.175 0.176 0.171 0.171 0.17 0.165 0.159 0.155 0.172 0.164 0.158 0.157 0.149 0.16 0.186 0.16 0.159 0.152 0.155 0.143 0.153 0.14 0.146 0.149 0.14 0.139 0.141 0.141 0.131 0.114 0.121 0.126 0.116 0.105 0.132 0.113 0.112 0.111 0.094 0.101 0.102 0.104 0.1 0.085 0.104 0.104 0.106 0.11 0.101 0.119 0.107 0.1 0.105 0.1 0.114 0.087 0.099 0.103 0.105 0.092 0.112",
    "demo, scalar head": "0.693 0.693 0.693 0.692 0.68 0.657 0.708 0.664 0.699 0.694 0.693 0.692 0.693 0.69 0.692 0.686 0.678 0.66 0.662 0.687 0.637 0.657 0.632 0.616 0.641 0.631 0.641 0.622 0.632 0.626 0.663 0.644 0.622 0.584 0.583 0.545 0.6 0.546 0.596 0.573 0.543 0.618 0.572 0.575 0.519 0.498 0.539 0.589 0.557 0.55 0.489 0.547 0.592 0.464 0.469 0.485 0.522 0.482 0.467 0.51",
    "toy world, ratings": "8.026 4.901 1.99 0.359 0.204 0.181 0.19 0.181 0.176 0.177 0.182 0.173 0.176 0.162 0.165 0.17 0.171 0.171 0.153 0.151 0.144 0.135 0.141 0.125 0.146 0.145 0.114 0.124 0.134 0.128 0.133 0.136 0.125 0.126 0.12 0.129 0.126 0.125 0.119 0.121 0.116 0.116 0.119 0.121 0.123",
}
"""Logged losses of trainings on the toy world, in nats: judges with and without reasons, a scalar head, a rater."""

REAL_DIVERGENCE = "7.167 6.199 8.293 4.887 4.14 3.475 2.946 2.602 2.413 2.127 2.047 2.255 2.058 1.898 1.735 1.652 1.438 1.428 1.399 1.302 1.188 1.114 1.079 1.165 1.048 0.934 0.8459 0.748 0.7114 0.6932 0.516 0.6811 0.6003 0.4328 0.4095 0.3695 0.2436 0.1926 0.1664 0.1642 23.77 35.39 82.63 74.65 44.64"
"""Losses of the tiny model, all weights trained, with a learning rate 100 times as high from step 40 on (test_guards.py)."""

LEARNING = [float(loss) for loss in REAL_LOSSES["demo, verdicts"].split()][:30]


@pytest.mark.parametrize("name", REAL_LOSSES)
def test_no_real_training_counts_as_diverged(name: str) -> None:
    rows = loss_rows([float(loss) for loss in REAL_LOSSES[name].split()])
    assert all(diverged_since(rows[:count]) is None for count in range(len(rows) + 1))


def test_a_loss_that_blows_up_has_diverged_since_its_first_high_value() -> None:
    rows = loss_rows([float(loss) for loss in REAL_DIVERGENCE.split()], every=1)
    assert [diverged_since(rows[:count]) for count in range(45)] == [None] * 45
    assert diverged_since(rows) == 41
    # It need not exceed the losses of the beginning, once those are 20 logs ago.
    assert max(LEARNING) > 1.4 > 3 * max(LEARNING[10:])
    assert diverged_since(loss_rows([*LEARNING, *[1.4] * 5])) == 155


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([*LEARNING, 9.0, 0.5, 9.0, 9.0, 9.0, 9.0], id="spikes that it recovers from"),
        pytest.param([0.4] * 4 + [3.0] * 5, id="too few losses before"),
        pytest.param([*LEARNING, *[0.5] * 8], id="less than three times as high"),
        pytest.param([5.0 + number for number in range(40)], id="a steady rise"),
        pytest.param([], id="nothing logged"),
    ],
)
def test_a_training_that_has_not_diverged(losses: list[float]) -> None:
    rows = loss_rows(losses)
    assert all(diverged_since(rows[:count]) is None for count in range(len(rows) + 1))


def test_a_policy_loss_is_not_examined_and_other_rows_do_not_count() -> None:
    blown = loss_rows([*LEARNING, *[9.0] * 5])
    assert diverged_since([row | {"reward": 0.1} for row in blown]) is None
    mixed = [row for one in blown for row in (one, {"step": one["step"], "eval_loss": 99.0})]
    assert diverged_since(mixed) == 155


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=60), st.floats(1e-3, 1e3))
def test_the_unit_of_a_loss_does_not_matter_and_a_bounded_one_never_diverges(
    losses: list[float], unit: float
) -> None:
    scaled = [loss * 2.0 ** round(unit) for loss in losses]  # powers of two scale without rounding
    assert diverged_since(loss_rows(scaled)) == diverged_since(loss_rows(losses))
    assert diverged_since(loss_rows([1.0 + loss % 2.0 for loss in losses])) is None


def test_noise_of_any_width_seldom_counts_as_divergence() -> None:
    draw = random.Random(7)
    stopped = 0
    for _ in range(100):
        rows = loss_rows([draw.lognormvariate(-1, 2) for _ in range(200)])
        stopped += any(diverged_since(rows[:count]) for count in range(15, 201))
    assert stopped <= 3


@pytest.mark.parametrize(
    ("key", "words"),
    [("consistency", "both-order consistency"), ("readable", "the share of readable verdicts")],
)
def test_a_reward_that_rises_while_a_check_falls(key: str, words: str) -> None:
    draw = random.Random(3)
    rewards = [0.02 * number + draw.gauss(0, 0.1) for number in range(60)]
    checks = [0.9] * 20 + [0.9 - 0.015 * number for number in range(40)]
    checks = [value + draw.gauss(0, 0.02) for value in checks]
    text = first_alarm(reward_rows(rewards, checks, key))
    assert text is not None and text.startswith(f"reward rises while {words} falls from step ")
    assert 50 <= int(text.rpartition(" ")[2]) <= 200  # the check begins to fall at step 100
    assert first_alarm(reward_rows(rewards, [1 - value for value in checks], key)) is None  # both rise
    assert first_alarm(reward_rows(rewards[::-1], checks, key)) is None  # both fall
    assert first_alarm(reward_rows(rewards, [0.9 - (0.9 - value) / 15 for value in checks], key)) is None


def test_a_short_training_is_examined_too() -> None:
    rows = reward_rows([0.1 * n for n in range(10)], [0.9 - 0.04 * n for n in range(10)])
    assert first_alarm(rows[:9]) is None
    assert first_alarm(rows) == "reward rises while both-order consistency falls from step 5"
    assert reward_rises(rows) and not reward_rises(rows[:9]) and not reward_rises(rows[::-1])


def test_rows_without_the_check_or_with_null_do_not_count() -> None:
    rows = reward_rows([0.1 * n for n in range(10)], [0.9 - 0.04 * n for n in range(10)])
    gaps = [
        {"step": 1, "eval_loss": 1.0},
        {"step": 2, "loss": 0.1},
        {"step": 3, "reward": 1, "consistency": None},
    ]
    assert reward_alarms([*gaps, *rows]) == reward_alarms(rows) != []
    assert reward_alarms([row | {"consistency": 0.5} for row in rows]) == []  # constant


def test_a_check_that_only_fluctuates_seldom_raises_an_alarm() -> None:
    draw = random.Random(11)
    raised = 0
    for _ in range(40):
        share = draw.uniform(0.5, 0.95)
        rewards = [0.01 * number + draw.gauss(0, 0.1) for number in range(100)]
        checks = [sum(draw.random() < share for _ in range(8)) / 8 for _ in range(100)]
        raised += first_alarm(reward_rows(rewards, checks)) is not None
    assert raised <= 2
