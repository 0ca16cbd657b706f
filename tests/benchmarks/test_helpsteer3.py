"""HelpSteer3 with human checklists: whose answer is Response 1, and rows without a preference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reasongenrm.benchmarks.helpsteer3 import FIRST, POINTS, HelpSteer3
from reasongenrm.records import Drop, Row
from support.judged import good, judge_all, lines

pytestmark = pytest.mark.unit
BENCH = HelpSteer3()


def row(preference: Any, **columns: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"Write {preference}."}]
    texts = {"domain": "general", "context": turns, "response1": "one", "response2": "two"}
    return texts | {"overall_preference": preference, "human-checklist": ["Response 1 is short"], **columns}


def test_the_sign_of_the_preference_names_the_better_answer(tmp_path: Path) -> None:
    first, second = good(BENCH.rows(lines(tmp_path / "x.jsonl", [row(-3), row(1, domain="code")])))
    assert first.answers == ("one", "two") and first.details == {POINTS: ["Response 1 is short"], FIRST: True}
    assert second.answers == ("two", "one") and second.details[FIRST] is False
    scored = BENCH.score(
        [first, second],
        judge_all([first, second], lambda r, *_: ("right", "right" if r is first else "wrong")),
    )
    assert scored.score == 0.75 and scored.sections == {"code": 0.5, "general": 1.0} and not scored.partial


def test_what_says_nothing_is_a_drop(tmp_path: Path) -> None:
    raw = [
        row(0),
        row("1"),
        row(2, **{"human-checklist": "x"}),
        row(None),
        row(2, **{"human-checklist": None}),
    ]
    items = list(BENCH.rows(lines(tmp_path / "x.jsonl", raw)))
    reasons = [item.reason for item in items if isinstance(item, Drop)]
    assert reasons == ["human_tie", "bad_preference", "bad_type", "missing_column"]
    assert [item.details[POINTS] for item in items if isinstance(item, Row)] == [[]]
