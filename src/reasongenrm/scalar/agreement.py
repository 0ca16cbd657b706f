"""Agreement of a head with the judge whose scores it has learned, on replies that it has not seen."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np

from reasongenrm.metrics.calibration import Calibration, ReliabilityBin, calibrate
from reasongenrm.metrics.correlation import kendall, mean, pearson, spearman
from reasongenrm.metrics.intervals import clustered_weights, percentile_interval
from reasongenrm.records import unit_hash
from reasongenrm.scalar.metrics import Statistic
from reasongenrm.scalar.reply_pairs import (
    GapAgreement,
    ReplyPair,
    ScoredReply,
    agreement_by_gap,
    gap_agreement,
    paired_rows,
    reply_pairs,
)


@dataclass(frozen=True, slots=True)
class Correlations:
    """Three correlations of two columns of scores, in [-1, 1]; the clusters of the intervals are conversations.

    Attributes:
        pearson: of the values.
        spearman: of their ranks (C. Spearman, American Journal of Psychology 15, 1904).
        kendall: tau-b (M. G. Kendall, Biometrika 33, 1945).
    """

    pearson: Statistic
    spearman: Statistic
    kendall: Statistic


@dataclass(frozen=True, slots=True)
class CriterionAgreement:
    """Agreement on one criterion.

    Attributes:
        replies: with the judge's score.
        spearman: of the judge's score with the head's for this criterion, or with its only score.
        error: mean absolute difference in units of the criterion's scale; None if the head has no logit for it.
    """

    replies: int
    spearman: Statistic
    error: Statistic | None


@dataclass(frozen=True, slots=True)
class ScoreCalibration:
    """The judge's mean score where the head gives a certain score.

    Attributes:
        error: sum over the bins b of n_b / N · |mean of the judge in b - mean of the head in b|.
        slope, intercept: of the least-squares line of the judge's score over the head's; 1 and 0 are ideal. None for constant scores.
        reliability: up to ten bins of about equal size, by the head's score: `predicted` is the head's mean, `observed` the judge's.
    """

    error: float
    slope: float | None
    intercept: float | None
    reliability: tuple[ReliabilityBin, ...]


@dataclass(frozen=True, slots=True)
class Retest:
    """The judge's agreement with itself: one sample of a reply against another one.

    Attributes:
        replies: with two samples or more.
        samples: mean number of samples of these.
        correlations: mean over all twos of samples.
        error: mean absolute difference of two samples.
        reliability: of the mean of the samples, k·r / (1 + (k - 1)·r) with Pearson's r and k samples (Spearman 1910 and Brown 1910,
            British Journal of Psychology 3); None where r is not positive.
        ceiling: its root: the highest Pearson correlation with the mean of the samples that a head can expect, reached by one that
            gives every reply the judge's true mean (attenuation: Spearman 1904).
    """

    replies: int
    samples: float
    correlations: Correlations
    error: Statistic
    reliability: float | None
    ceiling: float | None


@dataclass(frozen=True, slots=True)
class PeopleAgreement:
    """Scores of people against those of the head and of the judge, on the same replies.

    Attributes:
        replies: with a score by people.
        head, judge: correlations with it.
        head_pairs, judge_pairs: share of the pairs of replies to one message that are ordered as people do.
    """

    replies: int
    head: Correlations
    judge: Correlations
    head_pairs: GapAgreement
    judge_pairs: GapAgreement


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """Results of `evaluate_agreement`. An undefined number is None, never NaN.

    Attributes:
        seed: of the 95% intervals.
        replies, conversations, truncated: counts.
        correlations: of head and judge.
        error: mean absolute difference of head and judge; None for a head without the judge's scale (`pairs`).
        error_of_mean: that of a head that gives every reply the mean score of the training rows.
        criteria: per criterion.
        same_message: pairs of replies to one message: all, then by gap. This is what best-of-N needs.
        any_message: any two replies (of at most `MOST_PAIRED`): all, then by gap.
        calibration: of scores, or for `pairs` of the probability that the first of two replies to one message is better.
        retest: the judge against itself, None where no reply has two samples.
        people: None where no reply has a score by people.
        length_head, length_judge: Spearman's rho of the score and the length of the response.
    """

    seed: int
    replies: int
    conversations: int
    truncated: int
    correlations: Correlations
    error: Statistic | None
    error_of_mean: float | None
    criteria: dict[str, CriterionAgreement]
    same_message: tuple[GapAgreement, ...]
    any_message: tuple[GapAgreement, ...]
    calibration: ScoreCalibration | Calibration | None
    retest: Retest | None
    people: PeopleAgreement | None
    length_head: Statistic
    length_judge: Statistic


def evaluate_agreement(
    replies: Sequence[ScoredReply], *, seed: int, training_mean: float | None, judge_scale: bool
) -> JudgeAgreement:
    """Compare the head's scores with the judge's.

    Replies to one message are not independent, so every interval resamples whole conversations.

    Args:
        replies: at least one; the same replies in any order give the same numbers.
        seed: of the intervals.
        training_mean: the judge's mean score over the training rows.
        judge_scale: whether the head's scores estimate the judge's.
    """
    rows = sorted(replies, key=lambda row: row.id)
    head, judge = _column(rows, "head"), _column(rows, "judge")
    groups = [row.conversation for row in rows]
    lengths = np.array([float(row.tokens) for row in rows])
    same, spread = reply_pairs(rows, same=True), reply_pairs(paired_rows(rows, seed), same=False)
    error = _mean(np.abs(head - judge), groups, seed) if judge_scale else None
    mean_error = None if training_mean is None else float(np.abs(judge - training_mean).mean())
    return JudgeAgreement(
        seed=seed,
        replies=len(rows),
        conversations=len(set(groups)),
        truncated=sum(row.truncated for row in rows),
        correlations=_correlations(head, judge, groups, seed),
        error=error,
        error_of_mean=mean_error if judge_scale else None,
        criteria=_criteria(rows, seed),
        same_message=agreement_by_gap(same, seed),
        any_message=agreement_by_gap(spread, seed),
        calibration=_score_calibration(head, judge) if judge_scale else _pair_calibration(same, seed),
        retest=_retest(rows, seed),
        people=_people(rows, seed),
        length_head=_spearman(head, lengths, groups, seed),
        length_judge=_spearman(judge, lengths, groups, seed),
    )


def _column(rows: Sequence[ScoredReply], name: str) -> Any:
    return np.array([getattr(row, name) for row in rows], dtype=float)


Function = Callable[[Any], Any]
"""From weights, shape (weightings, rows), to a number per weighting, NaN where it is undefined."""


def _statistic(function: Function, groups: Sequence[str], seed: int) -> Statistic:
    """Return a weighted number with its interval."""
    value = float(function(np.ones((1, len(groups))))[0])
    count, interval = len(set(groups)), None
    if not math.isnan(value) and count > 1:
        interval = percentile_interval(function(clustered_weights(groups, seed=seed)))
    return Statistic(None if math.isnan(value) else value, interval, count)


def _spearman(one: Any, other: Any, groups: Sequence[str], seed: int) -> Statistic:
    return _statistic(partial(spearman, one, other), groups, seed)


def _correlations(one: Any, other: Any, groups: Sequence[str], seed: int) -> Correlations:
    functions = (partial(function, one, other) for function in (pearson, spearman, kendall))
    return Correlations(*(_statistic(function, groups, seed) for function in functions))


def _mean(values: Any, groups: Sequence[str], seed: int) -> Statistic:
    return _statistic(partial(mean, values), groups, seed)


def _criteria(rows: Sequence[ScoredReply], seed: int) -> dict[str, CriterionAgreement]:
    result = {}
    for name in dict.fromkeys(name for row in rows for name in row.judge_criteria):
        some = [row for row in rows if name in row.judge_criteria]
        groups = [row.conversation for row in some]
        judge = np.array([row.judge_criteria[name] for row in some])
        own = all(name in row.head_criteria for row in some)
        head = np.array([row.head_criteria[name] if own else row.head for row in some])
        error = _mean(np.abs(head - judge), groups, seed) if own else None
        result[name] = CriterionAgreement(len(some), _spearman(head, judge, groups, seed), error)
    return result


def _score_calibration(head: Any, judge: Any) -> ScoreCalibration:
    order = np.argsort(head, kind="stable")
    parts = [part for part in np.array_split(order, min(10, max(1, len(head) // 5))) if len(part)]
    bins = tuple(
        ReliabilityBin(
            float(head[part].min()),
            float(head[part].max()),
            len(part),
            float(head[part].mean()),
            float(judge[part].mean()),
        )
        for part in parts
    )
    error = sum(abs(head[part].mean() - judge[part].mean()) * len(part) for part in parts) / len(head)
    if not np.ptp(head):
        return ScoreCalibration(float(error), None, None, bins)
    slope, intercept = np.polyfit(head, judge, 1).tolist()
    return ScoreCalibration(float(error), slope, intercept, bins)


def _pair_calibration(pairs: Sequence[ReplyPair], seed: int) -> Calibration | None:
    margins = [pair.better.head - pair.worse.head for pair in pairs]
    turned = [unit_hash(seed, *sorted((pair.better.id, pair.worse.id))) < 0.5 for pair in pairs]
    return calibrate(margins, turned)


def _retest(rows: Sequence[ScoredReply], seed: int) -> Retest | None:
    some = [row for row in rows if len(row.samples) >= 2]
    if not some:
        return None
    most = max(len(row.samples) for row in some)
    table = np.full((len(some), most), np.nan)
    for number, row in enumerate(some):
        table[number, : len(row.samples)] = row.samples
    groups = [row.conversation for row in some]

    def over_twos(function: Callable[[Any, Any, Any], Any]) -> Statistic:
        def mean_over_twos(weights: Any) -> Any:
            values = []
            for one, other in combinations(table.T, 2):
                both = ~np.isnan(one) & ~np.isnan(other)
                if both.any():
                    values.append(function(one[both], other[both], weights[:, both]))
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Mean of empty slice")  # undefined for all twos
                return np.nanmean(values, axis=0)

        return _statistic(mean_over_twos, groups, seed)

    correlations = Correlations(*map(over_twos, (pearson, spearman, kendall)))
    error = over_twos(lambda one, other, weights: mean(np.abs(one - other), weights))
    k, r = fmean(len(row.samples) for row in some), correlations.pearson.value
    reliability = k * r / (1 + (k - 1) * r) if r is not None and r > 0 else None
    ceiling = None if reliability is None else math.sqrt(reliability)
    return Retest(len(some), k, correlations, error, reliability, ceiling)


def _people(rows: Sequence[ScoredReply], seed: int) -> PeopleAgreement | None:
    some = [row for row in rows if row.people is not None]
    if not some:
        return None
    groups = [row.conversation for row in some]
    people, head, judge = (_column(some, name) for name in ("people", "head", "judge"))
    pairs = reply_pairs(some, same=True, by="people")
    widest = max((pair.gap for pair in pairs), default=0.0)  # a scale of any length; JSON has no infinity
    return PeopleAgreement(
        len(some),
        _correlations(head, people, groups, seed),
        _correlations(judge, people, groups, seed),
        gap_agreement(pairs, 0.0, widest, seed),
        gap_agreement(pairs, 0.0, widest, seed, "judge"),
    )
