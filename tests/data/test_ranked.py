"""Ranked answers in CSV and JSONL: pairs of unequal rank, a Drop for every other row, and the shipped example."""

from __future__ import annotations

import csv
import io
import json
from contextlib import suppress
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasongenrm.data.ranked import load_ranked
from reasongenrm.errors import DataError
from reasongenrm.records import Drop, PreferencePair

pytestmark = pytest.mark.unit

ANSWERS = Path(__file__).parents[2] / "data" / "answers.csv"
HEADER = "prompt,answer,rank\n"


def load_text(folder: Path, text: str | bytes) -> list[PreferencePair | Drop]:
    file = folder / "r.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    return list(load_ranked(str(file)))


def compared(items: list[PreferencePair | Drop]) -> list[tuple[str, str, str]]:
    return [
        (item.history[0]["content"], item.chosen, item.rejected)
        for item in items
        if isinstance(item, PreferencePair)
    ]


def dropped(items: list[PreferencePair | Drop]) -> list[tuple[int, str]]:
    return [(int(item.location.rpartition(":")[2]), item.reason) for item in items if isinstance(item, Drop)]


def test_pairs_of_unequal_rank_within_a_prompt(tmp_path: Path) -> None:
    items = load_text(tmp_path, HEADER + "p,c,3\nq,z,2\np,a,1\np,b,2\np,b2,2\nq,y,1.5\n")
    assert dropped(items) == []
    assert compared(items) == [
        ("p", "a", "b"),
        ("p", "a", "b2"),
        ("p", "a", "c"),
        ("p", "b", "c"),
        ("p", "b2", "c"),
        ("q", "y", "z"),
    ]
    pair = items[0]
    assert isinstance(pair, PreferencePair)
    assert pair == PreferencePair.make([{"role": "user", "content": "p"}], "a", "b", "r", distance=1.5)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("p,x,first", "bad_rank"),
        ("p,x,0", "bad_rank"),
        ("p,x,-1", "bad_rank"),
        ("p,x,0.99", "bad_rank"),
        ("p,x,nan", "bad_rank"),
        ("p,x,inf", "bad_rank"),
        ("p,x,1e999", "bad_rank"),
        ('p,x,"1,5"', "bad_rank"),
        ("p,x,", "missing_rank"),
        ("p,x,  ", "missing_rank"),
        ("p,x", "missing_rank"),
        ("p", "empty_answer"),
        ("p, ,3", "empty_answer"),
        (" ,x,3", "empty_prompt"),
        (",,", "empty_prompt"),
        ("p,x,3,y", "extra_fields"),
        ("p, a ,3", "duplicate_answer"),
        ("p,a,1", "duplicate_answer"),
    ],
)
def test_bad_line_is_a_drop(tmp_path: Path, line: str, reason: str) -> None:
    items = load_text(tmp_path, HEADER + f"p,a,1\n{line}\np,b,2\n")
    assert compared(items) == [("p", "a", "b")]
    (drop,) = (item for item in items if isinstance(item, Drop))
    assert (drop.location, drop.source, drop.reason, drop.stage) == (
        f"{tmp_path / 'r.csv'}:3",
        "r",
        reason,
        "load",
    )
    assert drop.detail.endswith(".") and "\n" not in drop.detail


def test_nothing_to_compare_is_one_drop_per_prompt(tmp_path: Path) -> None:
    items = load_text(tmp_path, HEADER + "ties,a,2\none,a,1\nties,b,2\none,b,x\nnone,a,0\nties,c,2.0\n")
    assert dropped(items) == [
        (5, "bad_rank"),
        (6, "bad_rank"),
        (2, "nothing_to_compare"),
        (3, "nothing_to_compare"),
    ]
    assert compared(items) == []


def test_outer_white_space_does_not_distinguish_prompts_or_answers(tmp_path: Path) -> None:
    items = load_text(tmp_path, HEADER + "p ,a,1\np,b,2\n p,a ,2\n")
    assert compared(items) == [("p ", "a", "b")]
    assert dropped(items) == [(4, "duplicate_answer")]


def test_other_columns_blank_lines_bom_and_crlf(tmp_path: Path) -> None:
    text = '\ufeff rank ,note,"answer",prompt\r\n1,,"a, b",p\r\n\r\n2,x,"say ""hi""\r\nnow",p,\r\n'
    items = load_text(tmp_path, text)
    assert dropped(items) == []
    assert compared(items) == [("p", "a, b", 'say "hi"\r\nnow')]


def test_line_numbers_count_the_lines_within_answers(tmp_path: Path) -> None:
    items = load_text(tmp_path, HEADER + 'p,"one\ntwo\n\nthree",1\n\np,"x\ny",zero\np,b,2\n q,b,0\n')
    assert compared(items) == [("p", "one\ntwo\n\nthree", "b")]
    assert dropped(items) == [(7, "bad_rank"), (10, "bad_rank")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", r"r\.csv:1: missing column prompt, answer, rank; found: none"),
        ("prompt,answer\n", r"r\.csv:1: missing column rank; found: prompt, answer .*make the first line"),
        ("p,a,1\np,b,2\n", "missing column prompt, answer, rank; found: p, a, 1"),
        ("prompt;answer;rank\n", "separate the columns with commas"),
        ("prompt\tanswer\trank\n", "separate the columns with commas"),
        ("prompt,answer,rank,answer\n", "repeated column answer"),
        ("prompt,annotator,answer,rank,annotator\n", "repeated column annotator"),
        (HEADER + 'p,a,1\np,"b,2\np,c,3\n', r"r\.csv:3: invalid CSV in the row that begins here"),
        (HEADER + 'p,"a" b,1\n', r"r\.csv:2: invalid CSV in the row that begins here"),
        ((HEADER + "p,ok,1\np,café,2\n").encode("latin-1"), r"r\.csv:3: the file is not UTF-8 .*CSV UTF-8"),
        (HEADER.encode("utf-16"), r"r\.csv:1: the file is not UTF-8"),
    ],
)
def test_invalid_file_is_an_error(tmp_path: Path, text: str | bytes, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load_text(tmp_path, text)


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    for path in (tmp_path / "none.csv", tmp_path, tmp_path / "none.jsonl", tmp_path / "folder.jsonl"):
        with pytest.raises(DataError, match="cannot be"):
            load_ranked(str(path))


def test_file_with_only_a_header_has_no_rows(tmp_path: Path) -> None:
    assert load_text(tmp_path, HEADER) == []


texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(str.strip)
odd_texts = texts | st.sampled_from(
    ['"', ",", '",\n"', "a\r\nb", "\ufeff", "#", "=1+1", "x\x00y", "'", "\u2028x"]
)
odd_texts = odd_texts.filter(str.strip)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@quick
@given(
    st.dictionaries(
        odd_texts.map(str.strip),
        st.dictionaries(odd_texts.map(str.strip), st.integers(1, 4), min_size=1, max_size=5),
        max_size=4,
    ),
    st.randoms(use_true_random=False),
    st.sampled_from(["\n", "\r\n"]),
)
def test_as_many_pairs_as_pairs_of_unequal_rank(
    tmp_path: Path, ranked: dict[str, dict[str, int]], random: object, end: str
) -> None:
    rows = [(prompt, answer, rank) for prompt, answers in ranked.items() for answer, rank in answers.items()]
    expected = {
        (prompt, *sorted((one, other), key=answers.__getitem__))
        for prompt, answers in ranked.items()
        for one, other in combinations(answers, 2)
        if answers[one] != answers[other]
    }
    idle = sum(len(set(answers.values())) == 1 for answers in ranked.values())
    for order in (rows, random.sample(rows, len(rows))):  # type: ignore[attr-defined]
        out = io.StringIO(newline="")
        # QUOTE_ALL: by itself the writer of Python 3.11 leaves a lone \r unquoted, and then a row ends there.
        writer = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([("prompt", "answer", "rank"), *order])
        items = load_text(tmp_path, out.getvalue())
        comparisons = compared(items)
        assert len(comparisons) == len(expected) and set(comparisons) == expected
        assert [reason for _, reason in dropped(items)] == ["nothing_to_compare"] * idle


@quick
@given(st.text(st.sampled_from('pa1,"\n\r ;é\x00'), max_size=40))
def test_any_text_gives_pairs_drops_or_a_data_error(tmp_path: Path, body: str) -> None:
    with suppress(DataError):
        items = load_text(tmp_path, HEADER + body)
        assert all(isinstance(item, (PreferencePair, Drop)) for item in items)


def test_the_shipped_answers() -> None:
    with ANSWERS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["prompt", "answer", "rank", "annotator", "model"]
    prompts = {row["prompt"] for row in rows}
    assert len(prompts) == 5
    for prompt in prompts:
        assert sorted(row["rank"] for row in rows if row["prompt"] == prompt) == ["1", "2", "3", "4"]
    for row in rows:
        words = len(row["answer"].split())
        assert words <= 220
        assert words >= 40 or row["rank"] == "4"
    items = list(load_ranked(str(ANSWERS)))
    assert len(compared(items)) == 30 == len(items)
    longer = sum(len(chosen) > len(rejected) for _, chosen, rejected in compared(items))
    assert longer < 25, "the better answer must not simply be the longer one"


def load_lines(folder: Path, *rows: object) -> list[PreferencePair | Drop]:
    file = folder / "r.jsonl"
    file.write_text(
        "".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8"
    )
    return list(load_ranked(str(file)))


TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "who are you ?"},
]


def test_jsonl_of_one_answer_or_of_a_whole_prompt_per_line(tmp_path: Path) -> None:
    rows = [
        {"prompt": "p", "answer": answer, "rank": rank, "note": 1} for answer, rank in (("b", 2), ("a", 1.0))
    ]
    items = load_lines(tmp_path, *rows, "", {"prompt": " p", "answers": ["c", "d"], "ranks": [3, "3"]})
    assert compared(items) == [
        ("p", *pair) for pair in (("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"))
    ]
    assert dropped(items) == []
    (tmp_path / "r.csv").write_text(HEADER + "p,b,2\np,a,1\n p,c,3\np,d,3\n", encoding="utf-8")
    assert items == list(load_ranked(str(tmp_path / "r.csv"))), "the same pairs and ids from either format"


def test_jsonl_of_conversations(tmp_path: Path) -> None:
    single = [{"role": "user", "content": "q"}]
    items = load_lines(
        tmp_path,
        {"prompt": TURNS, "answers": ["y", "x"], "ranks": [2, 1]},
        {"prompt": "q", "answer": "z", "rank": 1},
        {"prompt": single, "answer": "w", "rank": 2},
    )
    assert items == [
        PreferencePair.make(TURNS, "x", "y", "r", distance=1),  # type: ignore[arg-type]
        PreferencePair.make(single, "z", "w", "r", distance=1),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize(
    ("row", "reasons"),
    [
        ({"prompt": "p", "answer": "x", "rank": True}, ["bad_rank"]),
        ({"prompt": "p", "answer": "x", "rank": [1]}, ["bad_rank"]),
        ({"prompt": "p", "answer": "x", "rank": 0}, ["bad_rank"]),
        ({"prompt": "p", "answer": "x", "rank": 10**400}, ["bad_rank"]),
        ({"prompt": "p", "answer": "x", "rank": None}, ["missing_rank"]),
        ({"prompt": "p", "answer": "x"}, ["missing_column"]),
        ({"prompt": "p", "answer": 7, "rank": 1}, ["bad_type"]),
        ({"prompt": "p", "answer": "\ud800", "rank": 1}, ["bad_encoding"]),
        ({"prompt": None, "answer": "x", "rank": 1}, ["bad_type"]),
        ({"prompt": [], "answer": "x", "rank": 1}, ["no_messages"]),
        ({"prompt": ["hi"], "answer": "x", "rank": 1}, ["bad_type"]),
        ({"prompt": [{"role": "user", "content": " "}], "answer": "x", "rank": 1}, ["empty_prompt"]),
        ({"prompt": [{"role": "bot", "content": "x"}], "answer": "x", "rank": 1}, ["bad_role"]),
        ({"prompt": TURNS[:3], "answer": "x", "rank": 1}, ["no_final_question"]),
        ({"prompt": TURNS[:1], "answer": "x", "rank": 1}, ["no_final_question"]),
        ({"prompt": [*TURNS, TURNS[3]], "answer": "x", "rank": 1}, ["roles_not_alternating"]),
        ({"prompt": [TURNS[3], TURNS[0]], "answer": "x", "rank": 1}, ["roles_not_alternating"]),
        ({"prompt": "p", "answer": "x", "rank": 1, "annotator": ["ann"]}, ["bad_type"]),
        ({"prompt": "p", "answers": ["x", "y"], "ranks": [1]}, ["length_mismatch"]),
        ({"prompt": "p", "answers": ["x", "y"]}, ["bad_type"]),
        ({"prompt": "p", "answers": [], "ranks": []}, ["no_answers"]),
        ({"prompt": "p", "answers": ["x", " ", "a"], "ranks": ["?", 2, 3]}, ["bad_rank", "empty_answer", "duplicate_answer"]),
        ({"prompt": "p", "answers": ["x"], "ranks": [1], "answer": "y"}, ["two_forms"]),
        ("[1]", ["broken_json"]),
        ('{"prompt": "p"', ["broken_json"]),
    ],
)  # fmt: skip
def test_bad_jsonl_line_is_a_drop(tmp_path: Path, row: object, reasons: list[str]) -> None:
    good = [{"prompt": "p", "answer": answer, "rank": rank} for answer, rank in (("a", 1), ("b", 2))]
    items = load_lines(tmp_path, good[0], row, good[1])
    assert compared(items) == [("p", "a", "b")]
    assert dropped(items) == [(2, reason) for reason in reasons]
    assert all(item.source == "r" and item.detail.endswith(".") for item in items if isinstance(item, Drop))


def test_more_than_four_answers_with_ties(tmp_path: Path) -> None:
    ranks = {"a": 1, "b": 2, "c": 2, "d": 4, "e": 5, "f": 5, "g": 5}
    items = load_lines(tmp_path, {"prompt": "p", "answers": list(ranks), "ranks": list(ranks.values())})
    expected = [(x, y) for x, y in combinations(ranks, 2) if ranks[x] != ranks[y]]
    assert compared(items) == [("p", x, y) for x, y in expected] and len(expected) == 21 - 1 - 3
