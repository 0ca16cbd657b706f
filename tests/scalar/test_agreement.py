"""Agreement of a head with a judge: known values, pairs by gap, the judge against itself, people, and what is undefined."""

from __future__ import annotations

import json
import random
from dataclasses import asdict, replace
from typing import Any

import pytest

from reasongenrm.metrics.calibration import Calibration
from reasongenrm.metrics.intervals import wilson_interval
from reasongenrm.scalar.agreement import JudgeAgreement, ScoreCalibration, evaluate_agreement
from reasongenrm.scalar.reply_pairs import ScoredReply

pytestmark = pytest.mark.unit


def reply(number: int, judge: float, head: float, *, group: int | None = None, **more: Any) -> ScoredReply:
    name = f"{number:03}"
    group = number // 2 if group is None else group
    return ScoredReply(name, f"g{group}", "c", "m", "r", judge, head, tokens=number, **more)


def evaluate(rows: list[ScoredReply], **changes: Any) -> JudgeAgreement:
    return evaluate_agreement(rows, **({"seed": 1, "training_mean": 0.5, "judge_scale": True} | changes))


def drawn(count: int, noise: float, seed: int = 0) -> list[ScoredReply]:
    rng = random.Random(seed)
    rows = []
    for number in range(count):
        judge = rng.random()
        rows.append(reply(number, judge, judge + rng.gauss(0, noise), judge_criteria={"a": 4 * judge + 1}))
    return rows


def test_a_head_without_errors() -> None:
    metrics = evaluate(drawn(40, 0.0))
    numbers = metrics.correlations
    for statistic in (numbers.pearson, numbers.spearman, numbers.kendall):
        assert statistic.value == pytest.approx(1) and statistic.prompts == 20
        assert statistic.interval == pytest.approx((1, 1))
    assert metrics.error is not None and metrics.error.value == 0
    assert metrics.error_of_mean == pytest.approx(0.25, abs=0.05)
    assert metrics.same_message[0].pairs == 20 and metrics.same_message[0].agreement.value == 1
    interval = metrics.same_message[0].agreement.interval
    assert interval == pytest.approx(wilson_interval(20, 20)), (
        "20 conversations without a mistake are not certainty"
    )
    assert metrics.any_message[0].pairs == 780 and metrics.any_message[0].agreement.value == 1
    assert isinstance(metrics.calibration, ScoreCalibration)
    assert metrics.calibration.error == pytest.approx(0)
    assert (metrics.calibration.slope, metrics.calibration.intercept) == (pytest.approx(1), pytest.approx(0))
    assert metrics.criteria["a"].spearman.value == pytest.approx(1) and metrics.criteria["a"].error is None


def test_known_numbers_of_four_replies() -> None:
    rows = [reply(0, 0.0, 0.1), reply(1, 0.5, 0.4), reply(2, 0.6, 0.7), reply(3, 1.0, 0.5)]
    metrics = evaluate(rows)
    # ranks of the judge 1 2 3 4, of the head 1 2 4 3: rho = 1 - 6·2/(4·15), tau = (5 - 1)/6
    assert metrics.correlations.spearman.value == pytest.approx(0.8)
    assert metrics.correlations.kendall.value == pytest.approx(4 / 6)
    assert metrics.error is not None and metrics.error.value == pytest.approx((0.1 + 0.1 + 0.1 + 0.5) / 4)
    assert metrics.error_of_mean == pytest.approx((0.5 + 0 + 0.1 + 0.5) / 4)
    # of one message: 0-1 with gap 0.5 right, 2-3 with gap 0.4 wrong
    assert [(gap.pairs, gap.agreement.value) for gap in metrics.same_message] == [
        (2, 0.5), (0, None), (0, None), (0, None), (1, 0.0), (1, 1.0)
    ]  # fmt: skip
    assert [gap.pairs for gap in metrics.any_message] == [6, 0, 1, 0, 1, 4]


def test_equal_scores_of_the_head_count_one_half_and_of_the_judge_not_at_all() -> None:
    rows = [reply(n, judge, 0.3) for n, judge in enumerate((0.2, 0.2, 0.4, 0.8))]
    metrics = evaluate(rows)
    assert metrics.same_message[0].pairs == 1 and metrics.same_message[0].agreement.value == 0.5
    assert metrics.correlations.spearman.value is None and metrics.correlations.spearman.interval is None
    assert isinstance(metrics.calibration, ScoreCalibration) and metrics.calibration.slope is None


def test_the_order_of_the_input_does_not_count() -> None:
    rows = drawn(31, 0.3)
    shuffled = random.Random(4).sample(rows, len(rows))
    assert evaluate(rows) == evaluate(shuffled)


def test_intervals_resample_conversations() -> None:
    """Ten copies of a reply in one conversation say no more than one."""
    rows = drawn(20, 0.3, seed=2)
    alone = [replace(row, conversation=row.id) for row in rows]
    copies = [replace(row, id=f"{row.id}-{n}") for row in alone for n in range(10)]
    one, ten = evaluate(alone), evaluate(copies)
    widths = []
    for metrics in (one, ten):
        interval = metrics.correlations.pearson.interval
        assert interval is not None and metrics.correlations.pearson.prompts == 20
        widths.append(interval[1] - interval[0])
    assert widths[0] == pytest.approx(widths[1], rel=0.15)


def test_the_judge_against_itself_is_the_ceiling() -> None:
    """Samples are a true score and noise: reliability and ceiling have known values."""
    rng = random.Random(1)
    rows = []
    for number in range(3000):
        true = rng.gauss(0, 0.3)
        samples = tuple(true + rng.gauss(0, 0.3) for _ in range(3))
        rows.append(reply(number, sum(samples) / 3, true, samples=samples))
    metrics = evaluate(rows[:400] + [replace(row, samples=row.samples[:1]) for row in rows[400:450]])
    retest = metrics.retest
    assert retest is not None and (retest.replies, retest.samples) == (400, 3)
    assert retest.correlations.pearson.value == pytest.approx(0.5, abs=0.07)
    assert retest.reliability == pytest.approx(0.75, abs=0.06)  # 3·0.5 / (1 + 2·0.5)
    assert retest.ceiling == pytest.approx(0.866, abs=0.04)
    assert metrics.correlations.pearson.value == pytest.approx(retest.ceiling, abs=0.05), (
        "this head knows the truth"
    )
    assert retest.error.value == pytest.approx(0.3 * 2**0.5 * 0.798, abs=0.03)
    assert evaluate(drawn(6, 0.1)).retest is None


def test_people() -> None:
    rows = drawn(40, 0.4)
    labelled = [
        replace(row, people=round(10 * row.judge)) if n % 4 < 2 else row for n, row in enumerate(rows)
    ]
    people = evaluate(labelled).people
    assert people is not None and people.replies == 20
    assert people.judge.spearman.value is not None and people.judge.spearman.value > 0.95
    assert people.head.spearman.value is not None and people.head.spearman.value < people.judge.spearman.value
    assert people.judge_pairs.pairs == people.head_pairs.pairs <= 10
    assert people.judge_pairs.agreement.value == 1
    json.dumps(asdict(people), allow_nan=False)
    assert evaluate(rows).people is None


def test_a_head_of_pairs_has_no_scale() -> None:
    rows = [replace(row, head=20 * row.head - 7) for row in drawn(40, 0.05)]
    metrics = evaluate(rows, judge_scale=False)
    assert metrics.error is None and metrics.error_of_mean is None
    assert isinstance(metrics.calibration, Calibration)
    assert sum(b.n for b in metrics.calibration.reliability) == metrics.same_message[0].pairs == 20
    spread = [replace(row, conversation=row.id) for row in rows]
    assert evaluate(spread, judge_scale=False).calibration is None


def test_criteria_of_a_head_with_a_logit_each() -> None:
    rows = [
        replace(row, judge_criteria={"a": 4 * row.judge + 1}, head_criteria={"a": 4 * row.judge + 1.5})
        for row in drawn(30, 0.9)
    ]
    one = evaluate(rows).criteria["a"]
    assert one.replies == 30 and one.spearman.value == pytest.approx(1)
    assert one.error is not None and one.error.value == pytest.approx(0.5)
    some = [replace(rows[0], judge_criteria={}), *rows[1:]]
    assert evaluate(some).criteria["a"].replies == 29


def test_one_reply() -> None:
    metrics = evaluate([reply(0, 0.4, 0.5)])
    assert metrics.correlations.pearson.value is None
    assert (
        metrics.error is not None
        and metrics.error.value == pytest.approx(0.1)
        and metrics.error.interval is None
    )
