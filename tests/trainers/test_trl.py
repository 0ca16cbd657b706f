"""TRL's own trainers learn from a judge over HTTP; tests/rewards/test_rewards_engine.py has those with a judge in their process."""

from __future__ import annotations

import asyncio
import copy
import math
import multiprocessing
import pickle
import queue
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.errors import EngineError
from reasongenrm.judge.remote import RemoteJudge
from reasongenrm.rewards.group import GroupReward
from reasongenrm.rewards.trl import AwaitedReward
from trainers.adapters import Work
from trainers.groups import SIZE, UNREADABLE

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

KEY = "a-secret-of-this-test"


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return dict(output_dir=str(folder), max_steps=2, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
                disable_tqdm=True, seed=1, logging_steps=1, **more)  # fmt: skip


def rows(work: Work) -> Any:
    from datasets import Dataset

    prompts = [[{"role": "user", "content": group.prompt}] for group in work.groups[:4]]
    return Dataset.from_dict({"prompt": prompts, "gold": [(g.references or ())[0] for g in work.groups[:4]]})


def test_grpo_awaits_a_served_judge(work: Work, tiny_model: Path, toy_tokenizer: Any, tmp_path: Path) -> None:
    from trl import GRPOConfig, GRPOTrainer

    served = RemoteJudge(work.url)
    rewards = [
        AwaitedReward(GroupReward(served, {"schedule": "circular"})),
        AwaitedReward(GroupReward(served, {"schedule": "reference"}, reference="gold")),
        GroupReward(served, {"schedule": "circular", "unread": 0.5}),
    ]
    rewards[2].__name__ = "judge_sync"
    sizes = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 6}
    trainer = GRPOTrainer(model=str(tiny_model), reward_funcs=rewards, args=GRPOConfig(**options(tmp_path), **sizes),
                          train_dataset=rows(work), processing_class=toy_tokenizer)  # fmt: skip
    before = [weights.detach().clone() for weights in trainer.model.parameters()]
    trainer.train()
    assert any((a != b).any() for a, b in zip(before, trainer.model.parameters(), strict=True))
    steps = [entry for entry in trainer.state.log_history if "rewards/judge_group/mean" in entry]
    assert len(steps) == 2
    for step in steps:
        assert 0 < step["rewards/judge_group/mean"] < 1 and 0 < step["rewards/judge_reference/mean"] < 1
        if step["judge_unread"] == 0:
            assert step["rewards/judge_group/mean"] == pytest.approx(step["rewards/judge_sync/mean"])
        assert math.isfinite(step["loss"])


def test_online_dpo_learns_from_a_served_judge(
    work: Work, tiny_model: Path, toy_tokenizer: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    sizes = {"per_device_train_batch_size": 2, "max_new_tokens": 6, "max_length": 128}
    trainer = OnlineDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(tiny_model),
        reward_funcs=GroupReward(RemoteJudge(work.url), {"schedule": "circular", "unread": 0.5}),
        args=OnlineDPOConfig(**options(tmp_path), **sizes),
        train_dataset=rows(work),
        processing_class=toy_tokenizer,
    )
    before = [weights.detach().clone() for weights in trainer.model.parameters()]
    trainer.train()
    assert any((a != b).any() for a, b in zip(before, trainer.model.parameters(), strict=True))

    # Why docs/reward.md says to state `unread`: this trainer makes 0 of null, the worst reward.
    trainer.reward_funcs = [GroupReward(RemoteJudge(work.url))]
    question = [{"role": "user", "content": work.groups[0].prompt}]
    answers = [[{"role": "assistant", "content": text}] for text in (UNREADABLE, "one", "two")]
    values = trainer._calculate_rewards_from_functions([question] * 3, answers, None)
    assert values[0] == 0 and all(float(value) > 0 for value in values[1:])


def test_async_grpo_scores_with_a_reward_that_went_through_pickle(
    work: Work, toy_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from accelerate.state import PartialState
    from trl.experimental.async_grpo.async_rollout_worker import (
        RolloutGroup,
        TrainingSequence,
        _AsyncRolloutLoop,
    )

    PartialState(cpu=True)  # for its log, as in its own process
    monkeypatch.setenv("JUDGE_KEY", KEY)
    tokenizer = copy.copy(toy_tokenizer)
    tokenizer.response_template = "none"  # it is for tools, which are not used here
    served = GroupReward(RemoteJudge(work.url, api_key_env="JUDGE_KEY"), {"schedule": "circular"})
    for sent in (served, AwaitedReward(served)):
        pickled = pickle.dumps(sent)
        assert KEY.encode() not in pickled and work.url.encode() in pickled
        reward = pickle.loads(pickled)
        spawn = multiprocessing.get_context("spawn")
        loop = _AsyncRolloutLoop(
            model_name="m", dataset=rows(work), reward_funcs=[reward], processing_class=tokenizer,
            eos_token_ids=[0], rollout_buffer=queue.Queue(), model_version_value=spawn.Value("i", 0),
            heartbeat_value=spawn.Value("d", 0.0), failed_event=spawn.Event(), exception_info_queue=queue.Queue(),
            metrics_queue=queue.Queue(), num_generations=SIZE,
        )  # fmt: skip
        group = next(group for group in work.groups if UNREADABLE in group.answers)
        sequence = TrainingSequence([1, 2], [0, 1], [0.0, -1.0], 0)
        samples = asyncio.run(
            loop._score_group(
                RolloutGroup(
                    prompts=[[{"role": "user", "content": group.prompt}]] * SIZE,
                    reward_kwargs={},
                    completions=[[{"role": "assistant", "content": text}] for text in group.answers],
                    completions_ids=[[2]] * SIZE,
                    completions_sequences=[[sequence]] * SIZE,
                    tool_call_counts=[0] * SIZE,
                    tool_failure_counts=[0] * SIZE,
                    model_version=0,
                    group_id=0,
                    env_rewards=[None] * SIZE,
                    rollout_rewards=[None] * SIZE,
                )
            )
        )
        loop._loop.close()
        right = GroupReward(work.judge, {"schedule": "circular"})([group.prompt] * SIZE, group.answers)
        assert [sample.metrics["rewards/judge_group"] for sample in samples] == pytest.approx(
            [math.nan if value is None else value for value in right], nan_ok=True
        )
        unread = [sample.advantage for sample, value in zip(samples, right, strict=True) if value is None]
        assert unread and set(unread) == {0.0}, "an unread sample is neither better nor worse"


def test_a_pickled_judge_wants_its_key_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    pickled = pickle.dumps(RemoteJudge("http://127.0.0.1:9", api_key_env="JUDGE_KEY"))
    monkeypatch.delenv("JUDGE_KEY")
    with pytest.raises(EngineError, match="JUDGE_KEY is not set"):
        pickle.loads(pickled)
