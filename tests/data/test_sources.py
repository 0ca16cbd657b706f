"""One JSONL line -> a pair or a Drop: a golden case for every slug, and properties over any line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasongenrm.data.sources import load_pairs
from reasongenrm.records import Drop, PreferencePair

pytestmark = pytest.mark.unit


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    """Return user, assistant, user, … turns of the texts, after an optional system turn."""
    roles = ("user", "assistant") * len(texts)
    first = [] if system is None else [{"role": "system", "content": system}]
    return first + [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def row(**changes: Any) -> dict[str, Any]:
    return {"chosen": turns("Hi", "Good"), "rejected": turns("Hi", "Bad"), "source": "s"} | changes


def load_bytes(folder: Path, data: bytes) -> list[PreferencePair | Drop]:
    file = folder / "pairs.jsonl"
    file.write_bytes(data)
    return list(load_pairs(str(file)))


def load_one(folder: Path, value: Any) -> PreferencePair | Drop:
    (item,) = load_bytes(folder, json.dumps(value).encode())
    return item


USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Good"}

BAD_LINES: list[tuple[bytes, str, str]] = [
    (b'{"chosen": [', "broken_json", "?"),
    (b"[1, 2]", "broken_json", "?"),
    (b"null", "broken_json", "?"),
    (b'"text"', "broken_json", "?"),
    (b'{"chosen": ' + b"9" * 5000 + b"}", "broken_json", "?"),
    (b"[" * 100_000, "broken_json", "?"),
    (b'{"chosen": "\xff\xfe"}', "bad_encoding", "?"),
    (json.dumps(row()).encode("utf-16-le").replace(b"\n", b""), "broken_json", "?"),
]

BAD_ROWS: list[tuple[Any, str, str]] = [
    ({"rejected": turns("Hi", "Bad"), "source": "s"}, "missing_column", "s"),
    ({"chosen": turns("Hi", "Bad")}, "missing_column", "pairs"),
    ({}, "missing_column", "pairs"),
    (row(chosen=None), "bad_type", "s"),
    (row(chosen="Good"), "bad_type", "s"),
    (row(chosen={"role": ["user"], "content": ["Hi"]}), "bad_type", "s"),
    (row(rejected=["Hi", "Bad"]), "bad_type", "s"),
    (row(rejected=[USER, {"role": "assistant", "content": None}]), "bad_type", "s"),
    (row(rejected=[USER, {"role": "assistant"}]), "bad_type", "s"),
    (row(rejected=[USER, {"role": 1, "content": "x"}]), "bad_type", "s"),
    (row(source=3), "bad_type", "?"),
    (row(source=["a"]), "bad_type", "?"),
    (row(chosen=[]), "no_messages", "s"),
    (row(chosen=[{"role": "human", "content": "Hi"}, ASSISTANT]), "bad_role", "s"),
    (row(chosen=[USER, {"role": "reason", "content": "Hi"}]), "bad_role", "s"),
    (row(chosen=[ASSISTANT]), "roles_not_alternating", "s"),
    (row(chosen=turns("Hi", "Good")[::1] + turns("x", "y")[1:]), "roles_not_alternating", "s"),
    (row(chosen=[USER, USER, ASSISTANT]), "roles_not_alternating", "s"),
    (row(chosen=[USER, *turns("Hi", "Good", system="S")]), "roles_not_alternating", "s"),
    (row(chosen=[*turns(system="S"), *turns("Hi", "Good", system="S")]), "roles_not_alternating", "s"),
    (row(chosen=[*turns(system="S"), ASSISTANT]), "roles_not_alternating", "s"),
    (row(chosen=[USER]), "no_final_answer", "s"),
    (row(chosen=turns("Hi", "Good", "More")), "no_final_answer", "s"),
    (row(chosen=turns(system="S")), "no_final_answer", "s"),
    (row(chosen=turns("Hello", "Good")), "history_mismatch", "s"),
    (row(chosen=turns("Hi", "Good", "More", "Good")), "history_mismatch", "s"),
    (row(chosen=turns("Hi", "Good", system="S")), "history_mismatch", "s"),
    (row(chosen=turns("Hi", " \n\t")), "empty_answer", "s"),
    (row(rejected=turns("Hi", "")), "empty_answer", "s"),
    (row(chosen=turns(" ", "Good")), "empty_prompt", "s"),
    (row(rejected=turns("Hi", "Yes", "\u3000", "Bad")), "empty_prompt", "s"),
    (row(rejected=turns("Hi", " Good\n")), "equal_answers", "s"),
    (row(chosen=turns("Hi", "\ud83d")), "bad_encoding", "s"),
    (row(source="\udc00"), "bad_encoding", "?"),
]


@pytest.mark.parametrize(("line", "reason", "source"), BAD_LINES, ids=[f"{n}" for n in range(len(BAD_LINES))])
def test_bad_line_is_a_drop(tmp_path: Path, line: bytes, reason: str, source: str) -> None:
    good = json.dumps(row()).encode()
    before, drop, after = load_bytes(tmp_path, good + b"\n" + line + b"\n" + good)
    assert isinstance(before, PreferencePair) and before == after
    assert isinstance(drop, Drop)
    assert (drop.reason, drop.source, drop.stage) == (reason, source, "load")
    assert drop.location == f"{tmp_path / 'pairs.jsonl'}:2"
    assert drop.detail.endswith(".") and "\n" not in drop.detail


@pytest.mark.parametrize(("value", "reason", "source"), BAD_ROWS)
def test_bad_row_is_a_drop(tmp_path: Path, value: Any, reason: str, source: str) -> None:
    drop = load_one(tmp_path, value)
    assert isinstance(drop, Drop)
    assert (drop.reason, drop.source, drop.stage) == (reason, source, "load")
    assert drop.location == f"{tmp_path / 'pairs.jsonl'}:1"
    assert drop.detail.endswith(".") and "\n" not in drop.detail


def test_every_slug_has_a_golden_case() -> None:
    assert {reason for _, reason, _ in [*BAD_LINES, *BAD_ROWS]} == {
        "bad_encoding",
        "bad_role",
        "bad_type",
        "broken_json",
        "empty_answer",
        "empty_prompt",
        "equal_answers",
        "history_mismatch",
        "missing_column",
        "no_final_answer",
        "no_messages",
        "roles_not_alternating",
    }


def test_single_and_multi_turn_and_system(tmp_path: Path) -> None:
    single = load_one(tmp_path, row())
    assert single == PreferencePair.make(turns("Hi"), "Good", "Bad", "s")  # type: ignore[arg-type]
    history = ("a", "b", "c")
    both = {
        "chosen": turns(*history, " Good\n", system=""),
        "rejected": turns(*history, "Bad", system=""),
    }
    multi = load_one(tmp_path, both)
    assert isinstance(multi, PreferencePair)
    assert multi.source == "pairs"
    assert [turn["role"] for turn in multi.history] == ["system", "user", "assistant", "user"]
    assert multi.chosen == " Good\n", "texts are kept as they are"


def test_other_columns_and_message_keys_do_not_change_the_id(tmp_path: Path) -> None:
    plain = load_one(tmp_path, row())
    extended = row(score=1.5, chosen=[{"name": "x", **USER}, {"content": "Good", "role": "assistant"}])
    assert load_one(tmp_path, extended) == plain


@pytest.mark.parametrize("source", [None, "", "  "])
def test_source_defaults_to_the_file_stem(tmp_path: Path, source: str | None) -> None:
    assert load_one(tmp_path, row(source=source)).source == "pairs"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
messages = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "user", "assistant", "tool"]) | json_values,
        "content": st.sampled_from(["", " ", "a", "b"]) | json_values,
    }
)
sides = st.lists(messages, max_size=5) | json_values
almost_rows = st.fixed_dictionaries({}, optional={"chosen": sides, "rejected": sides, "source": json_values})
lines = st.one_of(
    (almost_rows | json_values).map(lambda value: json.dumps(value).encode()),
    st.binary(max_size=40).map(lambda raw: raw.replace(b"\n", b"")),
)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(st.lists(lines, max_size=6), st.sampled_from([b"\n", b"\r\n"]))
def test_any_line_is_a_pair_or_a_drop(tmp_path: Path, drawn: list[bytes], end: bytes) -> None:
    rows = [line for line in drawn if line.strip()]
    items = load_bytes(tmp_path, end.join(drawn))
    bom_row = bool(drawn) and drawn[0].startswith(b"\xef\xbb\xbf") and not drawn[0][3:].strip()
    assert len(items) == len(rows) - bom_row
    assert all(isinstance(item, (PreferencePair, Drop)) for item in items)


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20).filter(str.strip)


@st.composite
def good_rows(draw: st.DrawFn) -> dict[str, Any]:
    chosen, rejected = draw(st.tuples(texts, texts).filter(lambda two: two[0].strip() != two[1].strip()))
    history = draw(st.lists(texts, min_size=1, max_size=5).filter(lambda said: len(said) % 2))
    system = draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=5))
    return {
        "chosen": turns(*history, chosen, system=system),
        "rejected": turns(*history, rejected, system=system),
    }


@quick
@given(st.lists(good_rows(), max_size=5), st.booleans(), st.randoms(use_true_random=False))
def test_good_rows_are_pairs_with_ids_that_do_not_hang_on_order(
    tmp_path: Path, drawn: list[dict[str, Any]], ascii_only: bool, random: Any
) -> None:
    def ids(rows: list[dict[str, Any]]) -> list[str]:
        data = "".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in rows).encode()
        items = load_bytes(tmp_path, data)
        assert all(isinstance(item, PreferencePair) for item in items), items
        for item, row in zip(items, rows, strict=True):
            assert isinstance(item, PreferencePair)
            assert [*item.history, {"role": "assistant", "content": item.chosen}] == row["chosen"]
            assert [*item.history, {"role": "assistant", "content": item.rejected}] == row["rejected"]
        return [item.id for item in items if isinstance(item, PreferencePair)]

    shuffled = random.sample(drawn, len(drawn))
    assert sorted(ids(drawn)) == sorted(ids(shuffled))
