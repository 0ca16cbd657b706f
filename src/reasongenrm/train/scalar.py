"""Train the scalar head: TRL's RewardTrainer (Bradley-Terry loss) on pairs tokenized exactly as in serving.

The work is in `<output_dir>.partial`; the finished folder is renamed at the end, so `output_dir` is complete or absent.
A killed run resumes from its last complete checkpoint.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.config.arguments import library_arguments
from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.console import training_bar
from reasongenrm.data.split import split_pairs
from reasongenrm.errors import ConfigError, DataError, EngineError, first_line
from reasongenrm.records import Drop, PreferencePair, content_id
from reasongenrm.report.charts import loss_curve
from reasongenrm.report.pages import render
from reasongenrm.scalar.model import encode, load_base_tokenizer
from reasongenrm.store import read_json, to_json, write_json, write_jsonl, write_text
from reasongenrm.train.trainer import check_args, library_config, run_training

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
"""RewardConfig keys for which this suite has its own default."""

RESERVED = dict.fromkeys(
    (
        *("output_dir", "seed", "data_seed", "max_length", "resume_from_checkpoint", "trust_remote_code"),
        # Set by `validation` and `patience`.
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
"""RewardConfig keys that `train_scalar` sets itself."""

Rows = list[dict[str, Any]]


def train_scalar(
    pairs: Sequence[PreferencePair], config: ScalarConfig, *, output_dir: Path, seed: int, key: str = "scalar"
) -> dict[str, Any]:
    """Train a scalar head into `output_dir`, and return a report.

    Called again with the same arguments it returns at once, or resumes a killed run and ends with the same weights as
    an undisturbed run (on one machine, CPU).

    The loss is -log σ(Z_chosen - Z_rejected - margin · distance), where `distance` is that of the pair's ranks (R. A.
    Bradley and M. E. Terry, Biometrika 39, 1952; the margin as in H. Touvron et al., "Llama 2", arXiv:2307.09288,
    section 3.2.2), plus c · (Z_chosen + Z_rejected)² where `args.center_rewards_coefficient` sets c (J. Eisenstein et
    al., arXiv:2312.09244).

    Args:
        pairs: the preferences to learn.
        config: base, limits, held-out share, and RewardConfig keys, which override `DEFAULTS`; `max_length` is saved with
            the head, and is the limit wherever it scores.
        output_dir: folder of the head.
        seed: of the head's initial weights, the order of the pairs and the held-out prompts.
        key: section of the recipe, named in errors.

    Returns:
        `pairs`: their number; `trained`: pairs trained on; `truncated`: pairs cut to `max_length`, trained on or held
        out; `steps`; `dropped_identical`: a row of `dropped.jsonl` for each pair whose two answers are the same tokens after the cut;
        `final_loss`: the last logged loss, in nats (None without one); `validation`: `pairs`, `prompts`, `loss` (nats)
        and `accuracy` in [0, 1] of the held-out pairs, or None.

    Raises:
        ConfigError: an unknown or reserved key, a value that RewardConfig rejects, a `max_length` above the base's
            limit, a margin without ranks, or an `output_dir` that holds another training.
        DataError: no pairs are left.
        EngineError: the base cannot be loaded, or the loss is no longer a finite number.
    """
    check_config(config, key)
    if config.margin and not any(pair.distance for pair in pairs):
        raise ConfigError(
            "no pair comes from ranks", location=f"{key}.margin", hint="set 0, or give ranked answers"
        )
    arguments = DEFAULTS | library_arguments(config.args)
    if "num_train_epochs" in config.args and "max_steps" not in config.args:
        del arguments["max_steps"]  # it would override the number of epochs
    settings = config.model_dump(mode="json") | {"args": arguments}
    fingerprint = content_id([[pair.id, pair.distance] for pair in pairs], settings, seed)
    partial = output_dir.with_name(output_dir.name + ".partial")
    if output_dir.exists():
        shutil.rmtree(partial, ignore_errors=True)  # left by a kill after the rename
        return _finished_report(output_dir, fingerprint)
    _open_partial(partial, fingerprint)

    tokenizer = load_base_tokenizer(config.model, config.revision, config.max_length)
    report, rows, held_out = _prepare(pairs, config, tokenizer, seed, key)
    args = _reward_config(config, arguments, partial / "checkpoints", seed, key)
    trainer = _reward_trainer(config, args, rows, held_out, tokenizer, key)
    log = _fit(trainer, config, partial / "final", report, key)
    _write_records(partial / "final", config, settings | {"seed": seed}, report, log, fingerprint)
    (partial / "final").rename(output_dir)
    shutil.rmtree(partial)
    return report


def check_config(config: ScalarConfig, key: str = "scalar") -> None:
    """Check the names of the trainer's and peft's keys, and that numbers are numbers; loads no model.

    Raises:
        ConfigError: names the key, and the closest valid one.
    """
    from trl import RewardConfig

    check_args(RewardConfig, config.args, location=f"{key}.args", reserved=RESERVED)
    if config.lora is not None:
        from peft import LoraConfig

        check_args(LoraConfig, config.lora, location=f"{key}.lora", reserved={"task_type": "remove it here"})


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


def _prepare(
    pairs: Sequence[PreferencePair], config: ScalarConfig, tokenizer: Any, seed: int, key: str
) -> tuple[dict[str, Any], Rows, Rows]:
    """Return the report without training results, and the trainer's rows: for training and held out."""
    train_pairs, held_out_pairs = split_pairs(pairs, config.validation, seed)
    rows, truncated, dropped = _tokenise(train_pairs, tokenizer, config)
    held_out, held_out_truncated, held_out_dropped = _tokenise(held_out_pairs, tokenizer, config)
    if not rows:
        raise DataError(
            "no pairs are left to train on",
            location=key,
            hint=f"give pairs whose answers differ, or raise {key}.max_length",
        )
    if config.validation and not held_out:
        raise DataError(
            "no held-out pair is left", location=f"{key}.validation", hint="hold out more prompts"
        )
    validation = {
        "pairs": len(held_out),
        "prompts": len({content_id(pair.history) for pair in held_out_pairs}),
    }
    report = {
        "pairs": len(pairs),
        "trained": len(rows),
        "truncated": truncated + held_out_truncated,
        "dropped_identical": dropped + held_out_dropped,
        "validation": validation if held_out else None,
    }
    return report, rows, held_out


def _tokenise(
    pairs: Sequence[PreferencePair], tokenizer: Any, config: ScalarConfig
) -> tuple[Rows, int, Rows]:
    """Return the trainer's rows, the number of truncated ones, and a Drop for each pair with identical tokens."""
    rows, truncated, dropped, limit = [], 0, [], config.max_length
    for pair in pairs:
        chosen, rejected = (
            encode(tokenizer, pair.history, answer, limit)["input_ids"]
            for answer in (pair.chosen, pair.rejected)
        )
        if chosen == rejected:
            detail = f"chosen and rejected are the same {len(chosen)} tokens"
            dropped.append(to_json(Drop(pair.id, pair.source, "identical_tokens", detail, "length")))
            continue
        # Only a sequence of `limit` tokens can have been cut; the others are not tokenized twice.
        truncated += any(
            len(ids) >= limit and len(encode(tokenizer, pair.history, answer, None)["input_ids"]) > limit
            for ids, answer in ((chosen, pair.chosen), (rejected, pair.rejected))
        )
        row: dict[str, Any] = {"chosen_ids": chosen, "rejected_ids": rejected}
        if config.margin:
            row["margin"] = config.margin * (pair.distance or 0.0)
        rows.append(row)
    return rows, truncated, dropped


def _reward_config(
    config: ScalarConfig, arguments: dict[str, Any], checkpoints: Path, seed: int, key: str
) -> Any:
    """Return RewardConfig with the recipe's keys and those that the suite sets itself.

    Raises:
        ConfigError: RewardConfig rejects a value.
    """
    from trl import RewardConfig

    loading: dict[str, Any] = {"revision": config.revision, "use_safetensors": True}
    loading |= arguments.get("model_init_kwargs") or {}
    if loading.setdefault("trust_remote_code", False):
        raise ConfigError(
            "a head runs no code of its base",
            location=f"{key}.args.model_init_kwargs.trust_remote_code",
            hint="give a base that transformers has a class for",
        )
    # The rows are cut already, and with a `max_length` RewardTrainer silently drops longer ones.
    arguments = arguments | {"model_init_kwargs": loading, "max_length": None}
    if config.validation:
        arguments |= {"eval_strategy": "steps", "eval_steps": arguments["save_steps"]}
    if config.patience is not None:
        arguments |= {
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
            "restore_callback_states_from_checkpoint": True,  # a resumed run keeps counting
        }
    settings = library_config(
        RewardConfig, f"{key}.args", output_dir=str(checkpoints), seed=seed, **arguments
    )
    # On a machine with several GPUs, one process would multiply the batch size by their number.
    settings._n_gpu = min(settings.n_gpu, 1)
    return settings


def _lora(config: ScalarConfig, key: str) -> Any:
    """Return peft's configuration; the new head is trained without LoRA: DistilBERT's has two layers.

    Raises:
        ConfigError: peft rejects a value.
    """
    if config.lora is None:
        return None
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForSequenceClassification

    base = load_checkpoint("AutoConfig", config.model, revision=config.revision, num_labels=1)
    with torch.device("meta"):
        shape = AutoModelForSequenceClassification.from_config(base, trust_remote_code=False)
    parts = [name for name, part in shape.named_children() if list(part.parameters())]
    heads = [name for name in parts if name != shape.base_model_prefix]
    keys = {"modules_to_save": heads} | config.lora | {"task_type": "SEQ_CLS"}
    return library_config(LoraConfig, f"{key}.lora", **keys)


def _reward_trainer(
    config: ScalarConfig, args: Any, rows: Rows, held_out: Rows, tokenizer: Any, key: str
) -> Any:
    """Return RewardTrainer with the base loaded."""
    from datasets import Dataset
    from transformers import EarlyStoppingCallback, PrinterCallback
    from trl import RewardTrainer

    try:
        trainer = RewardTrainer(
            model=config.model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(held_out) if held_out else None,
            processing_class=tokenizer,
            peft_config=_lora(config, key),
        )
    except (OSError, ValueError) as error:
        raise EngineError(
            f"the trainer cannot start: {first_line(error)}",
            location=config.model,
            hint=f"check {key}.model, {key}.lora and {key}.args",
        ) from error
    assert len(trainer.train_dataset) == len(rows), "RewardTrainer dropped pairs"
    if config.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(config.patience))
    trainer.remove_callback(PrinterCallback)
    return trainer


def _fit(
    trainer: Any, config: ScalarConfig, folder: Path, report: dict[str, Any], key: str
) -> list[dict[str, Any]]:
    """Train, save the model, and add the results to the report; return the loss log."""
    with training_bar(f"{key} head") as show_step:
        log = run_training(trainer, f"{key}.args", show_step)
    losses = [entry["loss"] for entry in log if "loss" in entry]
    report |= {"steps": trainer.state.global_step, "final_loss": losses[-1] if losses else None}
    if report["validation"] is not None:
        metrics = trainer.evaluate()
        report["validation"] |= {name: metrics[f"eval_{name}"] for name in ("loss", "accuracy")}
    model = trainer.model.merge_and_unload() if config.lora is not None else trainer.model
    model.save_pretrained(folder)
    trainer.processing_class.save_pretrained(folder)
    return log


def _write_records(
    folder: Path,
    config: ScalarConfig,
    settings: dict[str, Any],
    report: dict[str, Any],
    log: Sequence[dict[str, Any]],
    fingerprint: str,
) -> None:
    """Write README.md, training_args.json, loss.json, loss.png, dropped.jsonl and done.json beside the weights."""
    write_json(folder / "training_args.json", settings)
    write_json(folder / "loss.json", log)
    loss_curve(log, folder / "loss.png", f"scalar head from {Path(config.model).name}")
    write_text(folder / "README.md", _card(config, settings["seed"], report))
    write_jsonl(folder / "dropped.jsonl", report["dropped_identical"])
    write_json(folder / "done.json", {"fingerprint": fingerprint, "report": report})


def _card(config: ScalarConfig, seed: int, report: dict[str, Any]) -> str:
    """Return the model card."""
    from huggingface_hub import ModelCard, ModelCardData

    local = Path(config.model).exists()  # a local path means nothing to others
    base = Path(config.model).name if local else config.model
    metadata = ModelCardData(
        base_model=None if local else base,
        library_name="transformers",
        pipeline_tag="text-classification",
        tags=["reward-model", "trl", "reasongenrm"],
    )
    text = render(
        "scalar_card.md.jinja",
        base=base,
        config=config,
        report=report,
        validation=report["validation"],
        seed=seed,
    )
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{text}"))
