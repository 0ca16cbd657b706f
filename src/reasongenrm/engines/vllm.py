"""vLLM in this process: on a GPU, or with its CPU build."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from reasongenrm.config.engines import EngineConfig, ModelConfig, check_model
from reasongenrm.engines.base import Request
from reasongenrm.errors import EngineError, first_line
from reasongenrm.records import Completion


def keep_freed_memory() -> None:
    """Have glibc keep large freed buffers: a forward pass on a CPU allocates and frees them at every step, and giving
    them back to the system each time took a third of an evaluation's wall time."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none
            for threshold in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
                libc.mallopt(threshold, 2**31 - 1)


class VLLMEngine:
    """Continuous batching over a stream of requests; LoRA adapters are served on top of the base.

    Beside what every `Engine` has, `cached_tokens` is the number of tokens in a block of the prefix cache.

    Args:
        model: the base model.
        config: serving options.
        max_lora_rank: highest rank among the adapters to be served; 0 serves none.
        seed: of the engine; each request has its own.

    Raises:
        EngineError: vLLM is missing, or cannot load the model.
    """

    def __init__(
        self, model: ModelConfig, config: EngineConfig, *, max_lora_rank: int = 0, seed: int = 0
    ) -> None:
        check_model(model.path, key="model.path")
        # One process: nothing outlives a SIGKILL of this one, and results do not depend on timing.
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(config.cpu_kv_gib))
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        try:
            import torch
            from vllm import LLM
        except ImportError as error:
            raise EngineError(
                f"vLLM cannot be imported: {error}",
                location="engine",
                hint="run `make setup`, or pip install .[gpu]",
            ) from None
        if not torch.cuda.is_available():
            keep_freed_memory()
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
            use_tqdm_on_load=False,
            # A prompt is prefilled whole: vLLM's CPU build cannot rewind the seeded generator of a prompt cut in two.
            enable_chunked_prefill=False,
            max_num_batched_tokens=max(config.max_model_len, 8192),
            seed=seed,
            disable_log_stats=True,
        )
        if max_lora_rank:
            options |= dict(enable_lora=True, max_lora_rank=served_rank(max_lora_rank), max_loras=1)
        try:
            self._llm = LLM(**(options | config.args))
        except Exception as error:  # vLLM raises many types; the user needs the first line and the key
            first = _problem(error)
            raise EngineError(
                f"vLLM cannot serve {model.path}: {first}", location="model", hint=_advice(first)
            ) from error
        self._engine = self._llm.llm_engine
        self.max_model_len = config.max_model_len
        self.block = 4 * config.max_num_seqs
        self.cached_tokens: int = self._engine.vllm_config.cache_config.block_size
        self._adapters: dict[str, int] = {}

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield completions as they are done. A request that vLLM refuses comes back with `finish_reason` error."""
        from vllm.exceptions import VLLMClientError

        lora = self._lora(adapter)
        pending: dict[str, Request] = {}
        try:
            for request in requests:
                try:
                    self._engine.add_request(
                        request.id,
                        {"prompt_token_ids": list(request.prompt_ids)},
                        _params(request),
                        lora_request=lora,
                    )
                    pending[request.id] = request
                except (ValueError, VLLMClientError) as error:
                    yield Completion(request.id, "", "error", error=first_line(error))
            while pending:
                for output in self._engine.step():
                    if output.finished:
                        yield _completion(output, pending.pop(output.request_id))
        finally:  # the caller stopped early: what is left must not come back to the next caller
            self._engine.abort_request(list(pending))

    def prompt_logprobs(self, sequences: Iterable[Sequence[int]]) -> Iterator[tuple[int, int, list[float]]]:
        """Yield log p of given tokens, as they are done: number of the sequence, `first`, log p of `sequence[first:]`.

        The prefix cache is read, and holds no log-probabilities: what it knew of a sequence comes back as
        `first > 1`. To have those too, ask for `sequence[:first]`.

        Args:
            sequences: token ids, two or more each.

        Raises:
            EngineError: a sequence is longer than the context.
        """
        from vllm.exceptions import VLLMClientError

        pending: dict[str, tuple[int, int]] = {}
        try:
            for number, (*ids, last) in enumerate(sequences):
                name = f"logprobs-{number}"
                try:
                    self._engine.add_request(name, {"prompt_token_ids": ids}, _scoring_params(last))
                except (ValueError, VLLMClientError) as error:
                    raise EngineError(
                        f"vLLM cannot score {len(ids) + 1} tokens: {first_line(error)}",
                        location="engine.max_model_len",
                        hint="raise it",
                    ) from None
                pending[name] = number, last
            while pending:
                for output in self._engine.step():
                    number, last = pending.pop(output.request_id)
                    first = (output.num_cached_tokens or 0) + 1
                    known = len(output.prompt_token_ids) - first
                    # Aligned at the end: in front stands nothing, or nothing that is meant, for cached tokens.
                    values = output.prompt_logprobs.logprobs[-known:] if known else []
                    yield number, first, [*values, output.outputs[0].logprobs[0][last].logprob]
        finally:
            self._engine.abort_request(list(pending))

    def reset_prefix_cache(self) -> None:
        """Empty the prefix cache, so that what follows does not depend on what came before."""
        self._engine.reset_prefix_cache()

    def _lora(self, adapter: str | None) -> Any:
        if adapter is None:
            return None
        check_model(adapter, key="adapter", file="adapter_config.json")
        from vllm.lora.request import LoRARequest

        number = self._adapters.setdefault(adapter, len(self._adapters) + 1)
        request = LoRARequest(f"adapter-{number}", number, adapter)
        try:
            self._engine.add_lora(request)
        except (
            Exception
        ) as error:  # what vLLM cannot serve has many types, and would end the run at its first step
            raise EngineError(
                f"vLLM cannot serve the adapter: {first_line(error)}",
                location=adapter,
                hint="leave modules_to_save out of train.lora, or merge the adapter (train.merge) and serve that",
            ) from error
        return request

    def close(self) -> None:
        """Free the model; a second engine may then be started in the same process."""
        import torch

        self._engine.engine_core.shutdown()
        del self._llm, self._engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def served_rank(rank: int) -> int:
    """Return the rank to serve an adapter with: vLLM accepts some only, and pads a smaller adapter."""
    return next((r for r in (8, 16, 32, 64, 128, 256, 320, 512) if r >= rank), rank)


def _problem(error: Exception) -> str:
    """The first line that says what is wrong; a pydantic error begins with a count of errors."""
    if isinstance(error, ValidationError):
        return error.errors()[0]["msg"].removeprefix("Value error, ").strip().splitlines()[0]
    return first_line(error)


def _advice(message: str) -> str:
    if "max_model_len" in message or "KV cache" in message:
        return "lower engine.max_model_len or raise engine.cpu_kv_gib / engine.gpu_memory_utilization"
    return "check model.path, model.dtype and the engine section of the recipe"


def _params(request: Request) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop=list(request.stop) or None,
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        ignore_eos=request.ignore_eos,
        allowed_token_ids=list(request.allowed) or None,
        logprobs=None if request.logprob_token_ids else 0,
        logprob_token_ids=list(request.logprob_token_ids) or None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _scoring_params(last: int) -> Any:
    """Of a prompt whose log-probabilities are wanted, and that of the token that follows it."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=1,
        temperature=0.0,
        prompt_logprobs=0,
        logprob_token_ids=[last],
        skip_reading_prefix_cache=False,
        detokenize=False,  # the places of cached tokens hold no ids
        flat_logprobs=True,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _completion(output: Any, request: Request) -> Completion:
    [sample] = output.outputs
    token_ids = tuple(sample.token_ids)
    logprobs: dict[int, dict[int, float]] = {}
    logprob = 0.0
    for position, (token, entry) in enumerate(zip(token_ids, sample.logprobs or (), strict=False)):
        logprob += entry[token].logprob
        if token in request.logprob_token_ids:
            logprobs[position] = {
                t: round(entry[t].logprob, 6) for t in request.logprob_token_ids if t in entry
            }
    return Completion(
        request.id,
        sample.text,
        sample.finish_reason or "error",
        token_ids,
        round(logprob, 6),
        logprobs,
        prompt_tokens=len(output.prompt_token_ids),
    )
