"""Ids depend only on content; records survive a round trip through JSON."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm import records
from reasongenrm.records import Completion, Message, PreferencePair, content_id, unit_hash
from reasongenrm.store import completion_from_json, completion_to_json, dump_texts, to_json

pytestmark = pytest.mark.unit

ANY_TEXT = st.text(st.characters())  # lone surrogates included
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=10,
)
USER: Message = {"role": "user", "content": "Hi"}


def test_ids_never_change() -> None:
    # Written into every run folder: a change of these orphans all of them.
    assert content_id("a", 1) == hashlib.sha256(b'["a",1]').hexdigest()[:16] == "135f17a475a61afd"
    hashed = b'[[{"content":"Hi","role":"user"}],"yes","no"]'
    assert PreferencePair.make([USER], "yes", "no", "s").id == hashlib.sha256(hashed).hexdigest()[:16]


def test_the_row_of_a_pair_is_as_before_without_reference_points() -> None:
    """Run folders of before have rows without the key."""
    pair = PreferencePair.make([USER], "yes", "no", "s", distance=2.0)
    row = {
        name: getattr(pair, name) for name in ("id", "history", "chosen", "rejected", "source", "distance")
    }
    assert pair.to_row() == row and list(pair.to_row()) == list(row)
    with_points = dataclasses.replace(pair, reference_points=("polite",))
    assert with_points.to_row() == row | {"reference_points": ("polite",)}
    for one in (pair, with_points):
        assert msgspec.convert(json.loads(dump_texts(one.to_row())), PreferencePair) == one


def test_ids_depend_on_the_boundaries_of_parts() -> None:
    same_letters = [("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"), ("abc", ""), ("", "abc"), (["abc"],)]
    assert len({content_id(*parts) for parts in same_letters}) == len(same_letters)


def test_ids_ignore_the_order_of_keys() -> None:
    assert content_id({"role": "user", "content": "x"}) == content_id({"content": "x", "role": "user"})


def test_lone_surrogates_have_distinct_ids() -> None:
    texts = ["\ud800", "\udfff", "?", "\ufffd", "\\ud800"]
    assert len({content_id(text) for text in texts}) == len(texts)


@given(JSON)
def test_an_id_survives_a_trip_through_a_file(value: Any) -> None:
    assert content_id(json.loads(json.dumps(value))) == content_id(value)
    assert len(content_id(value)) == 16 and int(content_id(value), 16) >= 0


@given(JSON)
def test_unit_hash_lies_in_its_range(value: Any) -> None:
    assert 0 <= unit_hash(value) < 1


@pytest.mark.parametrize("digits", ["0" * 16, "f" * 16, "f" * 15 + "0", "7" + "f" * 15])
def test_unit_hash_lies_in_its_range_at_the_ends(digits: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "content_id", lambda *parts: digits)
    assert 0 <= unit_hash("x") < 1
    assert unit_hash("x") == pytest.approx(int(digits, 16) / 16**16)


def test_unit_hash_fills_its_range_evenly() -> None:
    tenths = [0] * 10
    for number in range(20_000):
        tenths[int(unit_hash("x", number) * 10)] += 1
    deviation = 5 * (20_000 * 0.1 * 0.9) ** 0.5
    assert all(abs(count - 2000) < deviation for count in tenths), tenths


def test_the_id_of_a_pair_ignores_its_source() -> None:
    pair = PreferencePair.make([USER], "yes", "no", "here")
    assert pair.id == PreferencePair.make((dict(USER),), "yes", "no", "there").id  # type: ignore[arg-type]
    others = [
        PreferencePair.make([USER], "no", "yes", "here"),
        PreferencePair.make([USER], "yes", "no ", "here"),
        PreferencePair.make([{"role": "user", "content": "hi"}], "yes", "no", "here"),
        PreferencePair.make([{"role": "system", "content": "Hi"}], "yes", "no", "here"),
        PreferencePair.make([USER, USER], "yes", "no", "here"),
    ]
    assert len({pair.id, *(other.id for other in others)}) == 6


def test_records_are_frozen() -> None:
    pair = PreferencePair.make([USER], "yes", "no", "s")
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.chosen = "other"  # type: ignore[misc]


@given(chosen=ANY_TEXT, rejected=ANY_TEXT, content=ANY_TEXT)
def test_a_pair_survives_a_trip_through_json(chosen: str, rejected: str, content: str) -> None:
    pair = PreferencePair.make([{"role": "user", "content": content}], chosen, rejected, "s")
    row = json.loads(json.dumps(to_json(pair)))
    back = PreferencePair(**(row | {"history": tuple(row["history"])}))
    assert json.loads(json.dumps(to_json(back))) == row
    assert PreferencePair.make(back.history, back.chosen, back.rejected, "s").id == back.id == pair.id


@given(
    ids=st.lists(st.integers(0, 200_000), max_size=5),
    logprobs=st.dictionaries(
        st.integers(0, 5), st.dictionaries(st.integers(0, 9), st.floats(-99, 0), max_size=2), max_size=3
    ),
    text=st.text(),
    error=st.none() | st.text(),
)
def test_a_completion_survives_a_trip_through_json(
    ids: list[int], logprobs: dict[int, dict[int, float]], text: str, error: str | None
) -> None:
    completion = Completion("x", text, "stop", tuple(ids), logprobs, error)
    assert completion_from_json(json.loads(json.dumps(completion_to_json(completion)))) == completion
