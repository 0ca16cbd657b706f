"""TRL's own trainers learn from a real judge."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.rewards import RewardSettings
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.judge.api import Judge
from reasongenrm.judge.inputs import ComparisonInput
from reasongenrm.records import Comparison
from reasongenrm.rewards.group import GroupReward
from reasongenrm.rewards.groups import Group
from reasongenrm.rewards.schedule import judge_groups

pytestmark = pytest.mark.engine

QUESTIONS = ("count to three", "name a colour", "add two and two", "say no")
GOLD = ("one two three", "red", "four", "no")


class Noted(Judge):
    """A judge that records the sizes of its batches."""

    calls: list[int]

    def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
        batch = list(rows)
        self.calls.append(len(batch))
        yield from super().compare_many(batch)


class Kept:
    """Records the arguments and results of a reward function."""

    def __init__(self, reward: GroupReward) -> None:
        self.reward, self.__name__ = reward, reward.__name__
        self.records: list[tuple[list[str], list[str], list[float]]] = []

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float]:
        rewards = self.reward(prompts, completions, **columns)
        questions = [prompt[-1]["content"] for prompt in prompts]
        self.records.append((questions, [turns[-1]["content"] for turns in completions], rewards))
        return rewards


@pytest.fixture(scope="module")
def judge(engine: VLLMEngine, encoders: dict[str, ChatEncoder], toy_prompts: PromptFile) -> Noted:
    noted = Noted(engine, encoders["reason"], toy_prompts, JudgingConfig(max_tokens=4))
    noted.calls = []
    return noted


@pytest.fixture
def rows() -> Any:
    from datasets import Dataset

    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return Dataset.from_dict({"prompt": prompts, "gold": list(GOLD)})


def options(folder: Path, **more: Any) -> dict[str, Any]:
    return dict(output_dir=str(folder), max_steps=2, use_cpu=True, bf16=False, report_to="none", save_strategy="no",
                disable_tqdm=True, seed=1, logging_steps=1, **more)  # fmt: skip


def groups(record: tuple[list[str], list[str], list[float]]) -> dict[str, list[tuple[str, float]]]:
    by_question: dict[str, list[tuple[str, float]]] = {}
    for question, answer, reward in zip(*record, strict=True):
        by_question.setdefault(question, []).append((answer, reward))
    return by_question


def moved(trainer: Any, train: Callable[[], Any]) -> float:
    """How far training moves the weights."""
    before = {name: weights.detach().clone() for name, weights in trainer.model.named_parameters()}
    train()
    return max(float((w.detach() - before[n]).abs().max()) for n, w in trainer.model.named_parameters())


def test_grpo_learns_from_the_group_and_from_a_reference(
    judge: Noted, tiny_model: Path, toy_tokenizer: Any, rows: Any, tmp_path: Path
) -> None:
    from trl import GRPOConfig, GRPOTrainer

    judge.calls.clear()
    group = Kept(GroupReward(judge))
    gold = Kept(GroupReward(judge, {"schedule": "reference"}, reference="gold"))
    config = GRPOConfig(
        **options(tmp_path), per_device_train_batch_size=6, num_generations=3, max_completion_length=6
    )
    trainer = GRPOTrainer(model=str(tiny_model), reward_funcs=[group, gold], args=config, train_dataset=rows,
                          processing_class=toy_tokenizer)  # fmt: skip
    assert moved(trainer, trainer.train) > 0
    assert len(group.records) == len(gold.records) == 2, "two steps"
    assert len(judge.calls) == 4, "each reward function asks once per step"
    for number, record in enumerate(group.records):
        by_prompt = groups(record)
        assert [len(members) for members in by_prompt.values()] == [3, 3]
        for members in by_prompt.values():
            values = [value for _, value in members]
            assert math.fsum(values) == pytest.approx(1.5) and all(0 < value < 1 for value in values)
        texts = [len({answer for answer, _ in members}) for members in by_prompt.values()]
        assert judge.calls[2 * number] == sum(n * (n - 1) // 2 for n in texts)
    reference = dict(zip(QUESTIONS, GOLD, strict=True))
    question, [(answer, value), *_] = next(iter(groups(gold.records[-1]).items()))
    own = judge.compare(question, answer, reference[question]).prob_a
    assert value == pytest.approx(own, abs=1e-3)
    steps = [entry for entry in trainer.state.log_history if "rewards/judge_group/mean" in entry]
    assert [entry["rewards/judge_group/mean"] for entry in steps] == pytest.approx([0.5, 0.5])
    for entry, (_, _, rewards) in zip(steps, gold.records, strict=True):
        assert entry["rewards/judge_reference/mean"] == pytest.approx(
            math.fsum(rewards) / len(rewards), abs=1e-6
        )
        assert math.isfinite(entry["loss"])


def test_online_dpo_prefers_what_the_judge_prefers(
    judge: Noted, tiny_model: Path, toy_tokenizer: Any, rows: Any, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM
    from trl.experimental.online_dpo import OnlineDPOConfig, OnlineDPOTrainer

    reward = Kept(GroupReward(judge))
    config = OnlineDPOConfig(
        **options(tmp_path), per_device_train_batch_size=2, max_new_tokens=6, max_length=128
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    trainer = OnlineDPOTrainer(model=model, reward_funcs=reward, args=config, train_dataset=rows,
                               processing_class=toy_tokenizer)  # fmt: skip
    assert moved(trainer, trainer.train) > 0
    assert len(reward.records) == 2
    for record in reward.records:
        assert [len(members) for members in groups(record).values()] == [2, 2], "two samples of two prompts"
        for members in groups(record).values():
            assert math.fsum(value for _, value in members) == pytest.approx(1)


@pytest.mark.parametrize("template", ["reason", "direct"])
def test_an_overlong_answer_of_a_list_takes_its_own_reward_alone(
    template: str, engine: VLLMEngine, encoders: dict[str, ChatEncoder], toy_prompts: PromptFile
) -> None:
    choosing = Judge(engine, encoders[template], toy_prompts, JudgingConfig(max_tokens=4))
    others, settings = ("four", "three", "say no", "red"), RewardSettings(schedule="listwise")
    groups = [
        Group("add two and two", (*others, "fox " * 600)),
        Group("add two and two", others),
        Group("add two and two", tuple(f"{text} " * 75 for text in others)),
    ]
    result, alone, together = judge_groups(choosing, groups, settings)
    assert result.rewards[4] is None and result.unread == 1
    assert result.rewards[:4] == pytest.approx(alone.rewards, abs=1e-3), "as without it"
    [problem] = result.problems
    assert 4 in problem.answers and problem.outcome == "error" and "512" in str(problem.error)
    assert (result.comparisons, alone.comparisons) == (3, 1), (
        "all, the others, and the pair of the overlong one"
    )
    assert together.unread == 0 and together.comparisons > 1, "two fit together, four do not"
    assert math.fsum(value or 0 for value in together.rewards) == pytest.approx(2)
