"""Rewards through verl 0.9: its own configuration, RewardLoopWorker and reward managers, on a DataProto as its agent loop makes it."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
import verl
from hydra import compose, initialize_config_dir
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop.reward_loop import RewardLoopWorker
from verl.experimental.reward_loop.router.naive_router import NaiveRouter


def configuration(work: dict[str, Any]) -> Any:
    """Return verl's configuration with the words that docs/reward.md has for the command line."""
    settings = f"settings:{{{','.join(f'{key}:{value}' for key, value in work['settings'].items())}}}"
    kwargs = f"{{url:'{work['url']}',size:'${{actor_rollout_ref.rollout.n}}',{settings}}}"
    if judge := work.get("judge"):
        kwargs = f"{{judge:{judge},{settings}}}"
    overrides = [
        f"actor_rollout_ref.model.path={work['tokenizer']}",
        f"actor_rollout_ref.rollout.n={len(work['groups'][0]['answers'])}",
        f"reward.reward_manager.name={work['manager']}",
        "reward.custom_reward_function.path=pkg://reasongenrm.rewards.verl",
        f"reward.custom_reward_function.name={work['function']}",
        f"+reward.custom_reward_function.reward_kwargs={kwargs}",
    ]
    with initialize_config_dir(str(Path(verl.__path__[0]) / "trainer" / "config"), version_base=None):
        return compose("ppo_trainer", overrides=overrides)


@contextmanager
def router(worker_url: str | None) -> Iterator[str | None]:
    """Run verl's router in front of a server, and yield its address as verl passes it."""
    if worker_url is None:
        yield None
        return
    listening = socket.create_server(("127.0.0.1", 0))
    app = NaiveRouter(worker_urls=[worker_url]).app
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def samples(work: dict[str, Any], tokenizer: Any) -> DataProto:
    """Return all samples, padded on the right, with the columns of verl's data sets."""
    rows = [
        (group["prompt"], answer, reference)
        for group in work["groups"]
        for answer, reference in zip(group["answers"], group["references"], strict=True)
    ]
    answers = [tokenizer(answer, add_special_tokens=False)["input_ids"] for _, answer, _ in rows]
    for (_, answer, _), ids in zip(rows, answers, strict=True):
        assert tokenizer.decode(ids, skip_special_tokens=True) == answer, "the tokenizer changes this text"
    longest, prompt = max(map(len, answers)), torch.ones((len(rows), 3), dtype=torch.long)
    responses = torch.zeros((len(rows), longest), dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for row, ids in enumerate(answers):
        responses[row, : len(ids)], mask[row, : len(ids)] = torch.tensor(ids, dtype=torch.long), 1
    tensors = {"prompts": prompt, "responses": responses, "attention_mask": torch.cat([prompt, mask], dim=1)}
    split = work.get("split", "train")
    columns = {
        "data_source": ["toy"] * len(rows),
        "reward_model": [{"style": "model", "ground_truth": reference} for _, _, reference in rows],
        "extra_info": [{"split": split, "index": i, "question": row[0]} for i, row in enumerate(rows)],
    }
    arrays = {name: np.array(values, dtype=object) for name, values in columns.items()}
    return DataProto(batch=TensorDict(tensors, batch_size=len(rows)), non_tensor_batch=arrays)


def main() -> None:
    """Read the work from stdin, and print the rewards."""
    work = json.load(sys.stdin)
    with router(work.get("worker_url")) as address:
        worker = RewardLoopWorker(configuration(work), reward_router_address=address)
        data = samples(work, worker.input_tokenizer)
        outputs = worker.loop.run_until_complete(worker.compute_score_batch(data))
    assert all(isinstance(output["reward_score"], float) for output in outputs)
    assert all(output["reward_extra_info"]["judge_problem"] in (0.0, 1.0) for output in outputs)
    rewards = iter(output["reward_score"] for output in outputs)
    print(json.dumps([[next(rewards) for _ in group["answers"]] for group in work["groups"]]))


if __name__ == "__main__":
    main()
