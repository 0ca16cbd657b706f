"""verifiers 0.4.0: real tasks with a plugged reward score traces one by one; or an episode's traces are judged together."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from typing import Any

import verifiers.v1 as vf

from reasongenrm.rewards.verifiers import judge_episode


class Data(vf.TaskData):
    gold: str


class JudgedTask(vf.Task[Data, vf.State, vf.TaskConfig]):
    """A task without rewards of its own."""


REWARD = {"fn": "reasongenrm.rewards.verifiers:judge_reward"}


def trace(task: JudgedTask, answer: str) -> Any:
    """Return a finished rollout: the prompt and one sampled reply."""
    nodes = [
        vf.MessageNode(message=vf.UserMessage(content=task.data.prompt)),
        vf.MessageNode(parent=0, message=vf.AssistantMessage(content=answer), sampled=True),
    ]
    recorded = vf.TraceTask(type="JudgedTask", data=task.data)
    agent = vf.AgentInfo(config=vf.AgentConfig(model="policy"))
    return vf.Trace[Data, vf.State, vf.AgentConfig](task=recorded, agent=agent, nodes=nodes)


async def main(work: dict[str, Any]) -> list[list[float]]:
    config = vf.TaskConfig(rewards={"judge": REWARD})

    async def one_by_one(task: JudgedTask, traces: list[Any]) -> None:
        await asyncio.gather(*(task.score(one) for one in traces))

    async def together(task: JudgedTask, traces: list[Any]) -> None:
        recorded = vf.TraceTask(type="JudgedTask", data=task.data)
        await judge_episode(task, vf.Episode(task=recorded, traces=traces))

    score = together if work["episodes"] else one_by_one
    groups, scored = [], []
    for group in work["groups"]:
        task = JudgedTask(Data(prompt=group["prompt"], gold=group["references"][0]), config)
        groups.append([trace(task, answer) for answer in group["answers"]])
        scored.append(score(task, groups[-1]))
    await asyncio.gather(*scored)
    assert all(set(one.rewards) == {"judge"} for traces in groups for one in traces)
    return [[one.reward for one in traces] for traces in groups]


if __name__ == "__main__":
    given = json.load(sys.stdin)
    os.environ |= {
        "REASONGENRM_URL": given["url"],
        "REASONGENRM_REWARDS": json.dumps(given["settings"]),
        "REASONGENRM_REFERENCE": "gold",
        "REASONGENRM_COHORT": str(len(given["groups"][0]["answers"])),
    }
    print(json.dumps(asyncio.run(main(given))))
