"""Pairs to label and verdicts on them: every row of a file is a pair or a drop, and ids fit those of judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.answers.pairs import LabelPair, PairsTable, read_pairs, with_verdicts
from reasongenrm.answers.verdicts import JudgeVerdict, judge_name, read_verdicts
from reasongenrm.errors import DataError
from reasongenrm.judge.ask import compare_orders
from reasongenrm.records import PreferencePair, Verdict
from reasongenrm.rows.csv_line import csv_line
from reasongenrm.rows.files import json_lines
from reasongenrm.stages.ask import AnswersRow, read_answer_rows
from reasongenrm.store import to_json

pytestmark = pytest.mark.unit


def write_rows(path: Path, *rows: Any) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def read_table(folder: Path, *rows: Any) -> PairsTable:
    return read_pairs(write_rows(folder / "pairs.jsonl", *rows))


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]


PAIR = {"prompt": "p", "a": "x", "b": "y"}


def test_three_layouts_are_the_same_pair(tmp_path: Path) -> None:
    rows = (
        {"prompt": "p", "a": "x", "b": "y", "criteria": ["short", "true"]},
        {"prompt": turns("p"), "chosen": "x", "rejected": "y", "criteria": "- short\n- true"},
        {"chosen": turns("p", "x"), "rejected": turns("p", "y"), "criteria": ["short", "true"]},
    )
    pairs = [read_table(tmp_path, row).pairs[0] for row in rows]
    assert len({pair.id for pair in pairs}) == 1
    for pair in pairs:
        assert (pair.prompt, pair.a, pair.b, pair.source) == (tuple(turns("p")), "x", "y", "pairs")
        assert pair.criteria == "- short\n- true"
    # As the first two of a stage-1 pair, so that the verdicts of a run fit.
    history = [{"role": "criteria", "content": "- short\n- true"}, *turns("p")]
    assert pairs[0].id == PreferencePair.make(history, "x", "y", "").id  # type: ignore[arg-type]


def test_names_are_those_that_judge_compare_writes(tmp_path: Path) -> None:
    rows = [
        PAIR,
        PAIR | {"id": "mine"},
        {"prompt": turns("p", "q", "r"), "a": "x", "b": "z", "id": "mine"},
        {"prompt": "other", "a": "1", "b": "2", "id": 7},
        {"prompt": "s", "a": "1", "b": "2"},
    ]
    path = write_rows(tmp_path / "pairs.jsonl", *rows)
    asked = [row.id for row in read_answer_rows(json_lines(path), ("a", "b")) if isinstance(row, AnswersRow)]
    table = read_pairs(path)
    assert [drop.reason for drop in table.drops] == ["duplicate_pair"]
    assert [pair.name for pair in table.pairs] == [asked[0], *asked[2:]] and asked[2] == "mine-2"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "p", "a": "x"}, "missing_column"),
        ({"prompt": "p", "chosen": "x"}, "missing_column"),
        ({"prompt": "p", "a": "x", "b": 3}, "bad_type"),
        ({"prompt": "p", "a": "x", "b": " "}, "empty_answer"),
        ({"prompt": "p", "a": "x", "b": "x "}, "equal_answers"),
        ({"prompt": "p", "a": "x", "b": "\ud800"}, "bad_encoding"),
        ({"prompt": " ", "a": "x", "b": "y"}, "empty_prompt"),
        ({"prompt": turns("p", "q"), "a": "x", "b": "y"}, "no_final_question"),
        ({"chosen": turns("p", "x"), "rejected": turns("q", "y")}, "history_mismatch"),
        (PAIR | {"winner": "C"}, "bad_verdict"),
        (PAIR | {"winner": "A", "prob_a": 2}, "bad_verdict"),
        (PAIR | {"judges": ["A"]}, "bad_judges"),
        (PAIR | {"judges": {"j": {"winner": "x"}}}, "bad_verdict"),
        (PAIR | {"winner": "A", "reasons": "because"}, "bad_verdict"),
        (PAIR | {"source": 4}, "bad_type"),
        ('{"prompt": "p", "a": "x", "b": "y", "n": NaN}', "bad_number"),
        ("[1]", "broken_json"),
        ('{"prompt"', "broken_json"),
    ],
)
def test_a_row_that_cannot_be_labelled_is_a_drop_with_its_line(tmp_path: Path, row: Any, reason: str) -> None:
    good = {"prompt": "fine", "a": "1", "b": "2"}
    table = read_table(tmp_path, good, row)
    assert [pair.a for pair in table.pairs] == ["1"]
    assert [(drop.location, drop.reason) for drop in table.drops] == [
        (f"{tmp_path / 'pairs.jsonl'}:2", reason)
    ]


def test_other_columns_are_copied_and_labels_are_not(tmp_path: Path) -> None:
    row = PAIR | {"subset": "chat", "score": [1, {"x": None}], "labels": {"ann": "A"}, "source": " s "}
    table = read_table(tmp_path, row)
    assert table.pairs[0].extras == {"subset": "chat", "score": [1, {"x": None}]}
    assert table.pairs[0].source == "s" and table.notes == ("the column 'labels' is not copied",)


def test_a_csv_has_the_same_columns(tmp_path: Path) -> None:
    header = ["prompt", "a", "b", "winner", "prob_a", "judges", "topic", "criteria"]
    rows = [
        ["p", "=x", "y", "A", "0.25", '{"other": "tie"}', "t", "c"],
        ["q", "x", "y", "", "", "", "", ""],
        ["r", "x", "y", "A", "high", "", "", ""],
        ["s", "x", "", "", "", "", "", ""],
    ]
    path = tmp_path / "pairs.csv"
    path.write_text("".join(csv_line(row) for row in [header, *rows]), encoding="utf-8")
    table = read_pairs(str(path))
    first, second = table.pairs
    assert first.a == "=x" and first.criteria == "c" and first.extras == {"topic": "t"}
    assert first.verdicts == {"other": JudgeVerdict("tie"), "judge": JudgeVerdict("A", 0.25)}
    assert second.verdicts == {} and second.extras == {} and second.source == "pairs"
    assert [drop.reason for drop in table.drops] == ["bad_verdict", "empty_answer"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="file not found"):
        read_pairs(str(tmp_path / "none.jsonl"))


def pair_of(table: PairsTable) -> LabelPair:
    (pair,) = table.pairs
    return pair


def test_verdicts_in_a_row(tmp_path: Path) -> None:
    row = PAIR | {"winner": "B", "prob_a": 0.2, "reason": "why", "reasons": {"AB": "ab", "BA": "ba"}}
    verdict = pair_of(read_table(tmp_path, row)).verdicts["judge"]
    assert verdict == JudgeVerdict("B", 0.2, {"AB": "ab", "BA": "ba"})
    assert verdict.reason(swapped=False) == "ab" and verdict.reason(swapped=True) == "ba"
    alone = pair_of(read_table(tmp_path, PAIR | {"winner": None, "reason": "why"})).verdicts["judge"]
    assert alone.reason(swapped=False) == "why" and alone.winner is None
    assert alone.reason(swapped=True) == "(A and B are exchanged in this reason)\nwhy"
    several = PAIR | {"judges": {"one": "tie", "two": {"winner": "A", "prob_a": 0.9}}}
    assert pair_of(read_table(tmp_path, several)).verdicts == {
        "one": JudgeVerdict("tie"),
        "two": JudgeVerdict("A", 0.9),
    }


def test_verdicts_of_judge_compare_join_by_id(tmp_path: Path) -> None:
    table = read_table(tmp_path, PAIR, PAIR | {"id": "mine", "prompt": "q"}, PAIR | {"prompt": "r"})
    path = Path(
        write_rows(
            tmp_path / "tiny.jsonl",
            {
                "id": table.pairs[0].name,
                "winner": "B",
                "prob_a": 0.1,
                "reason": "r",
                "reasons": {"AB": "r", "BA": "s"},
            },
            {"id": "mine", "winner": "tie", "prob_a": None, "reason": None, "reasons": {}},
            {"id": "mine", "winner": "A"},
            {"id": "x", "winner": "neither"},
            {"id": "y"},
            {"id": [1], "winner": "A"},
            "{",
            {"id": "unknown", "winner": "A"},
        )
    )
    verdicts, drops = read_verdicts(path)
    reasons = ["duplicate_verdict", "bad_verdict", "missing_column", "bad_type", "broken_json"]
    assert [drop.reason for drop in drops] == reasons
    pairs, count = with_verdicts(table.pairs, judge_name(path), verdicts)
    assert count == 2 and [set(pair.verdicts) for pair in pairs] == [{"tiny"}, {"tiny"}, set()]
    assert pairs[0].verdicts["tiny"] == JudgeVerdict("B", 0.1, {"AB": "r", "BA": "s"})
    with pytest.raises(DataError, match="no verdict can be read"):
        read_verdicts(Path(write_rows(tmp_path / "none.jsonl", {"id": "x"})))


def run_verdict(pair: LabelPair, order: str, winner: str | None, prob_a: float | None) -> dict[str, Any]:
    outcome = "ok" if winner else "unparsed"
    return to_json(Verdict("v", pair.id, order, winner, prob_a, outcome, f"in {order}"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("both", "expected"),
    [
        ([("AB", "A", 0.9), ("BA", "A", 0.6)], ("A", 0.65)),  # (0.9 + 0.4) / 2
        ([("AB", "A", 0.9), ("BA", "A", 0.95)], ("B", 0.475)),
        ([("AB", "A", None), ("BA", "A", None)], ("tie", None)),
        ([("AB", "B", None), ("BA", "A", None)], ("B", None)),
        ([("AB", "A", 0.9), ("BA", "B", None)], ("A", None)),
        ([("AB", None, None), ("BA", "A", 0.7)], ("B", 0.3)),
        ([("AB", None, None), ("BA", None, None)], (None, None)),
        ([("BA", "tie", 0.5)], ("tie", 0.5)),
    ],
)
def test_verdicts_of_a_run_are_combined_over_both_orders(
    tmp_path: Path, both: list[Any], expected: tuple[str | None, float | None]
) -> None:
    pair = pair_of(read_table(tmp_path, {"prompt": "p", "chosen": "x", "rejected": "y"}))
    folder = tmp_path / "evaluate" / "toy" / "genrm"
    folder.mkdir(parents=True)
    path = Path(write_rows(folder / "verdicts.jsonl", *(run_verdict(pair, *order) for order in both)))
    verdicts, drops = read_verdicts(path)
    assert (
        drops == [] and judge_name(path) == "genrm" and judge_name(tmp_path / "verdicts.jsonl") == "verdicts"
    )
    verdict = verdicts[pair.id]
    assert verdict.winner == expected[0] and verdict.reasons == {order: f"in {order}" for order, _, _ in both}
    assert verdict.prob_a == (None if expected[1] is None else pytest.approx(expected[1]))


@given(
    st.lists(
        st.tuples(st.sampled_from(["A", "B", "tie", None]), st.none() | st.floats(0, 1)),
        min_size=1,
        max_size=2,
    )
)
def test_orders_are_combined_as_judge_compare_does(votes: list[tuple[Any, float | None]]) -> None:
    import tempfile

    verdicts = [
        Verdict(
            f"v{order}", "pair", order, winner, prob_a if winner else None, "ok" if winner else "unparsed", ""
        )
        for order, (winner, prob_a) in zip(("AB", "BA"), votes, strict=False)
    ]
    expected = compare_orders("pair", [(verdict, []) for verdict in verdicts], margin=0.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(write_rows(Path(folder) / "verdicts.jsonl", *map(to_json, verdicts)))
        combined = read_verdicts(path)[0]["pair"]
    assert combined.winner == expected.winner and combined.prob_a == pytest.approx(expected.prob_a)
