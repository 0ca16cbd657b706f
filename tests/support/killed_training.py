"""GRPO with an alarm that is killed and continued, beside one that is not: forks of one process, whose imports take most of the time.

`python -m support.killed_training MODEL FOLDER` writes FOLDER/ends.json: how each training ended, in their order; and
FOLDER/<way>.json with hashes of the weights, for `plain` (without an alarm), `whole` and `killed`.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint
from trl import GRPOConfig, GRPOTrainer

from reasongenrm.processes import die_with_parent
from reasongenrm.records import Comparison
from reasongenrm.rewards.alarm import HackingWatch
from reasongenrm.rewards.alarm_callback import alarm_callback
from reasongenrm.rewards.group import GroupReward
from reasongenrm.store import write_json
from support.training_steps import digest

QUESTIONS = tuple(f"count to {number}" for number in range(16))
"""Two of them for each step, none twice: TRL does not continue the order of a later epoch."""

HELD_OUT = ("count to three", "name a colour", "add two and two", "say no")
REFERENCE = "a few words"
STEPS, EVERY, SAVE = 7, 3, 2
"""Most checkpoints lie between two checks."""

KILLS = ("judge 3", "step 5", "judge 7")
"""Where a training is killed: while held-out answers of a step are judged, or after a step; the next one continues it."""


class Wavering:
    """A judge that likes long answers, and draws from all generators: it shows where they are not what they were."""

    def __init__(self, judge_check: Callable[[], None]) -> None:
        self._judge_check = judge_check

    def compare_many(self, rows: Any) -> Any:
        rows = list(rows)
        if rows[0][2] == REFERENCE:
            self._judge_check()
        for _, a, b in rows:
            noise = random.random() + float(np.random.rand()) + float(torch.rand(()))
            chance = 0.5 + max(-0.3, min(0.3, (len(a) - len(b)) / 100)) + (noise - 1.5) / 10
            yield Comparison("c", "A" if chance > 0.5 else "B", chance, "", "ok", (), 1, 1)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train(model: str, folder: Path, way: str, kill: str) -> None:
    """Train, or continue from the last checkpoint."""
    place, (moment, _, at) = folder / way, kill.partition(" ")
    prompts, held_out = (
        [[{"role": "user", "content": question}] for question in questions] for questions in (QUESTIONS, HELD_OUT)
    )  # fmt: skip

    class Death(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if (moment, at) == ("step", str(state.global_step)):
                die()

    def judge_check() -> None:
        if (moment, at) == ("judge", str(trainer.state.global_step)):
            die()

    judge = Wavering(judge_check)
    config = GRPOConfig(
        output_dir=str(place), max_steps=STEPS, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, seed=1,
        logging_steps=1, per_device_train_batch_size=4, num_generations=2, max_completion_length=6, learning_rate=1e-2,
        save_steps=SAVE,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model, reward_funcs=GroupReward(judge), args=config, train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=AutoTokenizer.from_pretrained(model), callbacks=[Death()],
    )  # fmt: skip
    if way != "plain":
        watch = HackingWatch(
            place / "alarm", judge=judge, prompts=held_out, references=[REFERENCE] * 4, second=lambda *_: 0.5
        )
        trainer.add_callback(alarm_callback(watch, trainer, every=EVERY, max_new_tokens=6, batch_size=3))
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(place)) if place.is_dir() else None)
    write_json(folder / f"{way}.json", digest(trainer.model))


def main() -> None:
    """Run every training in a process of its own."""
    die_with_parent()
    model, folder = sys.argv[1], Path(sys.argv[2])
    ends = []
    for way, kill in [("plain", ""), ("whole", ""), *(("killed", kill) for kill in (*KILLS, ""))]:
        child = os.fork()
        if child == 0:
            die_with_parent()
            code = 1
            try:
                train(model, folder, way, kill)
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        ends.append([way, kill, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])])
    write_json(folder / "ends.json", ends)


if __name__ == "__main__":
    main()
