"""Merge a LoRA adapter into its base."""

from __future__ import annotations

from pathlib import Path

from reasongenrm.config.engines import ModelConfig


def merge_adapter(model: ModelConfig, adapter: Path, out: Path) -> None:
    """Write the base with the adapter merged in, with tokenizer and chat template, as safetensors.

    Args:
        model: the base the adapter was trained on.
        adapter: folder saved by peft.
        out: the folder to write; it appears when it is complete.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(
        model.path,
        revision=model.revision,
        dtype=getattr(torch, model.dtype),
        trust_remote_code=model.trust_remote_code,
        use_safetensors=True,
    )
    merged = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    temporary = out.with_name(out.name + ".tmp")
    merged.save_pretrained(temporary)
    AutoTokenizer.from_pretrained(str(adapter)).save_pretrained(temporary)
    temporary.rename(out)
