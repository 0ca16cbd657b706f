"""verifiers 0.4.0: a task scores a trace whose verdict cannot be read."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import verifiers.v1 as vf
from verifiers_rewards import REWARD, Data, JudgedTask, trace

given = json.load(sys.stdin)
os.environ |= {"REASONGENRM_URL": given["url"], "REASONGENRM_REWARDS": json.dumps(given["settings"])}
os.environ |= {"REASONGENRM_REFERENCE": "gold"}
[group] = given["groups"]
task = JudgedTask(
    Data(prompt=group["prompt"], gold=group["references"][0]), vf.TaskConfig(rewards={"judge": REWARD})
)
rollout = trace(task, group["answers"][0])
try:
    asyncio.run(task.score(rollout))
    found = "no error"
except vf.TaskError as error:
    found = str(error)
rewards = {name: reward and reward.model_dump() for name, reward in rollout.rewards.items()}
print(json.dumps([found, rewards]))
