"""A training that is timed: `accelerate launch` runs it in every process, as it runs `train/sft.py`."""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from reasongenrm.config.loading import load_recipe
from reasongenrm.processes import die_with_parent, has_ended
from reasongenrm.train.launch import STAGE_PROCESS, record_failure
from reasongenrm.train.sft import build_trainer


def measure(recipe_path: str, judge: str, work: Path) -> None:
    """Train for some steps; the first process writes `measured.json`: seconds per step, tokens, loss, peak memory.

    The first step, which loads kernels, is not counted.
    """
    import torch
    from transformers import TrainerCallback

    gpu = torch.cuda.is_available()
    moments: list[float] = []
    lengths: list[int] = []
    computed: list[int] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if gpu:
                torch.cuda.synchronize()
            moments.append(time.perf_counter())

    recipe = load_recipe(recipe_path)
    trainer = build_trainer(recipe, recipe.trained[judge], work)
    collate = trainer.data_collator

    def count(examples: list[dict[str, Any]]) -> Any:
        batch = collate(examples)
        computed.append(batch["input_ids"].numel())
        lengths.extend(len(example["input_ids"]) for example in examples)
        return batch

    trainer.data_collator = count
    trainer.add_callback(Clock())
    trainer.train()
    counts = torch.tensor([[sum(lengths), sum(computed), len(lengths)]], device=trainer.accelerator.device)
    total = trainer.accelerator.gather(counts).sum(0).tolist()
    own = (
        torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    )
    peak = trainer.accelerator.gather(torch.tensor([own], device=trainer.accelerator.device)).max().item()
    if not trainer.is_world_process_zero():
        return
    steps = len(moments)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    (work / "measured.json").write_text(
        json.dumps(
            {
                "processes": trainer.args.world_size,
                "attention": trainer.model.config._attn_implementation,
                "steps": steps - 1,
                "seconds_per_step": (moments[-1] - moments[0]) / (steps - 1),
                "useful_tokens_per_step": total[0] / steps,
                "length": total[0] / total[2],
                "padding": 1 - total[0] / total[1],
                "peak_gib": peak / 2**30,
                "loss": losses[-1],
            }
        ),
        encoding="utf-8",
    )


def main() -> None:
    """Entry of every process; errors are recorded as those of `train/sft.py`."""
    die_with_parent()
    if has_ended(int(os.environ.get(STAGE_PROCESS, os.getpid()))):
        sys.exit("the process that launched this one is gone")
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("judge")
    parser.add_argument("work", type=Path)
    options = parser.parse_args()
    try:
        measure(options.recipe, options.judge, options.work)
    except Exception as error:
        record_failure(options.work, error)
        raise


if __name__ == "__main__":
    main()
