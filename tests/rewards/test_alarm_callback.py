"""The alarm's callback in TRL's GRPO trainer: it measures, resumes, and leaves the training as it is."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reasongenrm.errors import ConfigError
from reasongenrm.records import Comparison
from reasongenrm.rewards.alarm import HackingWatch
from reasongenrm.rewards.alarm_callback import alarm_callback
from reasongenrm.rewards.group import GroupReward

QUESTIONS = ("count to three", "name a colour", "add two and two", "say no")


class Longer:
    """A judge that likes long answers."""

    def compare_many(self, rows: Any) -> Any:
        for _, a, b in rows:
            chance = 0.5 + max(-0.5, min(0.5, (len(a) - len(b)) / 100))
            yield Comparison("c", "A" if chance > 0.5 else "B", chance, "", "ok", (), 1, 1)


def trainer(model: Path, tokenizer: Any, folder: Path, watch: HackingWatch | None, steps: int) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    config = GRPOConfig(
        output_dir=str(folder), max_steps=steps, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, seed=1, logging_steps=1,
        per_device_train_batch_size=4, num_generations=2, max_completion_length=6, learning_rate=1e-2, save_steps=2,
    )  # fmt: skip
    made = GRPOTrainer(model=str(model), reward_funcs=GroupReward(Longer()), args=config,
                       train_dataset=Dataset.from_dict({"prompt": prompts}), processing_class=tokenizer)  # fmt: skip
    if watch is not None:
        made.add_callback(alarm_callback(watch, made, every=2, max_new_tokens=6, batch_size=3))
    return made


def watch(folder: Path) -> HackingWatch:
    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return HackingWatch(
        folder, judge=Longer(), prompts=prompts, references=["a few words"] * 4, second=lambda *_: 0.5
    )


@pytest.mark.e2e
@pytest.mark.slow
def test_a_watched_training_learns_the_same_and_a_killed_one_continues(
    tiny_model: Path, toy_tokenizer: Any, tmp_path: Path
) -> None:
    import torch

    plain = trainer(tiny_model, toy_tokenizer, tmp_path / "plain", None, 5)
    plain.train()
    own = watch(tmp_path / "watched/alarm")
    watched = trainer(tiny_model, toy_tokenizer, tmp_path / "watched", own, 5)
    watched.train()
    after = dict(watched.model.named_parameters())
    assert all(torch.equal(weights, after[name]) for name, weights in plain.model.named_parameters())
    rows = [json.loads(line) for line in own.path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2, 4, 5], "before, every second step, and at the end"
    assert [[step for step, _ in row["rewards"]] for row in rows] == [[], [1], [2, 3], [4, 5]]
    assert all(len(row["answers"]) == 4 for row in rows) and rows[0]["answers"] != rows[-1]["answers"]

    # Killed between two checkpoints, after a check: the trainer goes back to step 4.
    whole = own.path.read_bytes()
    again = watch(tmp_path / "watched/alarm")
    resumed = trainer(tiny_model, toy_tokenizer, tmp_path / "watched", again, 5)
    resumed.train(resume_from_checkpoint=str(tmp_path / "watched/checkpoint-4"))
    assert own.path.read_bytes() == whole and again.checks == own.checks


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "location"),
    [
        ({"every": 2.5}, "every"),
        ({"every": "a"}, "every"),
        ({"every": 0}, "every"),
        ({"trainer": None}, "trainer"),
        ({"watch": None}, "watch"),
    ],
)
def test_what_a_callback_cannot_use_is_refused(change: dict[str, Any], location: str, tmp_path: Path) -> None:
    model = SimpleNamespace(accelerator=None, model=None, processing_class=None)
    good = {"watch": watch(tmp_path), "trainer": model, "every": 2}
    assert alarm_callback(**good), "the rest is accepted"
    with pytest.raises(ConfigError) as caught:
        alarm_callback(**(good | change))
    assert caught.value.location == location and caught.value.hint
