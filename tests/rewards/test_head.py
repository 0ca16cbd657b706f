"""TRL's own trainers learn from a scalar head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reasongenrm.errors import DataError
from reasongenrm.rewards.head import HeadReward
from reasongenrm.scalar.model import ScalarRewardModel
from support.heads import WORDS, save_random_head

pytestmark = pytest.mark.engine

PROMPTS = [
    [{"role": "system", "content": "a lesson"}, {"role": "user", "content": "count to three"}],
    [{"role": "user", "content": "name a colour"}],
]


@pytest.fixture(scope="module")
def head(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> ScalarRewardModel:
    texts = [" ".join(WORDS), "count to three name a colour 0 1 2 3"]
    folder = save_random_head(tmp_path_factory.mktemp("head"), texts)
    return ScalarRewardModel.from_pretrained(folder, device="cpu")


class Kept:
    """Records the arguments and results of a reward function."""

    def __init__(self, reward: HeadReward) -> None:
        self.reward, self.__name__ = reward, reward.__name__
        self.records: list[tuple[Any, Any, list[float]]] = []

    def __call__(self, prompts: Any, completions: Any, **columns: Any) -> list[float]:
        rewards = self.reward(prompts, completions, **columns)
        self.records.append((prompts, completions, rewards))
        return rewards


def test_a_reward_is_the_score_of_the_sample(head: ScalarRewardModel) -> None:
    completions = [
        [{"role": "assistant", "content": "you that he"}],
        [{"role": "assistant", "content": "the"}],
    ]
    expected = [head.score(PROMPTS[0], "you that he"), head.score("name a colour", "the")]
    reward = HeadReward(head)
    assert reward(PROMPTS, completions, completion_ids=[[1], [2]]) == pytest.approx(expected, abs=1e-5)
    assert reward(["name a colour"], ["the"]) == pytest.approx(expected[1:], abs=1e-5)
    assert abs(expected[0] - expected[1]) > 0.01
    with pytest.raises(DataError, match="no assistant turn"):
        reward(PROMPTS[:1], [[{"role": "user", "content": "x"}]])


@pytest.mark.parametrize("name", ["GRPO", "RLOO"])
def test_a_trainer_of_trl_learns_from_the_head(
    name: str, head: ScalarRewardModel, tiny_model: Path, toy_tokenizer: Any, tmp_path: Path
) -> None:
    import trl
    from datasets import Dataset

    arguments = getattr(trl, f"{name}Config")(
        output_dir=str(tmp_path),
        max_steps=2,
        per_device_train_batch_size=4,
        num_generations=4,
        max_completion_length=6,
        learning_rate=1e-3,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=1,
        logging_steps=1,
    )
    reward = Kept(HeadReward(head))
    trainer = getattr(trl, f"{name}Trainer")(
        model=str(tiny_model),
        reward_funcs=reward,
        args=arguments,
        train_dataset=Dataset.from_dict({"prompt": PROMPTS * 2}),
        processing_class=toy_tokenizer,
    )
    before = {key: weights.detach().clone() for key, weights in trainer.model.named_parameters()}
    trainer.train()
    assert len(reward.records) == 2
    for prompts, completions, rewards in reward.records:
        own = [head.score(p, c[-1]["content"]) for p, c in zip(prompts, completions, strict=True)]
        assert rewards == pytest.approx(own, abs=1e-4) and len(set(rewards)) > 1
    logged = [row["rewards/head/mean"] for row in trainer.state.log_history if "rewards/head/mean" in row]
    means = [sum(rewards) / len(rewards) for _, _, rewards in reward.records]
    assert logged == pytest.approx(means, abs=1e-4)
    assert any(bool((w.detach() != before[key]).any()) for key, w in trainer.model.named_parameters())
