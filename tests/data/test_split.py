"""The split into pairs to train on and held-out pairs."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.data.split import split_pairs
from reasongenrm.errors import ConfigError
from reasongenrm.records import Message, PreferencePair, content_id

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
