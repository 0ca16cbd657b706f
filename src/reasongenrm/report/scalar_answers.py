"""Answers of prompts with a scalar head's scores and people's ranks, and the pairs that the ranks make."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from reasongenrm.errors import DataError

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
        where = f"prompt {answer.prompt_id}"
        if not abs(answer.score) <= LARGEST:  # false for NaN too
            raise DataError(f"the score {answer.score} is not finite", where=where, mend="score it again")
        if answer.rank is not None and not math.isfinite(answer.rank):
            raise DataError(
                f"the rank {answer.rank} is not finite", where=where, mend="give a number or none"
            )
        if prompts.setdefault(answer.prompt_id, answer.prompt) != answer.prompt:
            raise DataError("two prompts have this id", where=where, mend="give each prompt an id of its own")


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
