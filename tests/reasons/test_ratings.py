"""Ratings of answers from the pairs that they are in."""

from __future__ import annotations

from itertools import combinations

import pytest
from pydantic import ValidationError

from reasongenrm.config.prepare import RatingsConfig
from reasongenrm.reasons.ratings import rated_answers
from reasongenrm.records import Message, PreferencePair

pytestmark = pytest.mark.unit


def pair(prompt: str, chosen: str, rejected: str, source: str = "s") -> PreferencePair:
    return PreferencePair.make([Message(role="user", content=prompt)], chosen, rejected, source)


def ratings(pairs: list[PreferencePair], config: RatingsConfig | None = None) -> list[tuple[str, int]]:
    return [(one.answer, one.rating) for one in rated_answers(pairs, config or RatingsConfig())]


def test_a_single_pair_has_the_highest_and_the_lowest_rating() -> None:
    assert ratings([pair("p", "good", "bad")]) == [("good", 8), ("bad", 3)]
    assert ratings([pair("p", "good", "bad")], RatingsConfig(low=1, high=10)) == [("good", 10), ("bad", 1)]


def test_a_ranking_is_spread_over_the_scale() -> None:
    """Shares 1, 2/3, 1/3 and 0 of the pairs: 8, 6.33, 4.67 and 3."""
    pairs = [pair("p", a, b) for a, b in combinations("wxyz", 2)]
    assert ratings(pairs) == [("w", 8), ("x", 6), ("y", 5), ("z", 3)]


def test_tied_answers_are_not_paired_and_get_the_same_rating() -> None:
    assert ratings([pair("p", "a", "b"), pair("p", "a", "c")]) == [("a", 8), ("b", 3), ("c", 3)]
    assert ratings([pair("p", "a", "c"), pair("p", "b", "c")]) == [("a", 8), ("c", 3), ("b", 8)]


def test_only_pairs_of_one_prompt_are_compared() -> None:
    pairs = [pair("p", "a", "b", "one"), pair("q", "b", "a", "two"), pair("p", "b", "c", "three")]
    assert ratings(pairs) == [("a", 8), ("b", 3), ("b", 8), ("a", 3), ("b", 8), ("c", 3)]
    assert [one.source for one in rated_answers(pairs, RatingsConfig())][::2] == ["one", "two", "three"]


def test_low_is_below_high() -> None:
    with pytest.raises(ValidationError, match="low must be below high"):
        RatingsConfig(low=5, high=5)
