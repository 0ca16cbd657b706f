"""Intervals: known values, coverage, and no dependence on the order of rows."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import pytest

from reasongenrm.metrics.intervals import bootstrap_interval, paired_difference, wilson_interval

pytestmark = pytest.mark.unit


def mean(means: Mapping[str, Any]) -> Any:
    return sum(means.values()) / len(means)


def test_wilson_known_values() -> None:
    # Newcombe 1998 (Stat. Med. 17:857-872), table I, method 3: 81 of 263 and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    with pytest.raises(ValueError):
        wilson_interval(0, 0)


def test_bootstrap_agrees_with_the_normal_approximation() -> None:
    credits = {"a": [1.0] * 320 + [0.0] * 80, "b": [1.0] * 50 + [0.5] * 100 + [0.0] * 50}
    low, high = bootstrap_interval(credits, mean, seed=0, resamples=20000)
    spread = 1.96 * ((0.8 * 0.2 / 400 + 0.125 / 200) ** 0.5) / 2
    assert (low, high) == pytest.approx((0.65 - spread, 0.65 + spread), abs=0.002)


def test_bootstrap_is_a_function_of_rows_and_seed() -> None:
    credits = {"a": [1.0, 0.0, 0.5, 1.0, 1.0], "b": [0.0, 1.0, 1.0]}
    shuffled = {name: random.Random(1).sample(rows, len(rows)) for name, rows in reversed(credits.items())}
    first = bootstrap_interval(credits, mean, seed=3)
    assert first == bootstrap_interval(shuffled, mean, seed=3)
    assert first != bootstrap_interval(credits, mean, seed=4)
    assert bootstrap_interval({"a": [1.0] * 5}, mean, seed=0) == (1.0, 1.0)


def test_pairing_sees_a_small_steady_difference() -> None:
    theirs = {"a": [float(i % 2) for i in range(200)]}
    ours = {"a": [max(credit, float(i % 20 == 0)) for i, credit in enumerate(theirs["a"])]}
    difference, (low, high) = paired_difference(ours, theirs, mean, seed=0)
    assert difference == pytest.approx(0.05)
    assert 0 < low < difference < high
    alone = [bootstrap_interval(side, mean, seed=0) for side in (ours, theirs)]
    assert alone[0][0] < alone[1][1]  # unpaired, the two overlap
    with pytest.raises(ValueError, match="same rows"):
        paired_difference(ours, {"a": [1.0]}, mean, seed=0)
