"""Train the scalar head: TRL's RewardTrainer (Bradley-Terry loss) on pairs tokenised as they are served.

Everything happens in `<output_dir>.partial`, a sibling of the folder to be; the finished folder is moved into
place at the end, so `output_dir` is whole or absent. A run that was killed goes on from its last whole
checkpoint.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.data.split import prompt_id, split_pairs
from reasongenrm.errors import ConfigError, DataError, EngineError, first_line
from reasongenrm.records import Drop, PreferencePair, content_id
from reasongenrm.scalar.model import encode, load_base_tokenizer
from reasongenrm.train.scalar_card import write_beside
from reasongenrm.train.trainer import check_args, check_weights, guard_callback, last_checkpoint, loss_log

WHERE = "scalar.args"
"""Dotted key of the trainer's arguments in a recipe."""

DEFAULTS: dict[str, Any] = {
    "learning_rate": 5e-5,
    "per_device_train_batch_size": 4,
    "max_steps": 100,
    "optim": "adamw_torch",
    # A head of this size needs neither; bfloat16 would round the small differences the loss is made of.
    "bf16": False,
    "gradient_checkpointing": False,
    "logging_steps": 5,
    "save_steps": 25,
    "save_total_limit": 2,
    # The default hides a loss that is not a number behind the mean of the others.
    "logging_nan_inf_filter": False,
    "report_to": "none",
    "disable_tqdm": True,  # the losses are in loss.json
}
"""RewardConfig keys whose default is this suite's."""

RESERVED = (
    *("output_dir", "seed", "data_seed", "max_length", "resume_from_checkpoint", "trust_remote_code"),
    # `validation` and `patience` are about these.
    *("eval_strategy", "eval_steps", "load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
)
"""RewardConfig keys that are set by `train_scalar` itself."""

Rows = list[dict[str, Any]]


def train_scalar(
    pairs: Sequence[PreferencePair], config: ScalarConfig, *, output_dir: Path, seed: int
) -> dict[str, Any]:
    """Train a scalar head and leave it in `output_dir`; return what happened to the pairs.

    Called again with the same arguments it returns at once, or goes on where it was killed and ends with the
    same weights as an undisturbed run (on one machine, CPU).

    The loss is -log σ(Z_chosen - Z_rejected - margin · distance), where `distance` is that of the pair's ranks (R. A.
    Bradley and M. E. Terry, Biometrika 39, 1952; the margin as in H. Touvron et al., "Llama 2", arXiv:2307.09288,
    section 3.2.2), plus c · (Z_chosen + Z_rejected)² where `args.center_rewards_coefficient` sets c (J. Eisenstein et
    al., arXiv:2312.09244).

    Args:
        pairs: what to learn from.
        config: base, limits, what is held out, and RewardConfig keys, which go over `DEFAULTS`; serving always takes
            `scalar.MAX_LENGTH` tokens.
        output_dir: folder of the head.
        seed: of the head's initial weights, of the order of the pairs, and of what is held out.

    Returns:
        `pairs`: given; `trained`: trained on; `truncated`: of all pairs used, those cut to `max_length`; `steps`;
        `dropped_identical`: a Drop for each pair whose two answers are the same tokens after the cut;
        `final_loss`: the last one logged, in nats (None when none was); `validation`: of what is held out `pairs`,
        `prompts`, `loss` (nats) and `accuracy` in [0, 1], or None.

    Raises:
        ConfigError: an unknown or reserved key, a value RewardConfig refuses, a `max_length` the base cannot
            take, a margin without ranks, or an `output_dir` that holds another training.
        DataError: no pairs are left.
        EngineError: the base cannot be loaded, or the loss is no longer a finite number.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise EngineError("the scalar head trains in one process", hint="start it without a launcher")
    check_config(config)
    if config.margin and not any(pair.distance for pair in pairs):
        raise ConfigError(
            "no pair comes from ranks", location="scalar.margin", hint="set 0, or give ranked answers"
        )
    arguments = _arguments(config.args)
    given = [[pair.id, pair.distance] for pair in pairs]
    fingerprint = content_id(given, config.model_dump(mode="json") | {"args": arguments}, seed)
    partial = output_dir.with_name(output_dir.name + ".partial")
    if output_dir.exists():
        shutil.rmtree(partial, ignore_errors=True)  # left by a kill between the move and the end
        return _finished_report(output_dir, fingerprint)
    _open_partial(partial, fingerprint)

    tokenizer = load_base_tokenizer(config.model, config.revision, config.max_length)
    report, rows, held = _prepared(pairs, config, tokenizer, seed)
    log, steps, measured = _run(rows, held, tokenizer, partial, config, arguments, seed)
    if report["validation"] is not None:
        report["validation"] |= measured
    losses = [entry["loss"] for entry in log if "loss" in entry]
    report |= {"steps": steps, "final_loss": losses[-1] if losses else None}
    write_beside(partial / "final", config, arguments, seed, report, log, fingerprint)
    (partial / "final").rename(output_dir)
    shutil.rmtree(partial)
    return report


def _prepared(
    pairs: Sequence[PreferencePair], config: ScalarConfig, tokenizer: Any, seed: int
) -> tuple[dict[str, Any], Rows, Rows]:
    """Return the report as far as it is known, and the trainer's rows: to train on, and held out."""
    learned, out = split_pairs(pairs, config.validation, seed)
    rows, truncated, dropped = _tokenise(learned, tokenizer, config)
    held, cut, identical = _tokenise(out, tokenizer, config)
    if not rows:
        raise DataError("no pairs are left to train on", hint="give pairs whose answers differ")
    if config.validation and not held:
        raise DataError(
            "of the prompts held out, no pair is left", location="scalar.validation", hint="hold out more"
        )
    report = {
        "pairs": len(pairs),
        "trained": len(rows),
        "truncated": truncated + cut,
        "dropped_identical": dropped + identical,
        "validation": None,
    }
    if held:
        report["validation"] = {"pairs": len(held), "prompts": len({prompt_id(pair) for pair in out})}
    return report, rows, held


def check_config(config: ScalarConfig) -> None:
    """Check the names of the trainer's and peft's keys, and that numbers are numbers; needs no model.

    Raises:
        ConfigError: names the key, and the closest valid one.
    """
    from trl import RewardConfig

    check_args(RewardConfig, config.args, location=WHERE, reserved=RESERVED)
    if config.lora is not None:
        from peft import LoraConfig

        check_args(LoraConfig, config.lora, location="scalar.lora", reserved=("task_type",))


def _arguments(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return the suite's defaults with the given keys over them."""
    arguments = DEFAULTS | dict(args)
    if "num_train_epochs" in args and "max_steps" not in args:
        del arguments["max_steps"]  # or the default would silently win over the epochs asked for
    return arguments


def _finished_report(output_dir: Path, fingerprint: str) -> dict[str, Any]:
    marker = output_dir / "done.json"
    done = json.loads(marker.read_text(encoding="utf-8")) if marker.is_file() else {}
    if done.get("fingerprint") != fingerprint:
        raise ConfigError(
            "the folder holds something else than this training",
            location=str(output_dir),
            hint="choose another output folder, or delete this one",
        )
    report = done["report"]
    return report | {"dropped_identical": [Drop(**drop) for drop in report["dropped_identical"]]}


def _open_partial(partial: Path, fingerprint: str) -> None:
    """Make the work folder; what another training left there cannot be gone on with, and is removed."""
    mark = partial / "fingerprint"
    if partial.exists() and not (mark.is_file() and mark.read_text(encoding="utf-8") == fingerprint):
        shutil.rmtree(partial)
    shutil.rmtree(partial / "final", ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    mark.write_text(fingerprint, encoding="utf-8")


def _tokenise(
    pairs: Sequence[PreferencePair], tokenizer: Any, config: ScalarConfig
) -> tuple[Rows, int, list[Drop]]:
    """Return the trainer's rows, how many of them were cut, and the pairs that the cut made identical."""
    rows, truncated, dropped, limit = [], 0, [], config.max_length
    for pair in pairs:
        chosen, rejected = (
            encode(tokenizer, pair.history, answer, limit)["input_ids"]
            for answer in (pair.chosen, pair.rejected)
        )
        if chosen == rejected:
            detail = f"chosen and rejected are the same {len(chosen)} tokens"
            dropped.append(Drop(pair.id, pair.source, "identical_tokens", detail, "length"))
            continue
        # Only a sequence that fills the limit can have been cut: the rest need no second tokenisation.
        truncated += any(
            len(ids) >= limit and len(encode(tokenizer, pair.history, answer, None)["input_ids"]) > limit
            for ids, answer in ((chosen, pair.chosen), (rejected, pair.rejected))
        )
        row: dict[str, Any] = {"chosen_ids": chosen, "rejected_ids": rejected}
        if config.margin:
            row["margin"] = config.margin * (pair.distance or 0.0)
        rows.append(row)
    return rows, truncated, dropped


def _reward_config(config: ScalarConfig, arguments: dict[str, Any], checkpoints: Path, seed: int) -> Any:
    """Return RewardConfig with what the suite sets itself.

    Raises:
        ConfigError: it refuses a value.
    """
    from trl import RewardConfig

    arguments = dict(arguments)
    loading = {"revision": config.revision, "use_safetensors": True}
    loading |= arguments.pop("model_init_kwargs", None) or {}
    if config.validation:
        arguments |= {"eval_strategy": "steps", "eval_steps": arguments["save_steps"]}
    if config.patience is not None:
        arguments |= {
            "load_best_model_at_end": True,
            "metric_for_best_model": "eval_loss",
            "greater_is_better": False,
            "restore_callback_states_from_checkpoint": True,  # else a resumed run forgets its patience
        }
    try:
        # max_length None: rows are cut already, and RewardTrainer would drop what is longer without a word.
        found = RewardConfig(
            output_dir=str(checkpoints), seed=seed, max_length=None, model_init_kwargs=loading, **arguments
        )
    except (TypeError, ValueError) as error:
        raise ConfigError(first_line(error), location=WHERE, hint="see trl.RewardConfig") from error
    # On a node of several GPUs one process would split every batch over all of them, and make it as much larger.
    found._n_gpu = min(found.n_gpu, 1)
    return found


def _lora(config: ScalarConfig) -> Any:
    """Return peft's configuration; the head, which no base has, is trained whole: DistilBERT's has two layers.

    Raises:
        ConfigError: peft refuses a value.
    """
    if config.lora is None:
        return None
    import torch
    from peft import LoraConfig
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with torch.device("meta"):
        shape = AutoModelForSequenceClassification.from_config(
            AutoConfig.from_pretrained(config.model, revision=config.revision, num_labels=1)
        )
    heads = [
        name
        for name, part in shape.named_children()
        if name != shape.base_model_prefix and any(True for _ in part.parameters())
    ]
    try:
        return LoraConfig(**({"modules_to_save": heads} | config.lora | {"task_type": "SEQ_CLS"}))
    except (TypeError, ValueError) as error:
        raise ConfigError(first_line(error), location="scalar.lora", hint="see peft.LoraConfig") from error


def _run(
    rows: Rows,
    held: Rows,
    tokenizer: Any,
    partial: Path,
    config: ScalarConfig,
    arguments: dict[str, Any],
    seed: int,
) -> tuple[list[dict[str, Any]], int, dict[str, float]]:
    """Train from scratch or the last checkpoint, save the model; return the loss log, the steps done, and what the
    held-out rows say."""
    from datasets import Dataset
    from transformers import EarlyStoppingCallback, PrinterCallback
    from trl import RewardTrainer

    checkpoints = partial / "checkpoints"
    settings = _reward_config(config, arguments, checkpoints, seed)
    try:
        trainer = RewardTrainer(
            model=config.model,
            args=settings,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(held) if held else None,
            processing_class=tokenizer,
            peft_config=_lora(config),
        )
    except (OSError, ValueError) as error:
        raise EngineError(f"the trainer refuses: {first_line(error)}", location=config.model) from error
    assert len(trainer.train_dataset) == len(rows), "RewardTrainer dropped pairs"
    if config.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(config.patience))
    trainer.add_callback(guard_callback(WHERE))
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=last_checkpoint(checkpoints))
    steps = trainer.state.global_step
    check_weights(trainer.model, settings.learning_rate, WHERE)
    log = loss_log(trainer.state.log_history)
    measured = trainer.evaluate() if held else {}
    model = trainer.model.merge_and_unload() if config.lora is not None else trainer.model
    model.save_pretrained(partial / "final")
    tokenizer.save_pretrained(partial / "final")
    return log, steps, {name: measured[f"eval_{name}"] for name in ("loss", "accuracy") if measured}
