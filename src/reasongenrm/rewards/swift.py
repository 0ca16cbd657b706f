"""The judge among the reward functions of ms-swift: a plugin file calls `register()`.

Written against ms-swift 4.6.0: `swift/rewards/orm.py` (base classes and their table) and `swift/rl_core/grpo_algorithm.py` (how they are
called). The plugin file must not be this one: ms-swift puts its folder at the front of `sys.path`, where `trl.py` beside this file
would be imported in place of TRL. The environment names the judge: see `rewards.environment`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from reasongenrm.rewards.completions import column_values, completion_text, prompt_input
from reasongenrm.rewards.environment import environment_judge, environment_reference, environment_settings
from reasongenrm.rewards.schedule import group_samples, judge_groups

NAME = "reasongenrm"
"""Of the reward function in `--reward_funcs`; the async one is called `reasongenrm_async`."""


def register() -> None:
    """Add the judge to ms-swift's reward functions; logged as `rewards/JudgeReward/mean`."""
    from swift.rewards import ORM, AsyncORM, orms

    class JudgeReward(ORM):
        """Rewards of a batch; the trainer waits."""

        def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
            """Return a reward per completion; see `swift_rewards`."""
            return swift_rewards(completions, columns)

    class AsyncJudgeReward(AsyncORM):
        """Rewards of a batch, while other async reward functions run."""

        async def __call__(self, completions: Sequence[str], **columns: Any) -> list[float]:
            """Return a reward per completion; see `swift_rewards`. A thread waits for the judge."""
            return await asyncio.to_thread(swift_rewards, completions, columns)

    orms[NAME], orms[f"{NAME}_async"] = JudgeReward, AsyncJudgeReward


def swift_rewards(completions: Sequence[str], columns: Mapping[str, Any]) -> list[float]:
    """Return a reward per completion; the samples of a prompt are judged together.

    ms-swift has no mask: a missing reward counts as 0, the worst, where no other reward function gives one. So a sample without a
    readable verdict gets the mean of its group, with which it has no advantage and no disadvantage, and a warning counts it.

    Args:
        completions: the samples.
        columns: ms-swift's arguments: `messages` with the conversation of each sample, and the data set's columns.

    Raises:
        ConfigError: the environment names no judge.
        DataError: a prompt cannot be judged, or the column of references is missing.
        EngineError: the judge cannot be loaded or reached.
    """
    settings = environment_settings()
    prompts = [prompt_input(_prompt_turns(turns)) for turns in column_values(columns, "messages")]
    references = None
    if settings.schedule == "reference":
        name = environment_reference()
        references = [
            completion_text(value, f"{name}[{i}]") for i, value in enumerate(column_values(columns, name))
        ]
    groups, members = group_samples(prompts, completions, references=references)
    results = judge_groups(environment_judge(), groups, settings)
    if missing := sum(result.rewards.count(None) for result in results):
        logging.getLogger(__name__).warning(
            "%d of %d samples have no readable verdict: they get the mean of their group",
            missing,
            len(completions),
        )
    rewards = [0.0] * len(completions)
    for result, own in zip(results, members, strict=True):
        for i, reward in zip(own, group_mean_filled(result.rewards), strict=True):
            rewards[i] = reward
    return rewards


def group_mean_filled(rewards: Sequence[float | None]) -> list[float]:
    """Return the rewards of a group, with the mean of the others for each that is None; 0 for all if all are None.

    The group's mean stays what it was, so that the advantage of such a sample is 0; in a group without rewards all advantages are 0.
    """
    read = [reward for reward in rewards if reward is not None]
    mean = fmean(read) if read else 0.0
    return [mean if reward is None else reward for reward in rewards]


def _prompt_turns(turns: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return a conversation up to the last turn of the user; what follows is the sample, with its tool calls."""
    last = max((i for i, turn in enumerate(turns) if turn["role"] == "user"), default=-1)
    return list(turns[: last + 1])
