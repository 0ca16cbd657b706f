"""The alarm's callback in TRL's GRPO trainer: it measures, resumes, and leaves the training as it is."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reasongenrm.config.recipe import TrainConfig
from reasongenrm.errors import ConfigError
from reasongenrm.records import Comparison
from reasongenrm.rewards.alarm import HackingWatch
from reasongenrm.rewards.alarm_callback import alarm_callback
from reasongenrm.rewards.group import GroupReward
from reasongenrm.store import read_json
from reasongenrm.train.launch import launch_command, launch_environment, read_launch

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


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "stage", "ways"),
    [
        ("cpu-2proc", 2, ["plain", "whole", "again"]),
        ("cpu-2proc-zero3", 3, ["plain", "whole", "again", "parts"]),
    ],
)
def test_two_processes_share_the_sampling_and_one_of_them_judges(
    launch: str, stage: int, ways: list[str], tiny_model: Path, toy_tokenizer: Any, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    toy_tokenizer.save_pretrained(model)
    config = TrainConfig(launch=f"configs/accelerate/{launch}.yaml")
    processes = read_launch(config)
    command = launch_command(config, processes, "support.watched_training", str(model), str(tmp_path), *ways)
    environment = launch_environment(processes) | {"PYTHONPATH": "tests"}
    with (tmp_path / "log").open("w") as log:  # processes that wait for each other end by the time limit
        done = subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=900)
    said = (tmp_path / "log").read_text()
    assert done.returncode == 0, said[-6000:]

    def record(way: str, rank: int) -> dict[str, Any]:
        read: dict[str, Any] = read_json(tmp_path / f"{way}.{rank}.json")
        return read

    for way in ways:
        first, second = record(way, 0), record(way, 1)
        assert first["zero"] == stage and first["weights"] == second["weights"]
        if way != "again":
            assert first["weights"] == record("plain", 0)["weights"], "what is watched learns the same"
        assert (second["judged"], second["checks"], second["alarms"]) == (0, [], []), (
            "the first process alone"
        )
    for way in {"whole", "parts"} & {*ways}:
        first = record(way, 0)
        assert (first["judged"], first["checks"]) == (6, [0, 1, 2, 3, 4, 5])
        [alarm] = first["alarms"]
        trainings = 2 if way == "whole" else 1
        assert "agreement" in alarm and said.count(f"ALARM {alarm}; see {tmp_path / way}") == trainings
        rows = [json.loads(line) for line in (tmp_path / way / "alarm/alarm.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
        assert all(len(row["answers"]) == 9 for row in rows)
        assert not (tmp_path / way / "other-machine").exists()
    resumed = record("again", 0)
    assert resumed["checks"] == [0, 1, 2, 3, 4, 5], "from step 4 on, which was checked"
    assert resumed["judged"] <= 1 and resumed["alarms"] == record("whole", 0)["alarms"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "location"),
    [
        ({"every": 2.5}, "every"),
        ({"every": "a"}, "every"),
        ({"every": 0}, "every"),
        ({"trainer": None}, "trainer"),
        ({"watch": None}, "watch"),
        (
            {
                "trainer": SimpleNamespace(
                    accelerator=None, model=None, processing_class=None, is_fsdp_enabled=True
                )
            },
            "trainer",
        ),
    ],
)
def test_what_a_callback_cannot_use_is_refused(change: dict[str, Any], location: str, tmp_path: Path) -> None:
    model = SimpleNamespace(accelerator=None, model=None, processing_class=None)
    good = {"watch": watch(tmp_path), "trainer": model, "every": 2}
    assert alarm_callback(**good), "the rest is accepted"
    with pytest.raises(ConfigError) as caught:
        alarm_callback(**(good | change))
    assert caught.value.location == location and caught.value.hint
