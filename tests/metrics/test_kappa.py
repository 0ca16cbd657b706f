"""Agreement of labels: published examples, and scikit-learn."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, recall_score

from reasongenrm.metrics.kappa import (
    accuracy,
    cohen_kappa,
    fleiss_kappa,
    joint_counts,
    krippendorff_alpha,
    macro_f1,
    recall,
)

pytestmark = pytest.mark.unit

ONE_RATER_COUNTS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 4)), min_size=2, max_size=40
)


@given(ONE_RATER_COUNTS)
def test_two_raters_as_scikit_learn_counts_them(rows: list[tuple[int, int, int]]) -> None:
    one, other, times = (np.array(column) for column in zip(*rows, strict=True))
    if not times.sum():
        return
    joint, weights = joint_counts(one, other, 3), times[None, :].astype(float)
    assert accuracy(joint, weights)[0] == pytest.approx(accuracy_score(one, other, sample_weight=times))
    f1 = f1_score(one, other, labels=[0, 1, 2], average="macro", sample_weight=times, zero_division=0)
    assert macro_f1(joint, weights, [0, 1, 2])[0] == pytest.approx(f1)
    kappa = cohen_kappa(joint, weights)[0]
    if np.isnan(kappa):  # both give one and the same label everywhere
        assert len({*one[times > 0], *other[times > 0]}) == 1
    else:
        assert kappa == pytest.approx(cohen_kappa_score(one, other, sample_weight=times))
    share = recall(joint, weights, 1)[0]
    if (one[times > 0] == 1).any():
        expected = recall_score(one, other, labels=[1], average="macro", sample_weight=times, zero_division=0)
        assert share == pytest.approx(expected)
    else:
        assert np.isnan(share)


def test_fleiss_of_a_published_table() -> None:
    # Fourteen raters, ten rows, five labels: the example of Wikipedia's article "Fleiss' kappa", 0.210.
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    assert fleiss_kappa(counts, np.ones((1, 10)))[0] == pytest.approx(0.210, abs=5e-4)


def test_krippendorff_of_the_authors_example() -> None:
    # Four observers, twelve units, missing values: section C of Krippendorff 2011, nominal alpha 0.743.
    observers = ["123321412...", "1233224125.3", ".3332342251.", "12332441251."]
    units = [Counter(label for label in column if label != ".") for column in zip(*observers, strict=True)]
    counts = [[unit[str(label)] for label in range(1, 6)] for unit in units]
    assert krippendorff_alpha(counts, np.ones((1, 12)))[0] == pytest.approx(0.743, abs=5e-4)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_a_weight_is_a_number_of_times(times: list[int]) -> None:
    rng = np.random.default_rng(len(times))
    labels = rng.integers(0, 3, size=(len(times), 3))
    counts = np.array([[(row == label).sum() for label in range(3)] for row in labels])
    repeated = np.repeat(counts, times, axis=0)
    weights, ones = np.array([times], dtype=float), np.ones((1, len(repeated)))
    for function in (fleiss_kappa, krippendorff_alpha):
        if len(repeated):
            expected = function(repeated, ones)
            np.testing.assert_allclose(function(counts, weights), expected, atol=1e-9)


def test_full_agreement_and_none() -> None:
    counts = [[2, 0], [0, 2], [2, 0]]
    ones = np.ones((1, 3))
    assert fleiss_kappa(counts, ones)[0] == krippendorff_alpha(counts, ones)[0] == 1
    alike = [[2, 0], [2, 0], [2, 0]]
    assert np.isnan(fleiss_kappa(alike, ones)[0]) and np.isnan(krippendorff_alpha(alike, ones)[0])
