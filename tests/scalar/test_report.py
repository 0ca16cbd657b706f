"""The files of `scalar evaluate`: the same bytes each time, CSV that comes back, Markdown that stays text."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.errors import DataError
from reasongenrm.rows.csv_line import csv_text
from reasongenrm.scalar.metrics import AnswerScore, evaluate_scores
from reasongenrm.scalar.report import (
    COLUMNS,
    metrics_json,
    results_csv,
    score_panels,
    summary,
    write_scalar_report,
)

pytestmark = pytest.mark.unit

FILES = ("evaluation_results.csv", "reward_scores.png", "summary.md", "metrics.json")
HOSTILE = "a | b ``` `c` <script>alert(1)</script> [x](http://y) **z** $\\alpha$\n\n# head\n| 1 | 2 |"
TEXTS = [
    HOSTILE,
    "two\nlines",
    "dos\r\nlines",
    "mac\rline",
    'a "quote", and a comma',
    "\ufeffmark",
    "=HYPERLINK(1)",
    "+1",
    "-1",
    "@x",
    "\t=1",
    " padded ",
    "'",
    "",
    "日本語 🙂",
    "\x00null",
]


def answers_of(texts: list[str], extra: dict[str, Any] | None = None) -> list[AnswerScore]:
    """Two answers per text; the worse one has the higher score in every other prompt."""
    answers = []
    for at, text in enumerate(texts):
        for rank in (1.0, 2.5):
            score = (rank - 1.5) * (1 if at % 2 else -1) + at / 7
            one = AnswerScore(
                f"p{at}", text, f"{rank:g} {text}", score, rank, 3 + at, at % 3 == 0, extra or {}
            )
            answers.append(one)
    return answers


def write(folder: Path, answers: list[AnswerScore], model: str = "head") -> dict[str, bytes]:
    write_scalar_report(
        folder,
        answers,
        evaluate_scores(answers, seed=0),
        model=model,
        settings={"data": "rows.csv", "seed": 0, "limit": None, "cut": True},
    )
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    return {name: (folder / name).read_bytes() for name in FILES}


def read(text: str) -> list[dict[str, str]]:
    """The rows, without the apostrophes before texts that begin like a formula."""
    rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    return [{csv_text(name): csv_text(cell) for name, cell in row.items()} for row in rows]


def table_rows(markdown: str, heading: str) -> list[list[str]]:
    """The cells of the rows of the table under a heading, its own headings left out."""
    part = markdown.split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines[2:]]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write(tmp_path / "one", answers_of(TEXTS))
    assert write(tmp_path / "two", answers_of(TEXTS)) == first
    assert write(tmp_path / "one", answers_of(TEXTS)) == first  # over what is there
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from test_report import *\n"
        "write(Path(sys.argv[2]), answers_of(TEXTS))"
    )
    again = tmp_path / "again"
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(again)], check=True)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == first  # another hash seed and clock


def test_csv_by_hand() -> None:
    answers = [
        AnswerScore("p", "q?", "a, b", 0.5, 1.0, 3, False, {"source": "x", "rank": "first"}),
        AnswerScore("p", "q?", "c", -1.25, 2.5, 4, True, {"ok": True, "note": None}),
        AnswerScore("p", "q?", "d", 0.5, None, 5, False, {"source": 7, "more": ["é", 1]}),
    ]
    assert results_csv(answers) == (
        "prompt_id,prompt,answer,rank,score,score_rank_in_prompt,tokens,truncated,"
        "source,input_rank,ok,note,more\n"
        'p,q?,"a, b",1,0.5,1.5,3,false,x,first,,,\n'
        "p,q?,c,2.5,-1.25,3,4,true,,,true,,\n"
        'p,q?,d,,0.5,1.5,5,false,7,,,,"[""é"", 1]"\n'
    )


def test_a_taken_name_is_prefixed_until_it_is_free() -> None:
    one = AnswerScore("p", "q", "a", 0.0, None, 1, False, {"input_score": "i", "score": "s"})
    row = read(results_csv([one]))[0]
    assert (row["score"], row["input_score"], row["input_input_score"]) == ("0", "i", "s")


def test_csv_round_trip(tmp_path: Path) -> None:
    answers = answers_of(TEXTS, {text: text for text in TEXTS if text})
    data = write(tmp_path, answers)["evaluation_results.csv"]
    assert data.startswith(b"prompt_id,prompt,answer,rank,score,score_rank_in_prompt,tokens,truncated,")
    assert data.endswith(b"\n") and not data.endswith(b"\r\n")
    rows = read(data.decode("utf-8"))
    assert [row["prompt"] for row in rows] == [a.prompt for a in answers]
    assert [row["answer"] for row in rows] == [a.answer for a in answers]
    assert [float(row["score"]) for row in rows] == [a.score for a in answers]
    assert [float(row["rank"]) for row in rows] == [a.rank for a in answers]
    assert all(row[text] == text for row in rows for text in TEXTS if text)
    assert {row["score_rank_in_prompt"] for row in rows} == {"1", "2"}


@given(
    st.lists(st.tuples(st.text(max_size=8), st.floats(width=32, allow_nan=False, allow_infinity=False))),
    st.text(st.characters(codec="utf-8"), max_size=5),
)
@settings(max_examples=100, deadline=None)
def test_csv_round_trip_of_any_text(cells: list[tuple[str, float]], name: str) -> None:
    answers = [AnswerScore(t, t, t, score, None, 0, False, {name: t}) for t, score in cells]
    text = results_csv(answers)
    rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    assert len(rows) == 1 + len(cells) and all(len(row) == len(COLUMNS) + bool(cells) for row in rows)
    for row, (t, score) in zip(rows[1:], cells, strict=True):
        assert [csv_text(row[at]) for at in (0, 1, 2, -1)] == [t] * 4
        assert float(row[4]) == score


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    answers = answers_of([HOSTILE, HOSTILE + "2", "x" * 5000, "y" * 5000])
    text = write(tmp_path, answers, model="<b>m</b>|`x`\n# h")["summary.md"].decode("utf-8")
    assert "<script" not in re.sub(r"\\<", "", text) and "<b>" not in re.sub(r"\\<", "", text)
    assert not re.search(r"(?<!\\)`", text)
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        r"# Scalar reward model: \<b>m\</b>\|\`x\` # h",
        "## Agreement with ranks",
        "## Scores",
        "## Most confident mistakes",
    ]
    rows = table_rows(text, "## Most confident mistakes")
    assert [len(row) for row in rows] == [6, 6]
    assert rows[1][0].strip().endswith("…") or rows[0][0].strip().endswith("…")
    assert max(map(len, text.splitlines())) < 1200


def test_summary_says_the_numbers() -> None:
    answers = answers_of(["one", "two", "three", "four"])
    metrics = evaluate_scores(answers, seed=0)
    text = summary(metrics, model="head", settings={"data": "rows_of*.csv", "max_length": 512})
    assert "\n- data: rows_of\\*.csv\n- max_length: 512\n" in text
    assert "![Scores](reward_scores.png)" in text
    counts = dict(re.findall(r"^\| (.*?) \| ([\d,]+) \|$", text, re.MULTILINE))
    assert counts["prompts"] == "4" and counts["answers"] == "8"
    assert counts["pairs of answers to one prompt with different ranks"] == "4"
    cells = {
        row[0].strip(): [cell.strip() for cell in row[2:]]
        for row in table_rows(text, "## Agreement with ranks")
    }
    assert cells["pair accuracy"] == ["0.5", r"\[0, 1\]", "4"]
    assert cells["Brier score"] == [f"{metrics.calibration.brier:.4g}", "–", "–"]  # type: ignore[union-attr]
    rows = table_rows(text, "## Most confident mistakes")
    assert [row[0].strip() for row in rows] == ["two", "four"]
    assert {row[5].strip() for row in rows} == {"-1.5"}
    assert "nan" not in text.lower() and "None" not in text


def test_without_ranks_and_without_answers(tmp_path: Path) -> None:
    unranked = [replace(answer, rank=None) for answer in answers_of(["one", "two"])]
    for at, answers in enumerate((unranked, [])):
        files = write(tmp_path / str(at), answers)
        text = files["summary.md"].decode("utf-8")
        assert "cannot say whether the scores are right" in text
        assert "mistakes" not in text
        assert "nan" not in text.lower()
        assert files["reward_scores.png"].startswith(b"\x89PNG")
        assert json.loads(files["metrics.json"])["metrics"]["accuracy"]["value"] is None


def test_metrics_json_holds_plain_numbers(tmp_path: Path) -> None:
    answers = answers_of(["one", "two \ud800", "three"])
    data = json.loads(write(tmp_path, answers)["metrics.json"], parse_constant=pytest.fail)
    assert data["model"] == "head"
    assert data["settings"] == {"data": "rows.csv", "seed": 0, "limit": None, "cut": True}
    metrics = evaluate_scores(answers, seed=0)
    assert data["metrics"] == json.loads(json.dumps(metrics_json(metrics)))
    assert data["metrics"]["accuracy"]["value"] == metrics.accuracy.value
    assert data["metrics"]["mistakes"] == [
        {"prompt_id": "p1", "margin": -1.5, "score_better": -0.5 + 1 / 7, "score_worse": 1 + 1 / 7}
        | {"rank_better": 1.0, "rank_worse": 2.5}
    ]


def test_the_picture(tmp_path: Path) -> None:
    answers = answers_of(["one", "two", "three", "four"])
    metrics = evaluate_scores(answers, seed=0)
    png = score_panels(answers, metrics, "a $title$ of\ntwo lines")
    assert png == score_panels(answers[::-1], metrics, "a $title$ of\ntwo lines")
    chunks = re.findall(rb"tIME|tEXt|iTXt|Software|Creation", png)
    assert chunks == []
    assert score_panels(answers, metrics, "another") != png
    # as far apart as float32 goes, and all the same
    for scores in ((3.4e38, -3.4e38), (3.4e38, 3.4e38), (1.0, 1.0000000000000002)):
        odd = [replace(a, score=scores[at % 2]) for at, a in enumerate(answers)]
        assert score_panels(odd, evaluate_scores(odd, seed=0), "odd").startswith(b"\x89PNG")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    answers = answers_of(["one"])
    with pytest.raises(DataError, match="cannot be written"):
        write_scalar_report(
            tmp_path / "file", answers, evaluate_scores(answers, seed=0), model="m", settings={}
        )
