"""Weighted correlations: those of scipy, also of rows that occur several times."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from reasongenrm.metrics import correlation

pytestmark = pytest.mark.unit

PAIRS = [
    (correlation.pearson, stats.pearsonr),
    (correlation.spearman, stats.spearmanr),
    (correlation.kendall, stats.kendalltau),
]


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize("rows", [5, 40, correlation.BLOCK + 7])
def test_equal_to_scipy_with_ties_and_repeated_rows(ours: Any, theirs: Any, rows: int) -> None:
    rng = np.random.default_rng(rows)
    one = rng.integers(6, size=rows).astype(float)
    other = one + rng.integers(4, size=rows)
    weights = rng.multinomial(rows, np.full(rows, 1 / rows), size=4).astype(float)
    weights[0] = 1
    values = ours(one, other, weights)
    for row, value in zip(weights.astype(int), values, strict=True):
        repeated = np.repeat(one, row), np.repeat(other, row)
        assert value == pytest.approx(theirs(*repeated).statistic, abs=1e-9)


@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS])
def test_a_constant_side_has_no_correlation(ours: Any) -> None:
    weights = np.array([[1.0, 1, 1, 1], [2, 0, 2, 0], [0, 4, 0, 0]])
    one = np.array([0.1 + 0.2, 0.4, 0.3, 0.5])
    other = np.array([7.0, 1, 7, 2])
    values = ours(one, other, weights)
    assert not np.isnan(values[0])
    assert np.isnan(values[1]) and np.isnan(values[2])
    assert np.isnan(ours(np.full(4, 1e6 + 0.1), other, np.ones((1, 4))))[0]


@pytest.mark.parametrize("ours", [ours for ours, _ in PAIRS])
def test_the_scale_and_the_place_of_the_values_do_not_count(ours: Any) -> None:
    rng = np.random.default_rng(1)
    one, other = rng.normal(size=(2, 30))
    weights = np.ones((1, 30))
    assert ours(one * 1e-9 + 5e3, other, weights)[0] == pytest.approx(ours(one, other, weights)[0], abs=1e-3)


def test_means() -> None:
    weights = np.array([[1.0, 1, 0], [0, 0, 0], [3, 0, 1]])
    values = correlation.mean(np.array([1.0, 2, 5]), weights)
    assert values[0] == 1.5 and np.isnan(values[1]) and values[2] == 2
