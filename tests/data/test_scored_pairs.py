"""Preference pairs from scored responses."""

from __future__ import annotations

import random

import pytest

from reasongenrm.data.scored_pairs import (
    BALANCED,
    Candidate,
    LengthDifference,
    balanced_pairs,
    eligible_pairs,
    widest_pairs,
)

pytestmark = pytest.mark.unit


def groups(
    contexts: int, candidates: int, seed: int, per_character: float = 0.004
) -> dict[str, list[Candidate]]:
    """Responses of 20 to 200 characters, whose scores rise with their lengths."""
    source = random.Random(seed)
    found = {}
    for context in range(contexts):
        lengths = [source.randrange(20, 200) for _ in range(candidates)]
        found[f"c{context}"] = [
            Candidate("x" * n, source.random() + per_character * n) for n in dict.fromkeys(lengths)
        ]
    return found


def relative(length: LengthDifference) -> float:
    assert length.mean_extra is not None and length.mean_length is not None
    return length.mean_extra / length.mean_length


def test_pairs_have_the_minimum_gap_and_the_widest_comes_first() -> None:
    few = {
        "a": [Candidate("one", 0.9), Candidate("two", 0.2), Candidate("three", 0.5)],
        "b": [Candidate("one", 0.5), Candidate("two", 0.45)],
        "c": [Candidate("alone", 1.0)],
        "d": [Candidate("one", 0.5), Candidate("two", 0.5)],
    }
    pairs = eligible_pairs(few, 0.3)
    assert list(pairs) == ["a"]
    texts = [(pair.chosen.response, pair.rejected.response) for pair in pairs["a"]]
    assert texts == [("one", "two"), ("one", "three"), ("three", "two")]
    assert all(pair.chosen.score > pair.rejected.score for pair in eligible_pairs(few, 0.0)["b"])
    assert "d" not in eligible_pairs(few, 0.0), "equal scores are no preference"


@pytest.mark.parametrize("candidates", [2, 4, 8])
def test_chosen_responses_are_not_longer(candidates: int) -> None:
    pairs = eligible_pairs(groups(300, candidates, candidates), 0.1)
    before = LengthDifference.measure(widest_pairs(pairs))
    after = LengthDifference.measure(chosen := balanced_pairs(pairs))
    assert relative(before) > 0.1, "the scores prefer length"
    assert abs(relative(after)) <= 1.1 * BALANCED
    assert abs(after.share_longer - 0.5) < 0.15 < before.share_longer - 0.5  # type: ignore[operator]
    assert len({pair.context_id for pair in chosen}) == len(chosen) > (60 if candidates == 2 else 280)
    assert all(pair.gap >= 0.1 for pair in chosen)


def test_shorter_chosen_responses_are_balanced_too() -> None:
    pairs = eligible_pairs(groups(300, 2, 5, per_character=-0.004), 0.1)
    before, after = (LengthDifference.measure(make(pairs)) for make in (widest_pairs, balanced_pairs))
    assert relative(before) < -0.1 and abs(relative(after)) <= 1.1 * BALANCED


def test_the_order_of_the_input_does_not_matter() -> None:
    some = groups(50, 4, 1)
    turned = {name: some[name][::-1] for name in reversed(some)}
    assert set(balanced_pairs(eligible_pairs(some, 0.1))) == set(balanced_pairs(eligible_pairs(turned, 0.1)))


def test_a_single_pair_is_kept_and_none_is_none() -> None:
    one = {"a": [Candidate("long enough", 1.0), Candidate("no", 0.0)]}
    assert len(balanced_pairs(eligible_pairs(one, 0.1))) == 1
    assert balanced_pairs({}) == [] and LengthDifference.measure([]) == LengthDifference(0, None, None, None)


def test_a_gap_that_floats_miss_by_a_hair_is_a_gap() -> None:
    assert 0.3 - 0.2 < 0.1
    assert len(eligible_pairs({"c": [Candidate("x", 0.3), Candidate("y", 0.2)]}, 0.1)["c"]) == 1
    assert not eligible_pairs({"c": [Candidate("x", 0.3), Candidate("y", 0.2001)]}, 0.1)
