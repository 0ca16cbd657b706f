"""Intervals and McNemar's test: published values, coverage, and no dependence on the order of rows."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.metrics.intervals import (
    McNemar,
    bootstrap_interval,
    clustered_interval,
    clustered_pair_interval,
    clustered_weights,
    holm,
    mcnemar,
    paired_interval,
    percentile_interval,
    wilson_interval,
)

pytestmark = pytest.mark.unit


def mean(means: Mapping[str, Any]) -> Any:
    return sum(means.values()) / len(means)


def test_wilson_known_values() -> None:
    # Newcombe 1998 (Stat. Med. 17:857-872), table I, method 3: 81 of 263 and 0 of 20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(20, 20)[1] == 1.0 and wilson_interval(2.5, 20)[0] < 2.5 / 20
    with pytest.raises(ValueError):
        wilson_interval(0, 0)


@settings(deadline=None)  # scipy is imported in the first example
@given(st.integers(1, 3000), st.floats(0, 1))
def test_wilson_is_that_of_scipy(n: int, share: float) -> None:
    from scipy.stats import binomtest

    successes = round(n * share)
    known = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson_interval(successes, n) == pytest.approx((known.low, known.high), abs=1e-12)
    low, high = wilson_interval(n * share, n)
    assert -1e-12 < low <= share + 1e-12 and share - 1e-12 <= high < 1 + 1e-12


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


def test_pairing_detects_a_small_constant_difference() -> None:
    theirs = {"a": [float(i % 2) for i in range(200)]}
    ours = {"a": [max(credit, float(i % 20 == 0)) for i, credit in enumerate(theirs["a"])]}
    low, high = paired_interval(ours, theirs, mean, seed=0)
    assert 0 < low < 0.05 < high
    alone = [bootstrap_interval(side, mean, seed=0) for side in (ours, theirs)]
    assert alone[0][0] < alone[1][1]  # unpaired, the two overlap
    with pytest.raises(ValueError, match="same rows"):
        paired_interval(ours, {"a": [1.0]}, mean, seed=0)


def rows(both: int, better: int, worse: int, neither: int) -> tuple[list[bool], list[bool]]:
    pairs = (
        [(True, True)] * both
        + [(True, False)] * better
        + [(False, True)] * worse
        + [(False, False)] * neither
    )
    random.Random(0).shuffle(pairs)
    return [ours for ours, _ in pairs], [theirs for _, theirs in pairs]


@pytest.mark.parametrize(
    ("table", "p"),
    [
        # Bentur et al. 2009, in Fagerland, Lydersen and Laake, BMC Med. Res. Methodol. 13:91 (2013): exact conditional.
        ((1, 1, 7, 12), 0.0703),
        # M. P. Fay's vignette of the R package exact2x2 (2011): 21 and 12 agree, 9 and 2 do not.
        ((21, 9, 2, 12), 0.06543),
    ],
)
def test_mcnemar_published_p_values(table: tuple[int, int, int, int], p: float) -> None:
    result = mcnemar(*rows(*table))
    assert (result.better, result.worse) == table[1:3]
    assert result.p == pytest.approx(p, abs=5e-5)


def test_mcnemar_without_a_difference() -> None:
    assert mcnemar([], []) == McNemar(0, 0, 1.0)
    assert mcnemar([True, False], [True, False]) == McNemar(0, 0, 1.0)
    assert mcnemar(*rows(5, 4, 4, 5)).p == pytest.approx(1.0)


def test_mcnemar_of_ten_rows_better_and_none_worse() -> None:
    assert mcnemar(*rows(80, 10, 0, 10)) == McNemar(10, 0, pytest.approx(2 / 2**10))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9), st.integers(0, 30), st.integers(0, 30), st.integers(0, 9))
def test_mcnemar_is_twice_the_smaller_tail_over_the_rows_that_differ(
    both: int, better: int, worse: int, neither: int
) -> None:
    ours, theirs = rows(both, better, worse, neither)
    result, swap = mcnemar(ours, theirs), mcnemar(theirs, ours)
    n = better + worse
    tail = sum(math.comb(n, k) for k in range(min(better, worse) + 1)) / 2**n
    assert result.p == pytest.approx(min(1.0, 2 * tail))
    assert (swap.better, swap.worse, swap.p) == (worse, better, pytest.approx(result.p))


def test_mcnemar_needs_the_same_rows() -> None:
    with pytest.raises(ValueError):
        mcnemar([True], [True, False])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([0.2]) == [0.2] and holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.3))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], level: float) -> None:
    rejected = set()
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        if (len(p_values) - rank) * p_values[place] > level:
            break
        rejected.add(place)
    assert {place for place, p in enumerate(holm(p_values)) if p <= level} == rejected


def test_cluster_weights_give_the_interval_of_the_cluster_bootstrap() -> None:
    rng = np.random.default_rng(5)
    clusters = np.repeat(np.arange(40), 3)
    values = np.repeat(rng.normal(size=40), 3) + 0.1 * rng.normal(size=120)
    weights = clustered_weights(list(clusters), seed=1, resamples=4000)
    assert weights.shape == (4000, 120)
    assert (weights.sum(axis=1) == 120).all(), "clusters of one size"
    assert (weights.reshape(4000, 40, 3) == weights.reshape(4000, 40, 3)[:, :, :1]).all()
    low, high = percentile_interval(weights @ values / 120)  # type: ignore[misc]
    totals = values.reshape(40, 3).sum(axis=1)
    expected = clustered_interval(list(totals), [3] * 40, seed=2, resamples=4000)
    assert (low, high) == pytest.approx(expected, abs=0.02)
    # Rows of a cluster are alike: as if they were independent, the interval would be too narrow.
    alone = percentile_interval(clustered_weights(range(120), seed=1) @ values / 120)
    assert alone is not None and high - low > 1.5 * (alone[1] - alone[0])


def test_an_interval_that_is_undefined_in_half_of_the_resamples() -> None:
    assert percentile_interval(np.array([1.0, np.nan, np.nan])) is None
    assert percentile_interval(np.array([1.0, 1.0, np.nan])) == (1.0, 1.0)


def test_pairs_of_clusters_count_as_often_as_both_are_drawn() -> None:
    pairs = [(0, 1), (0, 2), (1, 2), (2, 2)]
    interval = clustered_pair_interval(pairs, [1, 1, 1, 1], seed=0)
    assert interval == (1.0, 1.0)
    assert clustered_pair_interval([(4, 4), (4, 4)], [0, 1], seed=0) is None
    rng = np.random.default_rng(0)
    inside = [(n, n) for n in range(50) for _ in range(4)]
    values = [float(v) for v in rng.integers(2, size=200)]
    ours = clustered_pair_interval(inside, values, seed=3, resamples=4000)
    sums = np.reshape(values, (50, 4)).sum(axis=1)
    assert ours == pytest.approx(clustered_interval(list(sums), [4] * 50, seed=4, resamples=4000), abs=0.02)
    # A draw of two clusters, twice and once, holds their pair twice, and the pair inside the first one twice.
    drawn = clustered_weights(range(2), seed=9, resamples=50)
    sums = np.array([w[0] * w[1] * 1.0 + w[0] * 0.0 for w in drawn])
    counts = np.array([w[0] * w[1] + w[0] for w in drawn])
    with np.errstate(invalid="ignore"):
        expected = percentile_interval(sums / counts)
    assert clustered_pair_interval([(0, 1), (0, 0)], [1, 0], seed=9, resamples=50) == expected
