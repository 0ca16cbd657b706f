"""Load what a training step starts from: the base, and the adapter or the model of the step before it."""

from __future__ import annotations

import os
from typing import Any

from reasongenrm.chat.encoder import check_judge
from reasongenrm.checkpoints import load_adapter, load_checkpoint
from reasongenrm.config.engines import ModelConfig
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
    return _load(recipe, recipe.model, kernel)


def _load(recipe: Recipe, model: ModelConfig, kernel: str) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    options: dict[str, Any] = {}
    dtype = getattr(torch, model.dtype)
    if recipe.train.parameters == "all" and os.environ.get("ACCELERATE_USE_DEEPSPEED") != "true":
        # The update of a weight is smaller than the steps of 16 bits; DeepSpeed keeps a copy in float32, others do not.
        dtype = torch.float32
    if recipe.train.quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return load_checkpoint(
        "AutoModelForCausalLM", model.path, revision=model.revision, trust_remote_code=model.trust_remote_code, permission="model.trust_remote_code",
        dtype=dtype, attn_implementation=kernel, **options,
    )  # fmt: skip


def load_policy(recipe: Recipe, step: TrainStep, kernel: str) -> Any:
    """Load what the step before has trained, to train it on: the base with its adapter, or its model.

    Args:
        recipe: the resolved recipe.
        step: a step that has a `previous` one.
        kernel: attention implementation.

    Raises:
        EngineError: the adapter is not a LoRA adapter, or is not of this base and chat template.
    """
    assert step.previous is not None
    check_judge(recipe, step.previous)
    model, adapter = recipe.serving(step.previous)
    policy = _load(recipe, model, kernel)
    return policy if adapter is None else load_adapter(policy, adapter, trainable=True)
