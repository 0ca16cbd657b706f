"""Scores against ranks: numbers made by hand, plain restatements, and what must not matter."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from reasongenrm.metrics.calibration import PROBABILITY_EDGES, calibrate
from reasongenrm.metrics.intervals import clustered_interval
from reasongenrm.scalar.metrics import (
    AnswerScore,
    ScalarMetrics,
    answer_pairs,
    best_and_worst,
    evaluate_scores,
    ranked_groups,
)
from reasongenrm.scalar.report import metrics_line

pytestmark = pytest.mark.unit


def answer_score(prompt: str, answer: str, score: float, rank: float | None, tokens: int = 1) -> AnswerScore:
    return AnswerScore(prompt, f"text of {prompt}", answer, score, rank, tokens, False)


GOLDEN = [
    answer_score("p", "a", 2.0, 1, 30),
    answer_score("p", "b", 0.0, 2, 10),
    answer_score("p", "c", 1.0, 3, 20),
    answer_score("q", "d", 0.0, 1, 7),
    answer_score("q", "e", 0.0, 2, 8),
    answer_score("r", "f", 1.0, 1, 5),
    answer_score("r", "g", 3.0, 1, 4),
    answer_score("r", "h", 2.0, None, 3),
]
"""Pairs and margins: a>b 2, a>c 1, b>c -1, d>e 0; r has none."""


EIGHTHS = st.integers(-24, 24).map(lambda eighths: eighths / 8)
"""Scores that can be shifted without rounding."""


@st.composite
def some_answers(draw: st.DrawFn, score: st.SearchStrategy[float] = EIGHTHS) -> list[AnswerScore]:
    """Up to four prompts of up to five answers."""
    rank = st.none() | st.integers(2, 8).map(lambda halves: halves / 2)
    results = []
    for prompt in range(draw(st.integers(0, 4))):
        for number in range(draw(st.integers(1, 5))):
            one = answer_score(f"p{prompt}", f"a{number}", draw(score), draw(rank), draw(st.integers(0, 6)))
            results.append(replace(one, truncated=draw(st.booleans())))
    return results


def numbers(value: Any) -> list[float]:
    """All numbers in nested plain values."""
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list | tuple):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, int | float) else []


def random_answers(seed: int, prompts: int = 60) -> list[AnswerScore]:
    source = random.Random(seed)
    return [
        answer_score(f"p{p}", f"a{a}", source.gauss(-rank / 2, 1), float(rank), source.randrange(1, 200))
        for p in range(prompts)
        for a, rank in enumerate(source.choices(range(1, 6), k=source.randrange(2, 7)))
    ]


def test_counts_and_agreement_by_hand() -> None:
    results = evaluate_scores(GOLDEN, seed=0)
    assert (results.prompts, results.answers, results.ranked_answers, results.truncated) == (3, 8, 7, 0)
    assert (results.pairs, results.tied_pairs, results.unranked_prompts, results.constant_prompts) == (
        4,
        1,
        1,
        1,
    )
    assert results.accuracy.value == (1 + 1 + 0 + 0.5) / 4
    assert results.accuracy.prompts == 2
    assert results.accuracy.interval is not None
    assert results.accuracy.interval == (0.5, 2 / 3)  # only q was drawn, only p was drawn
    # p alone: ranks of -rank are 3, 2, 1, of the scores 3, 1, 2: 1 - 6·2 / (3·8), and (2 - 1) / 3
    assert results.spearman.value == pytest.approx(0.5)
    assert results.kendall.value == pytest.approx(1 / 3)
    assert results.spearman.prompts == results.kendall.prompts == 1
    assert results.spearman.interval is None and results.kendall.interval is None


def test_scores_by_hand() -> None:
    results = evaluate_scores(GOLDEN, seed=0)
    assert results.gap.value == (2 + 1 - 1 + 0) / 4
    # better 2, 2, 0, 0: mean 1, variance 4/3; worse 0, 1, 1, 0: mean 1/2, variance 1/3
    assert results.cohen_d == pytest.approx(0.5 / math.sqrt(5 / 6))
    assert results.scores is not None and (results.scores.n, results.scores.mean) == (8, 9 / 8)
    assert results.chosen is not None
    assert asdict(results.chosen) == pytest.approx(
        {"n": 2, "mean": 1, "sd": math.sqrt(2), "minimum": 0}
        | {"first_quartile": 0.5, "median": 1, "third_quartile": 1.5, "maximum": 2}
    )
    assert results.rejected is not None and (results.rejected.n, results.rejected.mean) == (2, 0.5)
    assert [(m.better.answer, m.worse.answer, m.margin) for m in results.mistakes] == [("b", "c", -1.0)]


def test_calibration_by_hand() -> None:
    def sigma(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    results = evaluate_scores(GOLDEN, seed=0).calibration
    assert results is not None
    assert results.log_loss == pytest.approx(-sum(math.log(sigma(x)) for x in (2, 1, -1, 0)) / 4)
    assert results.brier == pytest.approx(sum((1 - sigma(x)) ** 2 for x in (2, 1, -1, 0)) / 4)

    # turned: the second, q = sigma(-1) = 0.27, y = 0; the others 0.88, 0.27 and 0.5, y = 1
    turned = calibrate([2, 1, -1, 0], [False, True, False, False])
    assert turned is not None
    assert (turned.brier, turned.log_loss) == pytest.approx((results.brier, results.log_loss))
    assert [one.n for one in turned.reliability] == [0, 0, 2, 0, 0, 1, 0, 0, 1, 0]
    third = turned.reliability[2]
    assert (third.low, third.high) == (0.2, 0.3)
    assert (third.predicted, third.observed) == pytest.approx((sigma(-1), 0.5))
    gaps = 2 * abs(0.5 - sigma(-1)) + abs(1 - 0.5) + abs(1 - sigma(2))
    assert turned.ece == pytest.approx(gaps / 4)
    assert turned.reliability[0].predicted is None and turned.reliability[0].observed is None


def test_lengths_by_hand() -> None:
    results = evaluate_scores(GOLDEN, seed=0).lengths
    # p: the same order, 1; r: scores 1, 3, 2 and tokens 3, 2, 1 in ranks: 1 - 6·6 / (3·8); q: equal scores
    assert results.within.value == pytest.approx((1 - 0.5) / 2)
    assert results.within.prompts == 2
    assert (results.longer_pairs, results.longer_accuracy) == (2, 1.0)
    assert (results.shorter_pairs, results.shorter_accuracy) == (2, 0.25)
    whole = stats.spearmanr([a.score for a in GOLDEN], [a.tokens for a in GOLDEN]).statistic
    assert results.overall == pytest.approx(float(whole))


def test_the_pairs_of_a_prompt_are_one_cluster() -> None:
    def pair(prompt: str, number: int, better: float, worse: float) -> list[AnswerScore]:
        name = f"{prompt}{number}"
        sides = ((f"good {name}", better, 1.0), (f"bad {name}", worse, 2.0))
        return [replace(answer_score(prompt, *side), pair_id=name) for side in sides]

    right = [answer for number in range(30) for answer in pair("p", number, 1.0, 0.0)]
    wrong = [answer for number in range(10) for answer in pair("q", number, 0.0, 1.0)]
    results = evaluate_scores([*right, *wrong], seed=0)
    assert (results.prompts, results.pairs, results.accuracy.prompts) == (2, 40, 2), (
        "of two pairs no answers compare"
    )
    assert results.accuracy.value == 30 / 40
    assert results.accuracy.interval == (0.0, 1.0)  # only q was drawn, only p was drawn
    assert results.gap.interval == (-1.0, 1.0)
    # One value per prompt: 1 and -1.
    assert results.spearman.value == pytest.approx(0, abs=1e-9) and results.spearman.prompts == 2
    assert metrics_line(results).startswith("40 pairs of 2 prompts, accuracy 75.0 [0.0, 100.0]")


def test_pairs_and_extremes() -> None:
    results = [
        [pair.better.answer + pair.worse.answer for pair in answer_pairs(group)]
        for group in ranked_groups(GOLDEN)
    ]
    assert results == [["ab", "ac", "bc"], ["de"]]
    shared = [*GOLDEN, answer_score("p", "z", 5, 1)]
    chosen, rejected = best_and_worst(shared)
    assert [one.answer for one in chosen] == ["a", "z", "d"]
    assert [one.answer for one in rejected] == ["c", "e"]


def test_against_plain_restatements() -> None:
    answers = random_answers(1)
    results = evaluate_scores(answers, seed=3)
    rhos, taus, credits, margins = [], [], [], []
    for prompt in sorted({a.prompt_id for a in answers}):
        group = [a for a in answers if a.prompt_id == prompt]
        ranks, scores = [-(a.rank or 0) for a in group], [a.score for a in group]
        for one, other in combinations(range(len(group)), 2):
            if ranks[one] != ranks[other]:
                margin = (scores[one] - scores[other]) * (1 if ranks[one] > ranks[other] else -1)
                margins.append(margin)
                credits.append(margin > 0)
        if len(set(ranks)) > 1:
            rhos.append(np.corrcoef(stats.rankdata(ranks), stats.rankdata(scores))[0, 1])
            taus.append(_tau_b(ranks, scores))
    assert results.accuracy.value == pytest.approx(np.mean(credits))
    assert results.gap.value == pytest.approx(np.mean(margins))
    assert results.spearman.value == pytest.approx(np.mean(rhos))
    assert results.kendall.value == pytest.approx(np.mean(taus))
    assert results.spearman.prompts == len(rhos) == results.prompts - results.unranked_prompts


def _tau_b(ranks: Sequence[float], scores: Sequence[float]) -> float:
    twos = list(combinations(range(len(ranks)), 2))
    products = [np.sign(ranks[i] - ranks[j]) * np.sign(scores[i] - scores[j]) for i, j in twos]
    free = [sum(side[i] != side[j] for i, j in twos) for side in (ranks, scores)]
    return float(sum(products) / math.sqrt(free[0] * free[1]))


def test_calibration_against_scikit_learn() -> None:
    from sklearn.metrics import brier_score_loss, log_loss

    source = random.Random(5)
    margins = [source.gauss(0.5, 2) for _ in range(500)]
    turned = [source.random() < 0.5 for _ in margins]
    q = [1 / (1 + math.exp(m if t else -m)) for m, t in zip(margins, turned, strict=True)]
    y = [not t for t in turned]
    results = calibrate(margins, turned)
    assert results is not None
    assert results.brier == pytest.approx(brier_score_loss(y, q))
    assert results.log_loss == pytest.approx(log_loss(y, q))
    gap = 0.0
    for one in results.reliability:
        inside = [k for k, p in enumerate(q) if one.low <= p < one.high]
        assert one.n == len(inside) > 0
        assert one.predicted == pytest.approx(np.mean([q[k] for k in inside]))
        assert one.observed == pytest.approx(np.mean([y[k] for k in inside]))
        gap += abs(sum(q[k] - y[k] for k in inside))
    assert results.ece == pytest.approx(gap / len(q))


def test_a_head_that_is_right_about_its_margins_is_calibrated() -> None:
    """Pairs drawn by the model itself: the better answer is drawn with probability sigma(delta)."""
    source = random.Random(7)
    answers = []
    for prompt in range(4000):
        one, other = source.gauss(0, 1.5), source.gauss(0, 1.5)
        first = source.random() < 1 / (1 + math.exp(other - one))
        answers += [
            answer_score(f"p{prompt}", "x", one, 2 - first),
            answer_score(f"p{prompt}", "y", other, 1 + first),
        ]
    results = evaluate_scores(answers, seed=0).calibration
    assert results is not None
    assert results.ece < 0.02
    lower, upper = (
        sum(one.n for one in results.reliability[:5]),
        sum(one.n for one in results.reliability[5:]),
    )
    assert lower == pytest.approx(upper, rel=0.1)  # turned at random: not one-sided


def test_intervals_against_scipy() -> None:
    source = random.Random(2)
    counts = [source.randrange(1, 10) for _ in range(80)]
    totals = [sum(source.random() < 0.7 for _ in range(count)) / 1 for count in counts]
    ours = clustered_interval(totals, counts, seed=0, resamples=20_000)
    theirs = stats.bootstrap(
        (np.asarray(totals), np.asarray(counts)),
        lambda t, n, axis: t.sum(axis=axis) / n.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.004)


def test_intervals_are_over_prompts() -> None:
    """A prompt's pairs repeated say nothing new; repeated prompts do."""
    counts, totals = [1] * 40, [float(k % 2) for k in range(40)]
    one = clustered_interval(totals, counts, seed=0)
    assert one == clustered_interval([9 * t for t in totals], [9] * 40, seed=0)
    four = clustered_interval(totals * 4, counts * 4, seed=0)
    assert one is not None and four is not None
    assert four[1] - four[0] == pytest.approx((one[1] - one[0]) / 2, rel=0.2)
    assert clustered_interval([1.0], [3], seed=0) is None
    assert clustered_interval([], [], seed=0) is None


def test_intervals_of_many_prompts_come_in_blocks() -> None:
    """The memory is bounded by drawing in blocks, which changes no draw."""
    source = random.Random(4)
    totals = [source.random() for _ in range(6000)]
    interval = clustered_interval(totals, [1] * 6000, seed=0, resamples=1000)  # 833 and 167
    rng = np.random.default_rng(0)
    means = rng.multinomial(6000, [1 / 6000] * 6000, size=1000) @ np.sort(totals) / 6000
    assert interval == pytest.approx(np.quantile(means, [0.025, 0.975]))


def test_mistakes_are_the_most_confident() -> None:
    answers = random_answers(6)
    results = evaluate_scores(answers, seed=0)
    margins = sorted(pair.margin for group in ranked_groups(answers) for pair in answer_pairs(group))
    assert [pair.margin for pair in results.mistakes] == margins[:10]
    assert all(pair.better.score - pair.worse.score == pair.margin < 0 for pair in results.mistakes)


def test_answers_without_ranks() -> None:
    results = evaluate_scores([replace(answer, rank=None) for answer in GOLDEN], seed=0)
    assert (results.pairs, results.ranked_answers, results.unranked_prompts) == (0, 0, 3)
    for measured in (results.accuracy, results.spearman, results.kendall, results.gap):
        assert (measured.value, measured.interval, measured.prompts) == (None, None, 0)
    assert [results.chosen, results.rejected, results.cohen_d, results.calibration] == [None] * 4
    assert results.scores is not None and results.scores.n == 8
    assert results.lengths.within.value == pytest.approx(0.25) and results.lengths.overall is not None
    assert results.lengths.longer_accuracy is results.lengths.shorter_accuracy is None
    assert results.mistakes == ()


def test_no_answers_and_equal_scores() -> None:
    empty = evaluate_scores([], seed=0)
    assert (empty.prompts, empty.answers, empty.scores) == (0, 0, None)
    constant = evaluate_scores([replace(answer, score=0.1) for answer in GOLDEN], seed=0)
    assert constant.accuracy.value == 0.5 and constant.accuracy.interval == (0.5, 0.5)
    assert constant.spearman.value is None and constant.constant_prompts == 2
    assert constant.cohen_d is None and constant.lengths.overall is None
    assert constant.calibration is not None
    assert constant.calibration.log_loss == pytest.approx(math.log(2))
    assert constant.calibration.brier == 0.25
    # better and worse each constant, and not equal: the gap has no unit to be measured in
    two = [
        answer_score("p", "x", 0.3, 1),
        answer_score("p", "y", 0.1, 2),
        answer_score("q", "x", 0.3, 1),
        answer_score("q", "y", 0.1, 2),
    ]
    assert evaluate_scores(two, seed=0).cohen_d is None


@given(some_answers(), st.integers(-64, 64))
@settings(max_examples=40, deadline=None)
def test_a_shift_of_all_scores_changes_no_agreement(answers: list[AnswerScore], shift: int) -> None:
    one = evaluate_scores(answers, seed=1)
    other = evaluate_scores([replace(a, score=a.score + shift / 4) for a in answers], seed=1)

    def kept(results: ScalarMetrics) -> Any:
        plain = asdict(replace(results, mistakes=(), cohen_d=None))
        return {key: plain[key] for key in plain.keys() - {"scores", "chosen", "rejected"}}

    assert kept(one) == kept(other)
    assert [pair.margin for pair in one.mistakes] == [pair.margin for pair in other.mistakes]
    assert one.cohen_d == pytest.approx(other.cohen_d)


@given(some_answers(st.floats(width=32, allow_nan=False, allow_infinity=False)), st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_answers_does_not_matter(answers: list[AnswerScore], source: Any) -> None:
    shuffled = source.sample(answers, len(answers))
    assert evaluate_scores(shuffled, seed=1) == evaluate_scores(answers, seed=1)


@given(some_answers())
@settings(max_examples=40, deadline=None)
def test_negated_scores_turn_agreement_round(answers: list[AnswerScore]) -> None:
    one = evaluate_scores(answers, seed=1)
    other = evaluate_scores([replace(a, score=-a.score) for a in answers], seed=1)
    assert one.tied_pairs == other.tied_pairs and one.constant_prompts == other.constant_prompts
    if one.accuracy.value is not None and other.accuracy.value is not None:
        assert other.accuracy.value == pytest.approx(1 - one.accuracy.value)
    both = [(one.spearman, other.spearman), (one.kendall, other.kendall), (one.gap, other.gap)]
    for ours, theirs in [*both, (one.lengths.within, other.lengths.within)]:
        assert theirs.value == (None if ours.value is None else pytest.approx(-ours.value))
        assert (theirs.interval is None) == (ours.interval is None)


@given(some_answers())
@settings(max_examples=40, deadline=None)
def test_scores_that_are_the_ranks(answers: list[AnswerScore]) -> None:
    ranked = [replace(a, score=-a.rank) for a in answers if a.rank is not None]
    results = evaluate_scores(ranked, seed=1)
    perfect = pytest.approx(1.0) if results.pairs else None
    for measured in (results.accuracy, results.spearman, results.kendall):
        assert measured.value == perfect
    assert results.mistakes == () and results.tied_pairs == results.constant_prompts == 0


@given(some_answers(st.floats(width=32, allow_nan=False, allow_infinity=False)))
@settings(max_examples=60, deadline=None)
def test_bounds_and_nothing_is_nan(answers: list[AnswerScore]) -> None:
    results = evaluate_scores(answers, seed=1)
    plain = asdict(replace(results, mistakes=()))
    assert all(map(math.isfinite, numbers(plain)))
    json.dumps(plain, allow_nan=False)
    for measured, low in ((results.accuracy, 0), (results.spearman, -1), (results.kendall, -1)):
        for value in (measured.value, *(measured.interval or ())):
            assert value is None or low <= value <= 1
    assert results.prompts == len({a.prompt_id for a in answers})
    assert results.accuracy.prompts == results.prompts - results.unranked_prompts
    assert (
        results.spearman.prompts
        == results.kendall.prompts
        == results.accuracy.prompts - results.constant_prompts
    )
    assert (results.calibration is None) == (results.pairs == 0)
    if results.calibration is not None:
        bins = results.calibration.reliability
        assert sum(one.n for one in bins) == results.pairs
        assert tuple(one.low for one in bins) == PROBABILITY_EDGES[:-1]
        for one in bins:
            assert one.n == 0 or (
                one.predicted is not None and one.low - 1e-9 <= one.predicted <= one.high + 1e-9
            )
        assert 0 <= results.calibration.ece <= 1 and 0 <= results.calibration.brier <= 1
        assert results.calibration.log_loss >= 0
    lengths = results.lengths
    assert lengths.longer_pairs + lengths.shorter_pairs <= results.pairs
