"""The scorers: the student on transformers, or on vLLM; each prompt is computed once for all of its reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from reasongenrm.checkpoints import load_checkpoint
from reasongenrm.config.engines import ModelConfig, check_model
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import say
from reasongenrm.engines.base import Request
from reasongenrm.engines.vllm import VLLMEngine, keep_freed_memory
from reasongenrm.engines.workers import needs_workers, worker_pool
from reasongenrm.errors import EngineError, first_line
from reasongenrm.reasons import forward
from reasongenrm.reasons.score import EncodedGroup, scored_reason
from reasongenrm.records import ScoredReason


def default_batch_tokens() -> int:
    """Return the tokens of a batch, where `select.batch_tokens` is null.

    On a GPU a 7B model (3,584 wide, 18,944 in its MLP) in bfloat16 needs some 5 GiB for the activations of 32,768 tokens and
    2 GiB for a block of logits, beside 14 GiB of weights: 21 of a card's 24.
    """
    import torch

    return 32768 if torch.cuda.device_count() else 16384


class Student:
    """The untrained student, loaded with transformers.

    It computes a batch with one of two methods:

    - `shared`: one packed sequence that holds each prompt once (`forward.py`); only the scored positions meet the
      vocabulary. For full attention, and for sliding windows that are longer than every row.
    - `single`: one row at a time through the whole model. For all other models: other kinds of attention, capped or
      scaled logits, and rotary embeddings that change with the longest row of a batch.

    Loading the model compares `shared` with the model's own log-probabilities on a few tokens; where it cannot be used,
    `on_event` gets a line with the reason. In float32 the methods
    agree to 1e-5 nats per token whatever the batch; in bfloat16 a token's log-probability moves by some hundredths with
    the shapes of the matrices, as in any other implementation.

    Attributes:
        method: `shared` or `single`.
        window: tokens of prompt and reason up to which `shared` is exact (inf except for sliding windows).

    Raises:
        EngineError: the model cannot be loaded, or does not fit on the GPU.
    """

    def __init__(self, model: ModelConfig, on_event: Callable[[str], object] = lambda line: None) -> None:
        import torch
        from transformers import AttentionInterface

        check_model(model.path, key="model.path")
        try:
            self._model = load_checkpoint(
                "AutoModelForCausalLM",
                model.path,
                revision=model.revision,
                dtype=getattr(torch, model.dtype),
                trust_remote_code=model.trust_remote_code,
                permission="model.trust_remote_code",
            )
        except (OSError, ValueError) as error:
            problem = f"cannot load {model.path}: {first_line(error)}"
            hint = "check the path and the revision; the weights are .safetensors files"
            raise EngineError(problem, location="model.path", hint=hint) from None
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            keep_freed_memory()
        try:
            self._model.to(device).eval()
        except torch.OutOfMemoryError:
            hint = "end what else uses the GPU, or set select.scorer=vllm and engine.tensor_parallel"
            problem = f"{model.path} does not fit into the free memory of one GPU"
            raise EngineError(problem, location="model.path", hint=hint) from None
        config = self._model.config.get_text_config()
        windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        self.window = min((window for window in windows if window), default=math.inf)
        AttentionInterface.register(forward.ATTENTION, forward.packed_attention)  # it needs no mask
        self._on_event, self._outgrew_window = on_event, False
        obstacle = self._obstacle_to_shared()
        self.method = "single" if obstacle else "shared"
        self.note = (
            f"scoring: one reason at a time, each with its prompt, which is slower: {obstacle}"
            if obstacle
            else ""
        )
        if obstacle:
            on_event(self.note)

    def score(self, groups: Sequence[EncodedGroup]) -> list[ScoredReason]:
        """Return mean log-probabilities (nats per token) of reason and verdict for one batch, in its order.

        Raises:
            EngineError: the batch does not fit into GPU memory.
        """
        import torch

        groups = [group for group in groups if group.continuations]
        rows = [(group, continuation) for group in groups for continuation in group.continuations]
        if not rows:
            return []
        trees = [(g.prompt_ids, [(c.ids, c.scored_positions) for c in g.continuations]) for g in groups]
        longest = max(len(group.prompt_ids) + len(continuation.ids) for group, continuation in rows)
        method = "single" if longest > self.window else self.method
        if method != self.method and not self._outgrew_window:
            self._outgrew_window = True
            self._on_event(
                f"scoring: batches with more than {self.window} tokens of prompt and reason, one reason at a time, which is "
                "slower: the model's attention has a window of that length"
            )
        try:
            logprobs = self._logprobs(method, trees)
        except torch.OutOfMemoryError:
            tokens = sum(len(g.prompt_ids) + sum(len(c.ids) for c in g.continuations) for g in groups)
            hint = (
                f"set select.batch_tokens={max(1, tokens // 2)}; reasons that are scored are not scored again"
            )
            problem = f"a batch of {tokens} tokens does not fit into GPU memory"
            raise EngineError(problem, location="select.batch_tokens", hint=hint) from None
        return [
            scored_reason(group.prompt, continuation, values)
            for (group, continuation), values in zip(rows, logprobs, strict=True)
        ]

    def _logprobs(self, method: str, trees: Sequence[forward.Tree]) -> list[list[float]]:
        import torch

        with torch.inference_mode():
            if method == "single":
                return forward.single_logprobs(self._model, trees)
            usual = self._model.config._attn_implementation
            self._model.set_attn_implementation(forward.ATTENTION)
            try:
                return forward.shared_logprobs(self._model, trees)
            finally:
                self._model.set_attn_implementation(usual)

    def _obstacle_to_shared(self) -> str:
        """Compare `shared` with `single` on a few random tokens; return why it cannot be used, or an empty text."""
        import torch

        rope = getattr(self._model.config.get_text_config(), "rope_parameters", None) or {}
        if any(kind in str(rope) for kind in ("dynamic", "longrope")):
            return "the model's rotary embeddings change with the longest row"
        generator = torch.Generator().manual_seed(0)
        vocabulary = self._model.get_input_embeddings().num_embeddings
        prompt, *reasons, other_prompt = (
            torch.randint(3, min(vocabulary, 500), (length,), generator=generator).tolist()
            for length in (13, 6, 9, 7, 3)
        )
        trees = [
            (prompt, [(ids, list(range(len(ids)))) for ids in reasons]),
            (other_prompt, [(reasons[0], list(range(len(reasons[0]))))]),
        ]
        try:
            values = [value for row in self._logprobs("shared", trees) for value in row]
        except Exception as error:  # a model's own code may raise anything
            return f"the model's attention cannot be replaced ({first_line(error)})"
        expected = [value for row in self._logprobs("single", trees) for value in row]
        gap = sum(abs(a - b) for a, b in zip(values, expected, strict=True)) / len(values)
        if gap < (1e-4 if self._model.dtype == torch.float32 else 0.1):
            return ""
        return f"shared prompts change a token's log-probability by {gap:.2g} nats"


def vllm_scores(engine: VLLMEngine, groups: Sequence[EncodedGroup]) -> list[ScoredReason]:
    """Return what `Student.score` does, to 1e-3 nats per token in float32: for a student that needs several devices.

    A prompt is computed once, and its reasons read it from the prefix cache, in blocks of `VLLMEngine.cached_tokens`.
    The cache is emptied before each batch, so that scores depend on the batch alone.

    Raises:
        EngineError: prompt, reason and verdict do not fit into `engine.max_model_len`.
    """
    engine.reset_prefix_cache()
    shared_prompts = (
        Request(f"prompt-{number}", group.prompt_ids, max_tokens=1)
        for number, group in enumerate(groups)
        if len(group.continuations) > 1 and len(group.prompt_ids) >= engine.cached_tokens
    )
    for _ in engine.complete(shared_prompts):
        pass  # only to fill the cache
    # Equal sequences are computed once: they would read each other from the cache for most of their length.
    starts = {(*g.prompt_ids, *c.ids): len(g.prompt_ids) for g in groups for c in g.continuations}
    logprobs = _continuation_logprobs(engine, starts)
    scores = []
    for group in groups:
        for continuation in group.continuations:
            values = logprobs[(*group.prompt_ids, *continuation.ids)]
            picked = [values[place] for place in continuation.scored_positions]
            scores.append(scored_reason(group.prompt, continuation, picked))
    return scores


def _continuation_logprobs(
    engine: VLLMEngine, starts: Mapping[tuple[int, ...], int]
) -> dict[tuple[int, ...], list[float]]:
    """Return sequence -> log p (nats) of every token from its start on.

    Two reasons with a common beginning share blocks of the cache beyond the prompt. The log-probabilities that a sequence
    lacks for that reason are requested again, from the end: each time at least one token more.
    """
    logprobs: dict[tuple[int, ...], list[float]] = {sequence: [] for sequence in starts}
    missing = {sequence: len(sequence) for sequence in starts}
    while missing:
        sequences = list(missing)
        prefixes = [sequence[:end] for sequence, end in missing.items()]
        missing = {}
        for place, first, values in engine.prompt_logprobs(prefixes):
            sequence = sequences[place]
            logprobs[sequence] = values + logprobs[sequence]
            if first > starts[sequence]:
                missing[sequence] = first
    return {sequence: logprobs[sequence][start - len(sequence) :] for sequence, start in starts.items()}


def score_batches(
    recipe: Recipe, batches: Iterable[list[EncodedGroup]], *, logs: Path | None = None
) -> Iterator[list[ScoredReason]]:
    """Yield the scores of each batch by `select.scorer`, in this process or in many workers (`engine.workers`).

    The student is loaded when the first batch comes.

    Raises:
        EngineError: the student cannot be loaded, or a batch does not fit into memory.
    """
    source = iter(batches)
    if (first := next(source, None)) is None:
        return
    model, engine, batches = recipe.model, recipe.engine, chain([first], source)
    by_vllm = recipe.select.scorer == "vllm"
    gpus = engine.tensor_parallel if by_vllm else 1
    load: Callable[[], Any] = (
        partial(VLLMEngine, model, engine, seed=recipe.seed) if by_vllm else partial(Student, model)
    )
    score: Callable[[Any, list[EncodedGroup]], list[ScoredReason]] = vllm_scores if by_vllm else Student.score
    if needs_workers(engine, gpus):
        with closing(
            worker_pool(load, engine, gpus=gpus, facts=_note, task="scoring", logs=logs, on_event=say)
        ) as pool:
            if pool.facts:
                say(pool.facts)
            for _, scores in pool.map(score, batches):
                yield scores
            say(pool.summary())
        return
    with ExitStack() as stack:
        scorer: Any = load() if by_vllm else Student(model, say)
        if by_vllm:
            stack.callback(scorer.close)
        for batch in batches:
            yield score(scorer, batch)


def _note(scorer: Any) -> str:
    """Return what the user should know about a scorer in a worker."""
    return scorer.note if isinstance(scorer, Student) else ""
