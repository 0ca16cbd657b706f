"""Diagnostics: every number against a second implementation, and by hand."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.benchmarks.base import judge_result, scalar_result
from reasongenrm.benchmarks.rewardbench import REWARDBENCH
from reasongenrm.metrics.calibration import CONFIDENCE_EDGES
from reasongenrm.metrics.diagnostics import Diagnostics, diagnose, probability_right
from reasongenrm.metrics.intervals import wilson_interval
from reasongenrm.records import PairResult, Row, Verdict
from support.judged_run import judged, rows_of, scored

pytestmark = pytest.mark.unit

OrderVerdict = tuple[str, str, float | None, bool]
"""Order, letter or outcome, P(A), rescued."""


def case(
    number: int, right: str, wrong: str, order_verdicts: Sequence[OrderVerdict]
) -> tuple[Row, PairResult]:
    """Return a row and a judge's result for it."""
    row = Row.make("hep-go", [{"role": "user", "content": f"q{number}"}], [right], [wrong])
    verdicts = [
        Verdict(
            f"v{number}{order}",
            row.id,
            order,  # type: ignore[arg-type]
            problem if problem in ("A", "B", "tie") else None,  # type: ignore[arg-type]
            p,
            "ok" if problem in ("A", "B") else problem,  # type: ignore[arg-type]
            "",
            rescued,
        )
        for order, problem, p, rescued in order_verdicts
    ]
    return row, judge_result(row.id, row.subset, verdicts)


def diagnose_cases(cases: Sequence[tuple[Row, PairResult]]) -> Diagnostics:
    return diagnose([row for row, _ in cases], {result.pair_id: result for _, result in cases})


def share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def close(one: float | None, other: float | None) -> bool:
    return one is other is None or (
        one is not None and other is not None and math.isclose(one, other, abs_tol=1e-9)
    )


def test_a_hand_made_judge() -> None:
    cases = [
        case(1, "long answer", "short", [("AB", "A", 0.9, False), ("BA", "B", 0.3, False)]),  # consistent
        case(2, "long answer", "short", [("AB", "A", 0.8, False), ("BA", "A", 0.6, False)]),  # always A
        case(3, "tiny", "a long answer", [("AB", "B", 0.2, False), ("BA", "B", 0.1, True)]),  # always B
        case(4, "same", "size", [("AB", "unparsed", None, False), ("BA", "tie", 0.5, True)]),
    ]
    diagnostics = diagnose_cases(cases)
    assert diagnostics.pairs == 4 and diagnostics.both_read == 3
    assert diagnostics.consistency == 1 / 3 and diagnostics.consistency_interval == wilson_interval(1, 3)
    assert diagnostics.position_bias == 3 / 6
    assert (diagnostics.first_preference, diagnostics.second_preference) == (0.5, 0.5)
    # Longer answer taken: twice in 1, once in 2, once in 3, of six; it is right in four of them.
    assert close(diagnostics.length_bias, 4 / 6 - 4 / 6)
    assert (diagnostics.longer_right_accuracy, diagnostics.shorter_right_accuracy) == (0.75, 0.5)
    assert (diagnostics.unparsed, diagnostics.tie, diagnostics.rescued, diagnostics.error) == (
        1 / 8,
        1 / 8,
        2 / 8,
        0.0,
    )
    assert diagnostics.calibrated == 4
    probabilities = [(0.9 + 0.7) / 2, (0.8 + 0.4) / 2, (0.2 + 0.9) / 2, 0.5]
    assert close(diagnostics.brier, sum((1 - p) ** 2 for p in probabilities) / 4)
    # Each in a bin of its own but the last two, 0.55 and 0.5: |hit - confidence| of each.
    assert close(diagnostics.ece, (0.2 + 0.4 + 0.45 + 0.5) / 4)
    assert [b.n for b in diagnostics.reliability] == [1, 1, 1, 0, 0, 0, 1, 0, 0, 0]
    assert diagnostics.reliability[3].predicted is diagnostics.reliability[3].observed is None


def test_a_judge_that_always_takes_the_longer_answer() -> None:
    always = [
        case(n, "x" * (5 if n % 4 == 0 else 1), "yyy", [("AB", "A" if n % 4 == 0 else "B", None, False)])
        for n in range(8)
    ]
    diagnostics = diagnose_cases(always)
    assert diagnostics.length_bias == 1 - 2 / 8
    assert (diagnostics.longer_right_accuracy, diagnostics.shorter_right_accuracy) == (1.0, 0.0)
    assert (
        diagnostics.consistency is diagnostics.ece is diagnostics.brier is None
        and diagnostics.both_read == diagnostics.calibrated == 0
    )
    assert diagnostics.reliability == ()


def test_a_scalar_head_has_no_orders() -> None:
    rows = rows_of(["hep-go"], 3)
    scores = [(2.0, 0.0), (1.0, 1.0), (math.nan, 0.0)]
    results = {
        row.id: scalar_result(row.id, row.subset, *pair) for row, pair in zip(rows, scores, strict=True)
    }
    diagnostics = diagnose(rows, results)
    assert diagnostics.consistency is diagnostics.position_bias is diagnostics.first_preference is None
    assert diagnostics.calibrated == 2 and (diagnostics.tie, diagnostics.error, diagnostics.rescued) == (
        1 / 3,
        1 / 3,
        0.0,
    )
    p = 1 / (1 + math.exp(-2))
    assert close(diagnostics.brier, ((1 - p) ** 2 + 0.25) / 2)
    assert probability_right(scalar_result("p", "s", -1e9, 1e9)) < 1e-300  # type: ignore[operator]
    assert probability_right(scalar_result("p", "s", 1e9, -1e9)) == 1.0


def test_without_rows_nothing_is_counted() -> None:
    diagnostics = diagnose([], {})
    assert diagnostics.pairs == 0 and diagnostics.reliability == ()
    assert all(value in (None, 0, ()) for value in asdict(diagnostics).values())


def test_a_row_of_several_answers_is_counted_by_comparison() -> None:
    row = Row.make("s", [{"role": "user", "content": "q"}], ["right"], ["no", "longer wrong"])
    results = judged([row], "m")
    assert diagnose([row], results).pairs == len(results) == 2
    with pytest.raises(KeyError):
        diagnose([row], {})


@st.composite
def judgements(draw: st.DrawFn) -> list[tuple[Row, PairResult]]:
    cases = []
    for number in range(draw(st.integers(1, 12))):
        if draw(st.integers(0, 5)) == 0:
            row = Row.make(
                "hep-go", [{"role": "user", "content": f"q{number}"}], ["r"], ["w" * draw(st.integers(0, 2))]
            )
            scores = draw(st.tuples(*[st.sampled_from([-800.0, -1.0, 0.0, 0.3, 2.0, 800.0])] * 2))
            cases.append((row, scalar_result(row.id, row.subset, *scores)))
            continue
        orders = draw(st.sampled_from([("AB",), ("BA",), ("AB", "BA"), ("BA", "AB")]))
        order_verdicts: list[OrderVerdict] = [
            (
                order,
                draw(st.sampled_from(["A", "B", "tie", "unparsed", "truncated", "error"])),
                draw(st.none() | st.sampled_from([0.0, 0.05, 0.3, 0.45, 0.5, 0.55, 0.7, 1.0]) | st.floats(0, 1)),
                draw(st.booleans()),
            )
            for order in orders
        ]  # fmt: skip
        cases.append(
            case(number, "r" * draw(st.integers(0, 3)), "w" * draw(st.integers(0, 3)), order_verdicts)
        )
    return cases


def reference_calibration(results: Sequence[PairResult]) -> tuple[int, float | None, float | None, list[Any]]:
    """ECE, Brier and the bins, one comparison at a time."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(10)]
    errors = []
    for result in results:
        if result.scores:
            difference = result.scores[0] - result.scores[1]
            p = 1 / (1 + math.exp(-difference)) if difference > -700 else 0.0
        else:
            known = [v for v in result.verdicts if v.prob_a is not None]
            if not known:
                continue
            p = sum(v.prob_a if v.order == "AB" else 1 - v.prob_a for v in known) / len(known)  # type: ignore
        confidence = max(p, 1 - p)
        at = next(b for b in range(10) if b == 9 or confidence < CONFIDENCE_EDGES[b + 1])
        bins[at].append((confidence, p > 0.5))
        errors.append((1 - p) ** 2)
    n = len(errors)
    if not n:
        return 0, None, None, []
    ece = 0.0
    for inside in bins:
        if inside:
            accuracy = sum(hit for _, hit in inside) / len(inside)
            confidence = sum(c for c, _ in inside) / len(inside)
            ece += len(inside) / n * abs(accuracy - confidence)
    return n, ece, sum(errors) / n, [len(inside) for inside in bins]


@settings(max_examples=100, deadline=None)
@given(judgements())
def test_calibration_match_a_second_implementation(cases: list[tuple[Row, PairResult]]) -> None:
    diagnostics = diagnose_cases(cases)
    n, ece, brier, sizes = reference_calibration([result for _, result in cases])
    assert diagnostics.calibrated == n and close(diagnostics.ece, ece) and close(diagnostics.brier, brier)
    assert [b.n for b in diagnostics.reliability] == sizes
    for b in diagnostics.reliability:
        assert (b.n == 0) == (b.predicted is None) == (b.observed is None)
        assert b.predicted is None or b.low - 1e-9 <= b.predicted <= b.high + 1e-9


@settings(max_examples=100, deadline=None)
@given(judgements())
def test_orders_and_lengths_match_a_second_implementation(cases: list[tuple[Row, PairResult]]) -> None:
    diagnostics = diagnose_cases(cases)
    read = same = first = second = letters_a = letters = longer_taken = longer_right = choices = 0
    credit: dict[int, list[float]] = {1: [], -1: []}
    for row, result in cases:
        right, wrong = (len(answer) for answer in row.answers)
        side = (right > wrong) - (right < wrong)
        picks = [v.winner for v in result.verdicts if v.winner in ("A", "B")]
        letters += len(picks)
        letters_a += picks.count("A")
        if len(picks) == 2:
            read += 1
            if picks[0] != picks[1]:
                same += 1
            elif picks[0] == "A":
                first += 1
            else:
                second += 1
        took = [(v.winner == "A") == (v.order == "AB") for v in result.verdicts if v.winner in ("A", "B")]
        if result.scores and result.scores[0] != result.scores[1]:
            took = [result.scores[0] > result.scores[1]]
        if side:
            credit[side].append(result.credit)
            choices += len(took)
            longer_taken += sum(right_taken == (side == 1) for right_taken in took)
            longer_right += len(took) * (side == 1)
    assert diagnostics.both_read == read and close(diagnostics.consistency, share(same, read))
    assert diagnostics.consistency_interval == (wilson_interval(same, read) if read else None)
    assert close(diagnostics.position_bias, share(letters_a, letters))
    assert close(diagnostics.first_preference, share(first, first + second))
    assert close(diagnostics.second_preference, share(second, first + second))
    assert close(diagnostics.length_bias, share(longer_taken - longer_right, choices))
    assert close(diagnostics.longer_right_accuracy, share(sum(credit[1]), len(credit[1])))
    assert close(diagnostics.shorter_right_accuracy, share(sum(credit[-1]), len(credit[-1])))


@settings(max_examples=100, deadline=None)
@given(judgements())
def test_outcomes_match_a_second_implementation(cases: list[tuple[Row, PairResult]]) -> None:
    diagnostics = diagnose_cases(cases)
    outcomes = [outcome for _, result in cases for outcome in result.outcomes]
    for name in ("unparsed", "truncated", "error", "tie"):
        assert getattr(diagnostics, name) == outcomes.count(name) / len(outcomes)
    assert diagnostics.rescued == sum(v.rescued for _, r in cases for v in r.verdicts) / len(outcomes)
    assert json.loads(json.dumps(asdict(diagnostics), allow_nan=False))["pairs"] == len(cases)


@settings(max_examples=40, deadline=None)
@given(judgements(), st.randoms())
def test_the_order_of_rows_and_results_changes_nothing(
    cases: list[tuple[Row, PairResult]], draw: Any
) -> None:
    before = asdict(diagnose_cases(cases))
    draw.shuffle(cases)
    after = asdict(diagnose_cases(cases))
    bins = (before.pop("reliability"), after.pop("reliability"))
    assert [b["n"] for b in bins[0]] == [b["n"] for b in bins[1]]
    assert all(
        one == other or close(one, other) for one, other in zip(before.values(), after.values(), strict=True)
    )


def test_a_whole_benchmark_takes_less_than_a_second() -> None:
    rows = [row for subset, n in REWARDBENCH.published_rows.items() for row in rows_of([subset], n, 3)]
    results = judged(rows, "m", words=1)
    assert len(rows) == 2985
    start = time.process_time()
    diagnostics = diagnose(rows, results)
    assert time.process_time() - start < 1
    assert (
        diagnostics.pairs == 2985
        and diagnostics.both_read > 2600
        and diagnostics.position_bias == pytest.approx(0.5, abs=0.05)
    )
    assert diagnose(rows, scored(rows)).calibrated == 2985
