"""Train all steps of some recipes, one after the other, in the processes of one launch: their imports take most of the time.

`python -m support.training_steps RECIPE...` runs in every process of `accelerate launch`. What stage 2 does before a launch is
done: records are tokenised. Beside the folder of each step, every process writes `<model>.<rank>.json`.
"""

from __future__ import annotations

import gc
import hashlib
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from reasongenrm import collector
from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.processes import die_with_parent
from reasongenrm.store import write_json
from reasongenrm.train import process


def train_step(recipe: Recipe, step: TrainStep) -> Path:
    """Train one step as a training process does; return its folder, whose name is final in all processes."""
    from accelerate.state import AcceleratorState

    folder = recipe.folder / "judges" / step.model
    work, built = folder.with_name(step.model + ".partial"), process.KINDS[step.kind]
    work.mkdir(parents=True, exist_ok=True)
    trainers: list[Any] = []

    def build(recipe: Recipe, step: TrainStep, work: Path) -> Any:
        trainers.append(built.build(recipe, step, work))
        return trainers[0]

    process.KINDS[step.kind] = built._replace(build=build)
    try:
        process.train(recipe, step, work)
    finally:
        process.KINDS[step.kind] = built
    [trainer] = trainers
    plugin = trainer.accelerator.state.deepspeed_plugin
    kept = {
        "log": trainer.state.log_history,
        "weights": digest(trainer.model),
        "processes": trainer.accelerator.num_processes,
        "zero": plugin and plugin.zero_stage,
    }
    write_json(folder.with_name(f"{step.model}.{trainer.args.process_index}.json"), kept)
    if trainer.is_world_process_zero():
        (work / "final").rename(folder)
    trainer.accelerator.wait_for_everyone()
    AcceleratorState._reset_state()  # the next trainer's settings of DeepSpeed are its own
    return folder


def digest(model: Any) -> dict[str, str]:
    """Return a hash of each weight that is trained, as this process has it; those that ZeRO-3 has divided are gathered."""
    hashes = {}
    for name, weights in model.named_parameters():
        if weights.requires_grad:
            with gathered(weights):
                hashes[name] = hashlib.sha256(weights.detach().numpy().tobytes()).hexdigest()[:16]
    return hashes


def gathered(weights: Any) -> AbstractContextManager[Any]:
    """Return a context in which weights are whole."""
    if not hasattr(weights, "ds_id"):
        return nullcontext()
    import deepspeed

    context: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters([weights])
    return context


def main() -> None:
    """Entry of every process."""
    die_with_parent()
    collector.own_process()
    for path in sys.argv[1:]:
        recipe = load_recipe(path)
        for step in recipe.trained.values():
            train_step(recipe, step)
            gc.freeze()  # each trainer collects garbage several times; what is loaded need not be visited


if __name__ == "__main__":
    main()
