"""Load what a training step starts from: the base, and the adapter of the step before it."""

from __future__ import annotations

from typing import Any

from reasongenrm.checkpoints import load_adapter, load_checkpoint
from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.errors import ConfigError
from reasongenrm.train.attention import PACKED, supports_packing

LORA_DEFAULTS: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": "all-linear"}


def choose_attention(recipe: Recipe, config: Any) -> tuple[str, bool]:
    """Return the attention implementation, and whether records are packed.

    Args:
        recipe: its `train.attention` and `train.packing`.
        config: the model's text config.

    Raises:
        ConfigError: packing is requested, and the model's attention is not plain.
    """
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
    return unpacked_attention(recipe), False


def unpacked_attention(recipe: Recipe) -> str:
    """Return the attention implementation of a step whose rows are padded."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    if recipe.train.attention != "auto":
        return recipe.train.attention
    return "flash_attention_2" if torch.cuda.is_available() and is_flash_attn_2_available() else "sdpa"


def load_base(recipe: Recipe, kernel: str) -> Any:
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


def load_policy(recipe: Recipe, step: TrainStep, kernel: str) -> Any:
    """Load the base with the adapter of the step before, whose weights are trained on.

    Args:
        recipe: the resolved recipe.
        step: a step that has a `previous` one.
        kernel: attention implementation.

    Raises:
        EngineError: the adapter is not a LoRA adapter.
    """
    assert step.previous is not None
    folder = recipe.folder / "judges" / step.previous / "adapter"
    return load_adapter(load_base(recipe, kernel), folder, trainable=True)
