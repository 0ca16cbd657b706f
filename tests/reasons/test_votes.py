"""Records from a judge's own votes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.reasons.votes import VoteRecords, best_vote
from reasongenrm.records import Drop, Message, PreferencePair, Verdict, Winner

pytestmark = pytest.mark.unit


def vote(winner: Winner | None, prob_a: float | None, reason: str = "it is right") -> Verdict:
    return Verdict("p", "pair", "AB", winner, prob_a, "ok" if winner else "unparsed", reason)


def test_the_surest_vote_for_a_letter_is_chosen() -> None:
    votes = [
        vote("A", 0.6, "first"),
        vote("B", 0.1, "second"),
        vote("A", 0.9, "third"),
        vote("A", 0.9, "fourth"),
    ]
    chosen, other = best_vote(votes, "A"), best_vote(votes, "B")
    assert chosen is votes[2] and other is votes[1]
    assert best_vote(votes[:1], "B") is None
    assert best_vote([vote("A", 0.9, "")], "A") is None, "a vote without a reason teaches none"


@given(st.lists(st.tuples(st.sampled_from(["A", "B", None]), st.floats(0, 1)), max_size=6))
def test_a_chosen_vote_names_the_letter(pairs: list[tuple[Winner | None, float]]) -> None:
    votes = [vote(winner, prob) for winner, prob in pairs]
    chosen = best_vote(votes, "B")
    named = [one for one in votes if one.winner == "B"]
    assert (chosen is None) == (not named)
    if chosen is not None:
        assert chosen in named
        # 1 - P(A) of two tiny probabilities may be the same number.
        assert all(1 - chosen.prob_a >= 1 - one.prob_a for one in named)  # type: ignore[operator]


def test_records_and_drops_add_up(encoders: dict[str, ChatEncoder], toy_prompts: PromptFile) -> None:
    pair = PreferencePair.make([Message(role="user", content="red")], "red", "blue", "toy")
    prompt = judge_prompt(pair, "BA", toy_prompts)
    writer = VoteRecords("judge", encoders["reason"], 1000)
    votes = [vote("B", 0.2, "b is right"), vote("A", 0.8, "a is right"), vote(None, None)]
    [sft], [dpo] = writer.sft_rows([(prompt, votes)]), writer.dpo_rows([(prompt, votes)])
    assert isinstance(sft, dict) and isinstance(dpo, dict)
    assert (sft["reason"], sft["response"], sft["score"]) == ("b is right", "[[B]]", 0.8)
    assert [turn["content"] for turn in dpo["chosen"]] == ["b is right", "[[B]]"]
    assert [turn["content"] for turn in dpo["rejected"]] == ["a is right", "[[A]]"]
    for rows, reason in ((writer.sft_rows([(prompt, votes[1:])]), "no_right_reason"), (writer.dpo_rows([(prompt, votes[:1])]), "no_wrong_reason")):  # fmt: skip
        [row] = rows
        assert isinstance(row, Drop) and row.reason == reason
    [short] = VoteRecords("judge", encoders["reason"], 10).sft_rows([(prompt, votes)])
    assert isinstance(short, Drop) and short.reason == "record_too_long"
    assert dict(writer.counts) == {
        "prompts": 4, "right": 3, "wrong": 3, "unreadable": 3, "records": 2, "no_right_reason": 1, "no_wrong_reason": 1,
    }  # fmt: skip


def test_a_judge_that_prefers_a_letter_does_not_learn_from_it(
    encoders: dict[str, ChatEncoder], toy_prompts: PromptFile
) -> None:
    pair = PreferencePair.make([Message(role="user", content="red")], "red", "blue", "toy")
    first, second = judge_prompt(pair, "AB", toy_prompts), judge_prompt(pair, "BA", toy_prompts)
    writer = VoteRecords("judge", encoders["reason"], 1000)
    always_a, right = [vote("A", 0.9)], [vote("B", 0.1)]
    rows = [*writer.sft_rows([(first, always_a), (second, always_a)])]
    assert [row.reason for row in rows if isinstance(row, Drop)] == ["other_order_lost", "no_right_reason"]
    rows = [*writer.sft_rows([(first, always_a), (second, right)])]
    assert [row["response"] for row in rows if isinstance(row, dict)] == ["[[A]]", "[[B]]"]


def test_a_vote_that_is_too_long_leaves_the_place_to_one_that_is_not(
    encoders: dict[str, ChatEncoder], toy_prompts: PromptFile
) -> None:
    """The surest vote on the first order does not fit; without another one, the pair gives no record in either order."""
    pair = PreferencePair.make([Message(role="user", content="red")], "red", "blue", "toy")
    first, second = judge_prompt(pair, "AB", toy_prompts), judge_prompt(pair, "BA", toy_prompts)
    encoder = encoders["reason"]
    limit = sum(map(len, encoder.record(first.messages, "a is right", "[[A]]"))) + 2
    long, short, other = (
        vote("A", 0.9, "a is right " * 9),
        vote("A", 0.6, "a is right"),
        vote("B", 0.1, "b is right"),
    )
    writer = VoteRecords("judge", encoder, limit)
    rows = list(writer.sft_rows([(first, [long, short]), (second, [other])]))
    assert [row["reason"] for row in rows if isinstance(row, dict)] == ["a is right", "b is right"]
    rows = list(writer.sft_rows([(first, [long]), (second, [other])]))
    assert [row.reason for row in rows if isinstance(row, Drop)] == ["record_too_long", "other_order_lost"]
