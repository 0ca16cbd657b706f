"""Sizes of a causal language model, from its config alone: no weights are read, and its layers are built on the meta device."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.config.engines import ModelConfig, check_model
from reasongenrm.errors import ConfigError, EngineError, first_line

QWEN: dict[str, dict[str, Any]] = {
    "0.5b": dict(hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14, num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True),
    "1.5b": dict(hidden_size=1536, intermediate_size=8960, num_hidden_layers=28, num_attention_heads=12, num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True),
    "3b": dict(hidden_size=2048, intermediate_size=11008, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2, vocab_size=151936, tie_word_embeddings=True),
    "7b": dict(hidden_size=3584, intermediate_size=18944, num_hidden_layers=28, num_attention_heads=28, num_key_value_heads=4, vocab_size=152064, tie_word_embeddings=False),
    "14b": dict(hidden_size=5120, intermediate_size=13824, num_hidden_layers=48, num_attention_heads=40, num_key_value_heads=8, vocab_size=152064, tie_word_embeddings=False),
    "32b": dict(hidden_size=5120, intermediate_size=27648, num_hidden_layers=64, num_attention_heads=40, num_key_value_heads=8, vocab_size=152064, tie_word_embeddings=False),
    "72b": dict(hidden_size=8192, intermediate_size=29568, num_hidden_layers=80, num_attention_heads=64, num_key_value_heads=8, vocab_size=152064, tie_word_embeddings=False),
}  # fmt: skip
"""Size -> config of Qwen2.5 (the config.json of each model on the hub), for machines without a network."""

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a model.

    Attributes:
        name: hub id or folder.
        parameters: number of weights; tied ones count once.
        table: number of them in an input embedding that is not the output head, too: they are looked up, not multiplied.
        linears: name, inputs and outputs of each linear layer but the output head.
        hidden, intermediate, layers, heads, kv_heads, head_dim, vocabulary, model_type: as in the model's config.
    """

    name: str
    parameters: int
    table: int
    linears: tuple[tuple[str, int, int], ...]
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    model_type: str

    @property
    def multiplied(self) -> int:
        """Number of weights that a token is multiplied with."""
        return self.parameters - self.table

    def kv_bytes(self, value_bytes: int) -> int:
        """Return the bytes of a token in the KV cache: a key and a value per layer and KV head."""
        return 2 * self.layers * self.kv_heads * self.head_dim * value_bytes

    def splits(self, most: int) -> list[int]:
        """Return the numbers of GPUs, up to `most`, among which vLLM can divide heads and KV heads."""
        heads, kv_heads = self.heads, self.kv_heads
        numbers = range(1, min(most, heads) + 1)
        return [n for n in numbers if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)]

    def adapter_parameters(self, rank: int, targets: Any = "all-linear") -> int:
        """Return the number of weights of a LoRA adapter: A and B of each target.

        Args:
            rank: the adapter's.
            targets: `target_modules` of peft: `all-linear`, a list of endings of names, a pattern, or None for peft's default
                for this type of model.

        Raises:
            ConfigError: peft has no default, or it is something else.
        """
        if targets is None:
            targets = self._default_targets()
        try:
            pattern = re.compile(targets) if isinstance(targets, str) else None
        except re.error as error:
            raise _targets_error(f"not a pattern: {targets!r}: {error}") from None
        if pattern is None and not isinstance(targets, Collection):
            raise _targets_error(f"{targets!r} is neither a list of names nor a pattern")

        def is_target(name: str) -> bool:
            if pattern is not None:
                return targets == "all-linear" or pattern.fullmatch(name) is not None
            return any(name == target or name.endswith(f".{target}") for target in targets)

        return sum(rank * (inputs + outputs) for name, inputs, outputs in self.linears if is_target(name))

    def _default_targets(self) -> Collection[str]:
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS

        if self.model_type not in DEFAULTS:
            raise _targets_error(f"peft has no default for a model of the type {self.model_type}")
        targets: Collection[str] = DEFAULTS[self.model_type]
        return targets

    def describe(self) -> str:
        """Return the sizes in one line."""
        count, cache = self.parameters, f"{self.kv_bytes(2) / 1024:g} KiB of KV cache per token in 16 bits"
        size = f"{count / 1e9:.2f}B" if count >= 1e9 else f"{count / 1e6:.2f}M"
        heads = f"{self.heads} heads, {self.kv_heads} KV heads"
        return f"{self.name}: {size} parameters, {self.layers} layers, {heads}, {cache}"


def _targets_error(problem: str) -> ConfigError:
    hint = "give a list of names of layers, or all-linear"
    return ConfigError(problem, location="train.lora.target_modules", hint=hint)


def read_config(model: ModelConfig) -> Any:
    """Return a model's `transformers` config: from its folder, the hub's cache, the table above, or the hub.

    Raises:
        EngineError: the folder is missing, or the config cannot be loaded.
    """
    from transformers import Qwen2Config

    check_model(model.path, key="model.path")
    options: dict[str, Any] = dict(
        revision=model.revision,
        trust_remote_code=model.trust_remote_code,
        permission="model.trust_remote_code",
    )
    known = re.fullmatch(r"Qwen/Qwen2\.5-([\d.]+B)(-Instruct)?", model.path)
    try:
        if known is None:
            return load_checkpoint("AutoConfig", model.path, **options)
        return load_checkpoint("AutoConfig", model.path, local_files_only=True, **options)
    except (OSError, ValueError) as error:
        if known and known[1].lower() in QWEN and not Path(model.path).is_dir():
            return Qwen2Config(
                architectures=["Qwen2ForCausalLM"], max_position_embeddings=32768, rope_theta=1_000_000.0,
                **QWEN[known[1].lower()],
            )  # fmt: skip
        raise EngineError(
            f"cannot load the config of {model.path}: {first_line(error)}",
            location="model.path",
            hint="check the path, the revision and the network",
        ) from None


def read_geometry(model: ModelConfig) -> Geometry:
    """Return the sizes of a model.

    Raises:
        EngineError: its config cannot be loaded, or is not that of a causal language model.
    """
    config = read_config(model)
    try:
        return geometry_of(config, model.path, trust_remote_code=model.trust_remote_code)
    except (ValueError, AttributeError) as error:
        hint = "give a causal language model"
        raise EngineError(first_line(error), location="model.path", hint=hint) from None


def geometry_of(config: Any, name: str, *, trust_remote_code: bool = False) -> Geometry:
    """Return the sizes of the model that `transformers` builds for a config; see `read_geometry`."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    text = config.get_text_config()
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    tied = head is None or bool(getattr(text, "tie_word_embeddings", False))
    total = sum(weights.numel() for weights in model.parameters())
    if tied and head is not None and head.weight is not inputs.weight:
        total -= head.weight.numel()  # tied only when weights are loaded
    heads = text.num_attention_heads
    return Geometry(
        name=name,
        parameters=total,
        table=0 if tied else inputs.weight.numel(),
        linears=tuple(
            (path, module.in_features, module.out_features)
            for path, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and module is not head
        ),
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        layers=text.num_hidden_layers,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
        model_type=config.model_type,
    )
