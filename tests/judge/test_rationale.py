"""Rationale consistency: sentences, one-to-one matching, and what a second judge may answer."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.judge.rationale import Consistency, consistency, read_matches, sentences_of
from reasongenrm.records import Completion

pytestmark = pytest.mark.unit


def completion(text: str, **changes: Any) -> Completion:
    return Completion(**({"id": "c", "text": text, "finish_reason": "stop"} | changes))


def test_a_point_takes_one_sentence_and_a_sentence_one_point() -> None:
    # One sentence that says everything matches one point of three.
    assert consistency([(0, 0), (1, 0), (2, 0)], 3, 2) == Consistency(1 / 3, 1 / 2)
    # Point 0 gives way to point 1, which has no other sentence.
    assert consistency([(0, 0), (0, 1), (1, 0)], 2, 2) == Consistency(1.0, 1.0)
    assert consistency([], 2, 5) == Consistency(0.0, 0.0) and consistency([], 2, 5).f1 == 0
    assert Consistency(0.5, 0.25).f1 == pytest.approx(1 / 3)


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=10))
def test_the_matching_is_the_largest(matches: set[tuple[int, int]]) -> None:
    largest = max(sum((p, s) in matches for p, s in enumerate(order)) for order in permutations(range(4)))
    assert consistency(sorted(matches), 4, 4).recall == largest / 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"matches": [{"point": 1, "sentence": 2}]}', [(0, 1)]),
        ('<think>{"matches": []}</think>Here: {"matches": [{"point": 2, "sentence": 1}]} Done.', [(1, 0)]),
        ('{"matches": []}', []),
        ('{"matches": [{"point": 3, "sentence": 1}]}', None),
        ('{"matches": [{"point": 0, "sentence": 1}]}', None),
        ('{"matches": [{"point": true, "sentence": 1}]}', None),
        ('{"matches": {"point": 1}}', None),
        ("No.", None),
        ('{"matches": [{"point": 1', None),
    ],
)
def test_answers_of_the_second_judge(text: str, expected: Any) -> None:
    assert read_matches(completion(text), 2, 2) == expected


def test_an_error_is_unread() -> None:
    assert read_matches(completion('{"matches": []}', finish_reason="error", error="x"), 1, 1) is None


def test_sentences() -> None:
    reason = "Answer A is short. It names 3.5 kg!\n\n- B rambles\n- B is wrong? Yes"
    assert sentences_of(reason) == [
        "Answer A is short.",
        "It names 3.5 kg!",
        "- B rambles",
        "- B is wrong?",
        "Yes",
    ]
    assert sentences_of(json.loads('" \\n "')) == []
