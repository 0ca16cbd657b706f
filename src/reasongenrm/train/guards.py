"""Whole checkpoints, and the guards that stop a training whose loss is not finite or has diverged."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from reasongenrm.errors import EngineError
from reasongenrm.metrics.curves import diverged_since

WHOLE = "whole"
"""Name of the file that marks a checkpoint as completely written."""

REFERENCE = "ref"
"""Name of TRL's frozen copy of the adapter that a step starts from, and of its folder in a checkpoint. Where transformers finds
such a folder, it loads that adapter alone, and a resumed training starts from the first step's weights. TRL makes the copy again."""


def last_checkpoint(folder: Path, before: int | None = None) -> str | None:
    """Return the latest checkpoint that was completely written, or None; a kill may leave incomplete ones.

    Args:
        folder: with the folders `checkpoint-<step>`.
        before: only checkpoints of earlier steps count.
    """
    whole = {
        int(path.parent.name.split("-")[1]): path.parent for path in folder.glob(f"checkpoint-*/{WHOLE}")
    }
    steps = [step for step in whole if before is None or step < before]
    return str(whole[max(steps)]) if steps else None


def divergence_error(problem: str, args: Any, location: str, step: int) -> EngineError:
    """Return the error of a training that has failed, which names the last good checkpoint.

    Args:
        problem: what was seen.
        args: the trainer's arguments.
        location: dotted key of the arguments in the recipe.
        step: the first step that is not good.
    """
    checkpoint = last_checkpoint(Path(args.output_dir), before=step)
    good = f"the last good checkpoint is {checkpoint}" if checkpoint else "there is no good checkpoint"
    hint = f"lower it: {args.learning_rate} is too high; {good}"
    return EngineError(problem, location=f"{location}.learning_rate", hint=hint)


def guard_callback(location: str) -> Any:
    """Return a trainer callback that marks whole checkpoints, except one of the last step, and stops a failed training.

    It stops where the loss or the norm of the gradient is not finite, and where the loss has diverged (`diverged_since`);
    before the checkpoint of that step is saved, so that all marked ones are finite.

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
            checkpoint = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.is_world_process_zero and not ended:
                shutil.rmtree(checkpoint / REFERENCE, ignore_errors=True)
                (checkpoint / WHOLE).touch()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            # The history, the loss and the norm are the same in every process, so that all of them stop.
            step, since = state.global_step, None
            if not math.isfinite(logs.get("loss", 0.0)):
                problem, since = f"the loss is {logs['loss']} at step {step}", step
            # In float16 the trainer leaves out a step whose gradient is not finite, and scales the next ones down.
            elif not args.fp16 and not math.isfinite(logs.get("grad_norm") or 0.0):
                problem, since = f"the gradient's norm is {logs['grad_norm']} at step {step}", step
            elif "loss" in logs and (since := diverged_since(state.log_history)) is not None:
                problem = f"the loss diverges from step {since} on: {logs['loss']:.4g} at step {step}"
            if since is not None:
                raise divergence_error(problem, args, location, since)

    return Guard()
