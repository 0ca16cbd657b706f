"""Lists from pairs: every pair is in one list, and its better answer heads it."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.data.ranked import load_ranked
from reasongenrm.reasons.lists import answer_lists
from reasongenrm.records import Message, PreferencePair

pytestmark = pytest.mark.unit


def ranked(prompt: int, count: int) -> list[PreferencePair]:
    """The pairs of answers 0 (best) to count - 1, as ranked answers give them."""
    history: list[Message] = [{"role": "user", "content": f"prompt {prompt}"}]
    return [PreferencePair.make(history, f"{a}", f"{b}", "s") for a, b in combinations(range(count), 2)]


@given(counts=st.lists(st.integers(2, 12), min_size=1, max_size=5), longest=st.integers(2, 8))
def test_every_pair_is_in_one_list(counts: list[int], longest: int) -> None:
    pairs = [pair for prompt, count in enumerate(counts) for pair in ranked(prompt, count)]
    lists = list(answer_lists(pairs, lambda answers: len(answers.answers) <= longest))
    assert [pair for _, own in lists for pair in own] == pairs
    for answers, own in lists:
        assert 2 <= len(answers.answers) <= longest
        assert answers.answers == (own[0].chosen, *(pair.rejected for pair in own))
        assert all(pair.history == answers.history for pair in own)
    assert len({answers.id for answers, _ in lists}) == len(lists)


def test_a_list_of_two_has_the_id_of_its_pair() -> None:
    [pair] = ranked(0, 2)
    [(answers, _)] = answer_lists([pair])
    assert answers.id == pair.id and answers.answers == (pair.chosen, pair.rejected)


def test_ranked_answers_give_one_list_per_answer_that_beats_others() -> None:
    pairs = [row for row in load_ranked("data/answers.csv") if isinstance(row, PreferencePair)]
    sizes = [len(answers.answers) for answers, _ in answer_lists(pairs)]
    assert sizes == [4, 3, 2] * 5, "five prompts with four answers of different ranks"


def test_the_best_of_many_heads_several_lists() -> None:
    sizes = [len(answers.answers) for answers, _ in answer_lists(ranked(0, 12)[:11])]
    assert sizes == [8, 5]
