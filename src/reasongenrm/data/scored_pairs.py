"""Preference pairs from scored responses: a minimum gap between the scores, and no preference for length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from statistics import fmean

from reasongenrm.records import content_id

BALANCED = 0.01
"""Mean difference of the lengths at which pairs count as balanced, as a share of the mean length of all their responses."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A response with its score."""

    response: str
    score: float


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """Two responses to one context.

    Attributes:
        context_id: of the context.
        chosen, rejected: the candidate with the higher score, and the other.
    """

    context_id: str
    chosen: Candidate
    rejected: Candidate

    @property
    def gap(self) -> float:
        """Difference of the scores, above 0."""
        return self.chosen.score - self.rejected.score

    @property
    def extra_length(self) -> int:
        """Characters that the chosen response has more than the rejected one; negative where it has fewer."""
        return len(self.chosen.response) - len(self.rejected.response)


@dataclass(frozen=True, slots=True)
class LengthDifference:
    """How the lengths of chosen and rejected responses differ; all numbers are None without pairs.

    Attributes:
        pairs: their number.
        mean_extra: mean of `ScoredPair.extra_length`, in characters.
        mean_length: mean length of all responses, chosen and rejected, in characters.
        share_longer: share of the pairs whose chosen response is longer; pairs of equal lengths count half.
    """

    pairs: int
    mean_extra: float | None
    mean_length: float | None
    share_longer: float | None

    @classmethod
    def measure(cls, pairs: Sequence[ScoredPair]) -> LengthDifference:
        """Return the difference over all pairs."""
        if not pairs:
            return cls(0, None, None, None)
        longer = [1.0 if pair.extra_length > 0 else 0.5 if pair.extra_length == 0 else 0.0 for pair in pairs]
        extra = fmean(pair.extra_length for pair in pairs)
        return cls(len(pairs), extra, _mean_length(pairs), fmean(longer))


def eligible_pairs(
    candidates_by_context: Mapping[str, Sequence[Candidate]], gap: float
) -> dict[str, list[ScoredPair]]:
    """Return the pairs of each context whose scores differ by `gap` at least, the widest gap first; contexts without are absent."""
    pairs_by_context = {}
    for context_id, candidates in candidates_by_context.items():
        pairs = [ScoredPair(context_id, a, b) for a, b in permutations(candidates, 2) if a.score > b.score]
        pairs = [pair for pair in pairs if pair.gap >= gap - 1e-9]  # 0.3 - 0.2 is a little below 0.1
        if pairs:
            # Equal gaps: the order of the texts, so that the order of the input does not matter.
            pairs_by_context[context_id] = sorted(
                pairs, key=lambda pair: (-pair.gap, pair.chosen.response, pair.rejected.response)
            )
    return pairs_by_context


def widest_pairs(pairs_by_context: Mapping[str, Sequence[ScoredPair]]) -> list[ScoredPair]:
    """Return the pair of each context with the widest gap."""
    return [pairs[0] for pairs in pairs_by_context.values()]


def balanced_pairs(pairs_by_context: Mapping[str, Sequence[ScoredPair]]) -> list[ScoredPair]:
    """Return one pair per context, such that chosen responses are as long as rejected ones on average.

    A trainer on pairs whose chosen responses are longer learns length (P. Singhal et al., "A Long Way to Go", arXiv:2310.03716).
    Two steps make the mean of `ScoredPair.extra_length` small:

    1. Context after context, in the order of a hash, the pair is taken that brings the sum so far nearest to 0; of two as near,
       the one with the wider gap.
    2. If the mean is still beyond `BALANCED`, pairs of the side that prevails are left out, the most unequal first, as long as the
       sum comes nearer to 0.

    Args:
        pairs_by_context: context -> its pairs, the widest gap first (`eligible_pairs`).
    """
    taken: dict[str, ScoredPair] = {}
    total = 0
    for context_id in sorted(pairs_by_context, key=lambda name: content_id("length balance", name)):
        pair = min(pairs_by_context[context_id], key=lambda pair: abs(total + pair.extra_length))
        taken[context_id] = pair
        total += pair.extra_length
    limit = BALANCED * _mean_length(taken.values()) if taken else 0.0
    sign = 1 if total > 0 else -1
    for pair in sorted(taken.values(), key=lambda pair: (-sign * pair.extra_length, pair.context_id)):
        if len(taken) == 1 or abs(total) <= limit * len(taken):
            break
        if 0 < sign * pair.extra_length < 2 * sign * total:
            del taken[pair.context_id]
            total -= pair.extra_length
    return [taken[context_id] for context_id in pairs_by_context if context_id in taken]


def _mean_length(pairs: Iterable[ScoredPair]) -> float:
    return fmean(len(one.response) for pair in pairs for one in (pair.chosen, pair.rejected))
