"""Rewards of the samples of a prompt from a judge: `judge_groups`, the one function behind every trainer's reward."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.config.rubric import Rubric
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.inputs import PromptInput
from reasongenrm.judge.sharing import METHODS
from reasongenrm.rewards.estimates import Estimate
from reasongenrm.rewards.flags import DEFAULT_TEXTS, JudgeTexts
from reasongenrm.rewards.groups import Group, GroupRewards, Unread, group_samples, merged
from reasongenrm.rewards.plans import Texts
from reasongenrm.rewards.rounds import SCHEDULES, Call, JudgeMethod, Value, read_retry, read_value, retry
from reasongenrm.rewards.shaping import shape_group


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows for one call of a judge's method."""

    method: JudgeMethod
    rows: tuple[Any, ...]


def check_judge(judge: Any, location: str = "judge") -> None:
    """Raise ConfigError for what is not a judge: a text, None, a function or a class."""
    if isinstance(judge, type) or not any(callable(getattr(judge, name, None)) for name in METHODS.values()):
        name = f"the class {judge.__name__}" if isinstance(judge, type) else type(judge).__name__
        hint = "give a Judge, a SharedJudge or a RemoteJudge"
        raise ConfigError(f"not a judge, but {name}", location=location, hint=hint)


def _check(number: int, group: Group, settings: RewardSettings) -> None:
    """Raise DataError for a group whose references do not fit its schedule."""
    if settings.schedule != "reference":
        return
    references = group.references or ()
    missing = len(references) != len(group.answers) or any(text is None for text in references)
    if missing:
        hint = "give a reference for each answer, or choose another schedule"
        raise DataError("no reference to compare with", location=f"groups[{number}].references", hint=hint)


def reward_batches(
    groups: Sequence[Group],
    settings: RewardSettings | Sequence[RewardSettings],
    own_texts: JudgeTexts = DEFAULT_TEXTS,
) -> Generator[Batch, Sequence[Any], list[GroupRewards]]:
    """Yield what a judge must be asked, and return the rewards; `judge_groups` without the judge.

    Each batch holds rows of all groups; send its results back in the order of its rows.

    Args:
        groups: one per prompt.
        settings: of all groups, or one for each.
        own_texts: the judge's, which shaping flags in answers.

    Raises:
        ConfigError: see `shape_group`.
        DataError: a group has no references, and its schedule needs them.
    """
    each = [settings] * len(groups) if isinstance(settings, RewardSettings) else list(settings)
    runs = []
    for number, (group, own) in enumerate(zip(groups, each, strict=True)):
        _check(number, group, own)
        runs.append(_GroupRun(group, own))
    while active := [run for run in runs if run.calls]:
        calls = [call for run in active for call in run.calls]
        retries = [run.settings.unread == "retry" for run in active for _ in run.calls]
        judgements = iter((yield from _judge(calls, retries)))
        for run in active:
            run.advance(list(islice(judgements, len(run.calls))))
    return [run.rewards(own_texts) for run in runs]


def _results(calls: Sequence[Call]) -> Generator[Batch, Sequence[Any], list[Any]]:
    """Yield one batch per method, and return the results in the order of the calls."""
    results: list[Any] = [None] * len(calls)
    for method in dict.fromkeys(call.method for call in calls):
        own = [i for i, call in enumerate(calls) if call.method == method]
        answers = yield Batch(method, tuple(calls[i].row for i in own))
        for i, answer in zip(own, answers, strict=True):
            results[i] = answer
    return results


@dataclass(frozen=True, slots=True)
class _Judgement:
    """What was read of the last result of a call; `requests` is 2 after a retry."""

    value: Value
    result: Any
    requests: int = 1


def _judge(
    calls: Sequence[Call], retries: Sequence[bool]
) -> Generator[Batch, Sequence[Any], list[_Judgement]]:
    """Return a judgement per call; those that could not be read are requested again where `retries` says so."""
    results = yield from _results(calls)
    judgements = [_Judgement(read_value(call, one), one) for call, one in zip(calls, results, strict=True)]
    again = [i for i, one in enumerate(judgements) if one.value is None and retries[i]]
    results = yield from _results([retry(calls[i]) for i in again])
    for i, result in zip(again, results, strict=True):
        judgements[i] = _Judgement(read_retry(calls[i], result), result, requests=2)
    return judgements


class _GroupRun:
    """One group on its way through its rounds."""

    def __init__(self, group: Group, settings: RewardSettings) -> None:
        self.group, self.settings = group, settings
        self.texts = Texts.of(group.answers)
        self.comparisons, self.problems = 0, list[Unread]()
        self._estimate: Estimate | None = None
        self._rounds = SCHEDULES[settings.schedule](group, self.texts, settings)
        self.calls: list[Call] = []
        self._step(lambda: next(self._rounds))

    def _step(self, step: Callable[[], list[Call]]) -> None:
        try:
            self.calls = step()
            while not self.calls:  # a round without calls, as of one text alone
                self.calls = self._rounds.send([])
        except StopIteration as end:
            self.calls, self._estimate = [], end.value

    def advance(self, judgements: Sequence[_Judgement]) -> None:
        """Take a judgement per current call, and go to the next round."""
        for call, one in zip(self.calls, judgements, strict=True):
            self.comparisons += one.requests
            if one.value is None and not call.in_parts:
                samples = tuple(map(self.texts.place.index, call.texts))
                self.problems.append(Unread(samples, one.result.outcome, one.result.error))
        self._step(lambda: self._rounds.send([one.value for one in judgements]))

    def rewards(self, own_texts: JudgeTexts) -> GroupRewards:
        """Return the rewards, once there are no calls left."""
        assert self._estimate is not None
        rewards, errors = self._estimate
        unread = rewards.count(None)
        if unread and len(rewards) == 1 and not self.problems:
            self.problems.append(Unread((0,), "alone"))
        if isinstance(self.settings.unread, float):
            stated = self.settings.unread
            rewards = tuple(stated if value is None else value for value in rewards)
        result = GroupRewards(rewards, errors, self.comparisons, unread, tuple(self.problems))
        if self.settings.shaping is None:
            return result
        group = self.group
        prompt = (
            group.prompt if isinstance(group.prompt, str) else "\n".join(t["content"] for t in group.prompt)
        )
        shaped = shape_group(
            prompt, group.answers, rewards, self.settings.shaping, lengths=group.lengths, own=own_texts
        )
        return replace(result, rewards=shaped.rewards, terms=shaped.terms, flags=shaped.flags)


def judge_groups(
    judge: Any, groups: Sequence[Group], settings: RewardSettings | Sequence[RewardSettings]
) -> list[GroupRewards]:
    """Return the rewards of each group; the judgements of all groups are requested at once, one call per round.

    Args:
        judge: a `Judge`, a `SharedJudge` or a `RemoteJudge`.
        groups: one per prompt.
        settings: of all groups, or one for each.

    Raises:
        ConfigError: not a judge, or it does not have the method that a schedule needs.
        DataError: a group has no references, and its schedule needs them; or see `Judge.compare`.
        EngineError: the judge fails.
    """
    check_judge(judge)
    batches = reward_batches(groups, settings, JudgeTexts.from_judge(judge))
    try:
        batch = next(batches)
        while True:
            batch = batches.send(list(_method(judge, batch)(batch.rows)))
    except StopIteration as end:
        rewards: list[GroupRewards] = end.value
        return rewards


def _method(judge: Any, batch: Batch) -> Callable[[Sequence[Any]], Any]:
    method: Callable[[Sequence[Any]], Any] | None = getattr(judge, batch.method, None)
    if method is None:
        problem = f"{type(judge).__name__} has no {batch.method}, which this schedule needs"
        raise ConfigError(problem, location="schedule", hint="choose a schedule of comparisons")
    return method


async def judge_groups_async(
    send: Callable[[Batch], Awaitable[Sequence[Any]]],
    groups: Sequence[Group],
    settings: RewardSettings | Sequence[RewardSettings],
    own_texts: JudgeTexts = DEFAULT_TEXTS,
) -> list[GroupRewards]:
    """Return the rewards of each group, with a judge that is awaited; the event loop goes on during their shaping.

    Args:
        send: asks the judge, and returns the results in the order of the rows.
        groups, settings: see `judge_groups`.
        own_texts: the judge's, which shaping flags in answers.
    """
    batches = reward_batches(groups, settings, own_texts)
    each = [settings] if isinstance(settings, RewardSettings) else settings
    shaped = any(one.shaping is not None for one in each)

    def step(results: Sequence[Any] | None) -> Batch | list[GroupRewards]:
        try:
            return next(batches) if results is None else batches.send(results)
        except StopIteration as end:  # cannot leave a coroutine or a future
            rewards: list[GroupRewards] = end.value
            return rewards

    results: Sequence[Any] | None = None
    while True:
        # Callers' regular expressions on long answers take seconds.
        batch = await asyncio.to_thread(step, results) if shaped else step(results)
        if not isinstance(batch, Batch):
            return batch
        results = await send(batch)


def judge_samples(
    judge: Any,
    prompts: Sequence[PromptInput],
    answers: Sequence[str],
    settings: RewardSettings,
    *,
    references: Sequence[str | None] | None = None,
    rubrics: Sequence[Rubric | None] | None = None,
    lengths: Sequence[int] | None = None,
) -> GroupRewards:
    """Return the rewards of samples in any order; those of one prompt, and one rubric, are a group.

    Args:
        judge, settings: see `judge_groups`.
        prompts, answers: one per sample.
        references, rubrics, lengths: one per sample, if there are any; see `Group`.
    """
    groups, members = group_samples(prompts, answers, references=references, rubrics=rubrics, lengths=lengths)
    return merged(judge_groups(judge, groups, settings), members)
