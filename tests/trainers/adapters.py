"""Every way to a reward: a name, the environment that it needs, and a function from groups to rewards.

An adapter of a trainer that is not in .venv is a script in `scripts/`, which runs in that trainer's environment: it reads a `Work` as
JSON from stdin, asks the judge at its URL through the trainer's own code, and prints the rewards as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.judge.remote import RemoteJudge
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.rewards.group import GroupReward
from reasongenrm.rewards.schedule import Group
from reasongenrm.rewards.trl import AwaitedReward
from reasongenrm.service.reward_options import RewardOptions
from reasongenrm.service.server import create_app
from support.app import running

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = Path(__file__).parent / "scripts"
ENVIRONMENTS = ROOT / os.environ.get("TRAINERS", "none")
"""The folder of the trainers' environments; `make trainers` sets it, and other runs of the tests skip what needs one."""

Rewards = list[list[float | None]]
"""Per group, a reward per sample."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an adapter is given.

    Attributes:
        judge: the judge in this process.
        url: the same judge over HTTP.
        tokenizer: folder of a tokenizer, and of a tiny model, for trainers that decode the samples.
        groups: with a reference for each sample.
        settings: keys of `RewardSettings`.
    """

    judge: SharedJudge
    url: str
    tokenizer: str
    groups: Sequence[Group]
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Adapter:
    """One way to a reward.

    Attributes:
        name: as docs/reward.md names it.
        rewards: asks for the rewards of all groups.
        environment: folder in ENVIRONMENTS with the trainer's package; empty: .venv is enough.
        tested: what the test runs, for the table.
        schedules: those that the trainer can use.
        null: whether an unread sample arrives as null; else the caller must state a number, or the trainer's mask is used.
    """

    name: str
    rewards: Callable[[Work], Rewards]
    environment: str = ""
    tested: str = ""
    schedules: tuple[str, ...] = ("circular", "reference")
    null: bool = True


def python_of(environment: str) -> Path:
    """Return the interpreter of a trainer's environment; without a name, this one."""
    return ENVIRONMENTS / environment / "bin" / "python" if environment else Path(sys.executable)


def needs_environment(name: str) -> pytest.MarkDecorator:
    """Skip a test if the trainer's environment was not made."""
    reason = f"make trainers makes the environment {name}"
    return pytest.mark.skipif(not python_of(name).exists(), reason=reason)


def run_script(environment: str, script: str, stdin: dict[str, Any]) -> Any:
    """Run a script of `scripts/` in a trainer's environment, and return the JSON of its last line.

    Args:
        environment: folder in ENVIRONMENTS.
        script: name of the file, without `.py`.
        stdin: what the script reads as JSON.
    """
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("REASONGENRM_")}
    process = subprocess.run(
        [str(python_of(environment)), str(SCRIPTS / f"{script}.py")],
        input=json.dumps(stdin),
        env=inherited | {"PYTHONPATH": str(ROOT / "src"), "HF_HUB_OFFLINE": "1", "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
    return json.loads(process.stdout.strip().splitlines()[-1])


def in_environment(environment: str, script: str, **more: Any) -> Callable[[Work], Rewards]:
    """Return a function that sends a `Work` to a script of `scripts/`, with further keys; see `run_script`."""

    def rewards(work: Work) -> Rewards:
        groups = [
            {"prompt": one.prompt, "answers": list(one.answers), "references": list(one.references or ())}
            for one in work.groups
        ]
        fields = {"url": work.url, "tokenizer": work.tokenizer, "groups": groups, "settings": work.settings}
        result: Rewards = run_script(environment, script, fields | more)
        return result

    return rewards


def flat(work: Work) -> tuple[list[str], list[str], dict[str, list[str]]]:
    """Return prompts, completions and columns of all samples, the groups one after another, as TRL passes them."""
    prompts = [group.prompt for group in work.groups for _ in group.answers]
    answers = [answer for group in work.groups for answer in group.answers]
    gold = [reference for group in work.groups for reference in group.references or ()]
    assert all(isinstance(prompt, str) for prompt in prompts)
    return prompts, answers, {"gold": gold}  # type: ignore[return-value]


def grouped(work: Work, rewards: Sequence[float | None]) -> Rewards:
    """Return the rewards of all samples by group."""
    left = iter(rewards)
    return [[next(left) for _ in group.answers] for group in work.groups]


def column(work: Work) -> str | None:
    """Return the column of references, if the schedule uses it."""
    return "gold" if work.settings["schedule"] == "reference" else None


def trl_in_process(work: Work) -> Rewards:
    prompts, answers, columns = flat(work)
    reward = GroupReward(work.judge, work.settings, reference=column(work))
    return grouped(work, reward(prompts, answers, **columns))


def trl_served(work: Work) -> Rewards:
    prompts, answers, columns = flat(work)
    reward = GroupReward(RemoteJudge(work.url), work.settings, reference=column(work))
    turns = [[{"role": "user", "content": prompt}] for prompt in prompts]
    completions = [[{"role": "assistant", "content": answer}] for answer in answers]
    return grouped(work, reward(turns, completions, **columns))


def trl_async(work: Work) -> Rewards:
    prompts, answers, columns = flat(work)
    reward = AwaitedReward(GroupReward(RemoteJudge(work.url), work.settings, reference=column(work)))
    reward = pickle.loads(pickle.dumps(reward))
    return grouped(work, asyncio.run(reward(prompts, answers, **columns)))


def http_groups(work: Work) -> Rewards:
    rewards = []
    with httpx.Client(base_url=work.url, timeout=60, trust_env=False) as client:
        for group in work.groups:
            body = {"prompt": group.prompt, "answers": group.answers, "settings": work.settings}
            if column(work):
                body["references"] = group.references
            answer = client.post("/reward", json=body)
            assert answer.status_code == 200, answer.text
            rewards.append(answer.json()["rewards"])
    return rewards


Exchange = tuple[dict[str, Any], dict[str, Any]]
"""The body of a request, and that of its answer."""


def post_each_sample(
    work: Work, path: str, body_of: Callable[[Group, int], dict[str, Any]]
) -> list[list[Exchange]]:
    """Post all samples at once, each in a request of its own; those of a prompt meet in its cohort."""

    async def all_exchanges() -> list[list[Exchange]]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(
            base_url=work.url, timeout=120, limits=limits, trust_env=False
        ) as client:

            async def one(group: Group, number: int) -> Exchange:
                body = body_of(group, number)
                answer = await client.post(path, json=body)
                assert answer.status_code == 200, answer.text
                return body, answer.json()

            tasks = [[one(group, i) for i in range(len(group.answers))] for group in work.groups]
            return [list(own) for own in await asyncio.gather(*(asyncio.gather(*t) for t in tasks))]

    return asyncio.run(all_exchanges())


def http_cohorts(work: Work) -> Rewards:
    def body(group: Group, number: int) -> dict[str, Any]:
        fields: dict[str, Any] = {"prompt": group.prompt, "answers": [group.answers[number]]}
        fields |= {"settings": work.settings, "cohort": {"size": len(group.answers)}}
        return fields | ({"references": [(group.references or ())[number]]} if column(work) else {})

    groups = post_each_sample(work, "/reward", body)
    assert all(len(answer["rewards"]) == 1 for own in groups for _, answer in own)
    return [[answer["rewards"][0] for _, answer in own] for own in groups]


def with_server_settings(rewards: Callable[[Work], Rewards]) -> Callable[[Work], Rewards]:
    """Return an adapter whose server has the settings: for bodies that do not carry them."""

    def adapted(work: Work) -> Rewards:
        options = RewardOptions(RewardSettings(**work.settings), cohort=len(work.groups[0].answers))
        with running(create_app(work.judge, rewards=options)) as url:
            return rewards(replace(work, url=url))

    return adapted


def openrlhf_url(work: Work) -> Rewards:
    return in_environment("openrlhf", "openrlhf_rewards", endpoint=f"{work.url}/get_reward")(work)


def verify_body(group: Group, number: int, references: bool) -> dict[str, Any]:
    """Return what NeMo-Gym's simple_agent posts after a rollout (its BaseVerifyRequest, dumped with the columns of the row)."""
    part = {"annotations": [], "text": group.answers[number], "type": "output_text", "logprobs": None}
    message = {"id": "msg", "content": [part], "role": "assistant", "status": "completed", "type": "message"}
    message |= {"prompt_token_ids": [1], "generation_token_ids": [2], "generation_log_probs": [-0.1]}
    reasoning = {"id": "rs", "summary": [], "type": "reasoning", "encrypted_content": None}
    response = {"id": f"resp_{number}", "created_at": 1.0, "model": "policy", "object": "response"}
    response |= {
        "output": [reasoning, message],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
    turn = {"content": group.prompt, "role": "user", "type": "message"}
    params = {"input": [turn], "metadata": None, "parallel_tool_calls": True, "tools": [], "temperature": 1.0}
    row = {"agent_ref": {"name": "simple_agent"}, "_ng_rollout_index": number, "_ng_group_id": group.prompt}
    row |= {"reference": (group.references or ())[number]} if references else {}
    return {"responses_create_params": params, "response": response} | row


def nemo_gym(work: Work) -> Rewards:
    """Post every rollout as NeMo-Gym's agent does; a masked sample has no reward."""

    def reward(body: dict[str, Any], answer: dict[str, Any]) -> float | None:
        assert answer["response"] == body["response"]
        assert answer["mask_sample"] is (answer.get("_ng_failure_class") == "judge_failed")
        return None if answer["mask_sample"] else float(answer["reward"])

    def body(group: Group, number: int) -> dict[str, Any]:
        return verify_body(group, number, references=column(work) is not None)

    return [[reward(*exchange) for exchange in own] for own in post_each_sample(work, "/verify", body)]


def nemo_gym_agent(work: Work) -> Rewards:
    folder = ROOT / "examples" / "trainers" / "nemo_gym" / "resources_servers" / "reasongenrm"
    return in_environment("nemo_gym", "nemo_gym_rewards", example=str(folder / "app.py"))(work)


def verl(manager: str) -> Callable[[Work], Rewards]:
    """Return an adapter of verl's Reward Loop with this reward manager."""
    return in_environment("verl", "run_verl", manager=manager, function="compute_score")


def swift(name: str) -> Callable[[Work], Rewards]:
    """Return an adapter of ms-swift's reward function of this name."""
    plugin = str(ROOT / "examples" / "trainers" / "ms_swift_plugin.py")
    return in_environment("swift", "swift_rewards", plugin=plugin, reward=name)


OPENRLHF_FILE = str(ROOT / "src" / "reasongenrm" / "rewards" / "openrlhf.py")

ADAPTERS = (
    Adapter("TRL, in process", trl_in_process, tested="the reward object"),
    Adapter("TRL, served", trl_served, tested="the reward object, conversations"),
    Adapter("TRL, async", trl_async, tested="the reward object, pickled"),
    Adapter(
        "verl 0.9, Reward Loop, `naive`",
        verl("naive"),
        environment="verl",
        tested="verl's configuration, RewardLoopWorker and manager",
        null=False,
    ),
    Adapter(
        "verl 0.9, Reward Loop, `dapo`",
        verl("dapo"),
        environment="verl",
        tested="the same",
        null=False,
    ),
    Adapter(
        "verl 0.9, Reward Loop, `gdpo`",
        verl("gdpo"),
        environment="verl",
        tested="the same",
        schedules=("circular",),
        null=False,
    ),
    Adapter("HTTP `/reward`, a group at once", http_groups, tested="the route"),
    Adapter("HTTP `/reward`, one sample at a time", http_cohorts, tested="the route, 512 callers at once"),
    Adapter(
        "OpenRLHF 0.11.2, URL",
        with_server_settings(openrlhf_url),
        environment="openrlhf",
        tested="`SingleTurnAgentExecutor`, without vLLM",
    ),
    Adapter(
        "OpenRLHF 0.11.2, file",
        in_environment("openrlhf", "openrlhf_rewards", endpoint=OPENRLHF_FILE),
        environment="openrlhf",
        tested="`SingleTurnAgentExecutor`, without vLLM",
        schedules=("reference",),
    ),
    Adapter(
        "NeMo-Gym, `/verify`",
        with_server_settings(nemo_gym),
        tested="the route, bodies as in its sources of November 2026",
    ),
    Adapter(
        "nemo-gym 0.4.0, agent",
        with_server_settings(nemo_gym_agent),
        environment="nemo_gym",
        tested="`simple_agent` and the example's resources server, without a policy",
    ),
    Adapter(
        "verifiers 0.4.0, rollouts",
        in_environment("verifiers", "verifiers_rewards", episodes=False),
        environment="verifiers",
        tested="`Task.score` with a plugged reward",
        null=False,
    ),
    Adapter(
        "verifiers 0.4.0, episodes",
        in_environment("verifiers", "verifiers_rewards", episodes=True),
        environment="verifiers",
        tested="the function for `Env.finalize`, with real traces",
        null=False,
    ),
    Adapter(
        "ms-swift 4.6.0",
        swift("reasongenrm"),
        environment="swift",
        tested="`compute_rewards_per_func`, with the plugin",
        null=False,
    ),
    Adapter(
        "ms-swift 4.6.0, async",
        swift("reasongenrm_async"),
        environment="swift",
        tested="`compute_rewards_per_func`, with the plugin",
        null=False,
    ),
)
"""The table of docs/reward.md, in its order."""
