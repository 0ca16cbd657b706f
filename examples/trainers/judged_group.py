"""verifiers: `n` attempts at each task in one episode, which the judge compares: `--env.id judged-group`; see docs/reward.md.

This file has to be on PYTHONPATH. Without an environment of its own, `judge_reward` compares the rollouts of a group by a cohort.
"""

import asyncio

import verifiers.v1 as vf
from pydantic import Field

from reasongenrm.rewards.verifiers import judge_episode


class JudgedGroupConfig(vf.EnvConfig):
    """The policy's agent, and the number of its attempts."""

    agent: vf.AgentConfig = vf.AgentConfig()
    n: int = Field(8, ge=2)


class JudgedGroupEnv(vf.Env[JudgedGroupConfig]):
    """All attempts of an episode are judged together, in one request, when the last one is there."""

    async def run(self, task: vf.Task, agents: vf.Agents) -> None:
        """Run the attempts side by side."""
        async with asyncio.TaskGroup() as attempts:
            for _ in range(self.config.n):
                attempts.create_task(agents.agent.run(task))

    async def finalize(self, task: vf.Task, episode: vf.Episode) -> None:
        """Record each attempt's reward as `judge`."""
        await judge_episode(task, episode)


__all__ = ["JudgedGroupEnv"]
