"""Parts that all Hugging Face trainers of this suite share: their config, the run itself, progress."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from reasongenrm.config.arguments import library_arguments
from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.config.steps import CADENCE_ARGS, MEMORY_ARGS
from reasongenrm.console import TrainingStep
from reasongenrm.errors import ConfigError, first_line
from reasongenrm.train.batches import PER_DEVICE
from reasongenrm.train.guards import divergence_error, guard_callback, last_checkpoint
from reasongenrm.train.tracking import METRICS, is_row, metrics_callback, steady_row

DEFAULTS: dict[str, Any] = {
    "logging_steps": 5,
    "save_steps": 50,
    "save_total_limit": 2,
    "logging_nan_inf_filter": False,
    "gradient_checkpointing": False,
}


def library_config(config: type, location: str, /, **args: Any) -> Any:
    """Return a config of TRL or peft.

    Raises:
        ConfigError: it rejects a value.
    """
    try:
        return config(**args)
    except (TypeError, ValueError) as error:
        hint = f"see {config.__module__.partition('.')[0]}.{config.__name__}"
        raise ConfigError(first_line(error), location=location, hint=hint) from error


def inherited_args(recipe: Recipe, step: TrainStep) -> dict[str, Any]:
    """Return the keys of `train.args` and of the judge's that concern memory and cadence: they hold for all steps."""
    args = recipe.train.args | recipe.judges[step.judge].args
    return {key: value for key, value in args.items() if key in (*MEMORY_ARGS, *CADENCE_ARGS)}


def process_count() -> int:
    """Return the number of training processes that accelerate has launched."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def trainer_config(
    config: type,
    location: str,
    recipe: Recipe,
    work: Path,
    args: Mapping[str, Any],
    batch: tuple[int, int],
    own: Mapping[str, Any],
) -> Any:
    """Return the config of a judge's trainer.

    Args:
        config: such as `trl.SFTConfig`.
        location: dotted key of the arguments in the recipe.
        recipe: the resolved recipe.
        work: the step's work folder.
        args: keys of the user, and defaults of the kind of step.
        batch: records of a pass, and passes of a process per step.
        own: keys that the kind of step sets itself.

    Raises:
        ConfigError: the config rejects a value.
    """
    import torch

    args = DEFAULTS | library_arguments(args)
    together, accumulation = batch
    suite = {
        "output_dir": str(work / "checkpoints"),
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        PER_DEVICE: together,
        "gradient_accumulation_steps": accumulation,
        "bf16": args.get("bf16", recipe.model.dtype == "bfloat16"),
        # accelerate's launcher does not tell the trainer that a DeepSpeed run has CPU processes; without this each
        # process believes that it is the only one.
        "use_cpu": args.get("use_cpu", not torch.cuda.is_available()),
        "report_to": "none",
    }
    return library_config(config, location, **args | suite | dict(own))


def run_training(
    trainer: Any, location: str, report: Callable[[TrainingStep], object]
) -> list[dict[str, Any]]:
    """Train from the last whole checkpoint, if there is one, and return the log entries with a loss, without what differs
    between two equal runs. `metrics.jsonl`, beside the folder of checkpoints, has all values.

    Args:
        trainer: a Hugging Face trainer.
        location: dotted key of its arguments in the recipe.
        report: takes the progress; such as the function that `console.training_bar` yields.

    Raises:
        EngineError: the loss, the gradient or the trained weights are not finite, or the loss has diverged.
    """
    args, checkpoints = trainer.args, Path(trainer.args.output_dir)
    metrics = metrics_callback(checkpoints.parent / METRICS, trainer.model, args.world_size)
    trainer.callback_handler.callbacks.insert(0, metrics)
    trainer.add_callback(guard_callback(location))
    trainer.add_callback(progress_callback(report))
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    # The last steps may come after the last logged loss.
    for name, weights in trainer.model.named_parameters():
        if weights.requires_grad and not bool(weights.isfinite().all()):
            problem = f"the weights {name} are not finite after training"
            raise divergence_error(problem, args, location, trainer.state.global_step)
    return list(map(steady_row, filter(is_row, trainer.state.log_history)))


def progress_callback(report: Callable[[TrainingStep], object]) -> Any:
    """Return a trainer callback that reports where the training is: at its start, at each logged loss, and between
    them at most twice a second; from one process only."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        loss: float | None = None
        rate: float | None = None
        reported = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.send(state)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if time.monotonic() - self.reported >= 0.5 or state.global_step >= state.max_steps:
                self.send(state)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" in logs:
                self.loss = logs["loss"]
                self.rate = logs.get("tokens_per_second")  # added by `metrics_callback`
                self.send(state)

        def send(self, state: Any) -> None:
            if state.is_world_process_zero:
                self.reported = time.monotonic()
                report(TrainingStep(state.global_step, state.max_steps, self.loss, self.rate))

    return Progress()
