"""Merge a LoRA adapter into its base."""

from __future__ import annotations

from pathlib import Path

from reasongenrm.checkpoints import load_adapter, load_checkpoint
from reasongenrm.config.engines import ModelConfig


def merge_adapter(model: ModelConfig, adapter: Path, out: Path) -> None:
    """Write the base with the adapter merged in, with tokenizer and chat template, as safetensors.

    Args:
        model: the base the adapter was trained on.
        adapter: folder saved by peft.
        out: the folder to write; it appears when it is complete.
    """
    import torch

    base = load_checkpoint(
        "AutoModelForCausalLM",
        model.path,
        revision=model.revision,
        dtype=getattr(torch, model.dtype),
        trust_remote_code=model.trust_remote_code,
        permission="model.trust_remote_code",
    )
    merged = load_adapter(base, adapter).merge_and_unload()
    temporary = out.with_name(out.name + ".tmp")
    merged.save_pretrained(temporary)
    load_checkpoint("AutoTokenizer", adapter).save_pretrained(temporary)
    temporary.rename(out)
