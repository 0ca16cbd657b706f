"""Labelled rows: columns, the ways to write a label, and rows that are dropped with a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.errors import ConfigError
from reasongenrm.records import Drop
from reasongenrm.rows.labels import (
    ANSWER_LABELS,
    PAIR_LABELS,
    JudgeLabel,
    LabelledRow,
    judge_label,
    label_of,
    read_columns,
    read_labels,
)
from reasongenrm.store import write_jsonl

pytestmark = pytest.mark.unit

PAIR = {"prompt": "What is 2 + 2?", "a": "4", "b": "5"}


def read(path: Path, *columns: str) -> list[LabelledRow | Drop]:
    return list(read_labels(str(path), read_columns(columns)))


def rows_of(folder: Path, *rows: dict[str, Any]) -> list[LabelledRow | Drop]:
    write_jsonl(folder / "labels.jsonl", rows)
    return read(folder / "labels.jsonl")


def test_labels_by_name_in_a_list_and_alone(tmp_path: Path) -> None:
    rows = rows_of(
        tmp_path,
        PAIR | {"labels": {"ann": "A", "ben": "tie", "eva": None}},
        PAIR | {"labels": [1, 2, 0]},
        PAIR | {"label": "b", "judges": {"gpt": "Tie", "other": "garbage", "none": None}},
    )
    people = [row.people for row in rows if isinstance(row, LabelledRow)]
    assert people == [{"ann": "A", "ben": "tie"}, {"1": "A", "2": "B", "3": "tie"}, {"label": "B"}]
    last = rows[2]
    assert isinstance(last, LabelledRow)
    assert last.judges == {"gpt": JudgeLabel("tie"), "other": JudgeLabel(None)}
    assert len({row.id for row in rows if isinstance(row, LabelledRow)}) == 3  # one content, three rows


def test_a_single_answer_passes_or_fails(tmp_path: Path) -> None:
    row, other = rows_of(
        tmp_path,
        {"prompt": "Hi", "answer": "Hello", "labels": {"ann": True, "ben": "bad"}},
        PAIR | {"label": 1},
    )
    assert isinstance(row, LabelledRow) and row.people == {"ann": "pass", "ben": "fail"}
    assert isinstance(other, Drop) and other.reason == "other_kind"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"labels": {"ann": "C++"}}, "bad_label"),
        ({"labels": {}}, "no_label"),
        ({}, "no_label"),
        ({"labels": {"ann": "A"}, "judges": ["A"]}, "bad_judges"),
        ({"labels": {"ann": "A"}, "a": None}, "bad_type"),
        ({"labels": {"ann": "A"}, "prompt": []}, "no_messages"),
    ],
)
def test_what_cannot_be_read_is_dropped(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    [drop] = rows_of(tmp_path, PAIR | row)
    assert isinstance(drop, Drop) and drop.reason == reason and drop.location.endswith("labels.jsonl:1")


def test_columns_of_another_file(tmp_path: Path) -> None:
    row = {"q": "Add.", "input": "2 + 2", "x": 4, "y": True, "ann": "1", "ben": 2.0}
    write_jsonl(tmp_path / "labels.jsonl", [row])
    [found] = read(tmp_path / "labels.jsonl", "prompt=q,input", "a=x", "b=y", "labels=ann,ben")
    assert isinstance(found, LabelledRow)
    assert found.prompt[0]["content"] == "Add.\n\n2 + 2"
    assert found.answers == ("4", "true") and found.people == {"ann": "A", "ben": "B"}


def test_a_table(tmp_path: Path) -> None:
    cell = json.dumps({"ann": "A", "ben": "B"}).replace('"', '""')
    (tmp_path / "labels.csv").write_text(f'prompt,a,b,labels\nHi,Hello,"Go, away","{cell}"\nHi,Hello,,A\n')
    rows = read(tmp_path / "labels.csv")
    assert [row.people for row in rows if isinstance(row, LabelledRow)] == [
        {"ann": "A", "ben": "B"},
        {"label": "A"},
    ]


@pytest.mark.parametrize("word", ["nothing", "text=x", "a=", "a=x,y", "prompt=x,"])
def test_columns_that_do_not_exist(word: str) -> None:
    with pytest.raises(ConfigError, match=r"--columns: not a column"):
        read_columns([word])


def test_lines_of_judge_compare_and_rate() -> None:
    assert judge_label({"winner": "B", "prob_a": 0.2}, PAIR_LABELS) == JudgeLabel("B", 0.2)
    assert judge_label({"winner": None, "prob_a": None}, PAIR_LABELS) == JudgeLabel(None)
    assert judge_label({"score": 0.5}, ANSWER_LABELS) == JudgeLabel("pass", 0.5)
    assert judge_label({"score": 0.5}, ANSWER_LABELS, pass_score=0.6) == JudgeLabel("fail", 0.5)
    assert judge_label({"score": None}, ANSWER_LABELS) == JudgeLabel(None)
    assert label_of("Tie ", PAIR_LABELS) == "tie" and label_of("1.5", PAIR_LABELS) is None
