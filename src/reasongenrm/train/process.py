"""One training step in one process; `main` runs in every process of `accelerate launch`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from reasongenrm import collector
from reasongenrm.chat.encoder import ADAPTER_PROMPTS, template_text, template_wording
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import LISTWISE, Recipe, Template, TrainStep
from reasongenrm.config.steps import StepKind
from reasongenrm.errors import ReasonGenRMError
from reasongenrm.processes import die_with_parent, has_ended
from reasongenrm.store import write_text
from reasongenrm.train import dpo, grpo, sft
from reasongenrm.train.arguments import DPO_LOSSES, GRPO_LOSSES, check_adapter_args, check_judge_args
from reasongenrm.train.guards import REFERENCE
from reasongenrm.train.launch import STAGE_PROCESS, record_failure
from reasongenrm.train.scalar import check_config
from reasongenrm.train.tracking import (
    add_tracker,
    check_tracking,
    set_tracking_environment,
    write_training_files,
)
from reasongenrm.train.trainer import run_training

PROGRESS = "progress.jsonl"
"""File in the work folder to which the first training process appends its `TrainingStep`s."""


class StepTraining(NamedTuple):
    """How a kind of step is trained.

    Attributes:
        args: returns the trainer's keys, from the recipe and the step.
        batch: returns the records of a pass and the passes of a process per step, from the recipe, the step and the number
            of processes.
        build: returns the trainer, from the recipe, the step and the work folder.
        summary: returns what `training.json` says of the records, from the recipe and the trainer.
        location: dotted key of the trainer's arguments.
    """

    args: Callable[[Recipe, TrainStep], dict[str, Any]]
    batch: Callable[[Recipe, TrainStep, int], tuple[int, int]]
    build: Callable[[Recipe, TrainStep, Path], Any]
    summary: Callable[[Recipe, Any], dict[str, Any]]
    location: str


_SFT = StepTraining(sft.step_args, sft.step_batch, sft.build_trainer, sft.training_summary, "train.args")
KINDS: dict[StepKind, StepTraining] = {
    "sft": _SFT,
    "round": _SFT._replace(location="train.round.args"),
    "dpo": StepTraining(
        dpo.step_args, dpo.step_batch, dpo.build_trainer, dpo.training_summary, "train.dpo.args"
    ),
    "grpo": StepTraining(
        grpo.step_args, grpo.step_batch, grpo.build_trainer, grpo.training_summary, "train.grpo.args"
    ),
}


def check_training(recipe: Recipe) -> None:
    """Check the pass-through keys of all judges and steps; stage 1 does it, too, so that a typo fails early.

    Raises:
        ConfigError: an unknown or reserved key, or a value that cannot be used.
    """
    from peft import LoraConfig
    from trl import DPOConfig, GRPOConfig, SFTConfig

    train = recipe.train
    check_adapter_args(LoraConfig, train.lora, location="train.lora")
    check_judge_args(SFTConfig, train.args, location="train.args", reserved=sft.RESERVED)
    check_judge_args(SFTConfig, train.round.args, location="train.round.args", reserved=sft.RESERVED)
    check_judge_args(
        DPOConfig, train.dpo.args, location="train.dpo.args", reserved=dpo.RESERVED, losses=DPO_LOSSES
    )
    check_judge_args(
        GRPOConfig, train.grpo.args, location="train.grpo.args", reserved=grpo.RESERVED, losses=GRPO_LOSSES
    )
    check_tracking(train.report_to)
    if recipe.scalar is not None:
        check_config(recipe.scalar)
    if recipe.meta is not None:
        check_config(recipe.meta, "meta")
    for name, judge in recipe.judges.items():
        check_judge_args(SFTConfig, judge.args, location=f"judges.{name}.args", reserved=sft.RESERVED)


def train(recipe: Recipe, step: TrainStep, work: Path) -> None:
    """Train one step; at the end write `work/final` (adapter or model, tokenizer, chat template, loss).

    Args:
        recipe: the resolved recipe.
        step: which step.
        work: the folder with the tokenised records; checkpoints go there, too, and a killed run resumes from the last whole
            one.
    """
    kind = KINDS[step.kind]
    set_tracking_environment(recipe, step)
    with collector.paused():
        trainer = kind.build(recipe, step, work)
    add_tracker(trainer, recipe, step)
    with (work / PROGRESS).open("a", encoding="utf-8", buffering=1) as progress:
        log = run_training(
            trainer, kind.location, lambda shown: progress.write(json.dumps(shown._asdict()) + "\n")
        )
    final = work / "final"
    weights = final / recipe.weights(step.model).name
    # All processes take part: ZeRO-3 has to gather the weights.
    trainer.save_model(str(weights))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        template = recipe.judges[step.judge].template
        chat_template = template_text(recipe.templates[template], key=f"templates.{template}")
        trainer.processing_class.chat_template = chat_template
        trainer.processing_class.save_pretrained(weights)
        write_wording(recipe, template, weights / ADAPTER_PROMPTS)
        (weights / "training_args.bin").unlink(missing_ok=True)  # a pickle, which is not safe to load
        shutil.rmtree(weights / REFERENCE, ignore_errors=True)
        write_training_files(recipe, step, trainer, log, kind.summary(recipe, trainer), final)
    trainer.accelerator.wait_for_everyone()


def write_wording(recipe: Recipe, template: Template, path: Path) -> None:
    """Write the prompt file of a trained judge: the recipe's; of a judge of lists, with the wording for lists alone."""
    if template in LISTWISE:
        write_text(path, template_wording(PromptFile.load(recipe.prompts), template).dump())
    else:
        shutil.copyfile(recipe.prompts, path)


def main() -> None:
    """Entry of every training process: `python -m reasongenrm.train.process RECIPE --model NAME --work FOLDER`."""
    die_with_parent()
    collector.own_process()
    if has_ended(int(os.environ.get(STAGE_PROCESS, os.getpid()))):  # it was killed while this process started
        sys.exit(f"{STAGE_PROCESS}: the process that launched this one is gone")
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    try:
        recipe = load_recipe(options.recipe)
        train(recipe, recipe.trained[options.model], options.work)
        collector.stop()
    except ReasonGenRMError as error:
        record_failure(options.work, error)
        sys.exit(2)
    except Exception as error:
        record_failure(options.work, error)
        raise


if __name__ == "__main__":
    main()
