"""Train the scalar head on pairs: TRL's RewardTrainer (Bradley-Terry loss) on pairs tokenized exactly as in serving.

What it has in common with a head that learns scores is in `train/head.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.data.split import split_pairs
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop, PreferencePair, content_id
from reasongenrm.scalar.inputs import encode, load_base_tokenizer
from reasongenrm.store import to_json
from reasongenrm.train.head import (
    HeadTask,
    HeadTrainer,
    check_head,
    head_args,
    head_card,
    lora_config,
    start_error,
    train_folder,
    trainer_arguments,
    with_callbacks,
)

Rows = list[dict[str, Any]]


def train_scalar(
    pairs: Sequence[PreferencePair],
    config: ScalarConfig,
    *,
    output_dir: Path,
    seed: int,
    key: str = "scalar",
    held_out: Sequence[PreferencePair] | None = None,
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
        held_out: pairs to evaluate on, instead of a share of `pairs`.

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
    arguments = trainer_arguments(config)
    settings = config.model_dump(mode="json") | {"args": arguments}
    rows = [[[pair.id, pair.distance] for pair in pairs]]
    if held_out is None:
        split = split_pairs(pairs, config.validation, seed)
    else:
        split = list(pairs), list(held_out)
        rows.append([[pair.id, pair.distance] for pair in held_out])
    task = HeadTask(config, output_dir, seed, key, settings, content_id(*rows, settings, seed))

    def build(checkpoints: Path) -> HeadTrainer:
        tokenizer = load_base_tokenizer(config.model, config.revision, config.max_length)
        report, rows, held_out_rows, drops = _prepare(*split, config, tokenizer, key)
        args = _reward_config(task, arguments, checkpoints, held_out=bool(held_out_rows))
        trainer = _reward_trainer(task, args, rows, held_out_rows, tokenizer)
        return HeadTrainer(trainer, report, drops, ("loss", "accuracy"))

    def card(report: dict[str, Any]) -> str:
        values = {"report": report, "validation": report["validation"], "seed": seed, "judges": key == "meta"}
        return head_card("scalar_card.md.jinja", config, **values)

    return train_folder(task, build, card)


def check_config(config: ScalarConfig, key: str = "scalar") -> None:
    """Check the names of the trainer's and peft's keys, and that numbers are numbers; loads no model.

    Raises:
        ConfigError: names the key, and the closest valid one.
    """
    from trl import RewardConfig

    check_head(config, RewardConfig, key)


def _prepare(
    train_pairs: Sequence[PreferencePair],
    held_out_pairs: Sequence[PreferencePair],
    config: ScalarConfig,
    tokenizer: Any,
    key: str,
) -> tuple[dict[str, Any], Rows, Rows, Rows]:
    """Return the report without training results, the trainer's rows for training and held out, and the dropped rows."""
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
    drops = dropped + held_out_dropped
    report = {
        "pairs": len(train_pairs) + len(held_out_pairs),
        "trained": len(rows),
        "truncated": truncated + held_out_truncated,
        "dropped_identical": drops,
        "validation": validation if held_out else None,
    }
    return report, rows, held_out, drops


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
    task: HeadTask, arguments: dict[str, Any], checkpoints: Path, *, held_out: bool = False
) -> Any:
    """Return RewardConfig with the recipe's keys and those that the suite sets itself.

    Raises:
        ConfigError: RewardConfig rejects a value.
    """
    from trl import RewardConfig

    loading: dict[str, Any] = {"revision": task.config.revision, "use_safetensors": True}
    loading |= arguments.get("model_init_kwargs") or {}
    if loading.setdefault("trust_remote_code", False):
        raise ConfigError(
            "a head runs no code of its base",
            location=f"{task.key}.args.model_init_kwargs.trust_remote_code",
            hint="give a base that transformers has a class for",
        )
    # The rows are cut already, and with a `max_length` RewardTrainer silently drops longer ones.
    own = {"model_init_kwargs": loading, "max_length": None}
    return head_args(RewardConfig, task, arguments | own, checkpoints, held_out=held_out)


def _reward_trainer(task: HeadTask, args: Any, rows: Rows, held_out: Rows, tokenizer: Any) -> Any:
    """Return RewardTrainer with the base loaded."""
    from datasets import Dataset
    from trl import RewardTrainer

    try:
        trainer = RewardTrainer(
            model=task.config.model,
            args=args,
            train_dataset=Dataset.from_list(rows),
            eval_dataset=Dataset.from_list(held_out) if held_out else None,
            processing_class=tokenizer,
            peft_config=lora_config(task.config, task.key),
        )
    except (OSError, ValueError) as error:
        raise start_error(error, task) from error
    assert len(trainer.train_dataset) == len(rows), "RewardTrainer dropped pairs"
    return with_callbacks(trainer, task.config)
