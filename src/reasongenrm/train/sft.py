"""Fine-tune one judge with TRL's SFTTrainer and a peft LoRA adapter.

`tokenise` runs once, before anything is launched; `main` runs in every process of `accelerate launch`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reasongenrm.chat.encoder import ADAPTER_PROMPTS, ChatEncoder, load_tokenizer, template_text
from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.errors import DataError, ReasonGenRMError
from reasongenrm.processes import die_with_parent, has_ended
from reasongenrm.records import content_id
from reasongenrm.rows.turns import BadRow, check_text, read_prompt
from reasongenrm.store import read_jsonl, write_json
from reasongenrm.train.scalar import check_config
from reasongenrm.train.trainer import check_args, library_config, run_training

RESERVED = ("output_dir", "seed", "data_seed", "max_length", "resume_from_checkpoint", "model_init_kwargs",
            "completion_only_loss", "packing", "padding_free", "chat_template_path", "report_to")  # fmt: skip
DEFAULTS: dict[str, Any] = {
    "logging_steps": 5,
    "save_steps": 50,
    "save_total_limit": 2,
    "logging_nan_inf_filter": False,
    "gradient_checkpointing": False,
}
STAGE_PROCESS = "REASONGENRM_STAGE_PROCESS"
"""Environment variable with the process id of the stage that launched a training process."""
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


def record_files(recipe: Recipe, name: str) -> list[Path]:
    """Return the record files a judge is trained on: those of its template, and general data for a wGen judge."""
    judge = recipe.judges[name]
    names = ["genrm.jsonl" if judge.template == "direct" else "sft.jsonl"]
    return [recipe.folder / file for file in ([*names, "general.jsonl"] if judge.general else names)]


def training_rows(
    files: Sequence[Path], encoder: ChatEncoder, max_tokens: int
) -> Iterator[dict[str, list[int]]]:
    """Yield `input_ids` and `completion_mask` (1 on reason, header and verdict) of every record.

    A record's `prompt` is a list of messages, or a string: one user turn.

    Raises:
        DataError: a record without prompt, reason and response, or longer than `max_tokens`, which would make the
            trainer cut off the verdict; names `file:line`.
    """
    for file in files:
        for line, row in enumerate(read_jsonl(file), 1):
            location = f"{file}:{line}"
            try:
                prompt = read_prompt(row.get("prompt"), "prompt")
                reason, response = (check_text(row.get(key), key) for key in ("reason", "response"))
            except BadRow as error:
                raise DataError(
                    error.detail, location=location, hint="see sft.jsonl for the columns"
                ) from None
            prompt_ids, completion_ids = encoder.record(prompt, reason, response)
            ids = prompt_ids + completion_ids
            if len(ids) > max_tokens:
                raise DataError(
                    f"{len(ids)} tokens, more than data.max_tokens = {max_tokens}",
                    location=location,
                    hint="raise data.max_tokens, or remove the record from the file",
                )
            yield {"input_ids": ids, "completion_mask": [0] * len(prompt_ids) + [1] * len(completion_ids)}


def tokenise(recipe: Recipe, name: str, encoder: ChatEncoder, work: Path) -> None:
    """Tokenise a judge's records into `work/tokens` (a `datasets` folder), once.

    Raises:
        DataError: no records, or one that is too long.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    target = work / "tokens"
    if target.exists():
        return
    files = record_files(recipe, name)
    if not any(file.stat().st_size for file in files):
        raise DataError("no records to train on", location=str(files[0]), hint="see data_report.html for why")
    try:
        rows = Dataset.from_generator(
            training_rows,
            gen_kwargs={"files": tuple(files), "encoder": encoder, "max_tokens": recipe.data.max_tokens},
            cache_dir=str(work / "cache"),
            fingerprint=content_id("tokens", name, recipe.name),
        )
    except DatasetGenerationError as error:
        raise error.__cause__ or error from None
    temporary = work / "tokens.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    rows.save_to_disk(str(temporary))
    temporary.rename(target)
    shutil.rmtree(work / "cache", ignore_errors=True)


def attention(setting: str) -> str:
    """Return the attention implementation: for `auto` flash attention where it is installed, else PyTorch's."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    if setting != "auto":
        return setting
    return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else "sdpa"


def _config(recipe: Recipe, name: str, work: Path, kernel: str) -> Any:
    import torch
    from trl import SFTConfig

    args = DEFAULTS | recipe.train.args | recipe.judges[name].args
    return library_config(
        SFTConfig,
        "train.args",
        output_dir=str(work / "checkpoints"),
        seed=recipe.seed,
        data_seed=recipe.seed,
        max_length=recipe.data.max_tokens,
        completion_only_loss=True,
        # Rows packed into one sequence attend to each other unless the kernel separates them.
        packing=kernel.startswith("flash_attention"),
        bf16=args.pop("bf16", recipe.model.dtype == "bfloat16"),
        # accelerate's launcher does not tell the trainer that a DeepSpeed run has CPU processes; without this each
        # process believes that it is the only one.
        use_cpu=args.pop("use_cpu", not torch.cuda.is_available()),
        report_to="none",
        **args,
    )


def train(recipe: Recipe, name: str, work: Path) -> None:
    """Train one judge; at the end write `work/final` (adapter, tokenizer, chat template, loss).

    Args:
        recipe: the resolved recipe.
        name: which judge.
        work: the folder with `tokens`; checkpoints go there, too, and a killed run resumes from the last whole one.
    """
    import torch
    from datasets import load_from_disk
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import SFTTrainer

    kernel = attention(recipe.train.attention)
    config = _config(recipe, name, work, kernel)
    rows = load_from_disk(str(work / "tokens"))
    if recipe.train.tokens:
        mean_tokens = sum(map(len, rows["input_ids"])) / len(rows)
        config.max_steps = max(1, round(recipe.train.tokens / (mean_tokens * _rows_per_step(config))))
    tokenizer = load_tokenizer(recipe.model)
    template = recipe.judges[name].template
    tokenizer.chat_template = template_text(recipe.templates[template], key=f"templates.{template}")
    model = AutoModelForCausalLM.from_pretrained(
        recipe.model.path, revision=recipe.model.revision, trust_remote_code=recipe.model.trust_remote_code,
        dtype=getattr(torch, recipe.model.dtype), attn_implementation=kernel, use_safetensors=True,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
        peft_config=library_config(LoraConfig, "train.lora", **(LORA_DEFAULTS | recipe.train.lora)),
    )
    assert config.packing or len(trainer.train_dataset) == len(rows), "SFTTrainer dropped rows"
    with (work / PROGRESS).open("a", encoding="utf-8", buffering=1) as progress:
        log = run_training(
            trainer, "train.args", lambda step: progress.write(json.dumps(step._asdict()) + "\n")
        )
    # All processes take part: ZeRO-3 has to gather the weights.
    trainer.save_model(str(work / "final" / "adapter"))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        _finish(trainer, log, work / "final", name, rows, kernel)
        shutil.copyfile(recipe.prompts, work / "final" / "adapter" / ADAPTER_PROMPTS)
    trainer.accelerator.wait_for_everyone()


def _finish(trainer: Any, log: list[dict[str, Any]], final: Path, name: str, rows: Any, kernel: str) -> None:
    """Write the files beside the adapter weights."""
    from reasongenrm.report.charts import loss_curve

    trainer.processing_class.save_pretrained(final / "adapter")
    (final / "adapter" / "training_args.bin").unlink(missing_ok=True)  # a pickle, which is not safe to load
    write_json(final / "loss.json", log)
    loss_curve(log, final / "loss.png", f"{name}: training loss")
    tokens = sum(map(len, rows["input_ids"]))
    rows_seen = trainer.state.global_step * _rows_per_step(trainer.args)
    write_json(
        final / "training.json",
        {
            "records": len(rows),
            "record_tokens": tokens,
            "steps": trainer.state.global_step,
            "epochs": round(rows_seen / len(rows), 4),
            "tokens_seen": round(rows_seen * tokens / len(rows)),
            "processes": trainer.args.world_size,
            "attention": kernel,
            "packing": trainer.args.packing,
            "final_loss": log[-1]["loss"] if log else None,
        },
    )


def _rows_per_step(config: Any) -> int:
    return config.per_device_train_batch_size * config.gradient_accumulation_steps * config.world_size


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
        if os.environ.get("RANK", "0") == "0":
            write_json(options.work / "error.json", {"kind": type(error).__name__} | vars(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
