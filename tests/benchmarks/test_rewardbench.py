"""RewardBench v1: published rows reproduced from their subset accuracies, credits, and counts that add up."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.benchmarks.base import aggregate, judge_result, scalar_result
from reasongenrm.benchmarks.rewardbench import REWARDBENCH, TOY, table_for
from reasongenrm.errors import DataError
from reasongenrm.metrics.scores import OUTCOMES, Counts
from reasongenrm.records import PairResult, Verdict
from support.judged import rewardbench_score
from support.published import NEMOTRON, scalar_rows

pytestmark = pytest.mark.unit


SKYWORK = {
    "alpacaeval-easy": 0.96,
    "alpacaeval-hard": 0.9473684210526315,
    "alpacaeval-length": 0.9473684210526315,
    "donotanswer": 0.7794117647058824,
    "hep-cpp": 0.9634146341463414,
    "hep-go": 0.9817073170731707,
    "hep-java": 0.9878048780487805,
    "hep-js": 0.9695121951219512,
    "hep-python": 0.9695121951219512,
    "hep-rust": 0.9634146341463414,
    "llmbar-adver-GPTInst": 0.9782608695652174,
    "llmbar-adver-GPTOut": 0.9148936170212766,
    "llmbar-adver-manual": 0.782608695652174,
    "llmbar-adver-neighbor": 0.8955223880597015,
    "llmbar-natural": 0.96,
    "math-prm": 0.9485458612975392,
    "mt-bench-easy": 1.0,
    "mt-bench-hard": 0.8648648648648649,
    "mt-bench-med": 0.975,
    "refusals-dangerous": 0.94,
    "refusals-offensive": 0.99,
    "xstest-should-refuse": 0.948051948051948,
    "xstest-should-respond": 0.94,
}


PUBLISHED = [(NEMOTRON, [94.1, 97.5, 85.7, 95.1, 98.1]), (SKYWORK, [93.8, 95.8, 91.4, 91.9, 96.1])]


@pytest.mark.parametrize(("accuracies", "published"), PUBLISHED)
def test_published_leaderboard_rows(accuracies: dict[str, float], published: list[float]) -> None:
    result = rewardbench_score(scalar_rows(accuracies))
    ours = [result.score, *result.sections.values()]
    assert [round(100 * share, 1) for share in ours] == published
    assert (
        not result.partial and not result.toy and result.rows == 2985
    )  # the dataset card's `filtered` split
    assert result.strict == result.score and result.position_bias is None
    assert result.interval[0] < result.score < result.interval[1]
    assert result.interval[1] - result.interval[0] < 0.03


def test_swapped_xstest_weights_would_not_reproduce_them() -> None:
    safety = dict(REWARDBENCH.sections["Safety"])
    safety["xstest-should-refuse"], safety["xstest-should-respond"] = 250, 154
    swap = replace(REWARDBENCH, sections={**REWARDBENCH.sections, "Safety": safety})
    sections, _ = aggregate(swap, SKYWORK)
    assert round(100 * sections["Safety"], 1) == 92.0 != 91.9


def test_the_table() -> None:
    weights = REWARDBENCH.sections["Reasoning"]
    assert weights["math-prm"] == sum(w for s, w in weights.items() if s.startswith("hep-")) == 984
    assert REWARDBENCH.published_rows["math-prm"] == 447
    assert [sum(w.values()) for w in REWARDBENCH.sections.values()] == [358, 456, 740, 1968]
    assert list(TOY.sections) == list(REWARDBENCH.sections)


def test_hand_computed_partial_score() -> None:
    rows = [scalar_result(f"n{i}", "llmbar-natural", float(i < 3), 0.5) for i in range(4)]
    rows += [scalar_result(f"d{i}", "donotanswer", 1.0, 0.0) for i in range(2)]
    rows += [scalar_result("m", "mt-bench-hard", 0.0, 1.0)]
    result = rewardbench_score(rows)
    hard = (100 * 0.75 + 37 * 0.0) / 137
    assert result.sections == {"Chat": None, "Chat Hard": hard, "Safety": 1.0, "Reasoning": None}
    assert result.score == (hard + 1.0) / 2
    assert result.swap_mean == 5 / 7
    assert result.partial and "hep-cpp" in result.missing and "donotanswer" in result.missing
    assert result.subsets["llmbar-natural"].strict == 0.75


def verdict(order: str, winner: str | None, outcome: str = "ok", *, rescued: bool = False) -> Verdict:
    return Verdict("v", "p", order, winner, None, outcome, "", rescued)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("order", "winner", "outcome", "credit", "expected"),
    [
        ("AB", "A", "ok", 1.0, "correct"),
        ("AB", "B", "ok", 0.0, "wrong"),
        ("BA", "B", "ok", 1.0, "correct"),
        ("BA", "A", "ok", 0.0, "wrong"),
        ("AB", "tie", "tie", 0.5, "tie"),
        ("BA", None, "unparsed", 0.5, "unparsed"),
        ("AB", None, "truncated", 0.5, "truncated"),
        ("AB", None, "error", 0.5, "error"),
    ],
)
def test_credits_of_a_judge(
    order: str, winner: str | None, outcome: str, credit: float, expected: str
) -> None:
    result = judge_result("p", "toy-chat", [verdict(order, winner, outcome)])
    assert (result.correct, result.outcomes, result.scores) == ((credit,), (expected,), None)


@pytest.mark.parametrize(
    ("chosen", "rejected", "credit", "outcome"),
    [
        (1.0, 0.0, 1.0, "correct"),
        (0.0, 1.0, 0.0, "wrong"),
        (1.0, 1.0, 0.0, "tie"),
        (float("nan"), 1.0, 0.0, "error"),
    ],
)
def test_credits_of_a_scalar_head(chosen: float, rejected: float, credit: float, outcome: str) -> None:
    result = scalar_result("p", "toy-chat", chosen, rejected)
    assert (result.verdicts, result.correct, result.outcomes) == ((), (credit,), (outcome,))
    assert result.scores == (None if outcome == "error" else (chosen, rejected))


def test_a_judge_that_always_names_a() -> None:
    rows = [judge_result(f"p{i}", "toy-chat", [verdict("AB", "A"), verdict("BA", "A")]) for i in range(10)]
    result = rewardbench_score(rows)
    assert (result.score, result.strict, result.swap_mean, result.position_bias) == (0.5, 0.0, 0.5, 1.0)
    assert result.toy and result.partial
    assert result.missing == ("toy-chat-hard", "toy-safety", "toy-reasoning")


def test_counts_that_do_not_add_up_are_an_error() -> None:
    with pytest.raises(AssertionError, match="add up"):
        Counts(n=2, correct=1, wrong=0, tie=0, unparsed=0, truncated=0, error=0, rescued=0)
    with pytest.raises(AssertionError, match="add up"):
        Counts.from_results([PairResult("p", "toy-chat", (), (1.0,), ("right",))])


def test_no_rows_and_unknown_or_mixed_subsets() -> None:
    with pytest.raises(DataError, match="no rows"):
        rewardbench_score([])
    with pytest.raises(DataError, match=r"f:3: unknown subset 'x'.*llmbar-natural.*toy-chat"):
        table_for(["x", "toy-chat"], location="f:3")
    with pytest.raises(DataError, match=r"'toy-chat'.*'hep-go'.*donotanswer.*toy-safety"):
        table_for(["hep-go", "toy-chat"])


LETTERS = [("A", "ok"), ("B", "ok"), ("tie", "tie"), (None, "unparsed"), (None, "truncated"), (None, "error")]


VERDICTS = st.lists(
    st.tuples(st.sampled_from(["AB", "BA"]), st.sampled_from(LETTERS), st.booleans()), min_size=1, max_size=4
)


ROWS = st.lists(st.tuples(st.sampled_from(REWARDBENCH.subsets), VERDICTS), min_size=1, max_size=30)


def judged(rows: list) -> list[PairResult]:
    return [
        judge_result(str(i), subset, [verdict(o, w, k, rescued=r) for o, (w, k), r in verdicts])
        for i, (subset, verdicts) in enumerate(rows)
    ]


@settings(max_examples=60, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_counts_add_up_and_order_does_not_matter(rows: list, shuffler: random.Random) -> None:
    results = judged(rows)
    result = rewardbench_score(results)
    counts = result.counts
    assert (
        counts.n
        == sum(len(verdicts) for _, verdicts in rows)
        == sum(getattr(counts, name) for name in OUTCOMES)
    )
    assert counts.n == sum(subset.counts.n for subset in result.subsets.values())
    assert counts.rescued == sum(rescued for _, verdicts in rows for *_, rescued in verdicts)
    assert 0 <= result.strict <= result.score <= 1
    assert result.interval[0] <= result.interval[1]
    shuffler.shuffle(results)
    assert rewardbench_score(results) == result


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_swapping(rows: list) -> None:
    result = rewardbench_score(judged(rows))
    other = {"A": "B", "B": "A"}
    # The other answer named every time: every credit is mirrored.
    mirrored = rewardbench_score(
        judged([(s, [(o, (other.get(w, w), k), r) for o, (w, k), r in vs]) for s, vs in rows])
    )
    assert mirrored.score == pytest.approx(1 - result.score)
    # The answers change places and the judge follows: no credit changes, only the letters do.
    turned = [(s, [(o[::-1], (other.get(w, w), k), r) for o, (w, k), r in vs]) for s, vs in rows]
    followed = rewardbench_score(judged(turned))
    assert (followed.score, followed.strict, followed.counts) == (result.score, result.strict, result.counts)
    if result.position_bias is not None:
        assert followed.position_bias == pytest.approx(1 - result.position_bias)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(REWARDBENCH.subsets), st.floats(0, 1), min_size=1))
def test_sections_are_weighted_means(means: dict[str, float]) -> None:
    sections, overall = aggregate(REWARDBENCH, means)
    for section, weights in REWARDBENCH.sections.items():
        present = [subset for subset in weights if subset in means]
        if not present:
            assert sections[section] is None
            continue
        expected = sum(weights[s] * means[s] for s in present) / sum(weights[s] for s in present)
        assert sections[section] == pytest.approx(expected)
        assert (
            min(means[s] for s in present) - 1e-9
            <= sections[section]
            <= max(means[s] for s in present) + 1e-9
        )
    counted = [value for value in sections.values() if value is not None]
    assert overall == pytest.approx(sum(counted) / len(counted))
