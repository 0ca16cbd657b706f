"""What criteria are worth, from verdicts written by hand or drawn with a known accuracy."""

from __future__ import annotations

import random

import pytest

from reasongenrm.metrics.intervals import wilson_interval
from reasongenrm.metrics.label_consistency import (
    CriterionVerdicts,
    credit_share,
    fitted_weights,
    same_verdicts,
    weighted_credits,
    worth,
)

pytestmark = pytest.mark.unit


def hard(letters: str) -> CriterionVerdicts:
    """`+` right, `-` wrong, `=` both orders disagree, `?` unread."""
    values = {"+": 1.0, "-": 0.0, "=": 0.5, "?": None}
    return CriterionVerdicts(tuple(values[c] for c in letters), tuple(c in "+-" for c in letters))


def test_worth_counts_decided_rows() -> None:
    verdicts = hard("+++-==?+")
    result = worth(verdicts, [str(n) for n in range(8)], seed=1)
    assert verdicts.results() == ["right"] * 3 + ["wrong"] + ["undecided"] * 3 + ["right"]
    assert (result.accuracy.value, result.accuracy.rows) == (0.8, 5)
    assert result.accuracy.interval == wilson_interval(4, 5)
    assert (result.coverage, result.unread) == (5 / 8, 1)
    nothing = worth(hard("=?"), ["a", "b"], seed=1)
    assert (nothing.accuracy.value, nothing.accuracy.interval, nothing.coverage) == (None, None, 0.0)


def test_a_probability_above_one_half_that_orders_contradict_is_undecided() -> None:
    assert CriterionVerdicts((0.9, 0.1), (False, True)).results() == ["undecided", "wrong"]


def test_rows_of_one_prompt_widen_the_interval() -> None:
    credits = [1.0] * 60 + [0.0] * 40
    alone = credit_share(credits, [str(n) for n in range(100)], seed=1)
    clustered = credit_share(credits, [str(n // 10) for n in range(100)], seed=1)
    assert alone.value == clustered.value == 0.6 and alone.interval and clustered.interval
    width = lambda share: share.interval[1] - share.interval[0]  # noqa: E731
    assert width(clustered) > 1.5 * width(alone)
    assert credit_share([1.0] * 10, ["a"] * 10, seed=1).interval == wilson_interval(10, 10), (
        "the bootstrap of equal rows has no width"
    )


def test_same_verdicts() -> None:
    assert same_verdicts(hard("++-="), hard("++-?")) == 1.0
    assert same_verdicts(hard("++-="), hard("+--+")) == 0.5


def drawn(accuracy: float, decides: float, count: int, seed: int) -> str:
    rng = random.Random(seed)
    return "".join(
        "=" if rng.random() > decides else "+" if rng.random() < accuracy else "-" for _ in range(count)
    )


def test_weights_follow_what_criteria_are_worth() -> None:
    verdicts = {
        "good": hard(drawn(0.9, 1, 400, 1)),
        "fair": hard(drawn(0.7, 1, 400, 2)),
        "useless": hard(drawn(0.45, 1, 400, 3)),
    }
    weights = fitted_weights(verdicts)
    assert list(weights) == ["good", "fair"], "a rubric has positive weights"
    assert sum(weights.values()) == pytest.approx(2)
    # The log-odds of independent criteria: ln 9 = 2.2 and ln 2.33 = 0.85.
    assert weights["good"] / weights["fair"] == pytest.approx(2.2 / 0.85, rel=0.35)
    assert fitted_weights({"fair": verdicts["fair"]}) == {"fair": 1.0}
    credits = weighted_credits(verdicts, weights)
    assert sum(credits) / 400 == pytest.approx(0.9, abs=0.04)


def test_of_two_equal_criteria_each_has_half_the_weight() -> None:
    one = hard(drawn(0.8, 1, 200, 4))
    weights = fitted_weights({"a": one, "b": one, "other": hard(drawn(0.8, 1, 200, 5))})
    assert weights["a"] == pytest.approx(weights["b"]) and weights["other"] > 1.3 * weights["a"]


def test_credits_of_a_rubric() -> None:
    verdicts = {"a": hard("+-+?"), "b": hard("--=?")}
    assert weighted_credits(verdicts, {"a": 2.0, "b": 1.0}) == [1.0, 0.0, 1.0, 0.5]
    assert weighted_credits(verdicts, {"a": 1.0, "b": 1.0}) == [0.5, 0.0, 1.0, 0.5]
    unread = {"a": hard("?+"), "b": hard("+?")}
    assert weighted_credits(unread, {"a": 5.0, "b": 1.0}) == [1.0, 1.0], "what cannot be read does not count"
