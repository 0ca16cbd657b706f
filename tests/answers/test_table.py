"""Answers to rank: what is read, what is dropped, and that the ranks written are the ranks read back."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasongenrm.answers.rank import RankingFiles, rank
from reasongenrm.answers.table import AnswersTable, Order, check_writable, ranks_of, read_answers, write_ranks
from reasongenrm.data.ranked import mean_tau_b, read_ranked
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import content_id

pytestmark = pytest.mark.unit

TURNS = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "who?"},
]
TABLE = (
    'kind,prompt,answer,model\nx,p,"one\ntwo",m1\n,q,"say ""hi"", please",m2\nx,p,three,"m,3"\ny,q,four,\n'
)


def lines(folder: Path, *rows: object, name: str = "in.jsonl") -> str:
    file = folder / name
    file.write_text(
        "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8"
    )
    return str(file)


def table(folder: Path, text: str | bytes) -> str:
    file = folder / "in.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return str(file)


def texts(answers: AnswersTable) -> dict[str, list[str]]:
    return {prompt.history[-1]["content"]: [a.text for a in prompt.answers] for prompt in answers.prompts}


def dropped(answers: AnswersTable) -> list[tuple[int, str]]:
    return [(int(drop.location.rpartition(":")[2]), drop.reason) for drop in answers.drops]


def in_order(answers: AnswersTable) -> dict[str, Order]:
    """Everything ranked as it stands in the file."""
    return {prompt.id: tuple((answer.id,) for answer in prompt.answers) for prompt in answers.prompts}


@pytest.mark.parametrize("text", [TABLE, "\ufeff" + TABLE, TABLE.replace("\n", "\r\n")])
def test_a_csv_with_extra_columns(tmp_path: Path, text: str) -> None:
    answers = read_answers(table(tmp_path, text))
    new_line = "\r\n" if "\r" in text else "\n"
    assert texts(answers) == {"p": [f"one{new_line}two", "three"], "q": ['say "hi", please', "four"]}
    assert answers.columns == ("kind", "model") and answers.drops == () == answers.notes
    first, second = answers.prompts[0].answers
    assert first.extras == {"kind": "x", "model": "m1"} and second.location == f"{tmp_path / 'in.csv'}:{5}"
    assert first.id == content_id(answers.prompts[0].history, first.text)


def test_rows_are_written_in_the_order_of_the_input(tmp_path: Path) -> None:
    answers = read_answers(table(tmp_path, TABLE))
    out = tmp_path / "out.csv"
    ranked = {
        "zoe": in_order(answers),
        "ann": {answers.prompts[1].id: in_order(answers)[answers.prompts[1].id]},
    }
    assert write_ranks(out, answers, ranked) == 6
    with out.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, strict=True)
    assert header == ["prompt", "answer", "rank", "annotator", "kind", "model"]
    assert [(row[0], row[2], row[3], row[5]) for row in rows] == [
        ("q", "1", "ann", "m2"),
        ("q", "2", "ann", ""),
        ("p", "1", "zoe", "m1"),
        ("q", "1", "zoe", "m2"),
        ("p", "2", "zoe", "m,3"),
        ("q", "2", "zoe", ""),
    ]
    assert b"\r" not in out.read_bytes() and not list(tmp_path.glob("*.tmp"))


def test_jsonl_keeps_ids_turns_and_values(tmp_path: Path) -> None:
    extras = {"seed": 3, "temperature": 0.5, "settings": {"é": [1]}, "model": None}
    path = lines(
        tmp_path,
        {"id": "a1", "prompt": TURNS, "answer": "x", **extras},
        {"id": 7, "prompt": TURNS, "answer": "y", "kind": "k", "rank": 2, "annotator": "old"},
        {"prompt": [{"role": "user", "content": "p"}], "answer": "v"},
        {"prompt": "p", "answer": "w"},
    )
    answers = read_answers(path)
    assert [answer.id for answer in answers.prompts[0].answers] == ["a1", "7"]
    assert answers.columns == ("id", *extras, "kind") and answers.drops == ()
    assert answers.notes == (
        "the column 'rank' is not copied",
        "the column 'annotator' is not copied",
    )
    out = tmp_path / "out.jsonl"
    check_writable(answers, out)
    write_ranks(out, answers, {"ann": in_order(answers)})
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == {"prompt": TURNS, "answer": "x", "rank": 1, "annotator": "ann", "id": "a1", **extras}
    assert [row["prompt"] for row in rows[2:]] == ["p", "p"]
    prompts, drops = read_ranked(str(out))
    assert drops == [] and [len(prompt.answers) for prompt in prompts] == [2, 2]
    assert list(prompts[0].history) == TURNS
    with pytest.raises(ConfigError, match=r"several turns.*out\.jsonl"):
        check_writable(answers, tmp_path / "out.csv")


def test_values_that_are_no_text_are_json_in_a_csv(tmp_path: Path) -> None:
    one = {"prompt": "p", "answer": "x\rz", "n": 1.5, "list": ["é", {}], "none": None, "yes": True}
    answers = read_answers(
        lines(tmp_path, one, {"prompt": "p", "answer": "y", "list": "\ud800", "\ud800": 1})
    )
    out = tmp_path / "out.csv"
    check_writable(answers, out)
    write_ranks(out, answers, {"ann": in_order(answers)})
    with out.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file, strict=True)
    assert header[4:] == ["n", "list", "none", "yes", '"\\ud800"']
    assert rows[0][1] == "x\rz" and rows[0][4:] == ["1.5", '["é", {}]', "", "true", ""]
    assert rows[1][4:] == ["", '"\\ud800"', "", "", "1"]


def test_a_text_too_long_for_a_cell_wants_jsonl(tmp_path: Path) -> None:
    long = "x" * 131_073
    answers = read_answers(
        lines(tmp_path, {"prompt": "p", "answer": long}, {"prompt": "p", "answer": long[1:]})
    )
    with pytest.raises(ConfigError, match="131072 characters"):
        check_writable(answers, tmp_path / "out.csv")
    check_writable(answers, tmp_path / "out.jsonl")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": " ", "answer": "x"}, "empty_prompt"),
        ({"prompt": "p", "answer": "\n"}, "empty_answer"),
        ({"prompt": " p", "answer": " a "}, "duplicate_answer"),
        ({"prompt": "alone", "answer": "x"}, "one_answer"),
        ({"prompt": "p"}, "missing_column"),
        ({"prompt": "p", "answers": ["x", "y"], "ranks": [1, 2]}, "missing_column"),
        ({"prompt": TURNS[:2], "answer": "x"}, "no_final_question"),
        ({"prompt": "p", "answer": ["x"]}, "bad_type"),
        ({"prompt": "p", "answer": "\ud800"}, "bad_encoding"),
        ({"prompt": "p", "answer": "x", "id": ["x"]}, "bad_type"),
        ('{"prompt": "p", "answer": "x", "t": NaN}', "bad_number"),
        ('{"prompt": "p"', "broken_json"),
        ("[1]", "broken_json"),
    ],
)
def test_a_bad_line_is_a_drop(tmp_path: Path, row: object, reason: str) -> None:
    good = [{"prompt": "p", "answer": answer} for answer in "ab"]
    answers = read_answers(lines(tmp_path, good[0], row, good[1]))
    assert texts(answers) == {"p": ["a", "b"]}
    assert dropped(answers) == [(2, reason)]
    (drop,) = answers.drops
    assert drop.source == "in" and drop.stage == "load" and drop.detail.endswith(".")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("prompt;answer\n", r"in\.csv:1: missing column prompt, answer.*prompt,answer, and separate"),
        ("prompt,text\np,x\n", r"in\.csv:1: missing column answer; found: prompt, text"),
        ("prompt,answer,k,k\n", r"in\.csv:1: repeated column k"),
        ("", r"found: none"),
        ('prompt,answer\np,x\np,"y\n', r"in\.csv:3: .*close every quote"),
        ('prompt,answer\np,"y" z\n', r"in\.csv:2: .*close every quote"),
        ("prompt,answer\np,é\n".encode("latin-1"), r"in\.csv:2: .*UTF-8"),
        ("prompt,answer\np,é\n".encode("utf-16"), r"in\.csv:1: .*UTF-8"),
    ],
)
def test_a_csv_that_cannot_be_read(tmp_path: Path, text: str | bytes, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        read_answers(table(tmp_path, text))


def test_columns_without_a_name_and_rows_that_are_too_long(tmp_path: Path) -> None:
    answers = read_answers(table(tmp_path, ",prompt,answer,\n0,p,x,\n1,p,y,,z\n2,p,w\n"))
    assert texts(answers) == {"p": ["x", "w"]} and dropped(answers) == [(3, "extra_fields")]
    assert answers.columns == () and answers.notes == ("the column '' is not copied",)


def test_one_id_for_two_answers(tmp_path: Path) -> None:
    path = lines(tmp_path, *({"id": "i", "prompt": "p", "answer": answer} for answer in "ab"))
    with pytest.raises(DataError, match=r"in\.jsonl:2: the id 'i'.*in\.jsonl:1"):
        read_answers(path)
    with pytest.raises(DataError, match="file not found"):
        read_answers(str(tmp_path / "none.csv"))


def test_ranks_of_ties() -> None:
    assert ranks_of((("c",), ("a", "b"), ("d",))) == {"c": 1, "a": 2, "b": 2, "d": 4}


def written() -> Any:
    return st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
        ['"', ",", "\r", "\n", "\r\n", "\0", "=1+1", " a", "a", "\u2028", '"",\r', "\ufeff", "'"]
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["p", "q"]) | written(),
            written(),
            st.dictionaries(
                written().filter(lambda name: name != "id"),
                st.none() | st.integers() | st.lists(written(), max_size=2) | written(),
            ),
        ),
        min_size=2,
        max_size=8,
    ),
    data=st.data(),
)
def test_ranks_come_back(
    tmp_path: Path, rows: list[tuple[str, str, dict[str, Any]]], data: st.DataObject
) -> None:
    path = lines(tmp_path, *({**extras, "prompt": prompt, "answer": text} for prompt, text, extras in rows))
    answers = read_answers(path)
    assert sum(len(p.answers) for p in answers.prompts) + len(answers.drops) == len(rows)
    ranked: dict[str, dict[str, Order]] = {}
    for name in ("ann", "bob"):
        for prompt in answers.prompts:
            groups = [data.draw(st.integers(0, 3)) for _ in prompt.answers]
            order = tuple(
                tuple(a.id for a, group in zip(prompt.answers, groups, strict=True) if group == n)
                for n in sorted(set(groups))
            )
            ranked.setdefault(name, {})[prompt.id] = order
    for ending in ("csv", "jsonl"):
        out = tmp_path / f"out.{ending}"
        check_writable(answers, out)
        write_ranks(out, answers, ranked)
        assert_same(out, answers, ranked)


def assert_same(out: Path, answers: AnswersTable, ranked: Mapping[str, Mapping[str, Order]]) -> None:
    prompts, drops = read_ranked(str(out))
    assert drops == []
    found = {
        (prompt.history[0]["content"].strip(), answer.text): answer.ranks
        for prompt in prompts
        for answer in prompt.answers
    }
    assert found == {
        (prompt.history[0]["content"].strip(), answer.text): {
            name: float(ranks_of(orders[prompt.id])[answer.id]) for name, orders in ranked.items()
        }
        for prompt in answers.prompts
        for answer in prompt.answers
    }


def test_tau_b_of_annotators(tmp_path: Path) -> None:
    rows = [
        {"prompt": prompt, "answers": list("xyz"), "ranks": ranks, "annotator": name}
        for prompt, name, ranks in (
            ("same", "ann", [1, 2, 3]),
            ("same", "bob", [1, 2, 3]),
            ("tie", "ann", [1, 2, 2]),
            ("tie", "bob", [3, 2, 1]),
            ("flat", "ann", [1, 1, 1]),
            ("flat", "bob", [1, 2, 3]),
            ("alone", "ann", [1, 2, 3]),
        )
    ]
    # "tie": two discordant pairs of three, one tied by ann: -2 / sqrt(2 · 3).
    expected = (1 - 2 / 6**0.5) / 2
    assert mean_tau_b(lines(tmp_path, *rows)) == pytest.approx(expected, abs=1e-6)
    assert mean_tau_b(lines(tmp_path, rows[0])) is None


def test_the_verb_writes_ranks_drops_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = table(tmp_path, TABLE + "x,p,,m\n")
    out = tmp_path / "answers.csv"
    for name, typed in (("ann", ["1 2", "u", "1=2", "2 1"]), ("bob", ["s", "1=2", "2 1", "q"])):
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(typed)))
        rank(source, str(out), annotator=name)
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith(f"{out}: 2 prompts; ranked by ann 2, bob 2; 1 dropped (answers.csv.dropped.jsonl)")
    assert "Kendall's W" in line
    (drop,) = (tmp_path / "answers.csv.dropped.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(drop)["reason"] == "empty_answer"
    prompts, drops = read_ranked(str(out))
    assert drops == [] and all(set(a.ranks) == {"ann", "bob"} for p in prompts for a in p.answers)
    table(tmp_path, TABLE)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    rank(source, str(out), annotator="ann")
    assert not (tmp_path / "answers.csv.dropped.jsonl").exists()


def test_rank_overwrites_no_other_file(tmp_path: Path) -> None:
    source = table(tmp_path, TABLE)
    out = tmp_path / "out.csv"
    with pytest.raises(ConfigError, match="--annotator"):
        rank(source, str(out))
    with pytest.raises(ConfigError, match="two of the files"):
        rank(source, source, annotator="ann")
    out.write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigError, match="the output exists"):
        rank(source, str(out), annotator="ann")
    assert out.read_text(encoding="utf-8") == "mine"
    with pytest.raises(DataError, match=r"no prompt has two answers.*dropped"):
        rank(lines(tmp_path, {"prompt": "p", "answer": "x"}), str(tmp_path / "new.csv"), annotator="ann")
    assert (tmp_path / "new.csv.dropped.jsonl").exists() and not (tmp_path / "new.csv").exists()


def test_the_line_without_rankings(tmp_path: Path) -> None:
    files = RankingFiles(table(tmp_path, TABLE), str(tmp_path / "out.csv"))
    assert files.summary().endswith("2 prompts; ranked by nobody")


def test_a_journal_of_other_answers_is_an_error_at_the_start(tmp_path: Path) -> None:
    files = RankingFiles(table(tmp_path, TABLE), str(tmp_path / "out.csv"))
    files.open_session("ann").rank([[1], [2]])
    (tmp_path / "other").mkdir()
    other = lines(tmp_path / "other", *({"prompt": "else", "answer": text} for text in "xy"))
    with pytest.raises(ConfigError, match="does not have"):
        RankingFiles(other, str(tmp_path / "out.csv"), journal=str(files.journal.path))
