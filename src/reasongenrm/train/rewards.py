"""Terms of the reward of a judge's completion: pure functions of what it says, and of what the samples of the other order say.

Each term is logged under its own name (`rewards/<term>/mean`); the reward is their weighted sum (`RewardWeights`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reasongenrm.config.steps import RewardWeights
from reasongenrm.data.points import coverage
from reasongenrm.records import Letter


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a completion says, as the rewards see it.

    Attributes:
        winner: the right letter.
        verdict: the letter that the completion names; None if it cannot be read.
        prob_right: P(right letter) at the verdict's letter, of both letters together; None without a verdict.
        reason: text of the reason.
        tokens: that the judge wrote, reason and verdict.
        others: for every sample of the same pair in the other order, whether its verdict is right; empty without that order.
        points: of a reference reason; empty where the data have none.
    """

    winner: Letter
    verdict: Letter | None
    prob_right: float | None
    reason: str
    tokens: int
    others: tuple[bool, ...] = ()
    points: tuple[str, ...] = ()

    @property
    def is_right(self) -> bool:
        """Whether the verdict is right; one that cannot be read is not."""
        return self.verdict == self.winner


def verdict(judgement: Judgement, weights: RewardWeights) -> float:
    """Return 1 for a right verdict, -1 for a wrong one, and `weights.unreadable` without one."""
    if judgement.verdict is None:
        return weights.unreadable
    return 1.0 if judgement.is_right else -1.0


def consistency(judgement: Judgement, weights: RewardWeights) -> float:
    """Return, for a right verdict, the share of right verdicts on the other order; 0 for any other verdict.

    J1 (Whitehouse et al., 2025, https://arxiv.org/abs/2505.10320) puts both orders of a pair into a batch and rewards a
    verdict with 1 if those on both orders are right, and else with 0. Which samples of the two orders belong together is
    arbitrary: this is the mean over all ways to pair them, which has the same expectation and less noise.
    """
    if not judgement.is_right or not judgement.others:
        return 0.0
    return sum(judgement.others) / len(judgement.others)


def format(judgement: Judgement, weights: RewardWeights) -> float:
    """Return 1 for a completion with a reason that ends and a verdict behind it, else 0."""
    return float(judgement.verdict is not None and bool(judgement.reason.strip()))


def length(judgement: Judgement, weights: RewardWeights) -> float:
    """Return minus the number of tokens beyond `weights.length_free`."""
    return -float(max(0, judgement.tokens - weights.length_free))


def calibration(judgement: Judgement, weights: RewardWeights) -> float:
    """Return 1 minus the Brier score of P(right letter): 1 - (1 - p)²; 0 without a verdict."""
    if judgement.verdict is None or judgement.prob_right is None:
        return 0.0
    return 1.0 - (1.0 - judgement.prob_right) ** 2


def rationale(judgement: Judgement, weights: RewardWeights) -> float:
    """Return, for a right verdict, the share of the reference's points that the reason covers (`coverage`); 0 for any other verdict.

    RationaleRM (Wang et al., 2026, https://arxiv.org/abs/2602.04649) has a second model match points by their meaning, one with
    one, and rewards their average precision; `coverage` needs no model, but knows no synonyms. A long reason covers more: add `length`.
    """
    if not judgement.is_right or not judgement.points:
        return 0.0
    return coverage(judgement.reason, judgement.points)


Term = Callable[[Judgement, RewardWeights], float]

TERMS: dict[str, Term] = {
    "verdict": verdict,
    "consistency": consistency,
    "format": format,
    "length": length,
    "calibration": calibration,
    "rationale": rationale,
}
"""The terms by name; the names are those of their weights."""


def used_terms(weights: RewardWeights) -> dict[str, float]:
    """Return the weights of the terms that are computed."""
    return {name: getattr(weights, name) for name in TERMS if getattr(weights, name)}


def reward(judgement: Judgement, weights: RewardWeights) -> float:
    """Return the weighted sum of all terms."""
    return sum(weight * TERMS[name](judgement, weights) for name, weight in used_terms(weights).items())


def reward_functions(weights: RewardWeights) -> list[Any]:
    """Return a reward function of TRL for each term that is computed; they take the column `judgement`."""

    def function(term: Term) -> Any:
        def values(*, judgement: Sequence[Judgement], **_: Any) -> list[float]:
            return [term(one, weights) for one in judgement]

        values.__name__ = term.__name__  # TRL logs under this name
        return values

    return [function(TERMS[name]) for name in used_terms(weights)]
