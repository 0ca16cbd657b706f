"""The protocol matrix: upstream's published numbers, and every benchmark, judge and scalar head by the definitions."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.benchmarks.base import judge_result
from reasongenrm.benchmarks.judgebench import CATEGORIES, JudgeBench
from reasongenrm.benchmarks.llmbar import ROWS, LLMBar
from reasongenrm.benchmarks.protocols import (
    AVERAGED,
    CONSISTENT,
    MAJORITY,
    OFFICIAL,
    PROTOCOLS,
    SINGLE,
    protocol_scores,
)
from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.benchmarks.rewardbench2 import RewardBench2
from reasongenrm.chat.prompts import place
from reasongenrm.metrics.scores import OUTCOMES, ProtocolScore
from reasongenrm.records import Message, PairResult, Row, Verdict
from support.judged import VERDICTS, judge_all, score_all
from support.published import AVERAGES, GPT4, llmbar_games

pytestmark = pytest.mark.unit
TURNS = (Message(role="user", content="q"),)


def scores(*arguments: Any, **options: Any) -> dict[str, ProtocolScore]:
    """Return the protocols that apply."""
    return {name: one for name, one in protocol_scores(*arguments, **options).items() if one is not None}


def llmbar_row(name: str, subset: str) -> Row:
    return Row.make(subset, TURNS, [f"{name} r"], [f"{name} w"])


def test_upstreams_statistics_of_llmbar_hold_three_of_the_protocols() -> None:
    """GPT-4's `correct_average` is both orders averaged, `correct_both` is consistent; both are of single subsets."""
    rows = [llmbar_row(f"{s}{n}", s) for s in ROWS for n in range(ROWS[s])]
    games = {row.id: game for row, game in zip(rows, llmbar_games(ROWS), strict=True)}
    ours = scores(LLMBar(), rows, judge_all(rows, lambda row, *_: games[row.id]))
    assert set(ours) == {OFFICIAL, SINGLE, AVERAGED, CONSISTENT}
    assert 100 * ours[AVERAGED].macro == pytest.approx(sum(AVERAGES) / 5)
    right = [value * n / 100 for value, n in zip(AVERAGES, ROWS.values(), strict=True)]
    assert ours[AVERAGED].micro == pytest.approx(sum(right) / 419)
    assert ours[CONSISTENT].macro == pytest.approx(sum(GPT4[s][2] / ROWS[s] for s in ROWS) / 5)
    assert ours[CONSISTENT].micro == pytest.approx(sum(GPT4[s][2] for s in ROWS) / 419)
    assert ours[OFFICIAL].score == ours[AVERAGED].score == ours[OFFICIAL].macro
    # Each order alone: `correct_False` and `correct_True`; the seed takes one of them for every row.
    assert ours[CONSISTENT].micro < ours[SINGLE].micro < 1
    counts = ours[CONSISTENT].counts
    assert (counts.n, counts.correct) == (419, sum(GPT4[s][2] for s in ROWS))


def judgebench_row(name: str, category: str = "Math") -> Row:
    return Row.make(category, TURNS, [f"{name} r"], [f"{name} w"], details={"split": "gpt"})


def test_the_protocols_of_one_judging_differ_as_the_papers_do() -> None:
    """Half of the pairs are right in both orders, a quarter in one, and a quarter in one with a tie in the other."""
    kinds = [("right", "right"), ("right", "right"), ("right", "wrong"), ("right", "tie")]
    rows = [judgebench_row(str(n), CATEGORIES[n % 2]) for n in range(200)]
    number = {row.id: n // 2 for n, row in enumerate(rows)}
    results = judge_all(rows, lambda row, *_: kinds[number[row.id] % 4])
    ours = scores(JudgeBench(), rows, results, seed=5)
    assert ours[OFFICIAL].score == JudgeBench().score(rows, results).score == 0.75  # net above 0
    assert ours[CONSISTENT].score == JudgeBench().score(rows, results).strict == 0.5
    assert ours[AVERAGED].score == 0.75  # 0.5 + 0.25 / 2 + 0.25 / 2: here a tie is not right
    by_hand = sum(kinds[number[row.id] % 4][place(row.id, 5) == "BA"] == "right" for row in rows) / 200
    assert ours[SINGLE].score == by_hand != 0.75
    assert ours[SINGLE].interval[0] < by_hand < ours[SINGLE].interval[1]
    assert [ours[name].judgements for name in (SINGLE, AVERAGED, CONSISTENT, OFFICIAL)] == [1, 2, 2, 2]
    assert [ours[name].counts.n for name in (SINGLE, AVERAGED, CONSISTENT, OFFICIAL)] == [200, 400, 200, 400]


def test_macro_weighs_subsets_and_micro_weighs_rows() -> None:
    rows = [judgebench_row(str(n), "Math" if n else "Coding") for n in range(5)]
    results = judge_all(rows, lambda row, *_: ("right",) * 2 if row.subset == "Coding" else ("wrong",) * 2)
    one = scores(JudgeBench(), rows, results)[OFFICIAL]
    assert (one.macro, one.micro, one.score) == (0.5, 0.2, 0.2)
    assert one.macro == JudgeBench().score(rows, results).details["macro"]
    assert one.micro_interval == one.interval


def voted(pair_id: str, ab: list[str | None], ba: list[str | None]) -> PairResult:
    """Return a result with these votes, by letter, in order AB and BA; the verdict is the first vote."""
    verdicts = [
        Verdict("v", pair_id, order, votes[0], None, "ok" if votes[0] in ("A", "B") else "unparsed", "", votes=tuple(votes))  # type: ignore[arg-type]
        for order, votes in (("AB", ab), ("BA", ba))
    ]  # fmt: skip
    return judge_result(pair_id, "Math", verdicts)


@pytest.mark.parametrize(
    ("ab", "ba", "outcome"),
    [
        (["A", "A", "B"], ["B", "B", "A"], "correct"),  # four of six
        (["A", "A", "A"], ["A", "A", "A"], "tie"),  # the same letter in both orders: three for each answer
        (["B", "A", "B"], ["A", "A", "B"], "wrong"),  # two of six
        (["A", None, None], [None, "tie", None], "correct"),  # one readable letter
        ([None, None, None], [None, None, None], "unparsed"),
        (["tie", "tie", None], [None, None, None], "tie"),
    ],
)
def test_the_majority_is_over_all_votes_of_both_orders(
    ab: list[str | None], ba: list[str | None], outcome: str
) -> None:
    row = judgebench_row("x")
    one = scores(JudgeBench(), [row], {row.id: voted(row.id, ab, ba)})[MAJORITY]
    assert one.judgements == 6 and one.counts.n == 1
    assert getattr(one.counts, outcome) == 1 and one.score == float(outcome == "correct")


def test_a_model_that_scores_answers_has_no_orders() -> None:
    row = judgebench_row("x")
    matrix = protocol_scores(JudgeBench(), [row], score_all([row], lambda _, place: -place))
    assert list(matrix) == list(PROTOCOLS)
    assert [name for name, one in matrix.items() if one is not None] == [OFFICIAL]
    assert matrix[OFFICIAL] is not None and matrix[OFFICIAL].score == 1


def test_a_decision_of_two_rescued_orders_is_rescued_once() -> None:
    row = judgebench_row("x")
    result = voted(row.id, ["A", "A"], ["B", "B"])
    rescued = replace(result, verdicts=tuple(replace(one, rescued=True) for one in result.verdicts))
    ours = scores(JudgeBench(), [row], {row.id: rescued})
    counts = {name: (one.counts.n, one.counts.rescued) for name, one in ours.items()}
    assert counts == {
        OFFICIAL: (2, 2),
        SINGLE: (1, 1),
        AVERAGED: (2, 2),
        CONSISTENT: (1, 1),
        MAJORITY: (1, 1),
    }


def test_one_judged_order_is_the_single_order() -> None:
    row = judgebench_row("x")
    ours = scores(JudgeBench(), [row], judge_all([row], lambda *_: ("right",)))
    assert set(ours) == {OFFICIAL, SINGLE} and ours[SINGLE].score == 1


def rows_of(kind: str, count: int) -> list[Row]:
    """Return rows of a benchmark in two of its subsets."""
    details: dict[str, Any] = {
        "judgebench": {"split": "gpt"},
        "ppe": {"part": "Human preference", "flags": []},
        "rmb": {"kind": "Pairwise", "section": "Helpfulness Pairwise"},
        "rubricbench": {"pair": "p"},
    }.get(kind, {})
    subsets = {
        "rewardbench": ("hep-go", "donotanswer"), "rewardbench2": ("Math", "Focus"), "rmbench": ("chat", "safety-refuse"),
        "judgebench": ("Math", "Coding"), "llmbar": ("Natural", "Manual"),
        "mrewardbench": ("deu_Latn/hep-go", "fra_Latn/donotanswer"), "ifrewardbench": ("Single_Turn", "Multi_Turn"),
        "contextualjudgebench": ("faithfulness_qa", "refusal_answerable"),
        "rubricbench": ("Own criteria/Chat", "Given rubric/Chat"),
    }.get(kind, ("x", "y"))  # fmt: skip
    right, wrong = {"rmbench": (3, 3), "rewardbench2": (1, 3)}.get(kind, (1, 1))
    return [
        Row.make(
            subsets[n % 2], TURNS, [f"{n} r{i}" for i in range(right)], [f"{n} w{i}" for i in range(wrong)], details=details
        )
        for n in range(count)
    ]  # fmt: skip


@pytest.mark.parametrize("kind", BENCHMARKS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 9), drawn=st.data())
def test_every_benchmark_has_every_protocol(kind: str, seed: int, drawn: Any) -> None:
    benchmark, rows = BENCHMARKS[kind], rows_of(kind, 4)
    draw = st.tuples(*[st.sampled_from(VERDICTS)] * 2)
    results = judge_all(rows, lambda *_: drawn.draw(draw))
    results = {
        name: replace(one, verdicts=tuple(replace(v, votes=(v.winner,) * 3) for v in one.verdicts))
        for name, one in results.items()
    }
    ours = scores(benchmark, rows, results, seed=seed)
    pairs = sum(len(row.places) for row in rows)
    scored = benchmark.score(rows, results, seed=seed)
    assert set(ours) == set(PROTOCOLS)
    assert (ours[OFFICIAL].score, ours[OFFICIAL].interval) == (pytest.approx(scored.score), scored.interval)
    assert ours[CONSISTENT].score == pytest.approx(scored.strict)
    assert ours[OFFICIAL].counts == scored.counts
    for name, one in ours.items():
        assert one.counts.n == sum(getattr(one.counts, outcome) for outcome in OUTCOMES)
        assert one.counts.n == pairs * (2 if name in (OFFICIAL, AVERAGED) else 1)
        assert -1e-9 <= one.score <= 1 + 1e-9 and -1e-9 <= one.micro <= 1 + 1e-9 and one.macro <= 1 + 1e-9
    assert protocol_scores(benchmark, rows[::-1], results, seed=seed) == protocol_scores(
        benchmark, rows, results, seed=seed
    )
    assert json.loads(json.dumps({name: asdict(one) for name, one in ours.items()}))


def test_ties_of_rewardbench_2_are_averaged_over_questions() -> None:
    kinds = [("ref", 1), ("tied", 2)]
    rows = [
        Row.make(
            "Ties", TURNS, [f"{kind}{i}" for i in range(right)], ["w"], details={"kind": kind, "number": 1}
        )
        for kind, right in kinds
    ]
    results = judge_all(rows, lambda *_: ("right", "right"))
    ours = scores(RewardBench2(), rows, results)
    assert ours[OFFICIAL].micro == ours[AVERAGED].score == pytest.approx(1.01)
