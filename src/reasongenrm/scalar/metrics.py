"""Agreement of a scalar head's scores with people's ranks, and what else the scores follow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import Any

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.metrics.calibration import Calibration, calibrate
from reasongenrm.metrics.intervals import Interval, clustered_interval
from reasongenrm.records import unit_hash

LARGEST = 3.4028234663852886e38
"""The largest float32, in which a head computes; differences and squares of such scores are finite."""


@dataclass(frozen=True, slots=True)
class ScoredAnswer:
    """An answer, what a scalar head says of it, and what people said.

    Attributes:
        prompt_id: which answers belong together; one id has one prompt.
        prompt: the prompt as the head read it (`scalar.prompt_text`).
        answer: the answer.
        score: the head's number, higher for better; finite in float32.
        rank: 1 for the best, of several annotators the mean of their ranks within the prompt; None where
            nobody ranked it.
        tokens: length of the answer in tokens of the head's tokenizer, before anything was cut.
        truncated: whether prompt and answer were cut to fit the head.
        extra: further columns of the row it was read from; copied to the results and not looked at.
    """

    prompt_id: str
    prompt: str
    answer: str
    score: float
    rank: float | None
    tokens: int
    truncated: bool
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """Two answers to one prompt of unequal rank.

    Attributes:
        prompt_id: the prompt.
        better, worse: the answer with the lower rank, and the other one.
        margin: score of the better less score of the worse; negative for a mistake.
    """

    prompt_id: str
    better: ScoredAnswer
    worse: ScoredAnswer
    margin: float


def check_answers(answers: Sequence[ScoredAnswer]) -> None:
    """Refuse what no number can be made of.

    Raises:
        DataError: a score is not finite in float32, a rank is not finite, or one id has two prompts.
    """
    prompts: dict[str, str] = {}
    for answer in answers:
        location = f"prompt {answer.prompt_id}"
        if not abs(answer.score) <= LARGEST:  # false for NaN too
            raise DataError(
                f"the score {answer.score} is not finite", location=location, hint="score it again"
            )
        if answer.rank is not None and not math.isfinite(answer.rank):
            raise DataError(
                f"the rank {answer.rank} is not finite", location=location, hint="give a number or none"
            )
        if prompts.setdefault(answer.prompt_id, answer.prompt) != answer.prompt:
            raise DataError(
                "two prompts have this id", location=location, hint="give each prompt an id of its own"
            )


def by_prompt(answers: Sequence[ScoredAnswer]) -> dict[str, list[ScoredAnswer]]:
    """Return the answers of each prompt; the best rank first, those without one last."""
    groups: dict[str, list[ScoredAnswer]] = {}
    # All that a number depends on is in the key, so that rounding does not depend on the order of the input.
    for answer in sorted(
        answers,
        key=lambda a: (a.prompt_id, a.rank is None, a.rank or 0.0, a.answer, a.score, a.tokens, a.truncated),
    ):
        groups.setdefault(answer.prompt_id, []).append(answer)
    return groups


def differently_ranked(group: Sequence[ScoredAnswer]) -> list[ScoredAnswer]:
    """Return a prompt's answers that have a rank, best first; none where they have no two different ones."""
    ranked = sorted((a for a in group if a.rank is not None), key=lambda a: a.rank or 0.0)
    return ranked if ranked and ranked[0].rank != ranked[-1].rank else []


def scored_pairs(answers: Sequence[ScoredAnswer]) -> list[ScoredPair]:
    """Return all pairs of answers of one prompt with unequal rank.

    Their order does not depend on that of the answers.
    """
    return [
        ScoredPair(prompt_id, better, worse, better.score - worse.score)
        for prompt_id, group in by_prompt(answers).items()
        for better, worse in combinations(differently_ranked(group), 2)
        if better.rank != worse.rank
    ]


def best_and_worst(answers: Sequence[ScoredAnswer]) -> tuple[list[ScoredAnswer], list[ScoredAnswer]]:
    """Return the answers that nobody of their prompt outranks, and those that outrank nobody.

    A prompt whose ranks are all equal, or absent, has neither.
    """
    groups = [group for group in map(differently_ranked, by_prompt(answers).values()) if group]
    chosen = [answer for group in groups for answer in group if answer.rank == group[0].rank]
    rejected = [answer for group in groups for answer in group if answer.rank == group[-1].rank]
    return chosen, rejected


@dataclass(frozen=True, slots=True)
class Measured:
    """A number over prompts and how sure it is.

    Attributes:
        value: None where it is undefined.
        interval: percentile bootstrap over the prompts; None with fewer than two of them.
        prompts: how many it is over.
    """

    value: float | None
    interval: Interval | None
    prompts: int


@dataclass(frozen=True, slots=True)
class Distribution:
    """Scores of some answers.

    Attributes:
        n: how many.
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
class Lengths:
    """How scores go with the length of answers in tokens. None where it is undefined.

    Attributes:
        within: mean over prompts of Spearman's rho of score and length among the prompt's answers, ranked or
            not, in [-1, 1]; over the prompts in which both differ.
        overall: Spearman's rho over all answers, in [-1, 1].
        longer_pairs, shorter_pairs: pairs whose better answer is the longer, and the shorter one.
        longer_accuracy, shorter_accuracy: pair accuracy among these, in [0, 1]; a head that likes length has
            a higher one where the better answer is the longer.
    """

    within: Measured
    overall: float | None
    longer_pairs: int
    longer_accuracy: float | None
    shorter_pairs: int
    shorter_accuracy: float | None


@dataclass(frozen=True, slots=True)
class ScalarMetrics:
    """What `evaluate_scores` found. Shares are in [0, 1]; None stands where a number is undefined, never NaN.

    Attributes:
        seed, level: of the intervals; the seed also turns pairs for `calibration`.
        prompts, answers, ranked_answers, truncated: counts; a truncated answer counts everywhere else too.
        pairs: two answers to one prompt of unequal rank.
        tied_pairs: those with equal scores.
        unranked_prompts: prompts without two answers of different rank; they are in no number of agreement.
        constant_prompts: prompts with ranks that differ and scores that do not: in the pairs as ties, and
            left out of the two correlations, which are undefined there.
        accuracy: share of pairs whose better answer has the higher score; a tie in score counts 0.5.
        spearman: mean over prompts of Spearman's rho between score and -rank, in [-1, 1]: the Pearson
            correlation of the ranks of both, ties sharing their mean (Spearman 1904, American Journal of
            Psychology 15:72-101).
        kendall: mean over prompts of Kendall's tau-b between score and -rank, in [-1, 1]: of the P twos of a
            prompt's ranked answers C are in one order on both sides, D in opposite ones, T tied in score and
            U in rank, and tau-b = (C - D) / sqrt((P - T)(P - U)) (Kendall 1945, Biometrika 33:239-251).
        scores: of all answers.
        chosen, rejected: of the answers with the lowest, and the highest rank of their prompt, all of them
            where several share it; of prompts with two different ranks.
        gap: reward gap, the mean margin over pairs, in units of score.
        cohen_d: the gap over the root of the mean of two variances, of the better and of the worse answers'
            scores over the pairs (Cohen 1988, Statistical Power Analysis, 2nd ed., section 2.2).
        calibration: of sigma(margin).
        lengths: scores against lengths.
        mistakes: the pairs with the most negative margins, the worst first.
    """

    seed: int
    level: float
    prompts: int
    answers: int
    ranked_answers: int
    truncated: int
    pairs: int
    tied_pairs: int
    unranked_prompts: int
    constant_prompts: int
    accuracy: Measured
    spearman: Measured
    kendall: Measured
    scores: Distribution | None
    chosen: Distribution | None
    rejected: Distribution | None
    gap: Measured
    cohen_d: float | None
    calibration: Calibration | None
    lengths: Lengths
    mistakes: tuple[ScoredPair, ...]


def evaluate_scores(
    answers: Sequence[ScoredAnswer], *, seed: int, level: float = 0.95, mistakes: int = 10
) -> ScalarMetrics:
    """Compare scores with ranks; without ranks, only what needs none is there.

    Pairs of one prompt share answers and are not independent, so every interval resamples whole prompts
    (`clustered_interval`); a pair counts as much as any other, so prompts with more answers count for more.
    Correlations have one value per prompt, and each prompt counts the same.

    Args:
        answers: in any order; the same answers give the same numbers.
        seed: of the intervals, and of which pairs are turned for the calibration (by their content).
        level: share of resamples that an interval holds, in (0, 1).
        mistakes: how many of the most confident mistakes to keep.

    Raises:
        ConfigError: `level` is not between 0 and 1.
        DataError: a score is not finite in float32, a rank is not finite, or one id has two prompts.
    """
    if not 0 < level < 1:
        raise ConfigError(f"the level is {level}", location="level", hint="give a share between 0 and 1")
    check_answers(answers)
    groups = list(by_prompt(answers).values())
    ranked = [group for group in map(differently_ranked, groups) if group]
    pairs = scored_pairs(answers)
    margins = [pair.margin for pair in pairs]
    wrong = sorted((pair for pair in pairs if pair.margin < 0), key=lambda pair: pair.margin)
    chosen, rejected = best_and_worst(answers)
    over_pairs = partial(_over_pairs, pairs, seed=seed, level=level)
    agreement = [([a.score for a in some], [-a.rank for a in some if a.rank is not None]) for some in ranked]
    return ScalarMetrics(
        seed=seed,
        level=level,
        prompts=len(groups),
        answers=len(answers),
        ranked_answers=sum(answer.rank is not None for answer in answers),
        truncated=sum(answer.truncated for answer in answers),
        pairs=len(pairs),
        tied_pairs=margins.count(0.0),
        unranked_prompts=len(groups) - len(ranked),
        constant_prompts=sum(len(set(scores)) == 1 for scores, _ in agreement),
        accuracy=over_pairs([_credit(pair) for pair in pairs]),
        spearman=_within(agreement, _spearman, seed=seed, level=level),
        kendall=_within(agreement, _kendall, seed=seed, level=level),
        scores=_distribution(answers),
        chosen=_distribution(chosen),
        rejected=_distribution(rejected),
        gap=over_pairs(margins),
        cohen_d=_cohen_d(pairs),
        calibration=calibrate(margins, [_turned(pair, seed) for pair in pairs]),
        lengths=_lengths(groups, pairs, seed=seed, level=level),
        mistakes=tuple(wrong[:mistakes]),
    )


def _turned(pair: ScoredPair, seed: int) -> bool:
    """Toss a coin that knows the texts, and nothing of scores or of the input's order."""
    return unit_hash(seed, pair.prompt_id, pair.better.answer, pair.worse.answer) < 0.5


def _credit(pair: ScoredPair) -> float:
    return 0.5 if pair.margin == 0 else float(pair.margin > 0)


def _over_pairs(pairs: Sequence[ScoredPair], values: Sequence[float], *, seed: int, level: float) -> Measured:
    """Return the mean of one value per pair."""
    by_prompt: dict[str, list[float]] = {}
    for pair, value in zip(pairs, values, strict=True):
        by_prompt.setdefault(pair.prompt_id, []).append(value)
    totals, counts = [sum(v) for v in by_prompt.values()], [len(v) for v in by_prompt.values()]
    mean = sum(totals) / sum(counts) if counts else None
    return Measured(mean, clustered_interval(totals, counts, seed=seed, level=level), len(counts))


def _within(
    groups: Sequence[tuple[Sequence[float], Sequence[float]]],
    statistic: Callable[[Sequence[float], Sequence[float]], float],
    *,
    seed: int,
    level: float,
) -> Measured:
    """Return the mean of a correlation over the prompts in which both sides differ."""
    found = [statistic(*sides) for sides in groups if all(len(set(side)) > 1 for side in sides)]
    interval = clustered_interval(found, [1] * len(found), seed=seed, level=level)
    return Measured(
        _bounded(sum(found) / len(found)) if found else None,
        (_bounded(interval[0]), _bounded(interval[1])) if interval else None,
        len(found),
    )


def _spearman(one: Sequence[float], other: Sequence[float]) -> float:
    from scipy.stats import spearmanr

    return _bounded(spearmanr(one, other).statistic)


def _kendall(one: Sequence[float], other: Sequence[float]) -> float:
    from scipy.stats import kendalltau

    return _bounded(kendalltau(one, other, variant="b").statistic)


def _bounded(correlation: Any) -> float:
    return max(-1.0, min(1.0, float(correlation)))  # rounding can leave 1.0000000000000002


def _distribution(answers: Sequence[ScoredAnswer]) -> Distribution | None:
    import numpy as np

    if not answers:
        return None
    scores = np.sort([answer.score for answer in answers])  # sums do not depend on the order of the input
    sd = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
    quartiles = np.quantile(scores, (0, 0.25, 0.5, 0.75, 1)).tolist()
    return Distribution(len(scores), float(np.mean(scores)), sd, *quartiles)


def _cohen_d(pairs: Sequence[ScoredPair]) -> float | None:
    """Return the gap in pooled standard deviations; None where neither side's scores differ."""
    import numpy as np

    table = np.asarray([(pair.better.score, pair.worse.score) for pair in pairs], dtype=float).reshape(-1, 2)
    if not len(table) or not np.ptp(table, axis=0).any():  # rounding gives equal numbers a variance
        return None
    sd = math.sqrt(table.var(axis=0, ddof=1).mean())
    better, worse = table.mean(axis=0)
    return float((better - worse) / sd) if sd else None


def _lengths(
    groups: Sequence[Sequence[ScoredAnswer]], pairs: Sequence[ScoredPair], *, seed: int, level: float
) -> Lengths:
    sides = [([a.score for a in group], [float(a.tokens) for a in group]) for group in groups]
    whole = [[value for side in sides for value in side[at]] for at in (0, 1)]
    credits: dict[bool, list[float]] = {True: [], False: []}
    for pair in pairs:
        if pair.better.tokens != pair.worse.tokens:
            credits[pair.better.tokens > pair.worse.tokens].append(_credit(pair))
    longer, shorter = credits[True], credits[False]
    return Lengths(
        within=_within(sides, _spearman, seed=seed, level=level),
        overall=_spearman(*whole) if all(len(set(side)) > 1 for side in whole) else None,
        longer_pairs=len(longer),
        longer_accuracy=sum(longer) / len(longer) if longer else None,
        shorter_pairs=len(shorter),
        shorter_accuracy=sum(shorter) / len(shorter) if shorter else None,
    )
