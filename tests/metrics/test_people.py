"""Agreement of people and judges: real labels against scikit-learn, and cases whose numbers are plain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score

from reasongenrm.metrics.people import UNREAD, LabelStatistics, LabelTable, majority_label

pytestmark = pytest.mark.unit

PANDALM = Path(__file__).resolve().parents[3] / "shared" / "human" / "pandalm_annotated.jsonl"
KINDS = ("A", "B", "tie")


def statistics(people: Sequence[dict[str, str]], lengths: Sequence[tuple[int, int]] = ()) -> LabelStatistics:
    names = [str(number) for number in range(len(people))]
    return LabelStatistics(
        LabelTable(KINDS, names, names, people, lengths or [(1, 1)] * len(people)), seed=17
    )


@pytest.mark.skipif(not PANDALM.exists(), reason="shared/human is absent")
def test_pandalm_is_near_what_its_authors_publish() -> None:
    rows = [json.loads(line) for line in PANDALM.read_text(encoding="utf-8").splitlines()]
    names = {1: "A", 2: "B", 0: "tie"}
    table = statistics([{str(n): names[label] for n, label in enumerate(row["annotators"])} for row in rows])
    people = table.people()
    assert [two.rows for two in people.two] == [500] * 3
    # Published for all 999 rows: 0.85, 0.88, 0.86 (PandaLM, arXiv 2306.05087).
    for two, published in zip(people.two, (0.85, 0.88, 0.86), strict=True):
        assert two.kappa.value == pytest.approx(published, abs=0.03)
        assert two.kappa.interval is not None and two.kappa.interval[0] < published < two.kappa.interval[1]
    for two, (one, other) in zip(people.two, combinations(range(3), 2), strict=True):
        columns = [[row["annotators"][side] for row in rows] for side in (one, other)]
        assert two.kappa.value == pytest.approx(cohen_kappa_score(*columns))
    judged = table.judge([names.get(row["judges"]["pandalm-7b"]) for row in rows])
    assert judged is not None and judged.agreeing == 334 and judged.unread == 0


def test_counts_add_up_and_nothing_is_left_out_in_silence() -> None:
    people = [{"x": "A", "y": "A"}, {"x": "A", "y": "B"}, {"x": "B"}, {"x": "tie", "y": "tie"}]
    found = statistics(people).judge(["A", "A", UNREAD, "B"])
    assert found is not None
    assert (found.rows, found.agreeing, found.disagreeing, found.unread) == (
        3,
        1,
        1,
        1,
    )  # one has no majority
    assert found.accuracy.value == pytest.approx(1 / 3)
    assert {label: value.value for label, value in found.recall.items()} == {"A": 1, "B": 0, "tie": 0}
    assert statistics(people).judge([None] * 4) is None


def test_biases_are_against_people() -> None:
    people = [{"x": "A"}, {"x": "B"}, {"x": "B"}, {"x": "B"}]
    lengths = [(9, 1), (9, 1), (1, 9), (5, 5)]
    found = statistics(people, lengths).judge(["A"] * 4)
    assert found is not None and found.position is not None and found.length is not None
    assert found.position.value == pytest.approx(0.75)  # A four times, people once
    assert found.length.value == pytest.approx(0)  # the longer one twice of three, as people


def test_two_judges_on_the_same_labels() -> None:
    people = [{"x": "A" if number % 2 else "B"} for number in range(40)]
    right = [row["x"] for row in people]
    worse = ["A" if number < 12 else label for number, label in enumerate(right)]
    [found] = statistics(people).differences({"one": right, "other": worse})
    assert (found.test.better, found.test.worse, found.rows) == (6, 0, 40)
    assert found.accuracy.value == pytest.approx(6 / 40) and found.p == pytest.approx(2 / 2**6)
    assert found.kappa.interval is not None and found.kappa.interval[0] > 0


def test_more_rows_give_a_narrower_interval() -> None:
    people = [{"x": "A" if number % 2 else "B"} for number in range(60)]
    judged = [row["x"] if number % 5 else "tie" for number, row in enumerate(people)]
    found = statistics(people).judge(judged)
    assert found is not None
    halves = [size.kappa for size in found.sizes if size.kappa is not None]
    assert halves == sorted(halves, reverse=True) and halves[0] / halves[-1] == pytest.approx(
        32**0.5, rel=0.3
    )


def test_a_majority_is_more_than_any_other() -> None:
    assert majority_label(["A", "B", "A"]) == "A"
    assert majority_label(["A", "B"]) is None and majority_label([]) is None


def test_rows_of_one_prompt_are_drawn_together() -> None:
    people = [{"x": "A", "y": "A"}, {"x": "A", "y": "B"}] * 30
    alone = LabelTable(KINDS, [str(n) for n in range(60)], [str(n) for n in range(60)], people, [(1, 1)] * 60)
    shared = LabelTable(KINDS, alone.ids, [str(n // 20) for n in range(60)], people, alone.lengths)
    wide, narrow = (LabelStatistics(table, seed=17).people().two[0].agreement for table in (alone, shared))
    assert wide.interval is not None and narrow.interval is not None
    assert narrow.interval == (0.5, 0.5) and wide.interval[0] < 0.5 < wide.interval[1]
