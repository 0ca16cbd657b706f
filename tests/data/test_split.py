"""The split into pairs to train on and held-out pairs."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.data.split import conversation_key, split_conversations, split_pairs
from reasongenrm.errors import ConfigError
from reasongenrm.records import Conversation, Message, PreferencePair, content_id

pytestmark = pytest.mark.unit


def pair(prompt: str, chosen: str = "good", source: str = "s") -> PreferencePair:
    return PreferencePair.make([Message(role="user", content=prompt)], chosen, "bad", source)


@given(
    prompts=st.lists(st.text(max_size=5), min_size=2, max_size=30).filter(lambda texts: len(set(texts)) > 1),
    share=st.floats(0, 0.99),
    seed=st.integers(0, 9),
)
def test_held_out_prompts_are_a_function_of_the_prompts(prompts: list[str], share: float, seed: int) -> None:
    pairs = [pair(prompt) for prompt in prompts]
    count = len(set(prompts))
    _, out = split_pairs(pairs, share, seed)
    _, reverse = split_pairs(pairs[::-1], share, seed)
    assert out == reverse[::-1]
    held_out_count = min(count - 1, max(1, round(share * count))) if share else 0
    assert len({content_id(one.history) for one in out}) == held_out_count


def test_all_pairs_of_a_prompt_are_on_one_side_in_their_order() -> None:
    pairs = [pair(f"prompt {number % 20}", f"answer {number}") for number in range(60)]
    train, out = split_pairs(pairs, 0.25, 17)
    assert len(train) == 45 and len(out) == 15
    assert not {content_id(one.history) for one in train} & {content_id(one.history) for one in out}
    assert sorted(train + out, key=pairs.index) == pairs
    assert [pairs.index(one) for one in train] == sorted(pairs.index(one) for one in train)


def test_every_source_holds_out_its_share() -> None:
    sizes = {"answers": 10, "chat": 400, "math": 90, "tiny": 1}
    pairs = [pair(f"{source} {n}", source=source) for source, size in sizes.items() for n in range(size)]
    for seed in range(5):
        _, out = split_pairs(pairs, 0.2, seed)
        counts = Counter(one.source for one in out)
        assert counts.total() == 100
        assert all(abs(counts[source] - 0.2 * size) <= 1 for source, size in sizes.items()), counts
    many = [pair(f"{n}", source=f"source {n}") for n in range(50)]
    assert len(split_pairs(many, 0.2, 17)[1]) == 10, "sources of one prompt have their share together"


def test_one_prompt_cannot_be_split() -> None:
    pairs = [pair("p", "a"), pair("p", "b")]
    with pytest.raises(ConfigError, match=r"scalar\.validation: .*too few to hold one out"):
        split_pairs(pairs, 0.25, 17)
    assert split_pairs(pairs, 0, 17) == (pairs, [])


def rows(contexts: int, replies: int) -> list[Conversation]:
    return [Conversation.make(f"c{n}", "m", f"r{k}") for k in range(replies) for n in range(contexts)]


@given(
    contexts=st.integers(5, 40),  # of four, the shares below may hold out all
    validation=st.floats(0, 0.4),
    test=st.floats(0.01, 0.4),
    seed=st.integers(0, 9),
)
def test_all_replies_to_a_message_are_in_one_part(
    contexts: int, validation: float, test: float, seed: int
) -> None:
    every = rows(contexts, 3)
    split = split_conversations(every, validation, test, seed)
    assert sorted(row.id for part in split for row in part) == sorted(row.id for row in every)
    keys = [{conversation_key(row) for row in part} for part in split]
    assert not (keys[0] & keys[1] or keys[0] & keys[2] or keys[1] & keys[2])
    assert len(keys[2]) == max(1, round(test * contexts)) and keys[0]
    assert len(keys[1]) == (max(1, round(validation * contexts)) if validation else 0)
    turned = split_conversations(every[::-1], validation, test, seed)
    assert [part[::-1] for part in turned] == list(split)


def test_other_replies_do_not_move_a_conversation() -> None:
    one, more = split_conversations(rows(20, 1), 0.2, 0.2, 3), split_conversations(rows(20, 4), 0.2, 0.2, 3)
    for part, larger in zip(one, more, strict=True):
        assert {row.context for row in part} == {row.context for row in larger}
    assert {row.context for row in split_conversations(rows(20, 1), 0.2, 0.2, 4).test} != {
        row.context for row in one.test
    }


def test_the_message_and_the_context_name_a_conversation() -> None:
    texts = [("a", "b"), ("ab", ""), ("", "ab"), ("a", "b ")]
    assert len({conversation_key(Conversation.make(*pair, "r")) for pair in texts}) == 4


def test_conversations_that_differ_in_white_space_are_in_one_part() -> None:
    spaced = [
        Conversation.make(context, f"q {number}", "a")
        for number in range(40)
        for context in (f"a text {number}", f"a  text {number}\n", f" a\ttext {number}")
    ]
    parts = [{row.message for row in part} for part in split_conversations(spaced, 0.2, 0.3, 3)]
    assert list(map(len, parts)) == [20, 8, 12] and len(set().union(*parts)) == 40


def test_too_few_conversations_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 conversation\(s\): too few to hold out 2"):
        split_conversations(rows(2, 5), 0.1, 0.1, 0)
    assert [len(part) for part in split_conversations(rows(2, 5), 0, 0.1, 0)] == [5, 0, 5]
