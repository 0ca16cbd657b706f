"""Files with ranks of several annotators: the pairs that follow, and the annotators' agreement."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reasongenrm.data.ranked import agreement, load_ranked
from reasongenrm.records import PreferencePair, content_id

pytestmark = pytest.mark.unit

Table = dict[str, dict[str, float]]  # annotator -> answer -> rank


def write(folder: Path, table: Table, prompt: str = "p") -> str:
    file = folder / "ranks.jsonl"
    rows = [
        {"prompt": prompt, "answer": answer, "rank": rank, "annotator": annotator}
        for annotator, ranks in table.items()
        for answer, rank in ranks.items()
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def pairs(path: str) -> list[tuple[str, str]]:
    return [(item.chosen, item.rejected) for item in load_ranked(path) if isinstance(item, PreferencePair)]


def one_prompt(path: str) -> dict[str, Any]:
    report = agreement(path)
    assert report is not None
    (row,) = report["per_prompt"]
    return row


def test_the_mean_rank_decides(tmp_path: Path) -> None:
    table: Table = {
        "ann": {"a": 1, "b": 2, "c": 3},
        "bob": {"a": 1, "b": 2, "c": 3},
        "eve": {"a": 3, "b": 2, "c": 1},  # outvoted
    }
    assert pairs(write(tmp_path, table)) == [("a", "b"), ("a", "c"), ("b", "c")]


def test_a_tie_in_the_mean_is_a_tie(tmp_path: Path) -> None:
    table: Table = {"ann": {"a": 1, "b": 2, "c": 3}, "bob": {"a": 2, "b": 1, "c": 3}}
    assert sorted(pairs(write(tmp_path, table))) == [("a", "c"), ("b", "c")]


def test_how_an_annotator_numbers_the_ranks_does_not_matter(tmp_path: Path) -> None:
    wide: Table = {
        "ann": {"a": 1, "b": 50, "c": 90},
        "bob": {"b": 1, "a": 2, "c": 3},
        "eve": {"b": 1, "a": 2, "c": 3},
    }
    assert pairs(write(tmp_path, wide)) == [("b", "a"), ("b", "c"), ("a", "c")]
    for second in (2, 4):  # after a tie of two: 1, 1, 2 and 1, 1, 3 say the same
        table: Table = {"ann": {"a": 1, "b": 1, "c": second}, "bob": {"a": 2, "b": 3, "c": 1}}
        assert ("a", "b") in pairs(write(tmp_path, table)) and ("a", "c") in pairs(write(tmp_path, table))


def test_a_partial_ranking_counts_only_for_its_answers(tmp_path: Path) -> None:
    table: Table = {"ann": {"a": 1, "b": 2}, "bob": {"b": 2, "c": 1}, "eve": {"a": 2, "b": 3, "c": 1}}
    # a against b: ann and eve; b against c: bob and eve; a against c: eve alone.
    assert sorted(pairs(write(tmp_path, table))) == [("a", "b"), ("c", "a"), ("c", "b")]
    table = {"ann": {"a": 1, "b": 2}, "bob": {"c": 1, "d": 2}}
    assert sorted(pairs(write(tmp_path, table))) == [("a", "b"), ("c", "d")], "nobody compared the others"


def test_no_annotator_ranked_two_answers(tmp_path: Path) -> None:
    (drop,) = load_ranked(write(tmp_path, {"ann": {"a": 1}, "bob": {"b": 2}}))
    assert not isinstance(drop, PreferencePair) and drop.reason == "nothing_to_compare"


def test_a_second_rank_by_the_same_annotator_is_a_duplicate(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text(
        "annotator,prompt,answer,rank\nann,p,a,1\nbob,p,a,2\n ann ,p,a,2\nann,p,b,2\nbob,p,b,3\n",
        encoding="utf-8",
    )
    items = list(load_ranked(str(file)))
    drops = [item for item in items if not isinstance(item, PreferencePair)]
    assert [(drop.location, drop.reason) for drop in drops] == [(f"{file}:4", "duplicate_answer")]
    assert "ann" in drops[0].detail
    assert pairs(str(file)) == [("a", "b")]


def test_a_textbook_example_from_a_file(tmp_path: Path) -> None:
    # Siegel (1956), see tests/metrics/test_agreement.py
    ranks = [[1, 6, 3, 2, 5, 4], [1, 5, 6, 4, 2, 3], [6, 3, 2, 5, 4, 1]]
    table: Table = {
        f"judge {n}": dict(zip("abcdef", map(float, row), strict=True)) for n, row in enumerate(ranks)
    }
    row = one_prompt(write(tmp_path, table))
    assert row["w"] == pytest.approx(0.161905, abs=1e-6)
    assert row["history"] == content_id(({"role": "user", "content": "p"},))
    assert (row["answers"], row["annotators"]) == (6, 3)


def test_a_prompt_with_only_ties_has_no_w(tmp_path: Path) -> None:
    report = agreement(write(tmp_path, {"ann": {"a": 1, "b": 1}, "bob": {"a": 2, "b": 2}}))
    assert report == {"annotators": 2, "prompts": 1, "rated": 0, "mean_w": None, "per_prompt": []}


def test_fewer_than_two_annotators(tmp_path: Path) -> None:
    assert agreement(write(tmp_path, {"ann": {"a": 1, "b": 2}})) is None
    file = tmp_path / "r.csv"
    file.write_text("prompt,answer,rank\np,a,1\np,b,2\n", encoding="utf-8")
    assert agreement(str(file)) is None


def test_w_needs_two_annotators_who_ranked_all_answers(tmp_path: Path) -> None:
    rows = []
    for prompt, ann, bob in (("same", "12", "12"), ("opposite", "12", "21"), ("part", "12", "1")):
        for annotator, ranks in (("ann", ann), ("bob", bob)):
            rows.append({"prompt": prompt, "answers": list("xy")[: len(ranks)], "ranks": [int(r) for r in ranks],
                         "annotator": annotator})  # fmt: skip
    file = tmp_path / "r.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = agreement(str(file))
    assert report is not None
    assert [report[key] for key in ("annotators", "prompts", "rated", "mean_w")] == [2, 3, 2, 0.5]
    assert [row["w"] for row in report["per_prompt"]] == [1.0, 0.0]
    assert json.loads(json.dumps(report)) == report


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.permutations(range(1, 6)), st.integers(2, 5), st.data())
def test_annotators_who_agree_have_w_1_and_decide_as_one(
    tmp_path: Path, ranks: list[int], m: int, data: st.DataObject
) -> None:
    order = {f"answer {i}": float(rank) for i, rank in enumerate(ranks)}
    table: Table = {f"annotator {i}": order for i in range(m)}
    path = write(tmp_path, table)
    row = one_prompt(path)
    assert row["w"] == 1
    expected = {(x, y) for x, y in combinations(sorted(order, key=order.__getitem__), 2)}
    assert set(pairs(path)) == expected
