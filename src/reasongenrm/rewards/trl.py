"""Rewards that TRL awaits: `GRPOTrainer(..., reward_funcs=[AwaitedReward(GroupReward(judge)), ...])`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol


class Reward(Protocol):
    """A reward function of TRL, such as `GroupReward` and `HeadReward`."""

    __name__: str

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> Sequence[float | None]:
        """Return a reward per completion."""
        ...


class AwaitedReward:
    """A reward as an async function: TRL runs all of these at the same time, such as two judges.

    GRPOTrainer, RLOOTrainer and AsyncGRPOTrainer await it; OnlineDPOTrainer does not know async rewards. AsyncGRPOTrainer pickles
    its rewards: use a `RemoteJudge`, of which the URL and the name of the key's variable are pickled.

    Args:
        reward: the reward; a thread waits for it.
    """

    def __init__(self, reward: Reward) -> None:
        self._reward = reward
        self.__name__ = reward.__name__

    async def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Any
    ) -> Sequence[float | None]:
        """Return a reward per completion, as the reward does."""
        return await asyncio.to_thread(self._reward, prompts, completions, **columns)
