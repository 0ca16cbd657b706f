"""Terms of the reward: exact values, and what holds for any judgement."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.config.steps import RewardWeights
from reasongenrm.train.rewards import TERMS, Judgement, reward, reward_functions, used_terms

pytestmark = pytest.mark.unit

RIGHT = Judgement(
    "B", "B", 0.75, "sum is 131 . A has 130 , wrong .", tokens=40, others=(True, True, False, True)
)
WRONG = replace(RIGHT, verdict="A", prob_right=0.25)
SILENT = replace(RIGHT, verdict=None, prob_right=None)

letters = st.sampled_from(["A", "B"])
judgements = st.builds(
    Judgement,
    winner=letters,
    verdict=st.none() | letters,
    prob_right=st.none() | st.floats(0, 1),
    reason=st.text(),
    tokens=st.integers(0, 10_000),
    others=st.lists(st.booleans(), max_size=8).map(tuple),
    points=st.lists(st.text(), max_size=4).map(tuple),
)
weightings = st.builds(
    RewardWeights,
    verdict=st.floats(0.01, 2),
    unreadable=st.floats(-100, 0),
    consistency=st.floats(0, 2),
    format=st.floats(0, 2),
    length=st.floats(0, 0.01),
    length_free=st.integers(0, 1000),
    calibration=st.floats(0, 2),
    rationale=st.floats(0, 2),
)


@pytest.mark.parametrize(
    ("term", "right", "wrong", "silent"),
    [
        ("verdict", 1.0, -1.0, -1.5),
        ("consistency", 0.75, 0.0, 0.0),
        ("format", 1.0, 1.0, 0.0),
        ("length", -40.0, -40.0, -40.0),
        ("calibration", 1 - 0.25**2, 1 - 0.75**2, 0.0),
    ],
)
def test_values(term: str, right: float, wrong: float, silent: float) -> None:
    values = [TERMS[term](one, RewardWeights()) for one in (RIGHT, WRONG, SILENT)]
    assert values == [right, wrong, silent]


def test_the_scale_of_br_rm_can_be_expressed() -> None:
    assert reward(SILENT, RewardWeights(unreadable=-100)) == -100
    assert reward(RIGHT, RewardWeights(unreadable=-100)) == 1


def test_consistency_is_one_only_if_all_verdicts_on_both_orders_are_right() -> None:
    weights = RewardWeights()
    assert TERMS["consistency"](replace(RIGHT, others=(True,) * 8), weights) == 1
    assert TERMS["consistency"](replace(RIGHT, others=(False,) * 8), weights) == 0
    assert TERMS["consistency"](replace(RIGHT, others=()), weights) == 0


def test_an_empty_reason_has_no_format() -> None:
    assert TERMS["format"](replace(RIGHT, reason=" \n"), RewardWeights()) == 0


def test_only_tokens_beyond_the_free_ones_cost() -> None:
    assert TERMS["length"](RIGHT, RewardWeights(length_free=30)) == -10
    assert TERMS["length"](RIGHT, RewardWeights(length_free=40)) == 0


def test_rationale_is_the_share_of_covered_points_of_a_right_verdict() -> None:
    points = ("`sum is 131`", "`sum is 13`")
    values = [
        TERMS["rationale"](replace(one, points=points), RewardWeights()) for one in (RIGHT, WRONG, SILENT)
    ]
    assert values == [0.5, 0, 0]
    assert TERMS["rationale"](RIGHT, RewardWeights()) == 0, "without points"


@given(judgements, weightings)
def test_every_term_stays_in_its_range(judgement: Judgement, weights: RewardWeights) -> None:
    assert TERMS["verdict"](judgement, weights) in (1, -1, weights.unreadable)
    for term in ("consistency", "format", "calibration", "rationale"):
        assert 0 <= TERMS[term](judgement, weights) <= 1
    assert TERMS["length"](judgement, weights) <= 0


@given(judgements, weightings)
def test_the_reward_is_the_weighted_sum_that_trl_computes(
    judgement: Judgement, weights: RewardWeights
) -> None:
    functions, factors = reward_functions(weights), used_terms(weights)
    assert [function.__name__ for function in functions] == list(factors)
    values = [function(judgement=[judgement], prompts=[""]) for function in functions]
    total = sum(factor * value for factor, [value] in zip(factors.values(), values, strict=True))
    assert total == pytest.approx(reward(judgement, weights))


@given(judgements)
def test_no_verdict_earns_more_than_the_right_one(judgement: Judgement) -> None:
    weights = RewardWeights(consistency=1, format=1, calibration=1, rationale=1)
    right = replace(judgement, verdict=judgement.winner, prob_right=1.0)
    assert reward(judgement, weights) <= reward(right, weights)


@given(judgements, st.lists(st.booleans(), max_size=8))
def test_consistency_rises_with_every_right_verdict_on_the_other_order(
    judgement: Judgement, others: list[bool]
) -> None:
    weights, before = RewardWeights(), replace(judgement, others=tuple(others))
    for place, right in enumerate(others):
        if not right:
            better = replace(before, others=(*others[:place], True, *others[place + 1 :]))
            gain = TERMS["consistency"](better, weights) - TERMS["consistency"](before, weights)
            assert gain == pytest.approx(before.is_right / len(others))


def test_terms_of_weight_zero_are_not_computed() -> None:
    assert list(used_terms(RewardWeights(consistency=0.5))) == ["verdict", "consistency"]
    assert list(used_terms(RewardWeights(verdict=0, calibration=1))) == ["calibration"]


def test_unused_terms_do_not_change_the_reward() -> None:
    assert reward(SILENT, RewardWeights(verdict=0, format=1)) == 0
