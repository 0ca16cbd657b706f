"""RubricBench: each pair with its rubric and without, and the gap between the two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.benchmarks.rubricbench import RubricBench
from reasongenrm.records import Drop, split_criteria
from support.judged import good, judge_all, lines

pytestmark = pytest.mark.unit
BENCH = RubricBench()


def row(number: int, **columns: Any) -> dict[str, Any]:
    texts = {"case_id": str(number), "instruction": f"Write {number}.", "response_a": "a", "response_b": "b"}
    return texts | {
        "label": number % 2,
        "rubrics": "1. Is it short?",
        "domain": "Chat",
        "source": "x",
        **columns,
    }


def test_each_pair_is_two_rows(tmp_path: Path) -> None:
    own, given, *_ = good(BENCH.rows(lines(tmp_path / "x.jsonl", [row(1), row(2)])))
    assert (own.subset, given.subset) == ("Own criteria/Chat", "Given rubric/Chat")
    assert own.answers == given.answers == ("b", "a")  # label 1 is the second answer
    assert own.id != given.id and own.pairs[0].id != given.pairs[0].id
    assert split_criteria(own.history)[0] == ""
    assert split_criteria(given.history) == ("1. Is it short?", own.history)


@pytest.mark.parametrize(
    ("rubrics", "text"),
    [
        (json.dumps(["Is it short?", "Is it kind?"]), "- Is it short?\n- Is it kind?"),
        (["Is it short?"], "- Is it short?"),
        (json.dumps([{"criterion": "Is it short?", "weight": 1}]), "- Is it short?"),
        ("[a] text", "[a] text"),
    ],
)
def test_rubrics_as_text_or_list(tmp_path: Path, rubrics: Any, text: str) -> None:
    _, given = good(BENCH.rows(lines(tmp_path / "x.jsonl", [row(1, rubrics=rubrics)])))
    assert split_criteria(given.history)[0] == text


def test_the_gap_by_hand(tmp_path: Path) -> None:
    raw = [row(number, domain="Chat" if number < 3 else "Safety") for number in range(4)]
    rows = good(BENCH.rows(lines(tmp_path / "x.jsonl", raw)))
    wrong = {"Write 0.", "Write 1."}  # without the rubric

    def kinds(r: Any, *_: int) -> tuple[str, str]:
        own = r.subset.startswith("Own")
        return ("wrong", "wrong") if own and r.history[-1]["content"] in wrong else ("right", "right")

    scored = BENCH.score(rows, judge_all(rows, kinds))
    assert scored.score == 0.5  # the judge's own criteria alone
    assert scored.sections == {"Own criteria": 0.5, "Given rubric": 1.0}
    assert scored.details == {"gap": 0.5, "given": 1.0, "own": 0.5}
    assert scored.partial  # 1,147 pairs were published
    only = [r for r in rows if r.subset.startswith("Given")]
    alone = BENCH.score(only, judge_all(only, kinds))
    assert alone.score == 1 and alone.details["gap"] is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"rubrics": " "}, "no_rubric"), ({"label": 2}, "bad_label"), ({"response_a": None}, "missing_column")],
)
def test_what_cannot_be_read_is_a_drop(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    items = list(BENCH.rows(lines(tmp_path / "x.jsonl", [row(1) | change, row(2)])))
    assert [item.reason for item in items if isinstance(item, Drop)] == [reason] and len(items) == 3
