"""Filters of pairs: unwanted sources, duplicates, contradictions and near-duplicates."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.config.prepare import NearDuplicateConfig
from reasongenrm.data.clean import BATCH, BUCKET, NearDuplicates, bands_for, clean, filter_pairs
from reasongenrm.data.ngrams import words
from reasongenrm.records import Drop, Message, PreferencePair
from support.pairs import load_pairs

pytestmark = pytest.mark.unit

CONFIG = NearDuplicateConfig()


def pair(
    prompt: str = "p", chosen: str = "good", rejected: str = "bad", source: str = "s", *, system: str = ""
) -> PreferencePair:
    history = [Message(role="system", content=system)] if system else []
    return PreferencePair.make([*history, Message(role="user", content=prompt)], chosen, rejected, source)


def text(rng: random.Random, count: int) -> str:
    return " ".join(f"w{rng.randrange(10_000)}" for _ in range(count))


def filtered(*pairs: PreferencePair, config: NearDuplicateConfig = CONFIG) -> tuple[list[int], list[Drop]]:
    """Return which of the pairs are kept, and the drops."""
    drops: list[Drop] = []
    out = list(filter_pairs(pairs, NearDuplicates(config).problems, drops.append))
    assert len(out) + len(drops) == len(pairs)
    places: list[int] = []
    for one in out:  # in the order of the pairs
        places.append(
            next(at for at in range(places[-1] + 1 if places else 0, len(pairs)) if pairs[at] is one)
        )
    return places, drops


def test_clean_drops_leaking_sources_duplicates_and_contradictions() -> None:
    unreadable = Drop("f.jsonl:3", "s", "empty_answer", "The answer is empty.", "load")
    first, leaking = pair(), pair("q", source="magpie_ultra")
    swap = pair(chosen="bad", rejected="good", source="t")
    other = pair("r")
    drops: list[Drop] = []
    rows: list[PreferencePair | Drop] = [
        first,
        unreadable,
        leaking,
        pair(source="t"),
        swap,
        other,
        swap,
        first,
    ]
    kept = list(clean(rows, drop_sources=["magpie_ultra", "unheard_of"], on_drop=drops.append))
    assert kept == [first, other]
    assert [(drop.location, drop.source, drop.reason, drop.stage) for drop in drops] == [
        ("f.jsonl:3", "s", "empty_answer", "load"),
        (leaking.id, "magpie_ultra", "unwanted_source", "clean"),
        (first.id, "t", "duplicate", "clean"),
        (swap.id, "t", "contradicts_earlier_row", "clean"),
        (swap.id, "t", "contradicts_earlier_row", "clean"),
        (first.id, "s", "duplicate", "clean"),
    ]
    assert all(drop.detail.endswith(".") for drop in drops)


def test_a_row_of_a_leaking_source_does_not_shadow_a_clean_one() -> None:
    rows = [pair(source="magpie_ultra"), pair(source="s")]
    drops: list[Drop] = []
    assert list(clean(rows, drop_sources=["magpie_ultra"], on_drop=drops.append)) == rows[1:]


def test_clean_keeps_all_sources_when_none_is_named() -> None:
    rows = [pair(source="magpie_ultra")]
    drops: list[Drop] = []
    assert list(clean(rows, drop_sources=(), on_drop=drops.append)) == rows
    assert drops == []


def test_pairs_at_the_threshold_share_a_band_and_few_pairs_below_do() -> None:
    for threshold in (0.3, 0.5, 0.7, 0.8, 0.9, 1.0):
        bands, rows = bands_for(threshold, 128)
        assert bands * rows <= 128
        assert 1 - (1 - threshold**rows) ** bands >= 0.98
    bands, rows = bands_for(0.8, 128)
    assert 1 - (1 - 0.3**rows) ** bands < 0.01


def test_a_near_copy_is_found_and_the_first_is_kept() -> None:
    rng = random.Random(1)
    prompt, good, bad = text(rng, 40), text(rng, 120), text(rng, 120)
    first = pair(prompt, good, bad)
    edited = good.split()
    edited[60] = "other"
    copy = pair(prompt.upper() + " ?!", " ".join(edited), bad + ".")
    swap = pair(prompt, bad, " ".join(edited))
    strange = pair(prompt, text(rng, 120), text(rng, 120))
    at, drops = filtered(first, copy, swap, strange)
    assert at == [0, 3]
    assert [(d.location, d.reason, d.stage, d.source) for d in drops] == [
        (copy.id, "near_duplicate", "clean", "s"),
        (swap.id, "near_duplicate", "clean", "s"),
    ]
    assert first.id in drops[0].detail and "prefers the other answer" not in drops[0].detail
    assert first.id in drops[1].detail and "prefers the other answer" in drops[1].detail


some_text = st.one_of(
    st.text(max_size=60), st.lists(st.sampled_from("a b c 你 好 . ! é".split()), max_size=30).map(" ".join)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(some_text, some_text, some_text), min_size=1, max_size=8), st.data())
def test_copies_are_always_found_and_the_order_of_the_answers_does_not_matter(
    rows: list[tuple[str, str, str]], data: st.DataObject
) -> None:
    pairs = [pair(*row) for row in rows]
    prompt, chosen, rejected = rows[data.draw(st.integers(0, len(rows) - 1))]
    for copy in (pair(prompt, chosen, rejected), pair(prompt, rejected, chosen)):
        at, drops = filtered(*pairs, copy, config=NearDuplicateConfig(threshold=1.0))
        assert len(pairs) not in at
        assert drops[-1].location == copy.id and "about 1.00" in drops[-1].detail
    swap = [pair(p, r, c) for p, c, r in rows]
    assert filtered(*pairs)[0] == filtered(*swap)[0]


def test_estimate_is_close_to_the_true_similarity() -> None:
    words_ = [f"w{at}" for at in range(400)]
    first = pair("p", " ".join(words_), "r")
    for cut in (40, 120):
        copy = pair("p", " ".join(words_[cut:] + [f"x{at}" for at in range(cut)]), "r")
        shingles = [
            set(zip(*(row[at:] for at in range(5)), strict=False)) for row in (words_, copy.chosen.split())
        ]
        # and two shingles that both have: the prompt, and the rejected answer
        exact = (len(shingles[0] & shingles[1]) + 2) / (len(shingles[0] | shingles[1]) + 2)
        _, drops = filtered(first, copy, config=NearDuplicateConfig(threshold=0.4, permutations=1024))
        estimate = float(drops[0].detail.split("about ")[1][:4])
        assert abs(estimate - exact) < 0.06


def test_different_answers_under_one_long_prompt_are_no_near_duplicates() -> None:
    prompt = text(random.Random(3), 800)
    rows = [pair(prompt, f"answer {at}", f"reply {at}") for at in range(6)]
    assert filtered(*rows)[0] == list(range(6))


def test_short_texts_differ_by_punctuation() -> None:
    rows = [pair("2+2", "4", "5"), pair("2*2", "4", "5 "), pair("2-2", "4", "5"), pair("2+2 ", "4", "5")]
    assert filtered(*rows)[0] == [0, 1, 2]
    assert filtered(pair("x", "{}", "[]"), pair("x", "()", "<>"))[0] == [0, 1]


def test_chinese_copies_are_found_and_other_texts_are_not() -> None:
    rng = random.Random(4)
    characters = [chr(rng.randrange(0x4E00, 0x9FA5)) for _ in range(300)]
    first = pair("请解释一下", "".join(characters), "我不知道。")
    changed = characters[:]
    changed[150] = "的"
    copy = pair(
        "请解释一下", "，".join("".join(changed[at : at + 30]) for at in range(0, 300, 30)), "我不知道！"
    )
    other = pair("请解释一下", "".join(reversed(characters)), "我不知道。")
    assert filtered(first, copy, other)[0] == [0, 2]


def test_system_turns_are_ignored() -> None:
    system = text(random.Random(5), 600)
    rows = [pair(f"prompt {at}", f"chosen {at}", f"rejected {at}", system=system) for at in range(3)]
    assert filtered(*rows)[0] == [0, 1, 2]


def test_batch_size_does_not_change_the_result() -> None:
    rng = random.Random(6)
    fresh = [pair(text(rng, 8), text(rng, 20), text(rng, 20)) for _ in range(BATCH + 20)]
    rows = [*fresh, *fresh]
    at, drops = filtered(*rows)
    assert at == list(range(len(fresh)))
    index = NearDuplicates(CONFIG)
    problems = [next(index.problems([row])) for row in rows]
    assert [problem for problem in problems if problem] == [(drop.reason, drop.detail) for drop in drops]


def test_buckets_of_a_common_template_have_a_size_limit() -> None:
    rng = random.Random(7)
    template = text(rng, 60)
    rows = [pair(template, text(rng, 10), text(rng, 10)) for _ in range(4 * BUCKET)]
    index = NearDuplicates(CONFIG)
    assert all(problem is None for problem in index.problems(rows))
    full = [bucket for bucket in index._buckets.values() if isinstance(bucket, list)]
    assert full and max(map(len, full)) == BUCKET
    assert all(index.problems(rows)), "a copy is found in spite of full buckets"


def test_real_rows(shared: Path) -> None:
    rows = [
        row
        for row in load_pairs(str(shared / "preferences" / "real_pairs_skywork_schema.jsonl"))
        if isinstance(row, PreferencePair)
    ]
    _, drops = filtered(*rows)
    repeated = len(rows) - len({row.id for row in rows})
    assert (len(rows), len(drops), repeated) == (500, 10, 10)
    near = [
        PreferencePair.make(row.history, row.rejected + " Thanks.", row.chosen, row.source)
        for row in rows
        if len(words(row.chosen + row.rejected)) > 60 and len(words(row.rejected)) > 10
    ]
    assert len(near) > 300
    at, _ = filtered(*rows, *near)
    assert sum(place >= len(rows) for place in at) < 0.01 * len(near)
