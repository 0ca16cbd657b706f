"""DPO of a judge with TRL's DPOTrainer, on pairs of reasons with their verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasongenrm.chat.encoder import load_tokenizer
from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.train.arguments import RESERVED_BY_ALL
from reasongenrm.train.batches import PER_DEVICE, even_batch_sizes
from reasongenrm.train.guards import REFERENCE
from reasongenrm.train.model import load_base, load_policy, unpacked_attention
from reasongenrm.train.trainer import inherited_args, process_count, trainer_config

RESERVED = (
    RESERVED_BY_ALL
    | dict.fromkeys(("truncation_mode", "sync_ref_model", "padding_free"), "remove it here")
    | {"gradient_accumulation_steps": "set train.dpo.batch, the pairs of a step"}
)

DPO_DEFAULTS: dict[str, Any] = {"beta": 0.1, "learning_rate": 5.0e-6}
"""β of Rafailov et al. (2023), section 6 and appendix B; the learning rate of a LoRA adapter."""


def step_args(recipe: Recipe, step: TrainStep) -> dict[str, Any]:
    """Return the `trl.DPOConfig` keys of a step."""
    return DPO_DEFAULTS | inherited_args(recipe, step) | recipe.train.dpo.args


def step_batch(recipe: Recipe, step: TrainStep, processes: int) -> tuple[int, int]:
    """Return the pairs of a pass and the passes of a process per step; see `even_batch_sizes`."""
    per_device = step_args(recipe, step).get(PER_DEVICE)
    return even_batch_sizes(recipe.train.dpo.batch, per_device, processes, "train.dpo.batch")


def build_trainer(recipe: Recipe, step: TrainStep, work: Path) -> Any:
    """Return TRL's trainer of a step of the kind `dpo`.

    The reference is a frozen copy of the adapter, or the model, that the step starts from, or the base.

    Args:
        recipe: the resolved recipe.
        step: which step.
        work: the folder with `tokens`; checkpoints go there, too.

    Raises:
        ConfigError: a setting that cannot be used with this number of processes.
    """
    from datasets import load_from_disk
    from trl import DPOConfig, DPOTrainer

    settings = recipe.train.dpo
    config = trainer_config(
        DPOConfig, "train.dpo.args", recipe, work, step_args(recipe, step), step_batch(recipe, step, process_count()),
        {"max_length": None},  # `tokenise` has checked it
    )  # fmt: skip
    kernel, reference = unpacked_attention(recipe), None
    if recipe.train.parameters == "all":
        reference = (
            load_base(recipe, kernel) if settings.reference == "base" else load_policy(recipe, step, kernel)
        )

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # `tokenise` has made the ids, contents apart from structure

    trainer = Trainer(
        model=load_policy(recipe, step, kernel),
        ref_model=reference,
        args=config,
        train_dataset=load_from_disk(str(work / "tokens")),
        processing_class=load_tokenizer(recipe.model),
    )
    if reference is None and settings.reference == "base":
        trainer.accelerator.unwrap_model(trainer.model).delete_adapter(REFERENCE)
    return trainer


def training_summary(recipe: Recipe, trainer: Any) -> dict[str, Any]:
    """Return what `training.json` says of the records."""
    rows, steps, batch = trainer.train_dataset, trainer.state.global_step, recipe.train.dpo.batch
    # Both sides of a pair hold the prompt.
    tokens = sum(
        2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"]) for row in rows
    )
    epochs = steps * batch / len(rows)
    return {
        "records": len(rows),
        "record_tokens": tokens,
        "batch": batch,
        "steps": steps,
        "epochs": round(epochs, 4),
        "tokens_seen": round(epochs * tokens),
        "processes": trainer.args.world_size,
        "attention": trainer.model.config._attn_implementation,
        "packing": False,
    }
