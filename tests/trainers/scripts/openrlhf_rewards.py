"""OpenRLHF 0.11.2: its executor of single turns samples from a stand-in for vLLM, and asks the server or the reward file."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from types import SimpleNamespace
from typing import Any

from openrlhf.utils.agent import SingleTurnAgentExecutor
from transformers import AutoTokenizer


class Sampled:
    """vLLM's engine as the executor uses it: a sample is there already."""

    def __init__(self, token_ids: list[int]) -> None:
        self._output = SimpleNamespace(token_ids=token_ids, logprobs=None, finish_reason="stop")

    async def generate(self, *_: Any, **__: Any) -> SimpleNamespace:
        return SimpleNamespace(outputs=[self._output])


async def main(work: dict[str, Any]) -> list[list[Any]]:
    executor = SingleTurnAgentExecutor(work["endpoint"])
    tokenizer = AutoTokenizer.from_pretrained(work["tokenizer"])
    labelled = work["settings"]["schedule"] == "reference"

    async def reward(prompt: str, answer: str, label: str | None) -> Any:
        engine = Sampled(tokenizer(answer, add_special_tokens=False)["input_ids"])
        params = SimpleNamespace(max_tokens=64, logprobs=None)
        output = await executor.execute(prompt, label, params, 4096, tokenizer, engine)
        value = output["reward"]
        return value[0] if isinstance(value, list) else value

    tasks = [
        [
            reward(group["prompt"], answer, label if labelled else None)
            for answer, label in zip(group["answers"], group["references"], strict=True)
        ]
        for group in work["groups"]
    ]
    return [list(rewards) for rewards in await asyncio.gather(*(asyncio.gather(*own) for own in tasks))]


if __name__ == "__main__":
    given = json.load(sys.stdin)
    os.environ |= {"REASONGENRM_URL": given["url"], "REASONGENRM_REWARDS": json.dumps(given["settings"])}
    print(json.dumps(asyncio.run(main(given))))
