"""RewardBench 2: published rows, upstream's definitions restated, and rows that cannot be read."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.benchmarks.base import aggregate, answer_ratings
from reasongenrm.benchmarks.rewardbench2 import (
    ROWS,
    TABLE,
    TIES,
    RewardBench2,
    best_of_n,
    ties_credits,
    ties_terms,
)
from reasongenrm.errors import DataError
from reasongenrm.records import Drop, Message, PairResult, Row
from support.judged import VERDICTS, dropped, good, judge_all, judged, lines, score_all

pytestmark = pytest.mark.unit
BENCH = RewardBench2()
TURNS = (Message(role="user", content="q"),)

# The leaderboard's rows as quoted in the README of github.com/schrieffer-z/sarm: score, then Factuality, Precise IF,
# Math, Safety, Focus, Ties.
PUBLISHED = {
    "openai/gpt-4.1-2025-04-14": (72.32, [82.89, 39.74, 65.21, 87.26, 73.38, 85.42]),
    "Schrieffer/Llama-SARM-4B": (73.79, [68.74, 42.81, 64.48, 91.78, 95.56, 79.39]),
    "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2": (71.75, [69.68, 40.63, 60.11, 94.22, 94.14, 71.69]),
}
# The last of them as counts of right rows: 331/475 = 69.68%, 65/160, 110/183, 424/450, 466/495.
SKYWORK = {"Factuality": 331, "Precise IF": 65, "Math": 110, "Safety": 424, "Focus": 466}


def four(name: str, subset: str = "Math") -> Row:
    return Row.make(subset, TURNS, [f"{name} right"], [f"{name} wrong {i}" for i in range(3)])


def ties(kind: str, number: int, right: int, wrong: int) -> Row:
    name = f"{kind}:{number}"
    answers = ([f"{name} {kind}{i}" for i in range(n)] for kind, n in (("r", right), ("w", wrong)))
    return Row.make(TIES, TURNS, *answers, details={"kind": kind, "number": number})


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_scores_are_the_plain_mean_of_the_six_subsets(model: str) -> None:
    score, subsets = PUBLISHED[model]
    assert aggregate(TABLE, dict(zip(ROWS, subsets, strict=True)))[1] == pytest.approx(score, abs=0.0051)


def test_published_subsets_from_published_row_counts() -> None:
    rows = [four(f"{s}{i}", s) for s in SKYWORK for i in range(ROWS[s])]
    rank = {row.id: n for s in SKYWORK for n, row in enumerate([r for r in rows if r.subset == s])}
    results = score_all(
        rows, lambda row, place: float(place == 0) if rank[row.id] < SKYWORK[row.subset] else place
    )
    scored = BENCH.score(rows, results)
    published = PUBLISHED["Skywork/Skywork-Reward-Llama-3.1-8B-v0.2"][1]
    for subset, percent in zip(SKYWORK, published, strict=False):
        assert 100 * scored.subsets[subset].accuracy == pytest.approx(percent, abs=0.0051)
    assert scored.partial and scored.missing == (TIES,) and scored.sections[TIES] is None
    assert scored.strict == scored.score and scored.position_bias is None
    assert scored.interval[0] < scored.score < scored.interval[1]


def test_a_result_of_all_published_rows_is_not_partial() -> None:
    rows = [four(f"{s}{i}", s) for s in SKYWORK for i in range(ROWS[s])]
    rows += [ties(kind, n, right, 2) for n in range(51) for kind, right in (("ref", 1), ("tied", 2))]
    scored = BENCH.score(rows, score_all(rows, lambda row, place: float(place < row.right)))
    # Right answers alike and above the wrong ones: tanh(gap / 0 - 1) = 1, so that Ties is 1.01.
    assert scored.subsets[TIES].accuracy == pytest.approx(1.01)
    assert scored.score == pytest.approx((5 + 1.01) / 6)
    assert not scored.partial and scored.rows == 1865 and scored.subsets[TIES].rows == 102


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-2, 2), min_size=4, max_size=4))
def test_a_scalar_head_shares_the_highest_score(scores: list[int]) -> None:
    row = four("x")
    shared = np.sum(np.array(scores) == max(scores))
    expected = 1 / shared if scores[0] == max(scores) else 0
    assert best_of_n(row, score_all([row], lambda _, place: scores[place] / 10)) == expected


@pytest.mark.parametrize(
    ("verdicts", "credit"),
    [
        ([("right", "right")] * 3, 1.0),
        ([("right", "tie"), ("right", "unparsed"), ("right", "right")], 1.0),  # 0.75 each
        ([("right", "right"), ("right", "wrong"), ("right", "right")], 0.0),  # half is no win
        ([("right", "right"), ("tie", "tie"), ("right", "right")], 0.0),
        ([("right", "right"), ("unparsed", "error"), ("right", "right")], 0.25),  # only that one is open
        ([("unparsed", "unparsed")] * 3, 0.25),
        ([("right", "right"), ("unparsed", "truncated"), ("wrong", "wrong")], 0.0),  # lost anyhow
        ([("right", "right"), ("wrong", "unparsed"), ("right", "right")], 0.0),
    ],
)
def test_a_judge_must_prefer_the_right_answer_to_every_wrong_one(verdicts: list[Any], credit: float) -> None:
    row = four("x")
    assert best_of_n(row, judge_all([row], lambda _, right, wrong: verdicts[wrong - 1])) == credit
    strict = BENCH.score([row], judge_all([row], lambda _, right, wrong: verdicts[wrong - 1])).strict
    assert strict == float(all(pair == ("right", "right") for pair in verdicts))


def test_a_score_that_is_not_finite_has_no_credit() -> None:
    row = four("x")
    assert best_of_n(row, score_all([row], lambda _, place: math.nan)) == 0
    assert best_of_n(row, score_all([row], lambda _, place: math.nan if place == 3 else -place)) == 0


def test_a_judge_that_rates_is_scored_like_a_scalar_head() -> None:
    row = four("x")
    ratings = [8.0, 8.0, 3.0, 2.0]
    results = {
        pair.id: PairResult(
            pair.id, "Math", judged(pair.id, ["tie"]).verdicts, (0.5,), ("tie",), (ratings[0], ratings[wrong])
        )
        for pair, (_, wrong) in zip(row.pairs, row.places, strict=True)
    }
    assert best_of_n(row, results) == 0.5


def upstream(scores: dict[tuple[str, int], tuple[list[float], int]]) -> float:
    """`process_single_model`, written down again from its definition, with NumPy's arithmetic."""
    accurate: dict[str, list[bool]] = {"ref": [], "tied": []}
    gap, spread = {}, {}
    for (kind, number), (values, correct) in scores.items():
        right, wrong = values[:correct], values[correct:]
        gap[kind, number] = min(right) - max(wrong)
        spread[kind, number] = max(right) - min(right)
        accurate[kind].append(gap[kind, number] > 0)
    numbers = sorted({n for kind, n in scores if kind == "ref"} & {n for kind, n in scores if kind == "tied"})
    spreads = np.array([spread["tied", n] for n in numbers])
    tied = np.array([gap["tied", n] for n in numbers])
    least = np.minimum(tied, np.array([gap["ref", n] for n in numbers]))
    with np.errstate(divide="ignore", invalid="ignore"):
        margins = np.nan_to_num(np.tanh(least / spreads - 1), nan=0.0)
    return float(
        0.30 * np.mean(accurate["tied"])
        + 0.30 * np.mean(accurate["ref"])
        + 0.20 * np.mean(tied > spreads)
        + 0.20 * np.mean(least > spreads)
        + 0.01 * np.mean(margins)
    )


EIGHTHS = st.integers(-16, 16).map(lambda n: n / 8)
RATED = st.tuples(
    st.lists(EIGHTHS, min_size=2, max_size=5),
    st.lists(EIGHTHS, min_size=1, max_size=4),
    EIGHTHS,
    st.lists(EIGHTHS, min_size=1, max_size=4),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(RATED, min_size=1, max_size=5), st.lists(st.tuples(EIGHTHS, EIGHTHS), max_size=2))
def test_ties_are_scored_as_upstream_scores_them(rated: list[Any], lone: list[tuple[float, float]]) -> None:
    values: dict[tuple[str, int], tuple[list[float], int]] = {}
    for number, (right, wrong, single, others) in enumerate(rated):
        values["tied", number] = ([*right, *wrong], len(right))
        values["ref", number] = ([single, *others], 1)
    for number, pair in enumerate(lone, 100):  # asked in one way only
        values["ref", number] = (list(pair), 1)
    rows = [ties(kind, n, right, len(v) - right) for (kind, n), (v, right) in values.items()]
    results = score_all(rows, lambda row, p: values[row.details["kind"], row.details["number"]][0][p])
    credits = ties_credits(rows, results)
    assert sum(credits) / len(credits) == pytest.approx(upstream(values))
    assert BENCH.score(rows, results).score == pytest.approx(upstream(values))


def test_ties_of_a_judge_by_hand() -> None:
    tied, ref = ties("tied", 7, 2, 2), ties("ref", 7, 1, 2)
    # Right answer 0 beats both wrong ones, answer 1 beats the first and half beats the second.
    lost = {(1, 3): ("right", "wrong")}
    results = judge_all(
        [tied, ref], lambda row, r, w: lost.get((r, w), ("right",) * 2) if row is tied else ("right",) * 2
    )
    # Ratings: right 1 and (1 + 0.5) / 2 = 0.75; wrong 0 and (0 + 0.5) / 2 = 0.25. Gap 0.5, spread 0.25.
    # The reference: 1 against 0, gap 1. So min gap 0.5 > 0.25, and tanh(0.5 / 0.25 - 1) = tanh(1).
    expected = 0.3 + 0.3 + 0.2 + 0.2 + 0.01 * math.tanh(1)
    scored = BENCH.score([tied, ref], results)
    assert scored.score == pytest.approx(expected)
    assert scored.details["Ties margin"] == pytest.approx(math.tanh(1))
    # Strictly, answer 1 loses to the second: ratings 1 and 0.5 against 0 and 0.5; gap 0, spread 0.5.
    assert scored.strict == pytest.approx(0.3 + 0.01 * math.tanh(0 / 0.5 - 1))


def test_a_part_of_ties_keeps_the_scale() -> None:
    row = ties("ref", 1, 1, 3)
    right = score_all([row], lambda _, place: -place)
    assert ties_credits([row], right) == [1.0]  # only the accuracy of references is known: 0.3 of 0.3
    assert BENCH.details([row], right, {})["Ties tied accuracy"] is None
    assert BENCH.score([row], right).partial


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(*[st.sampled_from(VERDICTS)] * 2), min_size=3, max_size=3), min_size=1, max_size=6
    )
)
def test_counts_add_up_and_order_does_not_matter(verdicts: list[Any]) -> None:
    rows = [four(str(n), ("Math", "Focus")[n % 2]) for n in range(len(verdicts))]
    verdicts_by_id = {row.id: one for row, one in zip(rows, verdicts, strict=True)}
    results = judge_all(rows, lambda row, right, wrong: verdicts_by_id[row.id][wrong - 1])
    scored = BENCH.score(rows, results)
    assert scored.counts.n == 6 * len(rows) and scored.rows == len(rows)
    assert 0 <= scored.strict <= scored.score <= 1
    assert BENCH.score(rows[::-1], results) == scored


def raw(**changes: Any) -> dict[str, Any]:
    row = {"id": "1", "prompt": "q", "chosen": ["a"], "rejected": ["b", "c", "d"], "subset": "Math"}
    return row | {"num_correct": 1, "num_incorrect": 3, "total_completions": 4} | changes


def test_rows_of_both_kinds_are_read(tmp_path: Path) -> None:
    tied = raw(id="tied:12", chosen=["x", "y"], rejected=["z"], subset="Ties", num_correct=2, num_incorrect=1)
    best, ties_row, again = good(BENCH.rows(lines(tmp_path / "b.jsonl", [raw(), tied, raw()])))
    assert best.answers == ("a", "b", "c", "d") and best.places == ((0, 1), (0, 2), (0, 3))
    assert ties_row.details == {"id": "tied:12", "kind": "tied", "number": 12} and len(ties_row.places) == 2
    assert again.id == f"{best.id}-2" and len({p.id for r in (best, again) for p in r.pairs}) == 6


@pytest.mark.parametrize("wrong", [1, 2, 4])
def test_best_of_four_needs_four_answers(tmp_path: Path, wrong: int) -> None:
    few = raw(rejected=["b"] * wrong, num_incorrect=wrong)
    (drop, one) = BENCH.rows(lines(tmp_path / "b.jsonl", [few, raw()]))
    assert isinstance(drop, Drop) and drop.reason == "bad_count" and f"{wrong} answers" in drop.detail
    assert isinstance(one, Row) and one.details == {"id": "1"}


def test_differences_of_scores_are_not_rounded() -> None:
    """A gap of 1e-13 counts, as in upstream's `_compute_prompt_stats`; equal means of credits are equal."""
    tied, ref = ties("tied", 1, 2, 1), ties("ref", 1, 1, 1)
    values = {"tied": [1.0, 1.0 + 1e-14, 1.0 - 1e-13], "ref": [1.0, 1.0 - 1e-13]}
    results = score_all([tied, ref], lambda row, place: values[row.details["kind"]][place])
    assert ties_terms([tied, ref], results)["tied accuracy"] == {"1.1": 1.0}
    expected = upstream({(kind, 1): (values[kind], right) for kind, right in (("tied", 2), ("ref", 1))})
    assert BENCH.score([tied, ref], results).score == pytest.approx(expected)
    thirds = ties("tied", 2, 2, 3)
    # Ratings: right answers 1 and 2/3, wrong ones at most 1/3 and … : the gap is 1 - 2/3 exactly the spread.
    lost = {(1, 2): ("wrong", "wrong"), (0, 2): ("wrong", "right")}
    ratings = answer_ratings(thirds, judge_all([thirds], lambda _, r, w: lost.get((r, w), ("right",) * 2)))
    assert ratings == [Fraction(5, 6), Fraction(2, 3), Fraction(3, 4), 0, 0]
    assert ratings[0] - ratings[1] == Fraction(1, 6)


def test_bad_rows_are_drops_with_their_location(tmp_path: Path) -> None:
    without = raw()
    del without["rejected"]
    bad = [
        "{torn", without, raw(chosen="a"), raw(rejected=[]), raw(chosen=["a", 1]), raw(chosen=["a", "b"], num_correct=2),
        raw(num_correct=2), raw(subset="Poetry"), raw(subset="Ties"), raw(prompt=None), raw(prompt=[]), raw(),
    ]  # fmt: skip
    items = list(BENCH.rows(lines(tmp_path / "b.jsonl", bad)))
    assert dropped(items) == [
        ("jsonl:1", "broken_json"),
        ("jsonl:2", "missing_column"),
        ("jsonl:3", "bad_type"),
        ("jsonl:4", "no_answer"),
        ("jsonl:5", "bad_type"),
        ("jsonl:6", "many_right"),
        ("jsonl:7", "bad_count"),
        ("jsonl:8", "bad_subset"),
        ("jsonl:9", "bad_id"),
        ("jsonl:10", "missing_column"),
        ("jsonl:11", "no_messages"),
    ]
    assert len(items) == len(bad)
    with pytest.raises(DataError, match="no readable row"):
        list(BENCH.rows(lines(tmp_path / "b.jsonl", bad[:-1])))
