"""Kendall's W and tau-b of plain ranks: a textbook example, scipy's Friedman test, ties."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import friedmanchisquare, rankdata

from reasongenrm.metrics.agreement import kendall_w, pairwise_tau_b

pytestmark = pytest.mark.unit


def test_a_textbook_example() -> None:
    # Siegel, Nonparametric Statistics (1956), ch. 9: three judges, six applicants; rank sums 8, 14, 11, 11, 11, 8;
    # S = 25.5, W = 12·25.5 / (9·210).
    result = kendall_w([[1, 6, 3, 2, 5, 4], [1, 5, 6, 4, 2, 3], [6, 3, 2, 5, 4, 1]])
    assert result is not None and result[0] == pytest.approx(306 / 1890)


def test_no_w_when_every_annotator_ties_all_answers() -> None:
    assert kendall_w([[1.5, 1.5], [1.5, 1.5]]) is None


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(3, 6), st.integers(2, 6))
def test_w_follows_from_the_friedman_statistic(data: st.DataObject, n: int, m: int) -> None:
    raw = data.draw(
        st.lists(st.lists(st.integers(1, 4), min_size=n, max_size=n), min_size=m, max_size=m), label="ranks"
    )
    result = kendall_w([rankdata(row).tolist() for row in raw])
    assume(result is not None)
    assert result is not None
    w, p_value = result
    assert -1e-12 <= w <= 1 + 1e-12
    expected = friedmanchisquare(*zip(*raw, strict=True))
    assert m * (n - 1) * w == pytest.approx(expected.statistic, abs=1e-9)
    assert p_value == pytest.approx(expected.pvalue, abs=1e-9)


@given(st.permutations(range(1, 6)), st.integers(2, 5))
def test_equal_rankings_have_w_1(ranks: list[int], m: int) -> None:
    result = kendall_w([ranks] * m)
    assert result is not None and result[0] == pytest.approx(1)


def test_tau_b_is_over_the_answers_that_both_ranked() -> None:
    ranks: dict[str, dict[int, float]] = {
        "ann": {0: 1, 1: 2, 2: 3},
        "bob": {0: 2, 1: 1, 3: 3},  # shares 0 and 1 with ann, in the other order
        "eve": {2: 1, 3: 1},  # shares one answer with each
        "tie": {0: 1.5, 1: 1.5},
    }
    assert list(pairwise_tau_b(ranks)) == [-1.0, None, None]
