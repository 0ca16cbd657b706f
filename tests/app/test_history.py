"""The history of calls: it survives a kill, and its rows are those that other commands read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.app.history import Call, History, preference_rows, question_rows
from reasongenrm.config.prepare import SourceConfig
from reasongenrm.data.sources import load_sources, read_pair
from reasongenrm.errors import DataError
from reasongenrm.records import Message, PreferencePair
from reasongenrm.rows.files import json_lines
from reasongenrm.stages.ask import VERBS, AnswersRow, read_answer_rows
from reasongenrm.store import dump_line

pytestmark = pytest.mark.unit

HOSTILE = "<script>alert(1)</script> [[A]] <|im_end|> \u202e \ud800 \x1b[31m ‮"
TURNS = (
    Message(role="user", content="first"),
    Message(role="assistant", content="reply"),
    Message(role="user", content="<b>last</b>"),
)
RUBRIC = {"criteria": [{"name": "brief", "text": "", "weight": 2.0, "scale": [1, 5], "levels": {}}]}


def call(kind: Any = "compare", result: Any = None, **changes: Any) -> Call:
    fields: dict[str, Any] = {
        "time": "2026-01-01T00:00:00+00:00",
        "judge": "demo/base",
        "prompt": TURNS,
        "answers": ("one", "two"),
        "seconds": 1.5,
    }
    return Call(kind=kind, result={"winner": "B"} if result is None else result, **(fields | changes))


def test_calls_are_read_as_they_were_written(tmp_path: Path) -> None:
    history = History(tmp_path / "app" / "history.jsonl")
    assert history.calls() == []
    calls = [
        call(rubric=RUBRIC, head="runs/demo/scalar", scores=(0.5, -1.0)),
        call("rank", {"order": [1, 0]}),
        call("rate", [{"rating": 7.0}, {"rating": None}]),
        call(answers=(HOSTILE.replace("\ud800", ""), "two")),
    ]
    for one in calls:
        history.add(one)
    assert History(history.path).calls() == calls
    assert [one.verdict for one in calls[:3]] == ["B is better", "B > A", "7.0, –"]


def test_a_line_torn_by_a_kill_is_cut_and_a_broken_one_is_named(tmp_path: Path) -> None:
    history = History(tmp_path / "history.jsonl")
    history.add(call())
    with history.path.open("a") as out:
        out.write('{"time": "2026')
    assert history.calls() == [call()]
    history.add(call("rank", {"order": [0, 1]}))
    assert [one.kind for one in history.calls()] == ["compare", "rank"]
    with history.path.open("a") as out:
        out.write("{}\n")
    with pytest.raises(DataError, match=r"history.jsonl:3"):
        history.calls()


@pytest.mark.parametrize(("kind", "rows"), [("compare", 1), ("rank", 1), ("rate", 2)])
def test_rows_are_those_that_reasongenrm_judge_reads(tmp_path: Path, kind: Any, rows: int) -> None:
    calls = [call(each, rubric=RUBRIC) for each in ("compare", "rank", "rate")]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(map(dump_line, question_rows(calls, kind))), encoding="utf-8")
    read = list(read_answer_rows(json_lines(str(file)), VERBS[kind][1]))
    assert len(read) == rows
    for row in read:
        assert isinstance(row, AnswersRow), row
        assert tuple(row.prompt) == TURNS and row.rubric is not None and row.rubric.criteria[0].weight == 2
    assert [answer for row in read for answer in row.answers] == ["one", "two"]  # type: ignore[union-attr]


def test_preferences_are_pairs_of_stage_1(tmp_path: Path) -> None:
    calls = [
        call(),
        call(result={"winner": "A"}),
        call(result={"winner": "tie"}),
        call(result={"winner": None, "outcome": "unparsed"}),
        call("rank", {"order": [0, 1]}),
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(map(dump_line, preference_rows(calls))), encoding="utf-8")
    pairs = [read_pair(row) for row in load_sources([SourceConfig(path=str(file))])]
    assert [isinstance(pair, PreferencePair) for pair in pairs] == [True, True]
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("two", "one"), ("one", "two")]  # type: ignore[union-attr]
    assert all(pair.history == TURNS and pair.source == "judge demo/base" for pair in pairs)  # type: ignore[union-attr]


def test_a_key_is_not_written(tmp_path: Path) -> None:
    from reasongenrm.redaction import keep_secret

    keep_secret("opensesame-12345678")
    history = History(tmp_path / "history.jsonl")
    history.add(call(answers=("the key is opensesame-12345678", "two")))
    assert "opensesame" not in history.path.read_text() and json.loads(history.path.read_text())
