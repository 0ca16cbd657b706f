"""What vLLM is started with on a GPU and on a CPU, and what its memory errors advise."""

from __future__ import annotations

import re

import pytest

from reasongenrm.config.engines import EngineConfig, ModelConfig
from reasongenrm.engines import options
from reasongenrm.engines.options import engine_environment, engine_options, memory_hint
from reasongenrm.errors import EngineError

pytestmark = pytest.mark.unit

MODEL = ModelConfig(path="owner/name")
OF_THE_CPU = {"max_num_seqs", "enable_chunked_prefill", "max_num_batched_tokens", "block_size"}


@pytest.fixture(params=[True, False], ids=["gpu", "cpu"])
def gpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether there is a GPU: the only part that cannot be real here."""
    monkeypatch.setattr(options, "has_gpu", lambda: request.param)
    return bool(request.param)


def arguments(**config: object) -> dict[str, object]:
    return engine_options(MODEL, EngineConfig.model_validate(config), max_lora_rank=0, seed=3)


def test_only_a_cpu_has_workarounds(gpu: bool) -> None:
    found = arguments(max_model_len=512)
    assert (found.keys() & OF_THE_CPU) == (set() if gpu else OF_THE_CPU)
    assert found["tensor_parallel_size"] == 1 and found["enable_prefix_caching"] is True
    if not gpu:
        assert (found["max_num_seqs"], found["max_num_batched_tokens"]) == (256, 8192)
        assert arguments(max_model_len=9000)["max_num_batched_tokens"] == 9000


def test_a_number_of_sequences_in_the_recipe_is_used(gpu: bool) -> None:
    assert arguments(max_num_seqs=7)["max_num_seqs"] == 7


@pytest.mark.parametrize(("rank", "served"), [(1, 8), (8, 8), (9, 16), (64, 64), (300, 320)])
def test_adapters_are_served_with_a_rank_that_vllm_has(gpu: bool, rank: int, served: int) -> None:
    found = engine_options(MODEL, EngineConfig(), max_lora_rank=rank, seed=3)
    assert found["enable_lora"] is True and found["max_lora_rank"] == served
    assert "enable_lora" not in arguments()


def test_batch_invariance_needs_a_gpu(gpu: bool) -> None:
    config = EngineConfig(batch_invariant=True)
    if gpu:
        found = engine_environment(config, {})
        assert found == {"VLLM_NO_USAGE_STATS": "1", "VLLM_BATCH_INVARIANT": "1"}
        return
    with pytest.raises(
        EngineError, match=re.escape("engine.batch_invariant: vLLM's CPU build has no")
    ) as caught:
        engine_environment(config, {})
    assert "set engine.batch_invariant=false" in str(caught.value)


def test_variables_that_are_set_already_are_kept(gpu: bool) -> None:
    config = EngineConfig(cpu_kv_gib=3)
    usual = {"VLLM_NO_USAGE_STATS": "1"} | ({} if gpu else {"VLLM_CPU_KVCACHE_SPACE": "3"})
    assert engine_environment(config, {}) == usual
    assert engine_environment(config, dict.fromkeys(usual, "0")) == {}


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        # torch, while weights are loaded or a batch is computed; a worker of several has it in its own words
        (
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.02 GiB is free.",
            ["max_num_seqs", "gpu_memory_utilization", "tensor_parallel", "the same command continues"],
        ),
        ("Worker failed with error 'CUDA out of memory. Tried to allocate 20 MiB'", ["max_num_seqs"]),
        # vLLM 0.24 and 0.32: v1/worker/gpu_model_runner.py
        (
            "CUDA out of memory occurred when warming up sampler with 1024 dummy requests. Please try lowering `max_num_seqs` or "
            "`gpu_memory_utilization` when initializing the engine.",
            ["max_num_seqs", "gpu_memory_utilization"],
        ),
        # v1/worker/utils.py
        (
            "Free memory on device cuda:0 (10.2/79.1 GiB) on startup is less than desired GPU memory utilization (0.9, 71.2 GiB).",
            ["another process uses this GPU", "gpu_memory_utilization"],
        ),
        # v1/core/kv_cache_utils.py
        (
            "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine.",
            ["max_model_len", "gpu_memory_utilization", "cpu_kv_gib", "tensor_parallel"],
        ),
        (
            "To serve at least one request with the models's max seq len (32768), (1.75 GiB KV cache is needed, which is larger than "
            "the available KV cache memory (0.5 GiB)).",
            ["max_model_len", "gpu_memory_utilization"],
        ),
    ],
)  # fmt: skip
def test_an_error_of_memory_names_the_keys_to_change(text: str, keys: list[str]) -> None:
    hint = memory_hint(text)
    assert hint is not None and all(key in hint for key in keys)
    assert not re.search("delete|remove", hint)


def test_another_error_has_no_hint_of_memory() -> None:
    assert memory_hint("The model type `x` is not supported") is None
