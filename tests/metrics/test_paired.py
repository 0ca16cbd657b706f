"""McNemar's exact test: published values, and what it may not depend on."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.metrics.paired import McNemar, mcnemar

pytestmark = pytest.mark.unit


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
def test_published_p_values(table: tuple[int, int, int, int], p: float) -> None:
    found = mcnemar(*rows(*table))
    assert (found.better, found.worse) == table[1:3]
    assert found.p == pytest.approx(p, abs=5e-5)


def test_no_difference_is_no_evidence() -> None:
    assert mcnemar([], []) == McNemar(0, 0, 1.0)
    assert mcnemar([True, False], [True, False]) == McNemar(0, 0, 1.0)
    assert mcnemar(*rows(5, 4, 4, 5)).p == pytest.approx(1.0)


def test_ten_rows_better_and_none_worse_is_a_coin_that_fell_one_way_ten_times() -> None:
    assert mcnemar(*rows(80, 10, 0, 10)) == McNemar(10, 0, pytest.approx(2 / 2**10))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9), st.integers(0, 30), st.integers(0, 30), st.integers(0, 9))
def test_p_is_twice_the_smaller_tail_and_does_not_see_the_rows_that_agree(
    both: int, better: int, worse: int, neither: int
) -> None:
    ours, theirs = rows(both, better, worse, neither)
    found, swap = mcnemar(ours, theirs), mcnemar(theirs, ours)
    n = better + worse
    tail = sum(math.comb(n, k) for k in range(min(better, worse) + 1)) / 2**n
    assert found.p == pytest.approx(min(1.0, 2 * tail))
    assert (swap.better, swap.worse, swap.p) == (worse, better, pytest.approx(found.p))


def test_both_sides_must_have_the_same_rows() -> None:
    with pytest.raises(ValueError, match="same rows"):
        mcnemar([True], [True, False])
