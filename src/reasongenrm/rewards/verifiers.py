"""Rewards for verifiers, and so for prime-rl: a plugged reward of a task, and one for the traces of an episode.

Written against verifiers 0.4.0: `verifiers/v1/task.py` (`Task.score`), `verifiers/v1/utils/loaders.py` (`plugged_fn`) and
`verifiers/v1/env.py` (`Env.finalize`). The environment names the judge: see `rewards.environment`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from reasongenrm.errors import DataError
from reasongenrm.judge.inputs import PromptInput
from reasongenrm.records import Message
from reasongenrm.rewards.client import cohort_reward
from reasongenrm.rewards.environment import (
    environment_cohort,
    environment_judge,
    environment_reference,
    environment_server,
    environment_settings,
)
from reasongenrm.rewards.schedule import Group, GroupRewards, judge_groups


async def judge_reward(task: Any, trace: Any) -> float:
    """Return the reward of a trace: `[env.taskset.task.rewards] judge = { fn = "reasongenrm.rewards.verifiers:judge_reward" }`.

    Rollouts of a task are scored one by one, in several processes: those of a prompt meet in a cohort of the server. The schedules
    `reference` and `pointwise` need no cohort.

    Args:
        task: the task's data (`TaskData`), with a prompt.
        trace: the rollout; its last reply is judged.

    Raises:
        DataError: there is no prompt or no reference; or no verdict could be read: verifiers then has a failed trace, which
            may be retried and is not scored, as with its own judges.
        EngineError: the judge cannot be reached.
    """
    settings, answer = environment_settings(), _reply(trace)
    if not settings.needs_group:
        group = Group(_prompt(task), (answer,), _references(task, 1))
        [result] = await asyncio.to_thread(judge_groups, environment_judge(), [group], settings)
        return _all_read(result)[0]
    reward, problem = await cohort_reward(
        environment_server(),
        _prompt(task),
        answer,
        size=environment_cohort(),
        sample=trace.id,
        settings=settings,
    )
    if reward is None:
        raise DataError(problem or "no verdict could be read", location="judge_reward", hint=_UNREAD)
    return reward


async def judge_episode(task: Any, episode: Any, *, agent: str = "agent", name: str = "judge") -> None:
    """Record a reward on each trace of an episode, whose traces are samples of one task: for `Env.finalize`.

    Args:
        task: the task.
        episode: the episode; traces of other agents, and failed ones, are left out.
        agent: name of the agent whose traces are judged.
        name: of the reward.

    Raises:
        DataError, EngineError: see `judge_reward`; verifiers then has a failed episode, and none of its traces is scored.
    """
    traces = [trace for trace in episode.traces if trace.agent.name == agent and not trace.errors]
    if not traces:
        return
    settings = environment_settings()
    references = _references(task.data, len(traces)) if settings.schedule == "reference" else None
    group = Group(_prompt(task.data), tuple(map(_reply, traces)), references)
    [result] = await asyncio.to_thread(judge_groups, environment_judge(), [group], settings)
    for trace, reward in zip(traces, _all_read(result), strict=True):
        trace.record_reward(name, reward)


_UNREAD = "a retry of the rollout may help; or set unread in REASONGENRM_REWARDS to retry, or to a number"


def _all_read(result: GroupRewards) -> list[float]:
    read = [reward for reward in result.rewards if reward is not None]
    if len(read) < len(result.rewards):
        outcomes = ", ".join(problem.error or problem.outcome for problem in result.problems)
        problem = (
            f"{len(result.rewards) - len(read)} of {len(result.rewards)} samples have no verdict ({outcomes})"
        )
        raise DataError(problem, location="judge", hint=_UNREAD)
    return read


def _references(task: Any, count: int) -> tuple[str, ...] | None:
    """Return the task's reference, once per sample; None if the schedule uses none."""
    if environment_settings().schedule != "reference":
        return None
    name = environment_reference()
    reference = getattr(task, name, None)
    if not isinstance(reference, str):
        hint = "set REASONGENRM_REFERENCE to the field of the task's data with a reference answer"
        raise DataError("the task has no such text", location=name, hint=hint)
    return (reference,) * count


def _prompt(task: Any) -> PromptInput:
    """Return the prompt of a task's data, behind its system prompt."""
    system = [Message(role="system", content=task.system_prompt)] if task.system_prompt else []
    if task.prompt is None:
        hint = "give the task's data a prompt: an opening by a simulated user cannot be judged"
        raise DataError("the task has no prompt", location="prompt", hint=hint)
    if isinstance(task.prompt, str):
        return [*system, Message(role="user", content=task.prompt)]
    return [*system, *(Message(role=turn.role, content=_text(turn.content)) for turn in task.prompt)]


def _text(content: Any) -> str:
    """Return the text of a message's content, whose parts are objects."""
    return (
        content
        if isinstance(content, str)
        else "\n".join(getattr(part, "text", "") for part in content or ())
    )


def _reply(trace: Any) -> str:
    """Return the last reply, unlike `trace.last_reply` with the white space at its ends."""
    if trace.root_reply is not None:
        return str(trace.root_reply)
    replies = trace.assistant_messages
    return (replies[-1].content or "") if replies else ""
