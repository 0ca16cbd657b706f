"""Counts of outcomes that add up, scores of subsets, and one benchmark score."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from reasongenrm.metrics.intervals import Interval, wilson_interval
from reasongenrm.records import PairResult

OUTCOMES = ("correct", "wrong", "tie", "unparsed", "truncated", "error")


@dataclass(frozen=True, slots=True)
class Counts:
    """Number of judgements by outcome; a row judged in both orders counts twice.

    `n = correct + wrong + tie + unparsed + truncated + error` always holds (an AssertionError otherwise: that
    would be a bug of this suite, not of the data).

    Attributes:
        n: judgements.
        correct, wrong, tie, unparsed, truncated, error: judgements by outcome.
        rescued: judgements that needed a rescue request (only the verdict or rating); each also has an outcome.
    """

    n: int
    correct: int
    wrong: int
    tie: int
    unparsed: int
    truncated: int
    error: int
    rescued: int

    def __post_init__(self) -> None:
        total = sum(getattr(self, name) for name in OUTCOMES)
        assert self.n == total, f"outcomes do not add up: {total} of {self.n} judgements"
        assert 0 <= self.rescued <= self.n, f"{self.rescued} of {self.n} judgements rescued"

    @classmethod
    def from_results(cls, results: Iterable[PairResult]) -> Counts:
        """Count the outcomes of some comparisons."""
        rows = list(results)
        outcomes = Counter(outcome for row in rows for outcome in row.outcomes)
        # One decision of several orders is one judgement, rescued if one of its orders was.
        rescued = sum(min(row.rescued, len(row.outcomes)) for row in rows)
        return cls(n=outcomes.total(), rescued=rescued, **{name: outcomes[name] for name in OUTCOMES})


@dataclass(frozen=True, slots=True)
class SubsetScore:
    """One subset of a benchmark.

    Attributes:
        section: the section it belongs to.
        weight: its weight within the section, not normalised.
        rows: rows judged.
        accuracy: mean credit of the rows, in [0, 1].
        strict: share of the rows that are right in every order, in [0, 1].
        strict_interval: 95% Wilson interval of `strict`.
        counts: outcomes of its judgements.
    """

    section: str
    weight: float
    rows: int
    accuracy: float
    strict: float
    strict_interval: Interval
    counts: Counts

    @property
    def interval(self) -> Interval:
        """95% Wilson interval of `accuracy`, over rows; RewardBench 2's Ties can be 0.01 outside [0, 1]."""
        return wilson_interval(min(max(self.accuracy, 0.0), 1.0) * self.rows, self.rows)


@dataclass(frozen=True, slots=True)
class ProtocolScore:
    """A model's score on a benchmark under one protocol (see `benchmarks.protocols`), averaged in three ways.

    Attributes:
        score: the subsets and sections are weighted as in the official score.
        macro: plain mean of the subsets' accuracies.
        micro: plain mean over all rows (in RewardBench 2's Ties: over its questions).
        interval, macro_interval, micro_interval: 95% bootstrap intervals, rows resampled within their subsets.
        judgements: number of judgements behind one decision, such as 2 for both orders, or k votes.
        counts: outcomes of the decisions that were averaged.
    """

    score: float
    interval: Interval
    macro: float
    macro_interval: Interval
    micro: float
    micro_interval: Interval
    judgements: int
    counts: Counts


@dataclass(frozen=True, slots=True)
class BenchmarkScore:
    """A model's result on a benchmark. Every share is in [0, 1].

    Attributes:
        benchmark: the benchmark's name.
        toy: whether it is the suite's own toy benchmark, which has no published results.
        partial: whether a part of the benchmark is missing (see `missing`).
        missing: subsets (and sections without subsets) that are absent, or have fewer rows than were published.
        score: the benchmark's official score, over the sections present.
        interval: 95% bootstrap interval of `score`, rows resampled within their subsets.
        strict: the same aggregate of "right in every order" (for a scalar head this is `score`).
        swap_mean: plain mean of the rows' credits, each the mean over its orders; no section weights.
        position_bias: share of A among the verdicts that name a letter; 0.5 is unbiased when both orders are
            judged; None when no verdict names a letter, as for a scalar head.
        sections: section name -> accuracy, None where no subset of the section is present.
        subsets: subset name -> result, the subsets present, in the benchmark's order.
        rows: rows judged.
        counts: outcomes of all judgements.
        details: the benchmark's further numbers, name -> share (None where nothing was counted).
    """

    benchmark: str
    toy: bool
    partial: bool
    missing: tuple[str, ...]
    score: float
    interval: Interval
    strict: float
    swap_mean: float
    position_bias: float | None
    sections: dict[str, float | None]
    subsets: dict[str, SubsetScore]
    rows: int
    counts: Counts
    details: dict[str, float | None] = field(default_factory=dict)

    def section_interval(self, name: str) -> Interval | None:
        """Return the 95% interval of a section's accuracy; None where it is not a weighted mean of its subsets.

        It follows from the subsets' Wilson intervals by variance recovery (Zou, Huang & Zhang 2009, Computational
        Statistics & Data Analysis 53:1080-1085): with the subsets' shares w_i of the section's weight, accuracies a_i
        and intervals [l_i, u_i], it is

            a - sqrt(sum w_i² (a_i - l_i)²)   to   a + sqrt(sum w_i² (u_i - a_i)²).
        """
        accuracy = self.sections.get(name)
        subsets = [subset for subset in self.subsets.values() if subset.section == name]
        total = sum(subset.weight for subset in subsets)
        mean = math.fsum(s.weight * s.accuracy for s in subsets) / total if total else math.nan
        if accuracy is None or not math.isclose(mean, accuracy, abs_tol=1e-9):
            return None
        below = math.hypot(*(s.weight / total * (s.accuracy - s.interval[0]) for s in subsets))
        above = math.hypot(*(s.weight / total * (s.interval[1] - s.accuracy) for s in subsets))
        return max(0.0, accuracy - below), min(1.0, accuracy + above)
