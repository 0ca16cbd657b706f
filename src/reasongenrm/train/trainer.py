"""Parts that all Hugging Face trainers of this suite share: checks of arguments, whole checkpoints, progress."""

from __future__ import annotations

import difflib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.config.steps import CADENCE_ARGS, MEMORY_ARGS
from reasongenrm.console import TrainingStep
from reasongenrm.errors import ConfigError, EngineError, first_line

WHOLE = "whole"
"""Name of the file that marks a checkpoint as completely written."""

BREAKS_RESUME = {"save_total_limit": 1, "save_only_model": True}
"""Values with which a kill may leave no checkpoint to resume from: the trainer removes the older checkpoint before the
newer is marked, or saves no optimizer."""

RESERVED_BY_ALL = dict.fromkeys(
    (
        "output_dir",
        "seed",
        "data_seed",
        "max_length",
        "resume_from_checkpoint",
        "model_init_kwargs",
        "report_to",
    ),
    "remove it here",
) | {"trust_remote_code": "set model.trust_remote_code"}
"""Keys of every trainer that the suite sets itself, each with a hint."""

DEFAULTS: dict[str, Any] = {
    "logging_steps": 5,
    "save_steps": 50,
    "save_total_limit": 2,
    "logging_nan_inf_filter": False,
    "gradient_checkpointing": False,
}

_VARIES = ("num_tokens", "_runtime", "_per_second")
"""Name endings of log values that differ between two equal runs: clocks, and a counter that a resume sets to zero."""


def check_args(
    config: type, args: Mapping[str, Any], *, location: str, reserved: Mapping[str, str] | None = None
) -> None:
    """Check that a config dataclass has the user's keys, and that its numbers are given as numbers.

    Args:
        config: a dataclass, such as `trl.SFTConfig` or `peft.LoraConfig`.
        args: the user's keys.
        location: dotted key of `args` in the recipe.
        reserved: keys that the suite sets itself, each with a hint.

    Raises:
        ConfigError: an unknown key (the closest valid one is named), or a value that would break a resume.
    """
    valid = {field.name: field for field in fields(config) if field.init}
    for key, value in args.items():
        if reserved and key in reserved:
            problem, hint = f"{key} is set by the suite", reserved[key]
        elif key not in valid:
            close = difflib.get_close_matches(key, valid, n=1, cutoff=0.0)[0]
            problem, hint = f"{config.__name__} has no key {key!r}", f"did you mean {close!r}?"
        elif isinstance(value, str) and valid[key].type in (float, "float"):
            problem = f"{value!r} is text, not a number"
            hint = "in YAML a number with an exponent needs a dot: 5.0e-5"
        elif (key, value) in BREAKS_RESUME.items():
            problem = f"with {key}={value} a killed run may have no checkpoint to resume from"
            hint = "remove it here; the default is safe"
        else:
            continue
        raise ConfigError(problem, location=f"{location}.{key}", hint=hint)


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


def common_args(recipe: Recipe, work: Path, args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that every judge's trainer gets from the recipe.

    Args:
        recipe: the resolved recipe.
        work: the step's work folder.
        args: the user's keys.
    """
    import torch

    return {
        "output_dir": str(work / "checkpoints"),
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "bf16": args.get("bf16", recipe.model.dtype == "bfloat16"),
        # accelerate's launcher does not tell the trainer that a DeepSpeed run has CPU processes; without this each
        # process believes that it is the only one.
        "use_cpu": args.get("use_cpu", not torch.cuda.is_available()),
        "report_to": "none",
    }


def run_training(
    trainer: Any, location: str, report: Callable[[TrainingStep], object]
) -> list[dict[str, Any]]:
    """Train from the last whole checkpoint, if there is one, and return the log entries with a loss.

    Args:
        trainer: a Hugging Face trainer.
        location: dotted key of its arguments in the recipe.
        report: takes the progress; such as the function that `console.training_bar` yields.

    Raises:
        EngineError: the loss or the trained weights are not finite.
    """
    trainer.add_callback(guard_callback(location))
    trainer.add_callback(progress_callback(report))
    trainer.train(resume_from_checkpoint=last_checkpoint(Path(trainer.args.output_dir)))
    # The last steps may come after the last logged loss.
    for name, weights in trainer.model.named_parameters():
        if weights.requires_grad and not bool(weights.isfinite().all()):
            problem = f"the weights {name} are not finite after training"
            raise _diverged(problem, trainer.args.learning_rate, location)
    entries = [entry for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry]
    return [{key: value for key, value in entry.items() if not key.endswith(_VARIES)} for entry in entries]


def last_checkpoint(folder: Path) -> str | None:
    """Return the latest checkpoint that was completely written, or None; a kill may leave incomplete ones."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")]
    return str(max(whole, key=lambda path: int(path.name.split("-")[1]))) if whole else None


def _diverged(problem: str, learning_rate: float, location: str) -> EngineError:
    return EngineError(
        problem, location=f"{location}.learning_rate", hint=f"lower it: {learning_rate} is too high"
    )


def guard_callback(location: str) -> Any:
    """Return a trainer callback that marks whole checkpoints, except one of the last step, and stops on NaN.

    A checkpoint of the last step is useless: the finished model follows at once, and a trainer that resumed from the
    checkpoint would take one more step. It is not saved, unless the best weights are kept; and it is never marked.
    """
    import torch.distributed as dist
    from transformers import TrainerCallback

    class Guard(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # With load_best_model_at_end the last weights may be the best.
            if state.global_step >= state.max_steps and not args.load_best_model_at_end:
                control.should_save = False
            # A resumed run starts a new mean of the loss at its checkpoint; so an undisturbed run has to do it, too.
            control.should_log = control.should_log or control.should_save

        on_epoch_end = on_step_end  # save_strategy "epoch" asks only then

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if dist.is_available() and dist.is_initialized():
                dist.barrier()  # now every process has written its part
            ended = control.should_training_stop or state.global_step >= state.max_steps
            if state.is_world_process_zero and not ended:
                (Path(args.output_dir) / f"checkpoint-{state.global_step}" / WHOLE).touch()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if not math.isfinite(logs.get("loss", 0.0)):
                problem = f"the loss is {logs['loss']} at step {state.global_step}"
                raise _diverged(problem, args.learning_rate, location)

    return Guard()


def progress_callback(report: Callable[[TrainingStep], object]) -> Any:
    """Return a trainer callback that reports where the training is: at its start, at each logged loss, and between
    them at most twice a second; from one process only."""
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        loss: float | None = None
        rate: float | None = None
        began = reported = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.began = time.monotonic()
            self.send(state)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if time.monotonic() - self.reported >= 0.5 or state.global_step >= state.max_steps:
                self.send(state)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" in logs:
                self.loss = logs["loss"]
                if tokens := logs.get("num_tokens"):  # TRL counts from the start of this process
                    self.rate = tokens / max(time.monotonic() - self.began, 1e-9)
                self.send(state)

        def send(self, state: Any) -> None:
            if state.is_world_process_zero:
                self.reported = time.monotonic()
                report(TrainingStep(state.global_step, state.max_steps, self.loss, self.rate))

    return Progress()
