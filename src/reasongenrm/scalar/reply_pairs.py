"""Pairs of scored replies: how often a head orders two of them as the judge does, by the difference of the judge's scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from statistics import fmean
from typing import Any

from reasongenrm.metrics.intervals import clustered_pair_interval, wilson_interval
from reasongenrm.records import unit_hash
from reasongenrm.scalar.metrics import Statistic

GAPS = (0.0, 0.05, 0.1, 0.2, 0.4, 1.0)
"""Bounds of the bins of score gaps; the judge's weighted score is in [0, 1]."""

MOST_PAIRED = 1000
"""Replies of which all pairs are formed; of more replies those with the lowest hashes."""


@dataclass(frozen=True, slots=True)
class ScoredReply:
    """A reply with the judge's and the head's score.

    Attributes:
        id: of the conversation's row.
        conversation: the same for all replies to one message in one context: the cluster of all intervals.
        context, message, response: the texts.
        judge: the judge's weighted score, 0 to 1.
        head: the head's score.
        judge_criteria: criterion -> the judge's score on the criterion's scale.
        head_criteria: the head's, if it has a logit per criterion; else empty.
        samples: the weighted score of each of the judge's samples.
        people: mean score that people gave, on any scale; None without one.
        tokens: length of the response in tokens of the head's tokenizer.
        truncated: whether the input was cut to fit the head.
        rationale: the judge's.
    """

    id: str
    conversation: str
    context: str
    message: str
    response: str
    judge: float
    head: float
    judge_criteria: Mapping[str, float] = field(default_factory=dict)
    head_criteria: Mapping[str, float] = field(default_factory=dict)
    samples: tuple[float, ...] = ()
    people: float | None = None
    tokens: int = 0
    truncated: bool = False
    rationale: str = ""


@dataclass(frozen=True, slots=True)
class GapAgreement:
    """Pairs of replies whose judge's scores differ by more than `low` and at most `high`.

    Attributes:
        low, high: bounds of the difference of weighted scores.
        pairs: their number.
        agreement: share that the head orders as the judge does, equal scores of the head counting 0.5; chance is 0.5.
    """

    low: float
    high: float
    pairs: int
    agreement: Statistic


@dataclass(frozen=True, slots=True)
class ReplyPair:
    """Two replies; the judge, or people, prefer the first. `groups` are the numbers of their conversations."""

    better: ScoredReply
    worse: ScoredReply
    gap: float
    groups: tuple[int, int]

    def credit(self, name: str) -> float:
        difference = getattr(self.better, name) - getattr(self.worse, name)
        return 0.5 if difference == 0 else float(difference > 0)


def paired_rows(rows: Sequence[ScoredReply], seed: int) -> list[ScoredReply]:
    """Return at most `MOST_PAIRED` rows."""
    return sorted(rows, key=lambda row: (unit_hash(seed, "pairs", row.id), row.id))[:MOST_PAIRED]


def reply_pairs(rows: Sequence[ScoredReply], *, same: bool, by: str = "judge") -> list[ReplyPair]:
    """Return the pairs with different scores of the judge or of people, of one message or of any."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row.conversation for row in rows))}
    by_group: dict[Any, list[ScoredReply]] = {}
    for row in rows:
        by_group.setdefault(row.conversation if same else None, []).append(row)
    pairs = []
    for group in by_group.values():
        for one, other in combinations(group, 2):
            gap = getattr(one, by) - getattr(other, by)
            if gap:
                better, worse = (one, other) if gap > 0 else (other, one)
                pairs.append(
                    ReplyPair(
                        better,
                        worse,
                        round(abs(gap), 9),
                        (numbers[one.conversation], numbers[other.conversation]),
                    )
                )
    return pairs


def gap_agreement(
    pairs: Sequence[ReplyPair], low: float, high: float, seed: int, name: str = "head"
) -> GapAgreement:
    """Return the agreement of the pairs in a range of gaps; if all are right or all wrong, with Wilson's interval over conversations."""
    some = [pair for pair in pairs if low < pair.gap <= high]
    credits = [pair.credit(name) for pair in some]
    clusters = [pair.groups for pair in some]
    count = len({number for two in clusters for number in two})
    if not some:
        return GapAgreement(low, high, 0, Statistic(None, None, 0))
    value, interval = fmean(credits), clustered_pair_interval(clusters, credits, seed=seed)
    if (
        interval is not None and interval[0] == interval[1]
    ):  # all pairs are right: resamples show no error, too
        interval = wilson_interval(value * count, count)
    return GapAgreement(low, high, len(some), Statistic(value, interval, count))


def agreement_by_gap(pairs: Sequence[ReplyPair], seed: int) -> tuple[GapAgreement, ...]:
    bounds = [(GAPS[0], GAPS[-1]), *pairwise(GAPS)]
    return tuple(gap_agreement(pairs, low, high, seed) for low, high in bounds)
