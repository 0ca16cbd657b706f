"""PPE: votes and checkable answers, by hand and by the definition."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.benchmarks.ppe import CORRECTNESS, HUMAN, MAX_PAIRS, PPE, ROWS
from reasongenrm.records import Drop, Row
from support.judged import VERDICTS, dropped, good, judge_all, lines, score_all

pytestmark = pytest.mark.unit
BENCH = PPE()
CREDIT = {"right": 1.0, "wrong": 0.0}


def vote(**changes: Any) -> dict[str, Any]:
    row = {"question_id": "1", "prompt": "q", "response_1": "a", "response_2": "b", "winner": "model_b"}
    return row | {"language": "English", "is_code": False, "hard_prompt": True} | changes


def question(scores: list[bool], **changes: Any) -> dict[str, Any]:
    answers = {f"response_{n}": f"answer {n}" for n in range(1, len(scores) + 1)}
    return {"question_id": "1", "prompt": "q", "scores": scores} | answers | changes


def test_votes_by_hand(tmp_path: Path) -> None:
    votes = [
        vote(),
        vote(winner="model_a", response_1="c", is_code=True),
        vote(language="German", prompt="r"),
    ]
    rows = good(BENCH.rows(lines(tmp_path / "x.jsonl", votes)))
    assert [r.answers for r in rows] == [("b", "a"), ("c", "b"), ("b", "a")]
    assert [r.subset for r in rows] == ["human/English", "human/English", "human/German"]
    verdicts = dict(
        zip([r.id for r in rows], [("right", "right"), ("right", "tie"), ("wrong", "wrong")], strict=True)
    )
    scored = BENCH.score(rows, judge_all(rows, lambda r, *_: verdicts[r.id]))
    assert scored.score == pytest.approx((1 + 0.75 + 0) / 3)  # every vote counts alike, not every language
    assert scored.sections == {HUMAN: scored.score} and not scored.partial
    assert scored.strict == pytest.approx(1 / 3)
    assert scored.details["is_code"] == 0.75 and scored.details["hard_prompt"] == scored.score
    assert scored.details["math_prompt"] is None and scored.details["best of k"] is None


def test_a_vote_for_neither_answer_is_a_drop(tmp_path: Path) -> None:
    bad = [
        vote(winner="tie"),
        vote(winner="tie (bothbad)"),
        vote(winner="model_c"),
        vote(winner=None),
        vote(),
    ]
    bad.insert(0, {k: v for k, v in vote().items() if k != "response_2"})
    items = list(BENCH.rows(lines(tmp_path / "x.jsonl", bad)))
    assert dropped(items) == [
        ("jsonl:1", "missing_column"),
        ("jsonl:2", "human_tie"),
        ("jsonl:3", "human_tie"),
        ("jsonl:4", "bad_winner"),
        ("jsonl:5", "missing_column"),
    ]


def test_the_comparisons_are_upstreams_samples(tmp_path: Path) -> None:
    pairs = [[0, 2], [3, 1], [0, 2], [2, 0]]  # either order; the same one again counts once
    row = question([True, False, False, True], sampled_conflict_pairs=pairs)
    (one,) = good(BENCH.rows(lines(tmp_path / "PPE-MATH-Best-of-K.jsonl", [row])))
    assert one.subset == "MATH" and one.right == 2
    assert [(p.chosen, p.rejected) for p in one.pairs] == [("answer 1", "answer 3"), ("answer 4", "answer 2")]
    assert len({p.id for p in one.pairs}) == 2


def test_correctness_by_hand(tmp_path: Path) -> None:
    row = question([True, True, False, False], subset="GPQA")
    other = question([True, False], subset="MATH", prompt="r")
    rows = good(BENCH.rows(lines(tmp_path / "x.jsonl", [row, other])))
    assert [len(r.places) for r in rows] == [4, 1]
    # Right answer 0 beats both, answer 1 only the first (places 2 and 3 are wrong answers).
    lost = {(rows[0].id, 1, 3): ("wrong", "wrong"), (rows[1].id, 0, 1): ("tie", "tie")}
    scored = BENCH.score(rows, judge_all(rows, lambda r, i, j: lost.get((r.id, i, j), ("right", "right"))))
    assert scored.subsets["GPQA"].accuracy == 0.75 and scored.subsets["MATH"].accuracy == 0.5
    assert scored.score == pytest.approx((0.75 + 0.5) / 2)
    # Best of k: ratings 1, 0.5 | 0, 0.5 -> right; in the other both share the highest rating -> half.
    assert scored.details["best of k"] == pytest.approx((1 + 0.5) / 2)
    assert set(scored.missing) == set(ROWS) and scored.partial


def test_both_parts_have_the_same_weight(tmp_path: Path) -> None:
    both = [vote(), question([True, False], subset="MATH"), vote(prompt="r")]
    rows = good(BENCH.rows(lines(tmp_path / "x.jsonl", both)))
    scored = BENCH.score(rows, score_all(rows, lambda r, place: -place if r.subset == "MATH" else place))
    assert scored.sections == {HUMAN: 0.0, CORRECTNESS: 1.0} and scored.score == 0.5


def test_without_samples_16_pairs_are_drawn_by_the_questions_hash(tmp_path: Path) -> None:
    many = question([n % 2 == 0 for n in range(32)])
    path = lines(tmp_path / "PPE-IFEval-Best-of-K.jsonl", [many, many | {"prompt": "r"}])
    first, second = good(BENCH.rows(path))
    assert len(first.places) == len(set(first.places)) == MAX_PAIRS
    assert good(BENCH.rows(path))[0] == first and first.places != second.places
    for one in (first, second):
        texts = [(p.chosen, p.rejected) for p in one.pairs]
        assert all(int(a.split()[1]) % 2 == 1 and int(b.split()[1]) % 2 == 0 for a, b in texts)
        assert {place for pair in one.places for place in pair} == set(range(len(one.answers)))


def test_bad_questions_are_drops_with_their_location(tmp_path: Path) -> None:
    mixed = [True, False]
    bad = [
        question([True, True]), question([False, False]), question(mixed) | {"scores": ["yes", "no"]},
        question(mixed) | {"scores": [True]}, question(mixed, response_1=None), question(mixed, response_2=3),
        question(mixed, sampled_conflict_pairs=[[0, 2]]), question(mixed, sampled_conflict_pairs=[[0, 0]]),
        question(mixed, sampled_conflict_pairs=[]), {"prompt": "q", "scores": mixed}, question(mixed),
    ]  # fmt: skip
    items = list(BENCH.rows(lines(tmp_path / "x.jsonl", bad)))
    assert [reason for _, reason in dropped(items)] == [
        *("all_right", "all_wrong", "bad_type", "bad_count", "missing_column", "bad_type"),
        *("bad_pairs", "bad_pairs", "bad_pairs", "missing_column"),
    ]
    assert [d.location.rsplit(":")[-1] for d in items if isinstance(d, Drop)] == [
        str(n) for n in range(1, 11)
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["English", "German"]), *[st.sampled_from(VERDICTS)] * 2),
        min_size=1,
        max_size=8,
    )
)
def test_the_accuracy_is_the_mean_credit_of_all_votes(verdicts: list[Any]) -> None:
    rows = [
        Row.make(
            f"human/{language}", [{"role": "user", "content": str(n)}], ["r"], ["w"], details={"part": HUMAN}
        )
        for n, (language, *_) in enumerate(verdicts)
    ]
    verdicts_by_id = {r.id: tuple(one[1:]) for r, one in zip(rows, verdicts, strict=True)}
    results = judge_all(rows, lambda r, *_: verdicts_by_id[r.id])
    scored = BENCH.score(rows, results)
    credits = [CREDIT.get(one, 0.5) for _, *pair in verdicts for one in pair]
    assert scored.score == pytest.approx(sum(credits) / len(credits)) == scored.swap_mean
    assert BENCH.score(rows[::-1], results) == scored
