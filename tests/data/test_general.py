"""General data: every form of a row, and a mix that depends only on weights, seed and contents."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasongenrm.config.prepare import GeneralConfig
from reasongenrm.data.general import load_general, mix
from reasongenrm.demo.build import toy_general
from reasongenrm.demo.corpus import chats
from reasongenrm.demo.world import FAMILIES, SPLIT_ENDS, toy_pairs
from reasongenrm.errors import DataError
from reasongenrm.records import Drop, SFTRecord, content_id, unit_hash

pytestmark = pytest.mark.unit

USER = {"role": "user", "content": "q"}
ANSWER = {"role": "assistant", "content": "a"}


def write(file: Path, rows: list[Any]) -> str:
    file.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8"
    )
    return str(file)


def load(folder: Path, *rows: Any) -> list[SFTRecord | Drop]:
    return list(load_general(GeneralConfig(path=write(folder / "chat.jsonl", list(rows)), weight=1)))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "q", "response": "a"}, ""),
        ({"prompt": "q", "reason": " r\n", "response": " a "}, "r"),
        ({"prompt": "q", "reason": None, "response": "a"}, ""),
        ({"prompt": [USER], "response": "a"}, ""),
        ({"prompt": "q", "response": "<think>\nr\n</think>\n\na"}, "r"),
        ({"prompt": "q", "response": "<think>\n\n</think>\n\na"}, ""),
        ({"prompt": "q", "reason": "", "response": "<think>r</think>a"}, "r"),
        ({"messages": [USER, ANSWER]}, ""),
        ({"messages": [USER, {"role": "reason", "content": "r"}, ANSWER]}, "r"),
        ({"messages": [USER, {"role": "think", "content": "r"}, ANSWER]}, "r"),
        ({"messages": [USER, {"role": "assistant", "content": " <think>r</think> a"}]}, "r"),
        ({"messages": [USER, ANSWER | {"reasoning_content": "r"}]}, "r"),
        ({"messages": [USER, ANSWER | {"reasoning_content": None}], "prompt": "other", "response": "x"}, ""),
    ],
)
def test_every_form_of_a_row(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    (record,) = load(tmp_path, row)
    name = content_id("general", (USER,), reason, "a")
    assert record == SFTRecord((USER,), reason, "a", name, "chat")  # type: ignore[arg-type]


def test_prompts_have_no_reasons_of_earlier_answers(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q1"},
        {"role": "think", "content": "t1"},
        {"role": "assistant", "content": "<think>t2</think>\n\na1"},
        {"role": "user", "content": "<think>a user may say so</think>"},
        {"role": "assistant", "content": "a2 <think>in the midst it is text</think>"},
    ]
    (record,) = load(tmp_path, {"messages": turns, "source": " wild "})
    assert isinstance(record, SFTRecord)
    assert [(turn["role"], turn["content"]) for turn in record.prompt] == [
        ("system", "s"),
        ("user", "q1"),
        ("assistant", "a1"),
        ("user", "<think>a user may say so</think>"),
    ]
    assert (record.reason, record.response, record.source) == (
        "", "a2 <think>in the midst it is text</think>", "wild"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("row", "slug"),
    [
        ({}, "missing_column"),
        ({"prompt": "q"}, "missing_column"),
        ({"response": "a"}, "missing_column"),
        ({"prompt": "", "response": "a"}, "empty_prompt"),
        ({"prompt": "q", "response": " "}, "empty_answer"),
        ({"prompt": "q", "response": "<think>r</think>"}, "empty_answer"),
        ({"prompt": "q", "response": "<think>cut off"}, "open_think"),
        ({"prompt": "q", "response": ["a"]}, "bad_type"),
        ({"prompt": 1, "response": "a"}, "bad_type"),
        ({"prompt": "q", "response": "a", "reason": 1}, "bad_type"),
        ({"prompt": "q", "response": "a", "source": 1}, "bad_type"),
        ({"prompt": "q\ud800", "response": "a"}, "bad_encoding"),
        ({"prompt": [USER, ANSWER], "response": "a"}, "no_final_question"),
        ({"messages": []}, "no_messages"),
        ({"messages": "hi"}, "bad_type"),
        ({"messages": [USER]}, "no_final_answer"),
        ({"messages": [USER, ANSWER, USER]}, "no_final_answer"),
        ({"messages": [ANSWER]}, "no_final_question"),
        ({"messages": [USER, USER, ANSWER]}, "roles_not_alternating"),
        ({"messages": [USER, {"role": "tool", "content": "x"}, ANSWER]}, "bad_role"),
        ({"messages": [USER, {"role": "reason", "content": "r"}, ANSWER | {"reasoning_content": "r"}]}, "two_reasons"),
        ({"prompt": "q", "reason": "r", "response": "<think>r</think>a"}, "two_reasons"),
        ("{", "broken_json"),
    ],
)  # fmt: skip
def test_bad_row_is_a_drop(tmp_path: Path, row: Any, slug: str) -> None:
    (drop,) = load(tmp_path, row)
    assert isinstance(drop, Drop)
    assert (drop.reason, drop.stage) == (slug, "load")
    assert drop.location.endswith("chat.jsonl:1") and drop.detail.endswith(".")


def test_parquet_and_jsonl_rows_give_the_same_records(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"messages": [USER, ANSWER | {"content": f"a{n}"}], "more": n} for n in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "chat.parquet")
    records = list(load_general(GeneralConfig(path=str(tmp_path / "chat.parquet"), weight=1)))
    assert records == load(tmp_path, *rows)


def test_a_file_without_the_columns_is_an_error_of_the_mix(tmp_path: Path) -> None:
    path = write(tmp_path / "chat.jsonl", [{"text": "hello"}, {"text": "there"}])
    with pytest.raises(DataError, match=r"no record.*no prompt and no response.*give rows with prompt"):
        mix([GeneralConfig(path=path, weight=1)], 5, 17)


def rows_of(n: int) -> list[dict[str, str]]:
    return [{"prompt": f"q{i}", "response": "a"} for i in range(n)]


quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(
    st.integers(1, 40),
    st.floats(0.05, 3),
    st.integers(0, 30),
    st.integers(0, 3),
    st.lists(st.integers(0, 39), max_size=15),
    st.sets(st.integers(0, 39), max_size=10),
    st.randoms(use_true_random=False),
)
def test_the_mix_is_the_lowest_hashes_in_any_order_of_the_file(
    tmp_path: Path,
    n: int,
    weight: float,
    judge_records: int,
    seed: int,
    twice: list[int],
    long: set[int],
    rng: random.Random,
) -> None:
    long -= {0}
    rows: list[Any] = rows_of(n) + [{"prompt": f"q{i % n}", "response": "a"} for i in twice] + ["{"]
    config = GeneralConfig(path=write(tmp_path / "chat.jsonl", rows), weight=weight)

    def too_long(record: SFTRecord) -> Drop | None:
        number = int(record.prompt[0]["content"][1:])
        return (
            Drop(record.id, record.source, "record_too_long", "Long.", "general") if number in long else None
        )

    records, counts, drops = mix([config], judge_records, seed, too_long)
    fit = [r for r in load_general(config) if isinstance(r, SFTRecord) and not too_long(r)]
    ordered = sorted({r.id: r for r in fit}.values(), key=lambda r: (unit_hash(seed, r.id), r.id))
    target = round(weight * judge_records)
    assert records == ordered[:target]
    (dataset,) = counts["datasets"]
    assert counts["records"] == dataset["records"] == len(records) and dataset["target"] == target
    assert dataset["rows"] == (len(rows) if target else 0)
    assert dataset["rows"] == dataset["records"] + dataset["unused"] + sum(dataset["dropped"].values())
    assert (dataset["note"] is None) == (len(records) == target > 0)
    assert sum(dataset["dropped"].values()) == len(drops)
    if target:
        assert dataset["dropped"]["broken_json"] == 1
    if len(records) < target:
        assert dataset["unused"] == 0, "every row was needed, so each that is not selected is dropped"
    rng.shuffle(rows)
    write(tmp_path / "chat.jsonl", rows)
    assert mix([config], judge_records, seed, too_long)[:2] == (records, counts)


def test_weights_are_shares_of_the_judges_records(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", rows_of(500))
    two = write(tmp_path / "two.jsonl", [{"prompt": f"z{i}", "response": "a"} for i in range(500)])
    configs = [GeneralConfig(path=one, weight=0.25), GeneralConfig(path=two, weight=1.5)]
    records, counts, drops = mix(configs, 100, 17)
    assert [sum(r.source == name for r in records) for name in ("one", "two")] == [25, 150]
    assert [row["records"] for row in counts["datasets"]] == [25, 150]
    assert drops == [] and counts["records"] == 175
    assert json.loads(json.dumps(counts)) == counts
    other, _, _ = mix(configs, 100, 18)
    assert {r.id for r in other} != {r.id for r in records}, "another seed draws other records"


def test_fewer_records_than_the_target_are_selected_once_and_noted(tmp_path: Path) -> None:
    config = GeneralConfig(path=write(tmp_path / "chat.jsonl", rows_of(3)), weight=2)
    records, counts, _ = mix([config], 10, 17)
    assert len({r.id for r in records}) == len(records) == 3
    assert "only 3 usable records for a target of 20" in counts["datasets"][0]["note"]


def test_records_of_an_earlier_dataset_are_not_selected_again(tmp_path: Path) -> None:
    one = GeneralConfig(path=write(tmp_path / "one.jsonl", rows_of(5)), weight=1)
    two = GeneralConfig(path=write(tmp_path / "two.jsonl", rows_of(8)), weight=1)
    records, counts, drops = mix([one, two], 5, 17)
    assert len({r.id for r in records}) == len(records) == 8
    assert counts["datasets"][1]["dropped"] == {"duplicate": 5}
    assert [drop.reason for drop in drops] == ["duplicate"] * 5


def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    import tracemalloc

    path = write(
        tmp_path / "chat.jsonl", [{"prompt": f"q{i} " + "x" * 2000, "response": "a"} for i in range(5000)]
    )
    config = GeneralConfig(path=path, weight=1)
    mix([config], 10, 17)  # loads modules
    tracemalloc.start()
    mix([config], 10, 17)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 << 20, f"{peak} bytes for a file of 10 MB"


def test_toy_rows_are_distinct_and_use_words_of_the_corpus(toy_prompts: Any) -> None:
    rows = list(toy_general(400, seed=5))
    assert rows == list(toy_general(400, seed=5)) != list(toy_general(400, seed=6))
    assert len({row["prompt"] for row in rows}) == 400
    assert [row["source"] for row in rows[:4]] == list(FAMILIES)
    stream = chats(17, toy_prompts)
    known = {w for _ in range(20_000) for turn in next(stream) for w in turn["content"].split()}
    words = {w for row in rows for key in ("prompt", "reason", "response") for w in row[key].split()}
    assert {w for w in words - known if not w.isdigit()} == set()
    questions = {
        pair.history[0]["content"] for split, _ in SPLIT_ENDS[1:] for pair in toy_pairs(split, 300, 17)
    }
    assert not any(row["prompt"] in questions for row in rows)
    assert all(row["reason"] and row["response"] and "[[" not in row["response"] for row in rows)
