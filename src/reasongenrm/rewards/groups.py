"""Samples of one prompt as a group, and its rewards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from reasongenrm.config.rubric import Rubric
from reasongenrm.judge.inputs import PromptInput
from reasongenrm.records import content_id


@dataclass(frozen=True, slots=True)
class Group:
    """Samples of one prompt, which are judged together.

    Attributes:
        prompt: a text, or the turns up to the last user turn.
        answers: the samples' texts.
        references: of the schedule `reference`: one answer per sample to compare it with.
        rubric: by which they are compared or rated.
        lengths: tokens of each sample, as its trainer counts them; for `shaping.length_unit: tokens`.
    """

    prompt: PromptInput
    answers: Sequence[str]
    references: Sequence[str | None] | None = None
    rubric: Rubric | None = None
    lengths: Sequence[int] | None = None


@dataclass(frozen=True, slots=True)
class Unread:
    """A judgement that could not be read, even by a retry where the settings have one.

    Attributes:
        answers: indices of the samples that it was about, one of each text; empty for a sample alone, see `outcome`.
        outcome: of the judgement (`unparsed`, `truncated`, `error`), or `alone`: there is no other sample to compare with.
        error: message of the engine.
    """

    answers: tuple[int, ...]
    outcome: str
    error: str | None = None


@dataclass(frozen=True, slots=True)
class GroupRewards:
    """Rewards of a group.

    Attributes:
        rewards: per sample, in [0, 1] but for shaping; None for a sample without a readable verdict, unless `unread` states a number.
        errors: per sample, the standard error of its reward; None where one judgement is all there is.
        comparisons: number of judgements that were requested, retries included.
        unread: number of samples without a readable verdict.
        problems: the judgements that could not be read.
        terms: with shaping, per sample: what its reward is made of; see `ShapedGroup`.
        flags: with shaping, per sample: its flags.
    """

    rewards: tuple[float | None, ...]
    errors: tuple[float | None, ...]
    comparisons: int
    unread: int
    problems: tuple[Unread, ...] = ()
    terms: tuple[dict[str, float], ...] = ()
    flags: tuple[tuple[str, ...], ...] = ()


def group_samples(
    prompts: Sequence[PromptInput],
    answers: Sequence[str],
    *,
    references: Sequence[str | None] | None = None,
    rubrics: Sequence[Rubric | None] | None = None,
    lengths: Sequence[int] | None = None,
) -> tuple[list[Group], list[list[int]]]:
    """Return samples as groups, and the indices of each group's samples; see `judge_samples`."""
    owners: Sequence[Rubric | None] = rubrics or [None] * len(answers)
    by_key: dict[str, list[int]] = {}
    for number, (prompt, _, rubric) in enumerate(zip(prompts, answers, owners, strict=True)):
        key = content_id(prompt, rubric and rubric.model_dump())
        by_key.setdefault(key, []).append(number)
    members = list(by_key.values())
    groups = [
        Group(
            prompts[own[0]],
            tuple(answers[i] for i in own),
            references and tuple(references[i] for i in own),
            owners[own[0]],
            lengths and tuple(lengths[i] for i in own),
        )
        for own in members
    ]
    return groups, members


def merged(results: Sequence[GroupRewards], members: Sequence[Sequence[int]]) -> GroupRewards:
    """Return the rewards of several groups as one, in the samples' order; see `group_samples`."""
    count = sum(map(len, members))
    rewards: list[float | None] = [None] * count
    errors: list[float | None] = [None] * count
    problems: list[Unread] = []
    terms = {
        i: one for r, own in zip(results, members, strict=True) for i, one in zip(own, r.terms, strict=False)
    }
    flags = {
        i: one for r, own in zip(results, members, strict=True) for i, one in zip(own, r.flags, strict=False)
    }
    for result, own in zip(results, members, strict=True):
        for i, reward, error in zip(own, result.rewards, result.errors, strict=True):
            rewards[i], errors[i] = reward, error
        for problem in result.problems:
            problems.append(replace(problem, answers=tuple(own[i] for i in problem.answers)))
    return GroupRewards(
        tuple(rewards),
        tuple(errors),
        sum(result.comparisons for result in results),
        sum(result.unread for result in results),
        tuple(problems),
        tuple(terms[i] for i in sorted(terms)),
        tuple(flags[i] for i in sorted(flags)),
    )
