"""Sources: one row -> a pair or a Drop, with a case for every slug; the order and the share of several sources."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasongenrm.config.prepare import SourceConfig
from reasongenrm.data.sources import load_sources, source_rows
from reasongenrm.demo.build import skywork_row
from reasongenrm.demo.world import toy_pairs
from reasongenrm.errors import DataError
from reasongenrm.records import Drop, PreferencePair
from reasongenrm.store import write_jsonl
from support.pairs import load_pairs

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
    (row(reference_points="one text"), "bad_type", "s"),
    (row(reference_points=["a point", 3]), "bad_type", "s"),
    (row(reference_points=["\ud83d"]), "bad_encoding", "s"),
    (row(reference_points=["a point", " …"]), "empty_point", "s"),
]


def test_reference_points_are_read_and_do_not_change_the_id(tmp_path: Path) -> None:
    points = ["it is polite", "“Good” is `right`"]
    plain, empty, pair = (
        load_one(tmp_path, value) for value in (row(), row(reference_points=[]), row(reference_points=points))
    )
    assert isinstance(plain, PreferencePair) and isinstance(pair, PreferencePair)
    assert plain == empty and plain.reference_points == ()
    assert pair == replace(plain, reference_points=tuple(points))


def test_reference_points_of_a_parquet_file(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row(reference_points=["short", "polite"]), row(reference_points=None)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    pairs = [pair for pair in load_pairs(str(tmp_path / "pairs.parquet")) if isinstance(pair, PreferencePair)]
    assert [pair.reference_points for pair in pairs] == [("short", "polite"), ()]


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
        "empty_point",
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
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


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
    history = draw(st.lists(texts, min_size=1, max_size=5).filter(lambda turns: len(turns) % 2))
    system = draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=5))
    return {
        "chosen": turns(*history, chosen, system=system),
        "rejected": turns(*history, rejected, system=system),
    }


@quick
@given(st.lists(good_rows(), max_size=5), st.booleans(), st.randoms(use_true_random=False))
def test_good_rows_are_pairs_with_ids_that_do_not_depend_on_order(
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


@pytest.fixture
def sources(tmp_path: Path) -> list[SourceConfig]:
    """Three sources: `long` has 200 pairs, `short` 20, and ranked.csv 6."""
    pairs = [list(toy_pairs("train", 50, seed)) for seed in (1, 2)]
    for name, rows in (("long", pairs[0]), ("short", pairs[1][:20])):
        write_jsonl(tmp_path / f"{name}.jsonl", (skywork_row(pair) | {"source": name} for pair in rows))
    answers = "".join(f"question,answer {rank},{rank}\n" for rank in (1, 2, 3, 4))
    (tmp_path / "ranked.csv").write_text(f"prompt,answer,rank\n{answers}", encoding="utf-8")
    return [
        SourceConfig(path=str(tmp_path / "long.jsonl")),
        SourceConfig(path=str(tmp_path / "short.jsonl")),
        SourceConfig(path=str(tmp_path / "ranked.csv"), kind="ranked"),
    ]


def names(sources: list[SourceConfig], limit: int | None = None) -> list[str]:
    return [row.source for row in load_sources(sources, limit)]


def ids(source: SourceConfig, limit: int | None = None) -> list[str]:
    return [row.id for row in load_sources([source], limit) if isinstance(row, PreferencePair)]


def weighted(source: SourceConfig, weight: float) -> SourceConfig:
    return source.model_copy(update={"weight": weight})


def test_without_a_limit_sources_come_one_after_the_other(sources: list[SourceConfig]) -> None:
    assert names(sources) == ["long"] * 200 + ["short"] * 20 + ["ranked"] * 6


def test_limit_takes_the_same_share_of_every_source(sources: list[SourceConfig]) -> None:
    assert names(sources, 9) == ["long", "short", "ranked"] * 3
    assert Counter(names(sources, 12)) == {"long": 4, "short": 4, "ranked": 4}


def test_limit_of_one_source_takes_its_first_rows(sources: list[SourceConfig]) -> None:
    assert ids(sources[0], 7) == ids(sources[0])[:7]


def test_rest_of_a_source_that_ends_early_comes_from_the_others(sources: list[SourceConfig]) -> None:
    assert Counter(names(sources, 100)) == {"long": 74, "short": 20, "ranked": 6}
    assert Counter(names(sources, 500)) == {"long": 200, "short": 20, "ranked": 6}


def test_rows_of_one_source_stay_in_its_order(sources: list[SourceConfig]) -> None:
    rows = [
        row.id
        for row in load_sources(sources, 30)
        if isinstance(row, PreferencePair) and row.source == "long"
    ]
    assert rows == ids(sources[0])[: len(rows)]


def test_limit_divides_the_rows_by_weight(sources: list[SourceConfig]) -> None:
    long, short, _ = sources
    assert Counter(names([long, weighted(short, 0.5)], 18)) == {"long": 12, "short": 6}
    assert Counter(names([weighted(long, 0.1), short], 11)) == {"long": 1, "short": 10}


def test_weight_keeps_a_share_of_the_rows(sources: list[SourceConfig]) -> None:
    half, most = ids(weighted(sources[0], 0.5)), ids(weighted(sources[0], 0.8))
    assert 80 <= len(half) <= 120 and 145 <= len(most) <= 175
    assert set(half) < set(most)
    assert half == [one for one in ids(sources[0]) if one in set(half)]  # in the order of the file
    assert half == ids(weighted(sources[0], 0.5))


def test_weight_depends_on_the_content_and_not_on_the_position(
    tmp_path: Path, sources: list[SourceConfig]
) -> None:
    file = Path(sources[0].path)
    lines = file.read_text(encoding="utf-8").splitlines()
    reverse = tmp_path / "reverse.jsonl"
    reverse.write_text("\r\n".join(lines[::-1]), encoding="utf-8")
    source = SourceConfig(path=str(reverse), weight=0.5)
    assert ids(source) == ids(weighted(sources[0], 0.5))[::-1]


def test_weight_of_parquet_and_ranked_sources(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [skywork_row(pair) for pair in toy_pairs("train", 50, 1)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    answers = "".join(f"question {number // 2},answer {number},{number + 1}\n" for number in range(400))
    (tmp_path / "ranked.csv").write_text(f"prompt,answer,rank\n{answers}", encoding="utf-8")
    for source in (
        SourceConfig(path=str(tmp_path / "pairs.parquet"), weight=0.5),
        SourceConfig(path=str(tmp_path / "ranked.csv"), kind="ranked", weight=0.5),
    ):
        half = ids(source)
        assert 80 <= len(half) <= 120 and half == ids(source)
        assert set(half) < set(ids(weighted(source, 1.0)))


def test_rows_that_cannot_be_read_are_always_reported(tmp_path: Path) -> None:
    (tmp_path / "ranked.csv").write_text("prompt,answer,rank\nq,a,x\nq,b,y\nq,c,z\n", encoding="utf-8")
    source = SourceConfig(path=str(tmp_path / "ranked.csv"), kind="ranked", weight=0.01)
    assert [type(row) for row in load_sources([source])] == [Drop] * 3


def test_unreadable_source_is_named_before_the_first_row(tmp_path: Path, sources: list[SourceConfig]) -> None:
    with pytest.raises(DataError, match="missing"):
        source_rows([*sources, SourceConfig(path=str(tmp_path / "missing.csv"), kind="ranked")])


@pytest.mark.parametrize("kind", ["skywork", "ranked"])
@pytest.mark.parametrize("path", ["~no-such-user/x", "x" * 300], ids=["unknown user", "overlong name"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_path_that_cannot_be_opened_is_an_error_with_location_and_hint(
    path: str, suffix: str, kind: Any
) -> None:
    with pytest.raises(DataError) as caught:
        source_rows([SourceConfig(path=path + suffix, kind=kind)])
    assert caught.value.location == path + suffix and caught.value.hint


def test_limit_reads_no_more_rows_than_it_needs(tmp_path: Path) -> None:
    endless = tmp_path / "endless.jsonl"
    endless.write_text("{}\n" * 10_000, encoding="utf-8")
    rows = source_rows([SourceConfig(path=str(endless))], 3)
    assert len(list(islice(rows, 10))) == 3


@pytest.mark.parametrize("weight", [0, -1, 1.5, float("nan")])
def test_invalid_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="weight"):
        SourceConfig(path="x.jsonl", weight=weight)
