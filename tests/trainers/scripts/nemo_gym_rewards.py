"""nemo-gym 0.4.0: its agent runs each rollout with a stand-in for the policy, and our resources server asks the judge's server."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from nemo_gym.config_types import BaseServerConfig, ModelServerRef, ResourcesServerRef
from nemo_gym.server_utils import (
    GlobalAIOHTTPAsyncClientConfig,
    ServerClient,
    get_global_aiohttp_client,
    set_global_aiohttp_client,
)
from omegaconf import OmegaConf
from responses_api_agents.simple_agent.app import SimpleAgent, SimpleAgentConfig


def policy() -> FastAPI:
    """Return a model server whose answer is in the metadata of the request."""
    app = FastAPI()

    @app.post("/v1/responses")
    async def responses(body: dict[str, Any]) -> dict[str, Any]:
        text = {"type": "output_text", "text": body["metadata"]["answer"], "annotations": []}
        message = {
            "id": "m",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [text],
        }
        message |= {"prompt_token_ids": [1], "generation_token_ids": [2], "generation_log_probs": [-0.5]}
        response = {
            "id": "r",
            "created_at": 1.0,
            "model": "policy",
            "object": "response",
            "output": [message],
        }
        return response | {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}

    return app


def judge_server(file: str) -> Any:
    """Return the module of the example's resources server."""
    spec = importlib.util.spec_from_file_location("judge_server", file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["judge_server"] = module
    spec.loader.exec_module(module)
    return module


@asynccontextmanager
async def running(apps: dict[int, FastAPI]) -> AsyncIterator[None]:
    """Serve apps on their ports, in this event loop."""
    configs = [uvicorn.Config(app, port=port, log_level="warning") for port, app in apps.items()]
    servers = [uvicorn.Server(config) for config in configs]
    tasks = [asyncio.create_task(server.serve()) for server in servers]
    while not all(server.started for server in servers):
        await asyncio.sleep(0.05)
    yield
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*tasks)


def free_ports(count: int) -> list[int]:
    """Return ports that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


async def main(work: dict[str, Any]) -> list[list[Any]]:
    set_global_aiohttp_client(GlobalAIOHTTPAsyncClientConfig())
    host, (judge_port, policy_port, agent_port) = "127.0.0.1", free_ports(3)
    places = {"judge": ("resources_servers", judge_port), "policy": ("responses_api_models", policy_port)}
    places["agent"] = ("responses_api_agents", agent_port)
    config = {name: {kind: {name: {"host": host, "port": port}}} for name, (kind, port) in places.items()}
    head = BaseServerConfig(host=host, port=1)
    client = ServerClient(head_server_config=head, global_config_dict=OmegaConf.create(config))
    common = {"host": host, "entrypoint": "app.py"}
    module = judge_server(work["example"])
    judge_config = module.JudgeConfig(name="judge", port=judge_port, judge_url=work["url"], **common)
    judge = module.JudgeResourcesServer(config=judge_config, server_client=client)
    agent_config = SimpleAgentConfig(
        name="agent",
        port=agent_port,
        resources_server=ResourcesServerRef(type="resources_servers", name="judge"),
        model_server=ModelServerRef(type="responses_api_models", name="policy"),
        **common,
    )
    agent = SimpleAgent(config=agent_config, server_client=client)
    referenced = work["settings"]["schedule"] == "reference"

    async def rollout(group: dict[str, Any], number: int) -> Any:
        params = {"input": group["prompt"], "metadata": {"answer": group["answers"][number]}}
        row = {
            "responses_create_params": params,
            "_ng_group_id": group["prompt"],
            "_ng_rollout_index": number,
        }
        row |= {"reference": group["references"][number]} if referenced else {}
        http = get_global_aiohttp_client()
        async with http.post(f"http://{host}:{agent_port}/run", json=row) as answer:
            assert answer.status == 200, await answer.text()
            verified = await answer.json()
        assert verified["response"]["output"][0]["generation_token_ids"] == [2]
        return None if verified["mask_sample"] else verified["reward"]

    apps = {policy_port: policy(), judge_port: judge.setup_webserver(), agent_port: agent.setup_webserver()}
    async with running(apps):
        tasks = [[rollout(group, i) for i in range(len(group["answers"]))] for group in work["groups"]]
        return [list(own) for own in await asyncio.gather(*(asyncio.gather(*t) for t in tasks))]


if __name__ == "__main__":
    rewards = asyncio.run(main(json.load(sys.stdin)))
    print(json.dumps(rewards))
