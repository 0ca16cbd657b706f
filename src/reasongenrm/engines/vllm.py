"""In-process vLLM engine (GPU or CPU build)."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from reasongenrm import collector
from reasongenrm.config.arguments import library_arguments
from reasongenrm.config.engines import EngineConfig, ModelConfig, check_model
from reasongenrm.engines.base import Engine, LiveRequest, PartialCompletion, Request, Withdrawal
from reasongenrm.engines.cpu_lora import use_matrix_products
from reasongenrm.engines.cpu_ranks import use_plain_ranks
from reasongenrm.engines.options import engine_environment, engine_options, has_gpu, memory_hint
from reasongenrm.errors import EngineError, first_line
from reasongenrm.records import Completion


def keep_freed_memory() -> None:
    """Have glibc keep large freed buffers for reuse.

    A forward pass on a CPU allocates and frees them at every step; returning them to the system each time took a third
    of an evaluation's wall time.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # not in musl
            for threshold in (-1, -3):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
                libc.mallopt(threshold, 2**31 - 1)


class VLLMEngine(Engine):
    """Continuous batching over a stream of requests; LoRA adapters are served on top of the base.

    Args:
        model: the base model.
        config: serving options.
        max_lora_rank: highest rank among the adapters to be served; 0 serves none.
        seed: of the engine; each request has its own.

    Attributes:
        max_model_len: tokens of prompt and completion together.
        block: requests that are completed together: 2 batches on a CPU (512 requests by default), 8 on a GPU. A kill loses one
            at most, and at the end of each the GPU waits for its longest completions.
        cached_tokens: number of tokens in a block of the prefix cache.

    Raises:
        EngineError: vLLM is missing, cannot load the model, or runs out of memory.
    """

    def __init__(
        self, model: ModelConfig, config: EngineConfig, *, max_lora_rank: int = 0, seed: int = 0
    ) -> None:
        check_model(model.path, key="model.path")
        with collector.paused():
            self._llm = _start(model, config, max_lora_rank=max_lora_rank, seed=seed)
        self._engine = self._llm.llm_engine
        self._sequences: int = self._engine.vllm_config.scheduler_config.max_num_seqs
        self.max_model_len = config.max_model_len
        self.block = self._sequences * (8 if has_gpu() else 2)
        self.cached_tokens: int = self._engine.vllm_config.cache_config.block_size
        self._adapters: dict[str, int] = {}

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield completions as they are done; that of a request that vLLM refuses has `finish_reason` error."""
        for request, output in self._outputs(requests, self._lora(adapter)):
            yield _completion(output, request)

    def complete_live(
        self, requests: Iterable[LiveRequest], *, adapter: str | None = None
    ) -> Generator[Completion, None, None]:
        """Yield completions as they are done; the source is asked before every step of the engine."""
        for request, output in self._outputs(requests, self._lora(adapter)):
            yield _completion(output, request)

    def stream(
        self, requests: Iterable[Request], *, adapter: str | None = None
    ) -> Generator[Completion, None, None]:
        """Yield partial completions after every step of the engine, and completions as they are done."""
        for request, output in self._outputs(requests, self._lora(adapter), stream=True):
            yield _completion(output, request)

    def prompt_logprobs(self, sequences: Iterable[Sequence[int]]) -> Iterator[tuple[int, int, list[float]]]:
        """Yield log-probabilities of given tokens: the sequence's number, `first`, and log p of `sequence[first:]`.

        Sequences come as they are done. The prefix cache has no log-probabilities: where a sequence begins with cached
        tokens, `first` is above 1. A further call with `sequence[:first]` gives those.

        Args:
            sequences: token ids, two or more each.

        Raises:
            EngineError: a sequence is longer than the context.
        """
        requests = (
            Request(f"{number}", tuple(ids), max_tokens=1, logprob_token_ids=(last,))
            for number, (*ids, last) in enumerate(sequences)
        )
        options = dict(
            prompt_logprobs=0,
            skip_reading_prefix_cache=False,
            detokenize=False,  # the entries of cached tokens have no ids
            flat_logprobs=True,
        )
        for request, output in self._outputs(requests, **options):
            if isinstance(output, Exception):
                raise EngineError(
                    f"vLLM cannot score {len(request.prompt_ids) + 1} tokens: {first_line(output)}",
                    location="engine.max_model_len",
                    hint="raise it",
                )
            first = (output.num_cached_tokens or 0) + 1
            known = len(request.prompt_ids) - first
            # Aligned at the end: the entries of cached tokens are missing or without meaning.
            values = output.prompt_logprobs.logprobs[-known:] if known else []
            last = output.outputs[0].logprobs[0][request.logprob_token_ids[0]].logprob
            yield int(request.id), first, [*values, last]

    def _outputs(
        self, requests: Iterable[LiveRequest], lora: Any = None, **options: Any
    ) -> Iterator[tuple[Request, Any]]:
        """Yield each request with vLLM's output as it is done, or with the error where vLLM refuses the request.

        With the option `stream`, also with unfinished outputs, which hold all tokens so far. Requests may come from a live source
        (see `complete_live`).
        """
        refusals = _refusals()
        source = iter(requests)
        pending: dict[str, Request] = {}
        try:
            while True:
                # No more than fill two batches: the caller may have requests that follow from completions.
                while len(pending) < 2 * self._sequences and (request := next(source, None)):
                    if isinstance(request, Withdrawal):
                        withdrawn = [name for name in request.ids if pending.pop(name, None)]
                        self._engine.abort_request(withdrawn)
                        continue
                    prompt = {"prompt_token_ids": list(request.prompt_ids)}
                    params = sampling_params(request, **options)
                    priority = -1 if request.urgent else 0
                    try:
                        self._engine.add_request(
                            request.id, prompt, params, lora_request=lora, priority=priority
                        )
                        pending[request.id] = request
                    except refusals as error:
                        yield request, error
                if not pending:
                    return
                for output in self._step():
                    request = pending[output.request_id]
                    if output.finished:
                        del pending[output.request_id]
                    yield request, output
        finally:  # where the caller stops early, its requests must not be in the next call's results
            self._engine.abort_request(list(pending))

    def _step(self) -> list[Any]:
        try:
            outputs: list[Any] = self._engine.step()
        except Exception as error:  # vLLM raises many types
            if hint := memory_hint(str(error)):
                problem = f"vLLM stopped: {first_line(error)}"
                raise EngineError(problem, location="engine", hint=hint) from error
            raise
        return outputs

    def reset_prefix_cache(self) -> None:
        """Empty the prefix cache, so that later completions do not depend on earlier ones."""
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
        except Exception as error:  # vLLM raises many types
            raise EngineError(
                f"vLLM cannot serve the adapter: {first_line(error)}",
                location=adapter,
                hint="remove modules_to_save from train.lora, or merge the adapter (train.merge) and serve the merged model",
            ) from error
        return request

    def close(self) -> None:
        """Free the model; then another engine can start in the same process."""
        import torch

        self._engine.engine_core.shutdown()
        del self._llm, self._engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _start(model: ModelConfig, config: EngineConfig, *, max_lora_rank: int, seed: int) -> Any:
    """Import vLLM and return its `LLM`; see `VLLMEngine`."""
    # One process: a SIGKILL ends all of vLLM, and results do not depend on timing.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    try:
        os.environ |= engine_environment(config, os.environ)
        from vllm import LLM
    except ImportError as error:
        raise EngineError(
            f"vLLM cannot be imported: {error}",
            location="engine",
            hint="run `make setup`, or pip install .[gpu]",
        ) from None
    if not has_gpu():
        keep_freed_memory()
        use_plain_ranks()
        if max_lora_rank:
            use_matrix_products()
    options = engine_options(model, config, max_lora_rank=max_lora_rank, seed=seed)
    # A request that continues a completion goes first, while the prefix cache holds that (see `Request.urgent`).
    options |= dict(scheduling_policy="priority", use_tqdm_on_load=False, disable_log_stats=True)
    collector.skip_loaded()  # vLLM collects five times while it starts
    try:
        return LLM(**(options | library_arguments(config.args)))
    except Exception as error:  # vLLM raises many types
        problem, hint = _explain(error)
        raise EngineError(
            f"vLLM cannot serve {model.path}: {problem}", location="model", hint=hint
        ) from error


def _explain(error: Exception) -> tuple[str, str]:
    """Return the first line that says what is wrong, and a hint."""
    problem = first_line(error)
    if isinstance(error, ValidationError):  # its first line is a count of errors
        problem = error.errors()[0]["msg"].removeprefix("Value error, ").strip().splitlines()[0]
    hint = "check model.path, model.dtype and the engine section of the recipe"
    return problem, memory_hint(problem) or hint


def _refusals() -> tuple[type[Exception], ...]:
    """Return what vLLM raises for a request that it refuses: in 0.24 a ValueError, in 0.32 a class of its own."""
    from vllm import exceptions

    return ValueError, getattr(exceptions, "VLLMClientError", ValueError)


def sampling_params(request: Request, *, stream: bool = False, **options: Any) -> Any:
    """Return a request's options, and others of vLLM, as `SamplingParams`; with `stream`, each step gives all tokens so far."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(
        max_tokens=request.max_tokens,
        temperature=request.temperature,
        top_p=request.top_p,
        seed=request.seed,
        stop=list(request.stop) or None,
        stop_token_ids=list(request.stop_ids) or None,
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        spaces_between_special_tokens=False,
        ignore_eos=request.ignore_eos,
        allowed_token_ids=list(request.allowed) or None,
        logprob_token_ids=list(request.logprob_token_ids) or None,
        output_kind=RequestOutputKind.CUMULATIVE if stream else RequestOutputKind.FINAL_ONLY,
        skip_clone=True,  # it is of this request alone
        **options,
    )


def _completion(output: Any, request: Request) -> Completion:
    if isinstance(output, Exception):
        return Completion(request.id, "", "error", error=first_line(output))
    [sample] = output.outputs
    token_ids = tuple(sample.token_ids)
    if not output.finished:
        return PartialCompletion(request.id, sample.text, "length", token_ids)
    ids = request.logprob_token_ids
    logprobs = {
        position: {t: round(entry[t].logprob, 6) for t in ids if t in entry}
        for position, (token, entry) in enumerate(zip(token_ids, sample.logprobs or (), strict=False))
        if token in ids
    }
    return Completion(
        request.id,
        sample.text,
        sample.finish_reason or "error",
        token_ids,
        logprobs,
        prompt_tokens=len(output.prompt_token_ids),
    )
