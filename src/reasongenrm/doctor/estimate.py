"""Memory and hours of a recipe on a GPU, from formulas; docs/gpu.md explains them, and `doctor --measure` measures.

Sources: for operations see `metrics.flops`. 16 bytes per trained weight, and their shares under ZeRO: Rajbhandari et al.
2020 (arXiv 1910.02054), section 3. Saved activations: the method of Korthikanti et al. 2022 (arXiv 2205.05198), section 4, for the layers of Llama and Qwen
with flash attention. A decode step reads every weight and the KV cache of all sequences once: Pope et al. 2022 (arXiv
2211.05102), section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from reasongenrm.config.engines import EngineConfig
from reasongenrm.config.recipe import Recipe
from reasongenrm.doctor.geometry import DTYPE_BYTES, Geometry
from reasongenrm.metrics.flops import Card, forward_flops, training_flops
from reasongenrm.report.tables import TextTable

GIB = 2**30

SERVING_OVERHEAD = 2.0
"""GiB that vLLM takes besides weights and KV cache: the CUDA context, CUDA graphs, the activations of a batch (assumed)."""

TRAINING_OVERHEAD = 2.0
"""GiB that a training process takes besides weights, optimizer and activations: the CUDA context, communication buffers
and fragmentation (assumed)."""

NF4_BYTES = 0.516
"""Bytes of a weight in NF4 with double quantization: 4 + 0.127 bits (Dettmers et al. 2023, arXiv 2305.14314, section 3)."""

LOGIT_BYTES = 14
"""Bytes per token and entry of the vocabulary while the loss is computed: the logits in 16 bits, and in float32 a copy,
its log-softmax and its gradient."""

SEQUENCES = 256
"""Sequences decoded together where `engine.max_num_seqs` is not set (assumed: vLLM's default depends on the GPU)."""

REASON_TOKENS = 300
"""Tokens of a reason, where an eighth of its limit is not more (assumed; see `reason_tokens`)."""

VERDICT_TOKENS = 8
"""Tokens of a verdict, with its header."""

CHARACTERS_PER_TOKEN = 4
"""Of judged text (assumed)."""

MATRIX_SHARE = {"prefill": 0.5, "training": 0.4}
"""Share of the data sheet's matrix rate that is reached (assumed)."""

BANDWIDTH_SHARE = 0.5
"""Share of the data sheet's memory bandwidth that decoding reaches (assumed)."""

ASSUMED = (
    f"assumed: reasons of {REASON_TOKENS} tokens, or an eighth of their limit, {CHARACTERS_PER_TOKEN} characters per token, {MATRIX_SHARE['prefill']:.0%} of a "
    f"GPU's matrix rate in prefill and scoring, {MATRIX_SHARE['training']:.0%} in training, {BANDWIDTH_SHARE:.0%} of its memory "
    "bandwidth in decoding; formulas: docs/gpu.md"
)


def reason_tokens(limit: int) -> int:
    """Return the assumed mean tokens of a reason under a limit: an eighth of it, and at least REASON_TOKENS.

    Under 4,096 tokens reasons converge at about 500 (J1, arXiv 2505.10320v3, section 4.2 and figure 5).
    """
    return min(limit, max(REASON_TOKENS, limit // 8))


def adapter_parameters(geometry: Geometry, lora: Mapping[str, Any]) -> int:
    """Return the number of weights of the adapter that `train.lora` describes.

    Raises:
        ConfigError: `target_modules` cannot be used, or is null and peft has no default for the model.
    """
    return geometry.adapter_parameters(lora.get("r", 8), lora.get("target_modules", "all-linear"))


@dataclass(frozen=True, slots=True)
class ServingMemory:
    """Memory of vLLM on each of the GPUs that share a model.

    Attributes:
        weights: GiB.
        cache: GiB left for the KV cache; below 0 where the weights do not fit.
        tokens: how many tokens the cache holds.
    """

    weights: float
    cache: float
    tokens: int


def serving_memory(geometry: Geometry, dtype: str, engine: EngineConfig, card: Card) -> ServingMemory:
    """Return the memory of vLLM on one of `tensor_parallel` GPUs."""
    split = engine.tensor_parallel
    weights = geometry.parameters * DTYPE_BYTES[dtype] / split / GIB
    cache = card.memory_gib * engine.gpu_memory_utilization - weights - SERVING_OVERHEAD
    # Where there are more GPUs than KV heads, each head is on several of them.
    token = geometry.kv_bytes(DTYPE_BYTES[dtype]) / min(split, geometry.kv_heads)
    return ServingMemory(weights, cache, max(0, int(cache * GIB / token)))


@dataclass(frozen=True, slots=True)
class TrainingMemory:
    """Memory of one training process, in GiB.

    Attributes:
        weights: of the base.
        optimizer: trained weights, their gradients and Adam's state.
        activations: what the backward pass needs.
        logits: the largest part of the loss.
    """

    weights: float
    optimizer: float
    activations: float
    logits: float

    @property
    def total(self) -> float:
        """All parts, and TRAINING_OVERHEAD."""
        return self.weights + self.optimizer + self.activations + self.logits + TRAINING_OVERHEAD


def zero_stage(launch: str) -> int:
    """Return the ZeRO stage of an accelerate config, 0 without DeepSpeed or where it cannot be read."""
    path = Path(launch)
    file = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return int((file or {}).get("deepspeed_config", {}).get("zero_stage", 0))


def training_memory(
    geometry: Geometry,
    recipe: Recipe,
    *,
    tokens: int,
    processes: int,
    stage: int,
    logit_tokens: int | None = None,
    checkpointing: bool | None = None,
) -> TrainingMemory:
    """Return the memory of a training process.

    Args:
        geometry: of the base.
        recipe: its `model.dtype` and `train`.
        tokens: of the records that a process computes together.
        processes: among which ZeRO splits.
        stage: of ZeRO; 0: nothing is split.
        logit_tokens: of those, the tokens whose logits are computed; None: all.
        checkpointing: of gradients; None: as `train.args` says.
    """
    train, value_bytes = recipe.train, DTYPE_BYTES[recipe.model.dtype]
    adapter, split = train.parameters == "lora", processes if stage == 3 else 1
    linear = sum(inputs * outputs for _, inputs, outputs in geometry.linears)
    base = float(geometry.parameters * value_bytes)
    if train.quantization == "nf4":
        base = (geometry.parameters - linear) * value_bytes + linear * NF4_BYTES
    own = trained_bytes(stage, processes)
    if adapter:
        optimizer = own * adapter_parameters(geometry, train.lora)
    else:  # the weights of the base are the trained ones
        optimizer = own * geometry.parameters - base / split
    layer = tokens * layer_bytes(geometry, value_bytes, adapter=adapter)
    inputs = tokens * geometry.hidden * value_bytes * geometry.layers
    if checkpointing is None:
        checkpointing = bool(train.args.get("gradient_checkpointing", False))
    activations = inputs + layer if checkpointing else layer * geometry.layers
    return TrainingMemory(
        base / split / GIB,
        optimizer / GIB,
        activations / GIB,
        (tokens if logit_tokens is None else logit_tokens) * geometry.vocabulary * LOGIT_BYTES / GIB,
    )


def trained_bytes(stage: int, processes: int) -> float:
    """Return the bytes of a trained weight on a process under a ZeRO stage: the weight and its gradient in 16 bits, and in
    float32 a copy and two moments."""
    return {0: 16.0, 1: 4 + 12 / processes, 2: 2 + 14 / processes, 3: 16 / processes}[stage]


def layer_bytes(geometry: Geometry, value_bytes: int, *, adapter: bool = True) -> int:
    """Return the bytes per token that a layer keeps for the backward pass: inputs of norms, projections and products.

    peft keeps an adapter in float32; for a base of 16 bits it also keeps the inputs of its seven layers in float32
    (`adapter`: whether one is trained).
    """
    hidden, inner = geometry.hidden, geometry.intermediate
    kept = 8 * hidden + 2 * geometry.kv_heads * geometry.head_dim + 4 * inner
    return value_bytes * kept + (4 * (6 * hidden + inner) if adapter and value_bytes == 2 else 0)


@dataclass(frozen=True, slots=True)
class Work:
    """One step of a stage.

    Attributes:
        name: such as `sampling by student`.
        kind: what is computed; `served`: sampling on a server, whose hours are not estimated; `rollouts`: sampling by a training of GRPO.
        prompts: number of prompts, or of records of all epochs.
        prompt_tokens: mean tokens of one.
        continuations: sampled or scored after each prompt.
        new_tokens: mean tokens of a continuation.
    """

    name: str
    kind: Literal["sampling", "rollouts", "scoring", "training", "served"]
    prompts: int
    prompt_tokens: float
    continuations: int = 0
    new_tokens: float = 0


def hours(work: Work, geometry: Geometry, recipe: Recipe, card: Card, gpus: int) -> float | None:
    """Return the hours of a step; None where the model does not fit.

    Args:
        work: the step.
        geometry: of its model.
        recipe: its engine, dtype and training.
        card: the GPU.
        gpus: how many compute together: the processes of a training, or `tensor_parallel`.
    """
    rate = card.tflops * 1e12 * gpus
    length = work.prompt_tokens + work.new_tokens
    if work.kind == "training":
        checkpointing = bool(recipe.train.args.get("gradient_checkpointing", False))
        flops = training_flops(geometry, work.prompts * length, length, checkpointing=checkpointing)
        if recipe.train.parameters == "all":  # the gradients of the weights, too
            flops += 2 * geometry.multiplied * work.prompts * length
        return flops / (rate * MATRIX_SHARE["training"]) / 3600
    prompt_flops = forward_flops(geometry, work.prompts * work.prompt_tokens, work.prompt_tokens)
    new_tokens = work.prompts * work.continuations * work.new_tokens
    if work.kind == "scoring":
        prompt_flops += forward_flops(geometry, new_tokens, length)
        return prompt_flops / (rate * MATRIX_SHARE["prefill"]) / 3600
    memory = serving_memory(geometry, recipe.model.dtype, recipe.engine, card)
    together = min(
        recipe.engine.max_num_seqs or SEQUENCES,
        memory.tokens // max(1, round(length)),
        max(1, work.prompts * work.continuations),
    )
    if together < 1:
        return None
    value_bytes = DTYPE_BYTES[recipe.model.dtype]
    context = work.prompt_tokens + work.new_tokens / 2
    read = geometry.multiplied * value_bytes + together * context * geometry.kv_bytes(value_bytes)
    step = max(
        read / (card.bandwidth * 1e12 * gpus * BANDWIDTH_SHARE),
        forward_flops(geometry, together, context) / (rate * MATRIX_SHARE["prefill"]),
    )
    return (new_tokens / together * step + prompt_flops / (rate * MATRIX_SHARE["prefill"])) / 3600


def estimate_table(
    recipe: Recipe, geometry: Geometry, works: Sequence[Work], cards: Sequence[tuple[Card, int]]
) -> TextTable:
    """Return the memory of vLLM and the hours of stage 1 or 3, one row per kind of GPU; for stage 2 see `chain_table`.

    Args:
        recipe: the resolved recipe.
        geometry: of the student.
        works: the steps of the stage.
        cards: GPUs, and how many of each.
    """
    local = [work for work in works if work.kind != "served"]
    headings = ("GPUs", "GiB each", "weights", "KV cache", "KV tokens", *(f"h {work.name}" for work in local))
    rows = []
    for card, count in cards:
        served = serving_memory(geometry, recipe.model.dtype, recipe.engine, card)
        fits = served.tokens > 0 and count >= recipe.engine.tensor_parallel
        cells = [f"{count} × {card.name}", f"{card.memory_gib:.0f}", f"{served.weights:.1f}"]
        cells += [f"{max(0, served.cache):.1f}", f"{served.tokens:,}"]
        for work in local:
            together = recipe.engine.tensor_parallel
            if work.kind == "scoring" and recipe.select.scorer == "transformers":
                together = 1
            time = hours(work, geometry, recipe, card, together) if fits else None
            if time is not None:
                time /= worker_number(recipe, count, together)
            cells.append("does not fit" if time is None else f"{time:.2f}")
        rows.append(tuple(cells))
    served_notes = (
        f"{work.name}: {work.prompts * work.continuations * work.new_tokens / 1e6:,.0f} M tokens, on its server"
        for work in works if work.kind == "served"
    )  # fmt: skip
    return TextTable(headings, tuple(rows), notes=(*served_notes, ASSUMED))


def worker_number(recipe: Recipe, visible: int, gpus: int) -> int:
    """Return how many workers of so many GPUs compute side by side, where so many are visible."""
    room = max(1, visible // gpus)
    return room if recipe.engine.workers == "auto" else min(room, recipe.engine.workers)
