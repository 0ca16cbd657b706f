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


LEARNING = [1.9, 1.2, 0.9, 0.7, 0.6, 0.55, 0.5, 0.47, 0.45, 0.46, 0.44, 0.43, 0.45, 0.42, 0.41]


def test_a_loss_that_blows_up_has_diverged_since_its_first_high_value() -> None:
    assert diverged_since(loss_rows(LEARNING)) is None
    blown = [*LEARNING, 2.8, 6.0, 7.1, 6.9, 7.4]
    assert [diverged_since(loss_rows(blown[:count])) for count in range(15, 20)] == [None] * 5
    assert diverged_since(loss_rows(blown)) == 80
    # It need not exceed the losses of the beginning, once those are 20 logs ago.
    assert diverged_since(loss_rows([*LEARNING, *[0.4] * 12, *[1.4] * 5])) == 140


@pytest.mark.parametrize(
    "losses",
    [
        pytest.param([*LEARNING, 9.0, 0.5, 9.0, 9.0, 9.0, 9.0], id="spikes that it recovers from"),
        pytest.param([0.4] * 4 + [3.0] * 5, id="too few losses before"),
        pytest.param([*LEARNING, *[1.1] * 8], id="less than three times as high"),
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
    assert diverged_since(mixed) == 80


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
