"""From logits to scores, and what `config.json` may hold."""

from __future__ import annotations

import math
from typing import Any

import pytest

from reasongenrm.scalar.scale import ScoreScale
from support.distilled import RUBRIC

pytestmark = pytest.mark.unit


def test_regression_returns_to_the_judges_scale() -> None:
    scale = ScoreScale(objective="regression", mean=(0.6,), sd=(0.2,))
    assert scale.scores([[0.0], [1.0], [-2.0]]) == pytest.approx([0.6, 0.8, 0.2])
    assert scale.criterion_scores([[0.0]]) == [{}] and scale.is_judge_scale


def test_dimensions_are_weighted_by_the_rubric() -> None:
    scale = ScoreScale(objective="dimensions", mean=(3.0, 5.0), sd=(1.0, 2.0), rubric=RUBRIC)
    assert scale.logits == 2
    assert scale.criterion_scores([[2.0, 0.0], [-2.0, 2.5]]) == [
        {"accuracy": 5.0, "tone": 5.0},
        {"accuracy": 1.0, "tone": 10.0},
    ]
    # weights 3 and 1; shares 1 and 0.5, then 0 and 1
    assert scale.scores([[2.0, 0.0], [-2.0, 2.5]]) == pytest.approx([3.5 / 4, 1 / 4])


def test_ordinal_is_the_mean_level_of_conditional_probabilities() -> None:
    scale = ScoreScale(objective="ordinal", levels=4)
    assert scale.logits == 3
    half = 0.0  # logit of 1/2
    third = math.log(0.5)
    [score] = scale.scores([[half, half, third]])
    assert score == pytest.approx((1 / 2 + 1 / 4 + 1 / 12) / 3)
    low, high = scale.scores([[-50.0, 50.0, 50.0], [50.0, 50.0, 50.0]])
    assert low == pytest.approx(0, abs=1e-9) and high == pytest.approx(1), (
        "without level 1 there is no level 2"
    )


def test_pairs_keep_the_logit() -> None:
    scale = ScoreScale(objective="pairs")
    assert scale.scores([[3.25], [-1.0]]) == [3.25, -1.0] and not scale.is_judge_scale


@pytest.mark.parametrize(
    ("record", "problem"),
    [
        ({"objective": "dimensions"}, "needs a rubric"),
        ({"objective": "ordinal"}, "needs levels"),
        ({"objective": "regression"}, "needs 1 numbers in mean"),
        ({"objective": "dimensions", "rubric": RUBRIC, "mean": [1], "sd": [1]}, "needs 2 numbers"),
        ({"objective": "pairs", "mean": [1], "sd": [1]}, "needs 0 numbers"),
        ({"objective": "regression", "mean": [1], "sd": [1], "factor": 2}, "factor"),
    ],
)
def test_an_incomplete_scale_is_refused(record: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ScoreScale.model_validate(record)
