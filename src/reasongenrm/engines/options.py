"""vLLM's arguments and environment, by recipe and device; which keys to change where memory is short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reasongenrm.config.engines import EngineConfig, ModelConfig
from reasongenrm.errors import EngineError

CPU_SEQUENCES = 256
"""Sequences decoded at the same time on a CPU, unless the recipe names another number."""


def has_gpu() -> bool:
    """Whether vLLM runs on a GPU here; `torch.cuda.is_available()` would spoil the workers that vLLM forks for
    `tensor_parallel`."""
    import torch

    return bool(torch.cuda.device_count())


def engine_environment(config: EngineConfig, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that vLLM reads when it is imported; those that are set already are kept.

    Raises:
        EngineError: `batch_invariant` without a GPU.
    """
    variables = {"VLLM_NO_USAGE_STATS": "1"}
    if not has_gpu():
        variables["VLLM_CPU_KVCACHE_SPACE"] = str(config.cpu_kv_gib)
    missing = {name: value for name, value in variables.items() if name not in environment}
    if not config.batch_invariant:
        return missing
    if not has_gpu():
        problem = "vLLM's CPU build has no batch-invariant kernels, and no GPU is visible"
        raise EngineError(problem, location="engine.batch_invariant", hint="set engine.batch_invariant=false")
    return missing | {"VLLM_BATCH_INVARIANT": "1"}


def engine_options(
    model: ModelConfig, config: EngineConfig, *, max_lora_rank: int, seed: int
) -> dict[str, Any]:
    """Return vLLM's engine arguments; its servers have the same ones as flags.

    On a GPU, what a recipe leaves open is vLLM's default for that GPU. A CPU has its own values: its build would lose
    the seeded generator of a prompt that is prefilled in parts, and without that a batch has to hold the longest prompt.
    Its prefix cache has blocks of 128 tokens; of 32, a judge's second turn repeats less of the first, and is 1.5 times as
    fast (bench/judge.py).
    """
    options: dict[str, Any] = dict(
        model=model.path,
        revision=model.revision,
        dtype=model.dtype,
        trust_remote_code=model.trust_remote_code,
        max_model_len=config.max_model_len,
        max_num_seqs=config.max_num_seqs,
        gpu_memory_utilization=config.gpu_memory_utilization,
        tensor_parallel_size=config.tensor_parallel,
        enforce_eager=config.enforce_eager,
        load_format="safetensors",
        enable_prefix_caching=True,
        seed=seed,
    )
    if not has_gpu():
        options |= dict(
            max_num_seqs=config.max_num_seqs or CPU_SEQUENCES,
            enable_chunked_prefill=False,
            max_num_batched_tokens=max(config.max_model_len, 8192),
            block_size=32,
        )
    if max_lora_rank:
        options |= dict(enable_lora=True, max_lora_rank=served_rank(max_lora_rank))
    return {name: value for name, value in options.items() if value is not None}


def served_rank(rank: int) -> int:
    """Return the lowest of vLLM's LoRA ranks that is not below `rank`; vLLM pads a smaller adapter."""
    return next((r for r in (8, 16, 32, 64, 128, 256, 320, 512) if r >= rank), rank)


def memory_hint(text: str) -> str | None:
    """Return which keys to change where vLLM's error, or the end of its log, says that memory is short, else None."""
    if "less than desired" in text and "memory utilization" in text:
        return "another process uses this GPU: wait for it, or lower engine.gpu_memory_utilization"
    if "KV cache" in text or "cache blocks" in text or "max_model_len" in text:
        return (
            "lower engine.max_model_len, raise engine.gpu_memory_utilization (on a CPU engine.cpu_kv_gib), or divide the "
            "model among more GPUs with engine.tensor_parallel"
        )
    if "out of memory" in text.lower():
        return (
            "lower engine.max_num_seqs or engine.gpu_memory_utilization, or divide the model among more GPUs with "
            "engine.tensor_parallel; what is done is kept, and the same command continues"
        )
    return None
