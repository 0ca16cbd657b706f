"""Conversations: every problem of a row is named with its index and field, and nothing is lost."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.cli import main
from reasongenrm.errors import DataError
from reasongenrm.rows.conversations import LONGEST, json_schema, read_conversations, schema_text

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "data" / "conversations.json"
TUTOR = {"context": "Spanish, A1", "student_message": "Yo soy cansado", "tutor_response": "Estoy cansado."}
REPLY = {"context": "", "message": "How are you?", "response": "Fine."}


def written(path: Path, rows: list[Any]) -> str:
    """Write rows as a JSON list, or as JSONL by the ending of the file."""
    lines = [json.dumps(row) for row in rows]
    text = "\n".join(lines) + "\n" if path.suffix == ".jsonl" else f"[{', '.join(lines)}]"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_both_kinds_of_rows_in_both_kinds_of_files(tmp_path: Path, ending: str) -> None:
    table = read_conversations(written(tmp_path / f"rows.{ending}", [TUTOR, REPLY]))
    texts = [(row.context, row.message, row.response) for row in table.conversations]
    assert texts == [tuple(TUTOR.values()), tuple(REPLY.values())]
    assert not table.drops and not table.problems and table.rows == table.messages == 2
    assert [turn["role"] for turn in table.conversations[0].history] == ["system", "user"]
    assert [turn["role"] for turn in table.conversations[1].history] == ["user"], (
        "an empty context is no turn"
    )


BAD: list[tuple[Any, list[tuple[str, str, str]]]] = [
    (
        {"context": "c"},
        [
            ("student_message", "missing_field", "is missing; add it"),
            ("tutor_response", "missing_field", "is missing; add it"),
        ],
    ),
    (TUTOR | {"tutor_response": 5}, [("tutor_response", "bad_type", "is a number; make it a string")]),
    (TUTOR | {"context": None}, [("context", "bad_type", "is missing or null")]),
    (TUTOR | {"context": ["turn"]}, [("context", "bad_type", "is a list")]),
    (TUTOR | {"student_message": " \n\u00a0"}, [("student_message", "empty_message", "is empty")]),
    (REPLY | {"response": ""}, [("response", "empty_response", "is empty")]),
    (REPLY | {"response": "x" * (LONGEST + 1)}, [("response", "too_long", f"has {LONGEST + 1} characters")]),
    (REPLY | {"response": "\ud83d"}, [("response", "bad_encoding", "half of a surrogate pair")]),
    (
        {"context": "c", "student_mesage": "m", "tutor_response": "r"},
        [("student_message", "missing_field", "rename `student_mesage`")],
    ),
    (
        {"context": "c", "message": "m", "tutor_response": "r"},
        [("student_message", "missing_field", "rename `message`")],
    ),
    (["context", "message"], [("", "broken_json", "is a list, not a JSON object")]),
    (7, [("", "broken_json", "is a number, not a JSON object")]),
    (None, [("", "broken_json", "not a JSON object")]),
]


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_every_problem_is_named_with_row_and_field(tmp_path: Path, ending: str) -> None:
    rows = [TUTOR, *(row for row, _ in BAD), REPLY]
    path = written(tmp_path / f"rows.{ending}", rows)
    table = read_conversations(path)
    places = [f"{path}[{n}]" if ending == "json" else f"{path}:{n + 1}" for n in range(len(rows))]
    expected = [
        (place, field, reason, text)
        for place, (_, problems) in zip(places[1:], BAD, strict=False)
        for field, reason, text in problems
    ]
    assert [(p.location, p.field, p.reason) for p in table.problems] == [e[:3] for e in expected]
    for problem, (*_, text) in zip(table.problems, expected, strict=True):
        assert text in problem.detail and (not problem.field or f"`{problem.field}`" in problem.detail)
    assert table.rows == len(rows) and [drop.location for drop in table.drops] == places[1:-1]
    assert all(drop.stage == "load" and "\n" not in drop.detail for drop in table.drops)
    assert "student_message" in table.drops[0].detail and "tutor_response" in table.drops[0].detail


def test_a_repeated_row_is_dropped_and_another_reply_is_not(tmp_path: Path) -> None:
    other, same = TUTOR | {"tutor_response": "Say estoy."}, {k: TUTOR[k] for k in reversed(TUTOR)}
    path = written(tmp_path / "rows.json", [TUTOR, other, same | {"kind": "again"}])
    table = read_conversations(path)
    assert len(table.conversations) == 2 and table.messages == 1
    [drop] = table.drops
    assert (
        drop.reason == "duplicate" and drop.location.endswith("[2]") and f"repeats {path}[0]" in drop.detail
    )
    assert table.other_columns == Counter(kind=1)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("empty.json", "[]", "no rows"),
        ("empty.jsonl", "\n", "no rows"),
        ("object.json", json.dumps({"rows": [TUTOR]}), "the file is an object, not an array"),
        ("torn.json", '[{"context": "c"', "invalid JSON"),
        ("rows.txt", "hello", "unsupported file type"),
    ],
)
def test_a_file_without_rows_is_one_clear_line(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        read_conversations(str(path))
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_validate_prints_problems_and_a_summary(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = written(tmp_path / "good.jsonl", [TUTOR | {"level": "A1"}, REPLY])
    assert main(["distil", "validate", good]) == 0
    out, err = capsys.readouterr()
    assert "rows: 2, 2 usable, 0 dropped" in out and "columns that are not read: level (rows: 1)" in out
    assert (
        re.search(r"^response: 5 to 14 characters, half of them at most 9\.5$", out, re.MULTILINE) and not err
    )

    bad = written(tmp_path / "bad.json", [REPLY] + [{"context": 1, "message": "", "response": "r"}] * 30)
    assert main(["distil", "validate", bad]) == 2
    out, err = capsys.readouterr()
    assert out.count("`context` is a number") == 30 and out.count("`message` is empty") == 30
    assert f"{bad}[1]: `context` is a number" in out and f"{bad}[30]: `message` is empty" in out
    assert "rows: 31, 1 usable, 30 dropped (30 bad_type)" in out
    assert "30 rows cannot be used" in err and err.count("\n") == 1 and "Traceback" not in err


def test_schema_file_and_specification_hold_the_schema_of_the_types() -> None:
    schema = schema_text()
    hint = "write reasongenrm.rows.conversations.schema_text() into both files"
    assert (ROOT / "data" / "conversations.schema.json").read_text(encoding="utf-8") == schema, hint
    assert f"```json\n{schema}```" in (ROOT / "docs" / "data-format.md").read_text(encoding="utf-8"), hint


def test_the_schema_and_the_reader_agree(tmp_path: Path) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json_schema())
    for row in [TUTOR, REPLY, TUTOR | {"kind": "good"}, *(row for row, _ in BAD)]:
        if "\\ud83d" in json.dumps(row):
            continue  # no JSON Schema can forbid half of a surrogate pair
        table = read_conversations(written(tmp_path / "one.json", [row]))
        assert validator.is_valid([row]) == (not table.problems), row


def test_the_shipped_conversations_are_valid_and_varied() -> None:
    rows = json.loads(SHIPPED.read_text(encoding="utf-8"))
    table = read_conversations(str(SHIPPED))
    assert not table.problems and len(table.conversations) == len(rows) and table.messages >= 60
    counts = Counter(row["kind"] for row in rows)
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    assert dict(counts) == {
        k: int(n) for k, n in re.findall(r"^\| `(\w+)` \|.*\| (\d+) \|$", readme, re.MULTILINE)
    }
    assert f"{len(rows)} replies\nto {table.messages} messages" in readme and "CC0" in readme
    assert len({row["tutor_response"] for row in rows}) == len(rows)
    per_message = Counter((row["context"], row["student_message"]) for row in rows)
    assert min(per_message.values()) >= 2, "every message has a good reply and a worse one"
    assert counts["good"] == table.messages and min(counts.values()) >= 10


@pytest.mark.parametrize(
    "path",
    [
        *("data/private/rows.json", "data/chats.private.jsonl", "notes.private.md", ".env", ".env.local"),
        *("answers.csv", "answers.jsonl", "answers.csv.journal.jsonl", "answers.jsonl.dropped.jsonl"),
        *(
            "data/answers-mine.csv",
            "labels.csv",
            "data/labels/ann.jsonl",
            "people.jsonl",
            "data/people.jsonl",
        ),
    ],
)
def test_private_data_is_ignored_by_git(path: str) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    command = ["git", "check-ignore", "--no-index", "--quiet", path]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def test_what_is_shipped_is_not_ignored_by_git() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    command = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout == ""
