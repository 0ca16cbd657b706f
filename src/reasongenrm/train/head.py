"""What trainings of a scalar head have in common: settings, the work folder, the run itself, the records beside the weights.

The work is in `<output_dir>.partial`; the finished folder is renamed at the end, so `output_dir` is complete or absent.
A killed run resumes from its last complete checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.config.arguments import library_arguments
from reasongenrm.config.scalar import HeadConfig
from reasongenrm.console import training_bar
from reasongenrm.errors import ConfigError, EngineError, first_line
from reasongenrm.report.charts import loss_curve
from reasongenrm.report.pages import render
from reasongenrm.scalar.inputs import save_tokenizer
from reasongenrm.store import read_json, write_json, write_jsonl, write_text
from reasongenrm.train.arguments import ANY_BIAS, LORA_RULES, check_args
from reasongenrm.train.trainer import library_config, run_training

DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-5,
    "per_device_train_batch_size": 4,
    "max_steps": 100,
    "optim": "adamw_torch",
    # A head of this size needs neither; bfloat16 would round the small differences in the loss.
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 5,
    "save_steps": 25,
    "save_total_limit": 2,
    # The default leaves a NaN loss out of the logged mean.
    "logging_nan_inf_filter": False,
    "report_to": "none",
    "disable_tqdm": True,  # `console.training_bar` shows the progress
}
"""Keys of the trainer for which this suite has its own default."""

RESERVED = dict.fromkeys(
    (
        *("output_dir", "seed", "data_seed", "max_length", "resume_from_checkpoint", "trust_remote_code"),
        # Set by held-out rows and `patience`.
        *(
            "eval_strategy",
            "eval_steps",
            "load_best_model_at_end",
            "metric_for_best_model",
            "greater_is_better",
        ),
    ),
    "remove it here",
)
"""Keys of the trainer that this suite sets itself."""


@dataclass(frozen=True)
class HeadTask:
    """One training of a head.

    Attributes:
        config: base, limit, LoRA, and keys of the trainer.
        output_dir: folder of the head.
        seed: of the head's initial weights and the order of the rows.
        key: section of the recipe, named in errors.
        settings: all settings as plain values, saved with the head.
        fingerprint: of the rows, the settings and the seed.
    """

    config: HeadConfig
    output_dir: Path
    seed: int
    key: str
    settings: dict[str, Any]
    fingerprint: str


@dataclass(frozen=True)
class HeadTrainer:
    """A trainer with its rows, ready to start.

    Attributes:
        trainer: a Hugging Face trainer.
        report: counts of the rows; the results are added.
        drops: rows of dropped.jsonl.
        evaluation: names of the results on held-out rows, without `eval_`; they are added under `validation`.
    """

    trainer: Any
    report: dict[str, Any]
    drops: list[dict[str, Any]]
    evaluation: tuple[str, ...] = ("loss",)


def check_head(config: HeadConfig, trainer_config: type, key: str) -> None:
    """Check the names of the trainer's and peft's keys, and that numbers are numbers; loads no model.

    Raises:
        ConfigError: names the key, and the closest valid one.
    """
    check_args(trainer_config, config.args, location=f"{key}.args", reserved=RESERVED)
    if config.lora is not None:
        from peft import LoraConfig

        reserved = {"task_type": "remove it here"}
        check_args(
            LoraConfig,
            config.lora,
            location=f"{key}.lora",
            reserved=reserved,
            rules=LORA_RULES | {"bias": ANY_BIAS},
        )


def trainer_arguments(config: HeadConfig) -> dict[str, Any]:
    """Return `DEFAULTS` with the user's keys."""
    arguments = DEFAULTS | library_arguments(config.args)
    if "num_train_epochs" in config.args and "max_steps" not in config.args:
        del arguments["max_steps"]  # it would override the number of epochs
    return arguments


def train_folder(
    task: HeadTask, build: Callable[[Path], HeadTrainer], card: Callable[[dict[str, Any]], str]
) -> dict[str, Any]:
    """Train a head into its folder, or resume a killed training; return the report at once where the folder is complete.

    Args:
        task: the training.
        build: from the folder of checkpoints to the trainer.
        card: from the report to the model card.

    Raises:
        ConfigError: the folder holds another training.
        EngineError: the loss is no longer a finite number.
    """
    output_dir = task.output_dir
    partial = output_dir.with_name(output_dir.name + ".partial")
    if output_dir.exists():
        shutil.rmtree(partial, ignore_errors=True)  # left by a kill after the rename
        return _finished_report(output_dir, task.fingerprint)
    _open_partial(partial, task.fingerprint)
    built = build(partial / "checkpoints")
    final = partial / "final"
    log = _fit(built, task, final)
    _write_records(final, task, built, log, card(built.report))
    final.rename(output_dir)
    shutil.rmtree(partial)
    return built.report


def _finished_report(output_dir: Path, fingerprint: str) -> dict[str, Any]:
    path = output_dir / "done.json"
    done = read_json(path) if path.is_file() else {}
    if done.get("fingerprint") != fingerprint:
        raise ConfigError(
            "the folder does not hold this training",
            location=str(output_dir),
            hint="choose another output folder, or move this one away",
        )
    report: dict[str, Any] = done["report"]
    return report


def _open_partial(partial: Path, fingerprint: str) -> None:
    """Make the work folder; remove the one of another training, which cannot be resumed."""
    mark = partial / "fingerprint"
    if partial.exists() and not (mark.is_file() and mark.read_text(encoding="utf-8") == fingerprint):
        shutil.rmtree(partial)
    shutil.rmtree(partial / "final", ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    mark.write_text(fingerprint, encoding="utf-8")


def head_args(
    trainer_config: type, task: HeadTask, arguments: Mapping[str, Any], checkpoints: Path, *, held_out: bool
) -> Any:
    """Return the trainer's config with the recipe's keys and those that the suite sets itself.

    Raises:
        ConfigError: the trainer rejects a value.
    """
    arguments = dict(arguments)
    if held_out:
        arguments |= {"eval_strategy": "steps", "eval_steps": arguments["save_steps"]}
    if task.config.patience is not None:
        arguments |= {
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
            "restore_callback_states_from_checkpoint": True,  # a resumed run keeps counting
        }
    settings = library_config(
        trainer_config, f"{task.key}.args", output_dir=str(checkpoints), seed=task.seed, **arguments
    )
    # On a machine with several GPUs, one process would multiply the batch size by their number.
    settings._n_gpu = min(settings.n_gpu, 1)
    return settings


def lora_config(config: HeadConfig, key: str, logits: int = 1) -> Any:
    """Return peft's configuration, or None; the new head is trained without LoRA: DistilBERT's has two layers.

    Raises:
        ConfigError: peft rejects a value.
    """
    if config.lora is None:
        return None
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification

    base = load_checkpoint("AutoConfig", config.model, revision=config.revision, num_labels=logits)
    with torch.device("meta"):
        shape = AutoModelForSequenceClassification.from_config(base, trust_remote_code=False)
    parts = [name for name, part in shape.named_children() if list(part.parameters())]
    heads = [name for name in parts if name != shape.base_model_prefix]
    keys = {"modules_to_save": heads} | config.lora | {"task_type": "SEQ_CLS"}
    return library_config(LoraConfig, f"{key}.lora", **keys)


def start_error(error: Exception, task: HeadTask) -> EngineError:
    """Return the error of a trainer that cannot start."""
    return EngineError(
        f"the trainer cannot start: {first_line(error)}",
        location=task.config.model,
        hint=f"check {task.key}.model, {task.key}.lora and {task.key}.args",
    )


def with_callbacks(trainer: Any, config: HeadConfig) -> Any:
    """Return the trainer with early stopping, and without a printer."""
    from transformers import EarlyStoppingCallback, PrinterCallback

    if config.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(config.patience))
    trainer.remove_callback(PrinterCallback)
    return trainer


def _fit(built: HeadTrainer, task: HeadTask, folder: Path) -> list[dict[str, Any]]:
    """Train, save the model, and add the results to the report; return the loss log."""
    trainer, report = built.trainer, built.report
    with training_bar("head" if task.key == "head" else f"{task.key} head") as show_step:
        log = run_training(trainer, f"{task.key}.args", show_step)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    report |= {"steps": trainer.state.global_step, "final_loss": losses[-1] if losses else None}
    if report["validation"] is not None:
        metrics = trainer.evaluate()
        report["validation"] |= {name: metrics[f"eval_{name}"] for name in built.evaluation}
    model = trainer.model.merge_and_unload() if task.config.lora is not None else trainer.model
    model.save_pretrained(folder)
    save_tokenizer(trainer.processing_class, folder)
    return log


def _write_records(
    folder: Path, task: HeadTask, built: HeadTrainer, log: Sequence[dict[str, Any]], card: str
) -> None:
    """Write README.md, training_args.json, loss.json, loss.png, dropped.jsonl and done.json beside the weights."""
    write_json(folder / "training_args.json", task.settings | {"seed": task.seed})
    write_json(folder / "loss.json", log)
    loss_curve(log, folder / "loss.png", f"scalar head from {Path(task.config.model).name}")
    write_text(folder / "README.md", card)
    write_jsonl(folder / "dropped.jsonl", built.drops)
    write_json(folder / "done.json", {"fingerprint": task.fingerprint, "report": built.report})


def head_card(template: str, config: HeadConfig, **values: Any) -> str:
    """Return a model card.

    Args:
        template: of its text.
        config: of the head.
        values: what the template shows beside `base` and `config`.
    """
    from huggingface_hub import ModelCard, ModelCardData

    local = Path(config.model).exists()  # a local path means nothing to others
    base = Path(config.model).name if local else config.model
    metadata = ModelCardData(
        base_model=None if local else base,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["reward-model", "trl", "reasongenrm"],
    )
    text = render(template, base=base, config=config, **values)
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}"))
