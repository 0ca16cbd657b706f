"""Rows of `metrics.jsonl`, written at every log of a training; and the trackers of `train.report_to`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.config.steps import StepKind
from reasongenrm.errors import ConfigError
from reasongenrm.metrics.curves import reward_alarms
from reasongenrm.metrics.flops import card_named, training_flops
from reasongenrm.records import content_id
from reasongenrm.store import dump_line, write_json, write_jsonl
from reasongenrm.train.guards import last_checkpoint

METRICS = "metrics.jsonl"
"""File in the work folder, and later beside the adapter, with one line per logged step."""

MEASURED = ("tokens_per_second", "mfu", "peak_memory_gib")
"""Values of a row that are added to the trainer's own; they differ between two equal runs."""

VARIES = (*MEASURED, "num_tokens", "step_time", "_runtime", "_per_second")
"""Endings of the keys whose values differ between two equal runs: clocks, memory, and a counter that a resume sets to
zero."""

_NO_ROW = ("num_tokens", "total_flos", "_runtime", "_per_second")
"""Endings of keys that the trainers log, and that a row does not have."""


def steady_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without the values that differ between two equal runs."""
    return {key: value for key, value in row.items() if not key.endswith(VARIES)}


def is_row(entry: Mapping[str, Any]) -> bool:
    """Whether an entry of a trainer's log history is a line of metrics.jsonl: it has a loss."""
    return "loss" in entry or "eval_loss" in entry


def metric_row(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return an entry of the log history as a line: the step first, and null for what is not finite."""
    kept = {
        key: None if value != value or value in (float("inf"), float("-inf")) else value
        for key, value in entry.items()
        if key in MEASURED or not key.endswith(_NO_ROW)
    }
    return {"step": kept.pop("step"), **kept}


class ModelSizes(NamedTuple):
    """Sizes of a loaded model: of `metrics.flops.Sizes`, those that weights have; attention is not counted.

    Attributes:
        multiplied: weights of the linear layers without the adapter's.
        trained: those of them that are trained themselves.
    """

    multiplied: int
    trained: int
    layers: int = 0
    heads: int = 0
    head_dim: int = 0


def model_sizes(model: Any) -> ModelSizes:
    """Return the sizes of a model in training; of a quantized or partitioned layer, too."""
    import torch

    multiplied = trained = 0
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and "lora_" not in name:
            weights = module.in_features * module.out_features
            multiplied += weights
            trained += weights if module.weight.requires_grad else 0
    return ModelSizes(multiplied, trained)


def flops_per_token(sizes: ModelSizes) -> float:
    """Return the operations of a training step per token: 4 per frozen weight, 6 per trained one.

    Attention is left out: at 1,000 tokens it is about 1 % of a 7B model's. So are what is computed twice under gradient
    checkpointing, as MFU has it, and the passes of GRPO's rollouts and of a reference.
    """
    return training_flops(sizes, 1, 0, checkpointing=False) + 2 * sizes.trained


def peak_rate(processes: int) -> float | None:
    """Return the matrix rate of all training GPUs together in bfloat16, operations/s; None on a CPU or an unknown GPU."""
    import torch

    card = card_named(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    return card.tflops * 1e12 * processes if card else None


def peak_memory_gib() -> float:
    """Return the most memory that this process has held until now, GiB: of its GPU, or else of the machine."""
    import resource

    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated() / 2**30)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def metrics_callback(path: Path, model: Any, processes: int) -> Any:
    """Return a trainer callback that writes `metrics.jsonl`; it has to come before those of trackers.

    Every row is an entry of the trainer's log history, which checkpoints hold: at its start a training writes the file
    anew from the entries of its checkpoint, so that no line is lost or doubled, wherever a kill came. The values of
    `MEASURED` are added to an entry, and an `alarm` where `reward_alarms` first gives one; trackers get them, too.

    Args:
        path: of the file.
        model: the model in training.
        processes: number of training processes.
    """
    from transformers import TrainerCallback

    flops, rate = flops_per_token(model_sizes(model)), peak_rate(processes)

    class Metrics(TrainerCallback):
        tokens = 0.0
        moment = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            # TRL's GRPO goes on counting where the checkpoint was, its other trainers begin at zero.
            self.tokens, self.moment = state.num_input_tokens_seen, time.monotonic()
            if state.is_world_process_zero:
                write_jsonl(path, map(metric_row, filter(is_row, state.log_history)))

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if not state.is_world_process_zero or not is_row(logs):
                return
            added = self.measured(logs) if "loss" in logs else {}
            logs.update(added)
            state.log_history[-1].update(added)
            if alarm := "; ".join(_new_alarms(state.log_history)):
                logs["alarm"] = state.log_history[-1]["alarm"] = alarm
                print(f"alarm: {alarm}", flush=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(dump_line(metric_row(state.log_history[-1])))

        def measured(self, logs: dict[str, Any]) -> dict[str, Any]:
            now, total = time.monotonic(), logs.get("num_tokens")
            values: dict[str, Any] = dict.fromkeys(MEASURED)
            if total is not None and now > self.moment:
                tokens = total - self.tokens if total >= self.tokens else total
                speed = tokens / (now - self.moment)
                values["tokens_per_second"] = round(speed, 1)
                values["mfu"] = rate and round(flops * speed / rate, 4)
                self.tokens = total
            self.moment = now
            return values | {"peak_memory_gib": round(peak_memory_gib(), 3)}

    return Metrics()


def _new_alarms(history: list[dict[str, Any]]) -> Iterator[str]:
    """Yield the alarms that the last entry is the first to give."""
    raised = " ".join(entry.get("alarm", "") for entry in history)
    for alarm in reward_alarms([entry for entry in history if "loss" in entry]):
        if alarm.name not in raised:
            yield str(alarm)


_SETTINGS: dict[StepKind, tuple[str, ...]] = {
    "sft": ("learning_rate",),
    "round": ("learning_rate",),
    "dpo": ("learning_rate", "beta", "loss_type"),
    "grpo": ("learning_rate", "beta", "epsilon_high", "num_generations", "temperature"),
}
"""Arguments of a trainer that a model card shows, by the kind of step."""


def key_settings(recipe: Recipe, step: TrainStep, args: Any) -> dict[str, Any]:
    """Return the settings of a step that matter most: some of its trainer's arguments, the margin, the reward's weights."""
    settings = {name: getattr(args, name, None) for name in _SETTINGS[step.kind]}
    if step.kind in ("sft", "round") and recipe.train.margin:
        settings["margin"] = recipe.train.margin.gamma
    if step.kind == "grpo":
        weights = recipe.train.grpo.rewards.model_dump()
        settings |= {f"rewards.{name}": value for name, value in weights.items() if value}
    return {name: value for name, value in settings.items() if value is not None}


def write_training_files(
    recipe: Recipe,
    step: TrainStep,
    trainer: Any,
    log: list[dict[str, Any]],
    summary: dict[str, Any],
    final: Path,
) -> None:
    """Write what a step leaves beside the folder of its weights.

    `metrics.jsonl` has all values; `curves.png`, `loss.json`, `loss.png` and `training.json` are the same for two equal
    runs.

    Args:
        recipe, step: what was trained.
        trainer: after its training.
        log: what `run_training` returned.
        summary: what `training.json` says of the records.
        final: the folder, beside `metrics.jsonl` in the work folder.
    """
    from reasongenrm.report.charts import loss_curve, training_curves

    shutil.copyfile(final.parent / METRICS, final / METRICS)
    write_json(final / "loss.json", log)
    loss_curve(log, final / "loss.png", f"{step.model}: training loss")
    (final / "curves.png").write_bytes(training_curves(list(map(metric_row, log)), f"{step.model}: training"))
    losses = [entry["loss"] for entry in log if "loss" in entry]
    chain = {"model": step.model, "kind": step.kind, "previous": step.previous}
    alarms = [entry["alarm"] for entry in log if "alarm" in entry]
    results = {"final_loss": losses[-1] if losses else None, "alarms": alarms}
    settings = {"settings": key_settings(recipe, step, trainer.args)}
    write_json(final / "training.json", chain | summary | settings | results)


TRACKERS = {"tensorboard": "tensorboard", "trackio": "trackio", "wandb": "wandb"}
"""Value of `train.report_to` -> the package that it needs."""


def check_tracking(report_to: str) -> None:
    """Check that the package of `train.report_to` is installed; stage 1 does it, too.

    Raises:
        ConfigError: it is not.
    """
    package = TRACKERS.get(report_to)
    if package and find_spec(package) is None:
        raise ConfigError(
            f"the package {package} is not installed",
            location="train.report_to",
            hint="pip install 'reasongenrm[tracking]', or set train.report_to=none (metrics.jsonl and the curves are always written)",
        )


def set_tracking_environment(recipe: Recipe, step: TrainStep) -> None:
    """Keep a tracker inside the run folder and offline, unless the environment says otherwise; the libraries read it when
    they are imported. Keys come from the environment alone.

    Args:
        recipe: its name is the project.
        step: its model is the name of the tracker's run.
    """
    folder = (recipe.folder / "tracking" / recipe.train.report_to).absolute()
    if recipe.train.report_to == "trackio":
        os.environ.setdefault("TRACKIO_DIR", str(folder))
    elif recipe.train.report_to == "wandb":
        folder.mkdir(parents=True, exist_ok=True)  # wandb writes elsewhere if its folder is missing
        run_id = content_id(recipe.name, step.model)
        values = {
            "MODE": "offline",
            "DIR": str(folder),
            "PROJECT": recipe.name,
            "RUN_ID": run_id,
            "RESUME": "allow",
        }
        for name, value in values.items():
            os.environ.setdefault(f"WANDB_{name}", value)


def add_tracker(trainer: Any, recipe: Recipe, step: TrainStep) -> None:
    """Have a trainer send its rows to the tracker of `train.report_to`.

    TensorBoard then hides what an earlier start has written after the last checkpoint.

    Args:
        trainer: a Hugging Face trainer.
        recipe, step: see `set_tracking_environment`, which comes first.
    """
    from transformers import integrations

    trainer.args.project, trainer.args.run_name = recipe.name, step.model
    if recipe.train.report_to == "trackio":
        trainer.add_callback(integrations.TrackioCallback)
    elif recipe.train.report_to == "wandb":
        trainer.add_callback(integrations.WandbCallback)
    elif recipe.train.report_to == "tensorboard" and trainer.is_world_process_zero():
        from torch.utils.tensorboard import SummaryWriter

        folder = recipe.folder / "tracking" / "tensorboard" / step.model
        checkpoint = last_checkpoint(Path(trainer.args.output_dir))
        resumed_step = int(checkpoint.rpartition("-")[2]) if checkpoint else 0
        writer = SummaryWriter(str(folder), purge_step=resumed_step + 1)
        trainer.add_callback(integrations.TensorBoardCallback(writer))
