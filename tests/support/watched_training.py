"""GRPO with and without an alarm in every process of one launch: their imports take most of the time.

`python -m support.watched_training MODEL FOLDER WAY...` trains once for each way. In FOLDER/WAY every process writes `<rank>.json`:
how often it judged held-out answers, the alarms that it raised, and hashes of the weights; or the error that ended it, and at which
step. Only the first process has the folder `alarm` of FOLDER/WAY; the others have one of their own, as on another machine.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from reasongenrm.errors import EngineError, ReasonGenRMError
from reasongenrm.processes import die_with_parent
from reasongenrm.records import Comparison
from reasongenrm.rewards.alarm import HackingWatch
from reasongenrm.rewards.alarm_callback import alarm_callback
from reasongenrm.rewards.group import GroupReward
from reasongenrm.store import write_json
from support.training_steps import digest

QUESTIONS = (
    "count to three",
    "name a colour",
    "add two and two",
    "say no",
    "name a fox",
    "add",
    "say",
    "count",
    "name",
)
"""Nine, for two processes: one of them has one prompt more, in a batch of its own."""

REFERENCE = "a few words"


class Pleased:
    """A judge that likes long answers, and held-out ones more from check to check; counts the checks."""

    checks = 0

    def __init__(self, error: Exception | None = None) -> None:
        """Fail with the error, if there is one, at the third check."""
        self._error = error

    def compare_many(self, rows: Any) -> Any:
        rows = list(rows)
        held_out = rows[0][2] == REFERENCE
        if held_out and self.checks == 2 and self._error is not None:
            raise self._error
        for _, a, b in rows:
            chance = 0.5 + max(-0.5, min(0.5, (len(a) - len(b)) / 100))
            chance = 0.5 + 0.05 * self.checks if held_out else chance
            yield Comparison("c", "A" if chance > 0.5 else "B", chance, "", "ok", (), 1, 1)
        self.checks += held_out


FAILURES = {
    "refused": EngineError("no such judge", location="judge", hint="start it"),
    "broken": OSError("the line is cut"),
}
"""Way -> what its judge fails with."""


def train(model: str, folder: Path, way: str) -> None:
    """Train in one way: `plain`, without an alarm; `whole`; `parts`, without gathering the weights of ZeRO-3; `again`, as `whole`
    from its step 4 on; or one of FAILURES."""
    from accelerate.state import AcceleratorState
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    place, judge = folder / ("whole" if way == "again" else way), Pleased(FAILURES.get(way))
    prompts = [[{"role": "user", "content": question}] for question in QUESTIONS]
    config = GRPOConfig(
        output_dir=str(place), max_steps=5, use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, seed=1,
        logging_steps=1, per_device_train_batch_size=2, num_generations=2, max_completion_length=4, learning_rate=1e-2,
        save_steps=4, ds3_gather_for_generation=way != "parts",
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=model, reward_funcs=GroupReward(judge), args=config, train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=AutoTokenizer.from_pretrained(model),
    )  # fmt: skip
    rank = trainer.args.process_index
    watch = HackingWatch(
        place / (f"other-machine/{rank}" if rank else "alarm"),
        judge=judge,
        prompts=prompts,
        references=[REFERENCE] * len(prompts),
        second=lambda *_: 0.5,
    )
    if way != "plain":
        trainer.add_callback(alarm_callback(watch, trainer, every=1, max_new_tokens=4, batch_size=2))
    record: dict[str, Any]
    try:
        trainer.train(resume_from_checkpoint=str(place / "checkpoint-4") if way == "again" else None)
    except (ReasonGenRMError, OSError) as error:
        problem = getattr(error, "problem", str(error))
        record = {"kind": type(error).__name__, "problem": problem, "step": trainer.state.global_step}
    else:
        plugin = trainer.accelerator.state.deepspeed_plugin
        record = {
            "judged": judge.checks,
            "checks": [check.step for check in watch.checks],
            "alarms": [alarm.text for alarm in watch.alarms],
            "weights": digest(trainer.model),
            "zero": plugin and plugin.zero_stage,
        }
    write_json(folder / f"{way}.{rank}.json", record)
    trainer.accelerator.wait_for_everyone()
    AcceleratorState._reset_state()  # the next trainer's settings of DeepSpeed are its own


def main() -> None:
    """Entry of every process."""
    die_with_parent()
    model, folder, *ways = sys.argv[1:]
    for way in ways:
        train(model, Path(folder), way)


if __name__ == "__main__":
    main()
