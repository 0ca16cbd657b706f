"""JudgeBench: published rows from their counts, upstream's counter restated, the real file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.benchmarks.judgebench import CATEGORIES, ROWS, JudgeBench
from reasongenrm.records import Message, Row
from support.judged import VERDICTS, dropped, good, judge_all, lines, score_all

pytestmark = pytest.mark.unit
BENCH = JudgeBench()
TURNS = (Message(role="user", content="q"),)

# The paper's table 1 (pairs by GPT-4o): Knowledge, Reasoning, Math, Coding, Overall. Beside it, how many pairs of
# 154, 98, 56 and 42 that is: 78/154 = 50.65%, 53/98 = 54.08%, 42/56 = 75%, 25/42 = 59.52%; 198/350 = 56.57%.
PUBLISHED = [
    ([50.65, 54.08, 75.00, 59.52, 56.57], [78, 53, 42, 25]),  # Arena-Hard prompt, GPT-4o
    ([44.16, 47.96, 66.07, 61.90, 50.86], [68, 47, 37, 26]),  # vanilla prompt, GPT-4o
    ([9.09, 21.43, 7.14, 16.67, 13.14], [14, 21, 4, 7]),  # PandaLM
]


def row(name: str, category: str = "Math", split: str = "gpt") -> Row:
    return Row.make(
        category, TURNS, [f"{name} r"], [f"{name} w"], details={"source": category, "split": split}
    )


@pytest.mark.parametrize(("percent", "right"), PUBLISHED)
def test_published_rows_are_micro_averages(percent: list[float], right: list[int]) -> None:
    rows = [row(f"{c}{n}", c) for c in CATEGORIES for n in range(ROWS["gpt"][c])]
    first = dict(zip(CATEGORIES, right, strict=True))
    rank = {r.id: n for c in CATEGORIES for n, r in enumerate([r for r in rows if r.subset == c])}
    # Right in one order and equal in the other is enough; once right and once wrong is not.
    results = judge_all(
        rows, lambda r, *_: ("right", "tie") if rank[r.id] < first[r.subset] else ("right", "wrong")
    )
    scored = BENCH.score(rows, results)
    ours = [*scored.sections.values(), scored.score]
    assert [100 * (share or 0) for share in ours] == pytest.approx(percent, abs=0.0051)
    assert not scored.partial and scored.rows == 350 and scored.strict == 0
    assert scored.details["inconsistent"] == 1.0
    assert scored.details["macro"] == pytest.approx(sum(percent[:4]) / 400, abs=1e-4)


def upstream(decisions: list[tuple[str | None, str | None]]) -> tuple[float, float, float]:
    """`compute_final_metrics` from its definition, the right label being A>B: accuracy, wrong, inconsistent."""
    correct = wrong = inconsistent = 0
    for first, second in decisions:
        counter = sum((d == "A>B") - (d == "B>A") for d in (first, second))
        correct, wrong = correct + (counter > 0), wrong + (counter < 0)
        inconsistent += first != second
    return correct / len(decisions), wrong / len(decisions), inconsistent / len(decisions)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from(VERDICTS)] * 2), min_size=1, max_size=12))
def test_the_counter_is_upstreams(verdicts: list[tuple[str, str]]) -> None:
    rows = [row(str(n), CATEGORIES[n % 4]) for n in range(len(verdicts))]
    verdicts_by_id = {r.id: one for r, one in zip(rows, verdicts, strict=True)}
    decision = {"right": "A>B", "wrong": "B>A", "tie": "A=B"}
    results = judge_all(rows, lambda r, *_: verdicts_by_id[r.id])
    scored = BENCH.score(rows, results)
    accuracy, wrong, inconsistent = upstream([(decision.get(a), decision.get(b)) for a, b in verdicts])
    assert scored.score == pytest.approx(accuracy)
    assert scored.details["net"] == pytest.approx(accuracy - wrong)
    assert scored.details["tied"] == pytest.approx(1 - accuracy - wrong)
    assert scored.details["inconsistent"] == pytest.approx(inconsistent)
    assert scored.strict == pytest.approx(sum(one == ("right", "right") for one in verdicts) / len(verdicts))
    assert BENCH.score(rows[::-1], results) == scored


def test_a_scalar_head_has_one_order_and_equal_scores_are_not_right() -> None:
    rows = [row("a"), row("b"), row("c"), row("d")]
    scores = {rows[0].id: (2, 1), rows[1].id: (1, 1), rows[2].id: (0, 1), rows[3].id: (3, 1)}
    scored = BENCH.score(rows, score_all(rows, lambda r, place: float(scores[r.id][place])))
    assert scored.score == scored.strict == 0.5
    assert (scored.details["net"], scored.details["tied"], scored.details["inconsistent"]) == (
        0.25,
        0.25,
        None,
    )


def test_a_part_is_partial_and_an_unknown_source_has_its_own_section() -> None:
    rows = [row(str(n), "Coding", "claude") for n in range(31)]
    scored = BENCH.score(rows, score_all(rows, lambda r, place: -place))
    assert scored.missing == ("Knowledge", "Reasoning", "Math") and scored.sections["Math"] is None
    rows.append(row("x", "Other", "claude"))
    assert BENCH.score(rows, score_all(rows, lambda r, place: -place)).sections["Other"] == 1


def test_both_splits_are_read_and_each_has_its_score(tmp_path: Path) -> None:
    """gpt: two of three right; claude: one of three. A folder of the hub's shards, and a file with rows of both."""
    gpt = [raw(question=f"g{n}", response_model="gpt-4o-2024-05-13") for n in range(3)]
    claude = [raw(question=f"c{n}", response_model="claude-3-5-sonnet-20240620") for n in range(3)]
    folder = tmp_path / "hub"
    folder.mkdir()
    lines(folder / "gpt-00000-of-00001.jsonl", gpt)
    lines(folder / "claude-00000-of-00001.jsonl", claude)
    whole = lines(tmp_path / "whole.jsonl", gpt + claude)
    for split, path, names in (
        (None, folder, ["gpt"] * 3),
        ("claude", folder, ["claude"] * 3),
        ("both", folder, ["gpt"] * 3 + ["claude"] * 3),
        ("both", whole, ["gpt"] * 3 + ["claude"] * 3),
        (None, whole, ["gpt"] * 3 + ["claude"] * 3),
    ):
        rows = good(BENCH.rows(str(path), split=split))
        assert [one.details["split"] for one in rows] == names
    assert len(good(BENCH.rows(str(folder), split="both", limit=4))) == 4
    right = {rows[0].id, rows[1].id, rows[3].id}
    scored = BENCH.score(
        rows, judge_all(rows, lambda one, *_: ("right" if one.id in right else "wrong",) * 2)
    )
    assert scored.score == 0.5
    assert (scored.details["gpt"], scored.details["claude"]) == (pytest.approx(2 / 3), pytest.approx(1 / 3))
    assert "gpt" not in BENCH.score(rows[:3], score_all(rows, lambda _, place: -place)).details
    every = [row(f"{s}{c}{n}", c, s) for s in ROWS for c in CATEGORIES for n in range(ROWS[s][c])]
    full = BENCH.score(every, score_all(every, lambda _, place: -place))
    assert full.rows == 620 and not full.partial


def test_the_real_file_loads_completely(shared: Path) -> None:
    rows = good(BENCH.rows(str(shared / "benchmarks" / "judgebench_claude.jsonl")))
    assert len(rows) == len({r.id for r in rows}) == 270
    counts = {c: sum(r.subset == c for r in rows) for c in CATEGORIES}
    assert counts == ROWS["claude"] and {r.details["split"] for r in rows} == {"claude"}
    scored = BENCH.score(rows, score_all(rows, lambda r, place: float(len(r.answers[place]))))
    assert not scored.partial


def raw(**changes: Any) -> dict[str, Any]:
    texts = {"question": "q", "response_A": "a", "response_B": "b"}
    return texts | {"pair_id": "x", "source": "livecodebench", "label": "B>A"} | changes


def test_the_label_names_the_right_answer(tmp_path: Path) -> None:
    first, second = good(
        BENCH.rows(lines(tmp_path / "x.jsonl", [raw(), raw(label="A>B", source="mmlu-pro-law")]))
    )
    assert first.answers == ("b", "a") and first.subset == "Coding" and first.details["split"] == "gpt"
    assert second.answers == ("a", "b") and second.subset == "Knowledge"


def test_bad_rows_are_drops_with_their_location(tmp_path: Path) -> None:
    without = raw()
    del without["response_B"]
    bad = [raw(label="A=B"), raw(label=1), raw(label=None), without, raw(response_A=["a"]), raw(question="\ud83d"),
           raw(source=" "), raw()]  # fmt: skip
    items = list(BENCH.rows(lines(tmp_path / "x.jsonl", bad)))
    assert dropped(items) == [
        ("jsonl:1", "bad_label"),
        ("jsonl:2", "bad_label"),
        ("jsonl:3", "missing_column"),
        ("jsonl:4", "missing_column"),
        ("jsonl:5", "bad_type"),
        ("jsonl:6", "bad_encoding"),
        ("jsonl:7", "bad_source"),
    ]
    assert "A>B, B>A" in items[0].detail  # type: ignore[union-attr]
