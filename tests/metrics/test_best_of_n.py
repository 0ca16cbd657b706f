"""Expected value of the best of N samples."""

from __future__ import annotations

import random
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.metrics.best_of_n import best_of_n_curve

pytestmark = pytest.mark.unit

Samples = st.lists(st.tuples(st.integers(-5, 5), st.floats(-3, 3)), min_size=1, max_size=7)


@given(Samples)
def test_it_is_the_mean_over_all_subsets(samples: list[tuple[int, float]]) -> None:
    scores, values = [float(score) for score, _ in samples], [value for _, value in samples]

    def best(subset: tuple[int, ...]) -> float:
        highest = max(scores[i] for i in subset)
        return fmean(values[i] for i in subset if scores[i] == highest)

    for number, estimate in enumerate(best_of_n_curve(scores, values), 1):
        subsets = list(combinations(range(len(samples)), number))
        assert estimate == pytest.approx(fmean(map(best, subsets)), abs=1e-9)


def test_without_values_it_rises_from_the_mean_to_the_largest() -> None:
    scores = [0.5, -1.0, 2.0, 0.0]
    curve = best_of_n_curve(scores)
    assert curve[0] == pytest.approx(fmean(scores)) and curve[-1] == 2.0 and curve == sorted(curve)
    assert best_of_n_curve([3.0]) == [3.0]


def test_of_zeros_and_ones_it_is_pass_at_k() -> None:
    from math import comb

    right, count = 3, 10
    curve = best_of_n_curve([1.0] * right + [0.0] * (count - right))
    assert curve == pytest.approx([1 - comb(count - right, k) / comb(count, k) for k in range(1, count + 1)])


def test_it_is_unbiased() -> None:
    """The best of 4 uniform samples has the mean 4/5; the estimates of 4,000 draws of 8 samples are within 3 standard errors."""
    source = random.Random(1)
    estimates = [best_of_n_curve([source.random() for _ in range(8)])[3] for _ in range(4000)]
    error = (fmean((x - 0.8) ** 2 for x in estimates) / len(estimates)) ** 0.5
    assert abs(fmean(estimates) - 0.8) < 3 * error


def test_a_thousand_samples() -> None:
    assert best_of_n_curve([float(n) for n in range(1000)])[500] == pytest.approx(501 / 502 * 1001 - 1)


def test_invalid_input() -> None:
    with pytest.raises(ValueError, match="no samples"):
        best_of_n_curve([])
    with pytest.raises(ValueError, match="shorter"):
        best_of_n_curve([1.0, 2.0], [1.0])
