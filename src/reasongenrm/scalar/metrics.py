"""Agreement of a scalar head's scores with human ranks, calibration, and correlation with length."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, groupby
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

from reasongenrm.metrics.calibration import Calibration, calibrate
from reasongenrm.metrics.intervals import Interval, clustered_interval
from reasongenrm.records import unit_hash


@dataclass(frozen=True, slots=True)
class AnswerScore:
    """An answer with the score of a scalar head and the rank that people gave.

    Attributes:
        prompt_id: the same for all answers to one prompt.
        prompt: the prompt as the head reads it (`scalar.prompt_text`).
        answer: the answer.
        score: the head's number, higher for better; finite in float32.
        rank: 1 for the best; of several annotators the mean of their ranks within the prompt; None without a rank.
        tokens: length of the answer in tokens of the head's tokenizer, before truncation.
        truncated: whether prompt and answer were cut to fit the head.
        extra: other columns of the input row, copied to the results.
        pair_id: the preference pair that the rank 1 or 2 comes from: ranks of two pairs do not compare, even if the
            pairs have one prompt; None where all ranks of the prompt compare.
    """

    prompt_id: str
    prompt: str
    answer: str
    score: float
    rank: float | None
    tokens: int
    truncated: bool
    extra: Mapping[str, Any] = field(default_factory=dict)
    pair_id: str | None = None


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """Two answers to one prompt; `better` has the lower rank."""

    better: AnswerScore
    worse: AnswerScore

    @property
    def margin(self) -> float:
        """Score of the better minus score of the worse; negative for a mistake."""
        return self.better.score - self.worse.score

    @property
    def credit(self) -> float:
        """1 for a correct order, 0.5 for equal scores, 0 for a mistake."""
        return 0.5 if self.margin == 0 else float(self.margin > 0)


def answers_by_prompt(answers: Sequence[AnswerScore]) -> list[list[AnswerScore]]:
    """Return the answers of each prompt, by rank; those without a rank last."""
    return _grouped(answers, lambda answer: answer.prompt_id)


def ranked_groups(answers: Sequence[AnswerScore]) -> list[list[AnswerScore]]:
    """Return groups of ranked answers to one prompt whose ranks compare and differ, the best first; prompt by prompt.

    A prompt of preference pairs has one group per pair, any other prompt one at most.
    """
    ranked = [answer for answer in answers if answer.rank is not None]
    groups = _grouped(ranked, lambda answer: (answer.prompt_id, answer.pair_id or ""))
    return [group for group in groups if group[0].rank != group[-1].rank]


def _grouped(answers: Sequence[AnswerScore], key: Callable[[AnswerScore], Any]) -> list[list[AnswerScore]]:
    # The order depends on everything that a number depends on: so rounding does not depend on that of the input.
    ordered = sorted(
        answers,
        key=lambda a: (key(a), a.rank is None, a.rank or 0.0, a.answer, a.score, a.tokens, a.truncated),
    )
    return [list(group) for _, group in groupby(ordered, key)]


def answer_pairs(group: Sequence[AnswerScore]) -> list[AnswerPair]:
    """Return all pairs of a group's ranked answers, the best first, that have different ranks."""
    pairs = [AnswerPair(better, worse) for better, worse in combinations(group, 2)]
    return [pair for pair in pairs if pair.better.rank != pair.worse.rank]


def best_and_worst(answers: Sequence[AnswerScore]) -> tuple[list[AnswerScore], list[AnswerScore]]:
    """Return the answers with the best rank of their group (see `ranked_groups`), and those with the worst."""
    groups = ranked_groups(answers)
    best = [answer for group in groups for answer in group if answer.rank == group[0].rank]
    worst = [answer for group in groups for answer in group if answer.rank == group[-1].rank]
    return best, worst


@dataclass(frozen=True, slots=True)
class Statistic:
    """A number over prompts with its interval.

    Attributes:
        value: None where it is undefined.
        interval: 95% percentile bootstrap over the prompts; None with fewer than two of them.
        prompts: number of prompts: the clusters of the bootstrap.
    """

    value: float | None
    interval: Interval | None
    prompts: int


@dataclass(frozen=True, slots=True)
class ScoreDistribution:
    """Distribution of the scores of some answers.

    Attributes:
        n: number of answers.
        mean, minimum, first_quartile, median, third_quartile, maximum: quartiles by linear interpolation.
        sd: standard deviation with n - 1 in the denominator; None of one score.
    """

    n: int
    mean: float
    sd: float | None
    minimum: float
    first_quartile: float
    median: float
    third_quartile: float
    maximum: float


@dataclass(frozen=True, slots=True)
class LengthEffect:
    """Scores against the length of answers in tokens. None where a number is undefined.

    Attributes:
        within: mean over prompts of Spearman's rho of score and length among the prompt's answers, ranked or
            not, in [-1, 1]; over the prompts in which both differ.
        overall: Spearman's rho over all answers, in [-1, 1].
        longer_pairs, shorter_pairs: pairs whose better answer is the longer, and the shorter one.
        longer_accuracy, shorter_accuracy: pair accuracy among these, in [0, 1]; a head that prefers long answers has
            a higher one where the better answer is the longer.
    """

    within: Statistic
    overall: float | None
    longer_pairs: int
    longer_accuracy: float | None
    shorter_pairs: int
    shorter_accuracy: float | None


@dataclass(frozen=True, slots=True)
class ScalarMetrics:
    """Results of `evaluate_scores`. Shares are in [0, 1]; an undefined number is None, never NaN.

    Attributes:
        seed: of the 95% intervals, and of the order in each pair for `calibration`.
        prompts, answers, ranked_answers, truncated: counts; a truncated answer counts everywhere else too.
        pairs: pairs of answers to one prompt with different ranks.
        tied_pairs: those with equal scores.
        unranked_prompts: prompts without two different ranks; they do not count in the agreement.
        constant_prompts: prompts with different ranks but equal scores: ties in the pairs, and left out of the two
            correlations, which are undefined there.
        accuracy: share of pairs whose better answer has the higher score; equal scores count 0.5.
        spearman: mean over prompts of Spearman's rho between score and -rank, in [-1, 1]: the Pearson
            correlation of the ranks of both, ties sharing their mean (Spearman 1904, American Journal of
            Psychology 15:72-101).
        kendall: mean over prompts of Kendall's tau-b between score and -rank, in [-1, 1]: of the P twos of a
            prompt's ranked answers C are in one order on both sides, D in opposite ones, T tied in score and
            U in rank, and tau-b = (C - D) / sqrt((P - T)(P - U)) (Kendall 1945, Biometrika 33:239-251).
        scores: of all answers.
        chosen, rejected: scores of `best_and_worst`.
        gap: reward gap, the mean margin over pairs, in units of score.
        cohen_d: the gap over the root of the mean of two variances, of the better and of the worse answers'
            scores over the pairs (Cohen 1988, Statistical Power Analysis, 2nd ed., section 2.2).
        calibration: of sigma(margin).
        lengths: scores against lengths.
        mistakes: up to ten pairs with the most negative margins, the worst first.
    """

    seed: int
    prompts: int
    answers: int
    ranked_answers: int
    truncated: int
    pairs: int
    tied_pairs: int
    unranked_prompts: int
    constant_prompts: int
    accuracy: Statistic
    spearman: Statistic
    kendall: Statistic
    scores: ScoreDistribution | None
    chosen: ScoreDistribution | None
    rejected: ScoreDistribution | None
    gap: Statistic
    cohen_d: float | None
    calibration: Calibration | None
    lengths: LengthEffect
    mistakes: tuple[AnswerPair, ...]


def evaluate_scores(answers: Sequence[AnswerScore], *, seed: int) -> ScalarMetrics:
    """Compare scores with ranks; without ranks, compute only what does not depend on them.

    Pairs of one prompt share answers and are not independent, so every interval resamples whole prompts
    (`clustered_interval`); a pair counts as much as any other, so prompts with more answers count for more.
    Correlations have one value per prompt (of a prompt of preference pairs, the mean over its pairs), and each prompt
    counts the same.

    Args:
        answers: in any order; the same answers give the same numbers.
        seed: of the intervals, and of the order in each pair for the calibration.
    """
    groups = answers_by_prompt(answers)
    ranked = [list(same) for _, same in groupby(ranked_groups(answers), key=lambda group: group[0].prompt_id)]
    pairs_by_prompt = [[pair for group in prompt for pair in answer_pairs(group)] for prompt in ranked]
    pairs = [pair for prompt in pairs_by_prompt for pair in prompt]
    margins = [pair.margin for pair in pairs]
    wrong = sorted((pair for pair in pairs if pair.margin < 0), key=lambda pair: pair.margin)
    chosen, rejected = best_and_worst(answers)
    sides = [
        [([a.score for a in group], [-a.rank for a in group if a.rank is not None]) for group in prompt]
        for prompt in ranked
    ]
    spearman = _mean_correlation(spearmanr, sides, seed)
    return ScalarMetrics(
        seed=seed,
        prompts=len(groups),
        answers=len(answers),
        ranked_answers=sum(answer.rank is not None for answer in answers),
        truncated=sum(answer.truncated for answer in answers),
        pairs=len(pairs),
        tied_pairs=margins.count(0.0),
        unranked_prompts=len(groups) - len(ranked),
        constant_prompts=len(ranked) - spearman.prompts,
        accuracy=_mean([[pair.credit for pair in group] for group in pairs_by_prompt], seed),
        spearman=spearman,
        kendall=_mean_correlation(kendalltau, sides, seed),
        scores=_distribution(answers),
        chosen=_distribution(chosen),
        rejected=_distribution(rejected),
        gap=_mean([[pair.margin for pair in group] for group in pairs_by_prompt], seed),
        cohen_d=_cohen_d(pairs),
        # The order in a pair is random and depends on the texts only, not on scores or the order of the input.
        calibration=calibrate(
            margins,
            [unit_hash(seed, p.better.prompt_id, p.better.answer, p.worse.answer) < 0.5 for p in pairs],
        ),
        lengths=_length_effect(groups, pairs, seed),
        mistakes=tuple(wrong[:10]),
    )


def _mean(values_by_prompt: Sequence[Sequence[float]], seed: int) -> Statistic:
    """Return the mean of all values."""
    totals, counts = (
        [sum(values) for values in values_by_prompt],
        [len(values) for values in values_by_prompt],
    )
    mean = sum(totals) / sum(counts) if counts else None
    return Statistic(mean, clustered_interval(totals, counts, seed=seed), len(counts))


def _mean_correlation(
    statistic: Callable[..., Any],
    sides: Sequence[Sequence[tuple[Sequence[float], Sequence[float]]]],
    seed: int,
) -> Statistic:
    """Return the mean of a correlation over the prompts in which it is defined; `sides` has both per prompt and group."""
    correlations = [[_correlation(statistic, *both) for both in groups] for groups in sides]
    defined = [[value for value in values if value is not None] for values in correlations]
    return _mean([[fmean(values)] for values in defined if values], seed)


def _correlation(statistic: Callable[..., Any], one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return a rank correlation in [-1, 1]; None where one side is constant."""
    if len(set(one)) < 2 or len(set(other)) < 2:
        return None
    return max(-1.0, min(1.0, float(statistic(one, other).statistic)))  # rounding: 1.0000000000000002


def _distribution(answers: Sequence[AnswerScore]) -> ScoreDistribution | None:
    if not answers:
        return None
    scores = np.sort([answer.score for answer in answers])  # sums do not depend on the order of the input
    sd = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    quartiles = np.quantile(scores, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return ScoreDistribution(len(scores), float(np.mean(scores)), sd, *quartiles)


def _cohen_d(pairs: Sequence[AnswerPair]) -> float | None:
    """Return the gap in pooled standard deviations; None where neither side's scores differ."""
    table = np.asarray([(pair.better.score, pair.worse.score) for pair in pairs], dtype=float).reshape(-1, 2)
    if not len(table) or not np.ptp(table, axis=0).any():  # rounding: equal numbers can have a variance
        return None
    sd = math.sqrt(table.var(axis=0, ddof=1).mean())
    better, worse = table.mean(axis=0)
    return float((better - worse) / sd) if sd else None


def _length_effect(
    groups: Sequence[Sequence[AnswerScore]], pairs: Sequence[AnswerPair], seed: int
) -> LengthEffect:
    sides = [([a.score for a in group], [float(a.tokens) for a in group]) for group in groups]
    scores, lengths = ([value for side in sides for value in side[at]] for at in (0, 1))
    longer = [pair.credit for pair in pairs if pair.better.tokens > pair.worse.tokens]
    shorter = [pair.credit for pair in pairs if pair.better.tokens < pair.worse.tokens]
    return LengthEffect(
        within=_mean_correlation(spearmanr, [[side] for side in sides], seed),
        overall=_correlation(spearmanr, scores, lengths),
        longer_pairs=len(longer),
        longer_accuracy=fmean(longer) if longer else None,
        shorter_pairs=len(shorter),
        shorter_accuracy=fmean(shorter) if shorter else None,
    )
