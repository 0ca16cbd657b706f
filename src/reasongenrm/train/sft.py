"""Fine-tune one judge with TRL's SFTTrainer and a peft LoRA adapter; `main` runs in every process of `accelerate launch`."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from reasongenrm.chat.encoder import ADAPTER_PROMPTS, load_tokenizer, template_text, template_wording
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.config.arguments import library_arguments
from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import LISTWISE, Recipe, Template
from reasongenrm.errors import ConfigError, ReasonGenRMError
from reasongenrm.processes import die_with_parent, has_ended
from reasongenrm.store import write_json, write_text
from reasongenrm.train.attention import PACKED, register_packed_attention, supports_packing
from reasongenrm.train.batches import FILLER, PER_DEVICE, batch_sizes, epoch_callback, step_sampler
from reasongenrm.train.launch import STAGE_PROCESS, record_failure
from reasongenrm.train.scalar import check_config
from reasongenrm.train.trainer import check_args, library_config, run_training

RESERVED = dict.fromkeys(
    ("output_dir", "seed", "data_seed", "max_length", "resume_from_checkpoint", "model_init_kwargs",
     "completion_only_loss", "padding_free", "train_sampling_strategy", "chat_template_path", "report_to"),
    "remove it here",
) | {"trust_remote_code": "set model.trust_remote_code", "packing": "set train.packing",
     "gradient_accumulation_steps": "set train.batch, the records of a step"}  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "logging_steps": 5,
    "save_steps": 50,
    "save_total_limit": 2,
    "logging_nan_inf_filter": False,
    "gradient_checkpointing": False,
}
PROGRESS = "progress.jsonl"
"""File in the work folder to which the first training process appends its `TrainingStep`s."""
LORA_DEFAULTS: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": "all-linear"}


def check_training(recipe: Recipe) -> None:
    """Check the pass-through keys of all judges; stage 1 does it, too, so that a typo fails early.

    Raises:
        ConfigError: an unknown or reserved key.
    """
    from peft import LoraConfig
    from trl import SFTConfig

    check_args(LoraConfig, recipe.train.lora, location="train.lora")
    check_args(SFTConfig, recipe.train.args, location="train.args", reserved=RESERVED)
    if recipe.scalar is not None:
        check_config(recipe.scalar)
    for name, judge in recipe.judges.items():
        check_args(SFTConfig, judge.args, location=f"judges.{name}.args", reserved=RESERVED)


def choose_attention(recipe: Recipe, config: Any) -> tuple[str, bool]:
    """Return the attention implementation, and whether records are packed.

    Args:
        recipe: its `train.attention` and `train.packing`.
        config: the model's text config.

    Raises:
        ConfigError: packing is requested, and the model's attention is not plain.
    """
    import torch
    from transformers.utils import is_flash_attn_2_available

    setting, packing = recipe.train.attention, recipe.train.packing
    if setting != "auto":
        separates = setting.startswith(("flash", "flex"))  # the others compute a mask of all tokens with all
        return setting, separates if packing == "auto" else packing
    packable = supports_packing(config, recipe.data.max_tokens)
    if packing is True and not packable:
        raise ConfigError(
            "the model's attention is not plain (a soft cap, or a window shorter than data.max_tokens)",
            location="train.packing",
            hint="set it to auto, or set train.attention=flex_attention",
        )
    if packable and packing:
        return PACKED, True
    return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else "sdpa", False


def _config(recipe: Recipe, name: str, work: Path, packed: bool) -> Any:
    import torch
    from trl import SFTConfig

    args = DEFAULTS | library_arguments(recipe.train.args | recipe.judges[name].args)
    together, accumulation = batch_sizes(recipe, name, int(os.environ.get("WORLD_SIZE", "1")))
    return library_config(
        SFTConfig,
        "train.args",
        **args
        | {
            "output_dir": str(work / "checkpoints"),
            "seed": recipe.seed,
            "data_seed": recipe.seed,
            PER_DEVICE: together,
            "gradient_accumulation_steps": accumulation,
            "max_length": None,  # `tokenise` has checked it
            "padding_free": packed,
            "completion_only_loss": True,
            "bf16": args.get("bf16", recipe.model.dtype == "bfloat16"),
            # accelerate's launcher does not tell the trainer that a DeepSpeed run has CPU processes; without this each
            # process believes that it is the only one.
            "use_cpu": args.get("use_cpu", not torch.cuda.is_available()),
            "report_to": "none",
        },
    )


def load_model(recipe: Recipe, kernel: str) -> Any:
    """Load the base for training."""
    import torch
    from transformers import BitsAndBytesConfig

    options: dict[str, Any] = {}
    dtype = getattr(torch, recipe.model.dtype)
    if recipe.train.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return load_checkpoint(
        "AutoModelForCausalLM", recipe.model.path, revision=recipe.model.revision,
        trust_remote_code=recipe.model.trust_remote_code, permission="model.trust_remote_code",
        dtype=dtype, attn_implementation=kernel, **options,
    )  # fmt: skip


def build_trainer(recipe: Recipe, name: str, work: Path) -> Any:
    """Return TRL's trainer of one judge.

    Args:
        recipe: the resolved recipe.
        name: which judge.
        work: the folder with `tokens`; checkpoints go there, too.

    Raises:
        ConfigError: a setting that cannot be used with this model or number of processes.
    """
    from datasets import Dataset, concatenate_datasets, load_from_disk
    from peft import LoraConfig
    from trl import SFTTrainer

    register_packed_attention()
    model_config = load_checkpoint(
        "AutoConfig", recipe.model.path, revision=recipe.model.revision,
        trust_remote_code=recipe.model.trust_remote_code, permission="model.trust_remote_code",
    )  # fmt: skip
    kernel, packed = choose_attention(recipe, model_config.get_text_config())
    config = _config(recipe, name, work, packed)
    rows = load_from_disk(str(work / "tokens"))
    lengths = [len(ids) for ids in rows["input_ids"]]
    if recipe.train.tokens:
        config.max_steps = max(
            1, round(recipe.train.tokens * len(rows) / (sum(lengths) * recipe.train.batch))
        )
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
    template = recipe.judges[name].template
    tokenizer.chat_template = template_text(recipe.templates[template], key=f"templates.{template}")

    class Trainer(SFTTrainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            return super()._get_train_sampler(train_dataset) if sampler is None else sampler

    trainer = Trainer(
        model=load_model(recipe, kernel),
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=library_config(LoraConfig, "train.lora", **(LORA_DEFAULTS | recipe.train.lora)),
    )
    assert len(trainer.train_dataset) == len(rows), "SFTTrainer dropped rows"
    if sampler is not None:
        trainer.add_callback(epoch_callback(sampler))
    return trainer


def train(recipe: Recipe, name: str, work: Path) -> None:
    """Train one judge; at the end write `work/final` (adapter, tokenizer, chat template, loss).

    Args:
        recipe: the resolved recipe.
        name: which judge.
        work: the folder with `tokens`; checkpoints go there, too, and a killed run resumes from the last whole one.
    """
    trainer = build_trainer(recipe, name, work)
    with (work / PROGRESS).open("a", encoding="utf-8", buffering=1) as progress:
        log = run_training(
            trainer, "train.args", lambda step: progress.write(json.dumps(step._asdict()) + "\n")
        )
    # All processes take part: ZeRO-3 has to gather the weights.
    trainer.save_model(str(work / "final" / "adapter"))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        _finish(trainer, log, work / "final", name, recipe.train.batch)
        write_wording(recipe, recipe.judges[name].template, work / "final" / "adapter" / ADAPTER_PROMPTS)
    trainer.accelerator.wait_for_everyone()


def write_wording(recipe: Recipe, template: Template, path: Path) -> None:
    """Write the prompt file of a trained judge: the recipe's; of a judge of lists, with the wording for lists alone."""
    if template in LISTWISE:
        write_text(path, template_wording(PromptFile.load(recipe.prompts), template).dump())
    else:
        shutil.copyfile(recipe.prompts, path)


def _finish(trainer: Any, log: list[dict[str, Any]], final: Path, name: str, batch: int) -> None:
    """Write the files beside the adapter weights."""
    from reasongenrm.report.charts import loss_curve

    trainer.processing_class.save_pretrained(final / "adapter")
    (final / "adapter" / "training_args.bin").unlink(missing_ok=True)  # a pickle, which is not safe to load
    write_json(final / "loss.json", log)
    loss_curve(log, final / "loss.png", f"{name}: training loss")
    args = trainer.args
    lengths = list(filter(None, trainer.train_dataset[args.length_column_name]))  # without FILLER
    tokens = sum(lengths)
    epochs = trainer.state.global_step * batch / len(lengths)
    write_json(
        final / "training.json",
        {
            "records": len(lengths),
            "record_tokens": tokens,
            "batch": batch,
            "steps": trainer.state.global_step,
            "epochs": round(epochs, 4),
            "tokens_seen": round(epochs * tokens),
            "processes": args.world_size,
            "attention": trainer.model.config._attn_implementation,
            "packing": args.padding_free,
            "final_loss": log[-1]["loss"] if log else None,
        },
    )


def main() -> None:
    """Entry of every training process: `python -m reasongenrm.train.sft RECIPE --judge NAME --work FOLDER`."""
    die_with_parent()
    if has_ended(int(os.environ.get(STAGE_PROCESS, os.getpid()))):  # it was killed while this process started
        sys.exit(f"{STAGE_PROCESS}: the process that launched this one is gone")
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    try:
        train(load_recipe(options.recipe), options.judge, options.work)
    except ReasonGenRMError as error:
        record_failure(options.work, error)
        sys.exit(2)
    except Exception as error:
        record_failure(options.work, error)
        raise


if __name__ == "__main__":
    main()
