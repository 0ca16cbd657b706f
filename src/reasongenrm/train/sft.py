"""SFT of a judge with TRL's SFTTrainer, from the base or from the result of the step before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasongenrm.chat.encoder import load_tokenizer, template_text
from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.config.recipe import POINTWISE, Recipe, TrainStep
from reasongenrm.train.arguments import RESERVED_BY_ALL
from reasongenrm.train.attention import register_packed_attention
from reasongenrm.train.batches import FILLER, PER_DEVICE, batch_sizes, epoch_callback, step_sampler
from reasongenrm.train.margin import margin_trainer, verdict_pattern
from reasongenrm.train.model import LORA_DEFAULTS, choose_attention, load_base, load_policy
from reasongenrm.train.trainer import library_config, process_count, trainer_config

RESERVED = RESERVED_BY_ALL | dict.fromkeys(
    ("completion_only_loss", "assistant_only_loss", "padding_free", "train_sampling_strategy", "chat_template_path"), "remove it here"
) | {"packing": "set train.packing", "gradient_accumulation_steps": "set train.batch, the records of a step"}  # fmt: skip


def step_args(recipe: Recipe, step: TrainStep) -> dict[str, Any]:
    """Return the `trl.SFTConfig` keys of a step."""
    args = recipe.train.args | recipe.judges[step.judge].args
    return args | (recipe.train.round.args if step.kind == "round" else {})


def step_batch(recipe: Recipe, step: TrainStep, processes: int) -> tuple[int, int]:
    """Return the records of a pass and the passes of a process per step; see `batch_sizes`."""
    per_device = step_args(recipe, step).get(PER_DEVICE)
    return batch_sizes(recipe.train.batch, per_device, processes, "train.batch")


def build_trainer(recipe: Recipe, step: TrainStep, work: Path) -> Any:
    """Return TRL's trainer of a step of the kind `sft` or `round`.

    Args:
        recipe: the resolved recipe.
        step: which step.
        work: the folder with `tokens`; checkpoints go there, too.

    Raises:
        ConfigError: a setting that cannot be used with this model or number of processes.
    """
    from datasets import Dataset, concatenate_datasets, load_from_disk
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    register_packed_attention()
    model_config = load_checkpoint(
        "AutoConfig", recipe.model.path, revision=recipe.model.revision,
        trust_remote_code=recipe.model.trust_remote_code, permission="model.trust_remote_code",
    )  # fmt: skip
    kernel, packed = choose_attention(recipe, model_config.get_text_config())
    own = {
        "max_length": None,  # `tokenise` has checked it
        "padding_free": packed,
        "completion_only_loss": True,
    }
    args, batch = step_args(recipe, step), step_batch(recipe, step, process_count())
    config = trainer_config(SFTConfig, "train.args", recipe, work, args, batch, own)
    rows = load_from_disk(str(work / "tokens"))
    lengths = [len(ids) for ids in rows["input_ids"]]
    tokens = recipe.train.round.tokens if step.kind == "round" else recipe.train.tokens
    if tokens:
        config.max_steps = max(1, round(tokens * len(rows) / (sum(lengths) * recipe.train.batch)))
    rows = rows.add_column(config.length_column_name, lengths)
    accumulation = config.gradient_accumulation_steps
    sampler = None  # the trainer's own
    if packed or config.world_size * config.per_device_train_batch_size * accumulation != recipe.train.batch:
        sampler = step_sampler(
            lengths, recipe.train.batch, processes=config.world_size, rank=config.process_index,
            accumulation=accumulation, seed=recipe.seed,
        )  # fmt: skip
        filler = Dataset.from_list([FILLER | {config.length_column_name: 0}], features=rows.features)
        rows = concatenate_datasets([rows, filler])
    tokenizer = load_tokenizer(recipe.model)
    template = recipe.judges[step.judge].template
    tokenizer.chat_template = template_text(recipe.templates[template], key=f"templates.{template}")

    class Trainer(SFTTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return super()._get_train_sampler(train_dataset) if sampler is None else sampler

    trainer_class: Any = Trainer
    margin = recipe.train.margin
    if margin and template != POINTWISE:  # a rating is right or wrong by degrees
        trainer_class = margin_trainer(Trainer, margin, verdict_pattern(recipe, step, tokenizer))
    adapter = None
    if recipe.train.parameters == "lora" and step.previous is None:
        adapter = library_config(LoraConfig, "train.lora", **(LORA_DEFAULTS | recipe.train.lora))
    trainer = trainer_class(
        model=load_policy(recipe, step, kernel) if step.previous else load_base(recipe, kernel),
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=adapter,
    )
    assert len(trainer.train_dataset) == len(rows), "SFTTrainer dropped rows"
    if sampler is not None:
        trainer.add_callback(epoch_callback(sampler))
    return trainer


def training_summary(recipe: Recipe, trainer: Any) -> dict[str, Any]:
    """Return what `training.json` says of the records."""
    args = trainer.args
    lengths = list(filter(None, trainer.train_dataset[args.length_column_name]))  # without FILLER
    tokens, batch = sum(lengths), recipe.train.batch
    epochs = trainer.state.global_step * batch / len(lengths)
    return {
        "records": len(lengths),
        "record_tokens": tokens,
        "batch": batch,
        "steps": trainer.state.global_step,
        "epochs": round(epochs, 4),
        "tokens_seen": round(epochs * tokens),
        "processes": args.world_size,
        "attention": trainer.model.config._attn_implementation,
        "packing": args.padding_free,
    }
