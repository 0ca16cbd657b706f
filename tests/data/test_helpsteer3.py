"""HelpSteer3's preferences as pairs: the better answer, people's points without the answers' names, and rows that say nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.prepare import SourceConfig
from reasongenrm.data.helpsteer3 import unnamed
from reasongenrm.data.points import coverage
from reasongenrm.data.sources import load_sources
from reasongenrm.records import Drop, PreferencePair
from reasongenrm.store import write_jsonl

pytestmark = pytest.mark.unit


def row(preference: Any, **columns: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": f"Write {preference}."}]
    texts = {"domain": "general", "context": turns, "response1": "one", "response2": "two"}
    return texts | {"overall_preference": preference, **columns}


def load(path: Path, rows: list[dict[str, Any]]) -> list[PreferencePair | Drop]:
    write_jsonl(path, rows)
    return list(load_sources([SourceConfig(path=str(path), kind="helpsteer3")]))


def test_the_sign_of_the_preference_names_the_chosen_answer(tmp_path: Path) -> None:
    points = ["Response 1 lacks rhymes.", "Response 2", "Response 1 or Response 2: so"]
    rows = [row(-2, **{"human-checklist": points}), row(1, domain=None, context="Hi"), row(3, domain="code")]
    first, second, third = load(tmp_path / "train.jsonl", rows)
    assert (
        isinstance(first, PreferencePair)
        and isinstance(second, PreferencePair)
        and isinstance(third, PreferencePair)
    )
    assert (first.chosen, first.rejected, first.source) == ("one", "two", "helpsteer3-general")
    assert first.reference_points == ("lacks rhymes.",), "what names an answer alone says nothing"
    assert (second.chosen, second.rejected, second.source, second.reference_points) == (
        "two",
        "one",
        "helpsteer3",
        (),
    )
    assert list(second.history) == [{"role": "user", "content": "Hi"}]
    assert third.source == "helpsteer3-code"


@pytest.mark.parametrize(
    ("point", "text"),
    [
        ("Response 1 lacks rhymes", "lacks rhymes"),
        (
            "the response 2's second paragraph is vague, Response 1 is not",
            "second paragraph is vague, is not",
        ),
        ("Its response 12 times as long", "Its response 12 times as long"),
        ("Response 1 and 2 lack rhymes", "lack rhymes"),
        ("Responses 1 and 2 lack rhymes", "lack rhymes"),
        ("Response_1 is shorter than Response-2", "is shorter than"),
        ("RESPONSE #2 explains `print(1)`", "explains `print(1)`"),
        ("Response 1/2 lack rhymes", "lack rhymes"),
        ("Response 1, Response 2, 3 rhymes are missing", ", 3 rhymes are missing"),
        ("Response 1, 2 and 3 items listed", ", 2 and 3 items listed"),  # a list of numbers, not of names
        ("Response 1 and 2.5 times as long", "and 2.5 times as long"),
        ("Response 1 and 2-year plans", "and 2-year plans"),
    ],
)
def test_points_do_not_name_the_answers(point: str, text: str) -> None:
    assert unnamed([point]) == [text]


@pytest.mark.parametrize("points", [["it is bad", "Is fun", "no", "AI is hot"], ["  two  lines\n too "]])
def test_points_that_name_no_answer_are_kept(points: list[str]) -> None:
    """Short words count in a point without others, so any point with a letter or digit can be covered."""
    assert unnamed(points) == [" ".join(point.split()) for point in points]
    assert [coverage(point, [point]) for point in points] == [1.0] * len(points)


def test_a_point_that_says_nothing_is_left_out_alone(tmp_path: Path) -> None:
    empty = [
        "",
        "…",
        "Response 1",
        "the Response 2: so",
        'Response 1 "!!!"',
        '"!!!"',
        "\u0301\u0301\u0301\u0301",
    ]
    [pair] = load(tmp_path / "train.jsonl", [row(-2, **{"human-checklist": [*empty, "lacks rhymes"]})])
    assert isinstance(pair, PreferencePair), pair
    assert pair.reference_points == ("lacks rhymes",)


def test_a_point_is_covered_whatever_the_judge_calls_the_answers(tmp_path: Path) -> None:
    [pair] = load(
        tmp_path / "train.jsonl", [row(-2, **{"human-checklist": ["Response 1 lacks vivid rhymes"]})]
    )
    assert isinstance(pair, PreferencePair)
    for name in ("A", "B"):
        assert coverage(f"Answer {name} lacks any vivid rhymes.", pair.reference_points) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"overall_preference": 0}, "human_tie"),
        ({"overall_preference": "1"}, "bad_preference"),
        ({"overall_preference": 100}, "bad_preference"),
        ({"overall_preference": -4}, "bad_preference"),
        ({"overall_preference": None}, "bad_preference"),
        ({"human-checklist": "x"}, "bad_type"),
        ({"human-checklist": [1]}, "bad_type"),
        ({"response1": None}, "bad_type"),
        ({"response1": "two"}, "equal_answers"),
        ({"response2": " "}, "empty_answer"),
        ({"context": []}, "no_messages"),
        ({"domain": 3}, "bad_type"),
    ],
)
def test_a_row_without_a_preference_is_a_drop_with_its_reason(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    [item] = load(tmp_path / "train.jsonl", [row(2) | changes])
    assert isinstance(item, Drop) and (item.reason, item.stage) == (reason, "load"), item
    assert item.location.endswith("train.jsonl:1")
