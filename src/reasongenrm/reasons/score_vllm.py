"""The student on vLLM, as a scorer: for a student that needs several devices."""

from __future__ import annotations

from collections.abc import Sequence

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.engines.base import Request
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.reasons.score import EncodedGroup, scored_reason
from reasongenrm.records import ScoredReason


class VLLMStudent:
    """A running vLLM engine of the untrained student, as a scorer.

    A prompt is computed once, and its reasons read it from the prefix cache, in blocks of `VLLMEngine.cached_tokens`.
    The cache is emptied before each batch, so that scores depend on the batch alone. They equal those of
    `score_transformers.Student` to 1e-3 nats per token in float32.

    Args:
        engine: serves the student.
        encoder: tokenizer and chat template of the reasoning judge.

    Attributes:
        encoder: tokenizer and chat template of the reasoning judge.
    """

    def __init__(self, engine: VLLMEngine, encoder: ChatEncoder) -> None:
        self._engine = engine
        self.encoder = encoder

    def score(self, groups: Sequence[EncodedGroup]) -> list[ScoredReason]:
        """Return mean log-probabilities (nats per token) of reason and verdict for one batch, in its order.

        Raises:
            EngineError: prompt, reason and verdict do not fit into `engine.max_model_len`.
        """
        self._engine.reset_prefix_cache()
        shared_prompts = (
            Request(f"prompt-{number}", group.prompt_ids, max_tokens=1)
            for number, group in enumerate(groups)
            if len(group.continuations) > 1 and len(group.prompt_ids) >= self._engine.cached_tokens
        )
        for _ in self._engine.complete(shared_prompts):
            pass  # only to fill the cache
        # Equal sequences are computed once: they would read each other from the cache for most of their length.
        starts = {(*g.prompt_ids, *c.ids): len(g.prompt_ids) for g in groups for c in g.continuations}
        logprobs = dict(zip(starts, self._continuations(list(starts), list(starts.values())), strict=True))
        scores = []
        for group in groups:
            for continuation in group.continuations:
                values = logprobs[(*group.prompt_ids, *continuation.ids)]
                picked = [values[place] for place in continuation.scored_positions]
                scores.append(scored_reason(group.prompt, continuation, picked))
        return scores

    def _continuations(
        self, sequences: Sequence[tuple[int, ...]], starts: Sequence[int]
    ) -> list[list[float]]:
        """Return log p (nats) of every token from its sequence's start on.

        Two reasons with a common beginning share blocks of the cache beyond the prompt. The log-probabilities that a
        sequence lacks for that reason are requested again, from the end: each time at least one token more.
        """
        logprobs: list[list[float]] = [[] for _ in sequences]
        missing = {number: len(sequence) for number, sequence in enumerate(sequences)}
        while missing:
            numbers = list(missing)
            prefixes = [sequences[number][:end] for number, end in missing.items()]
            missing = {}
            for place, first, values in self._engine.prompt_logprobs(prefixes):
                number = numbers[place]
                logprobs[number] = values + logprobs[number]
                if first > starts[number]:
                    missing[number] = first
        return [
            values[start - len(sequence) :]
            for values, sequence, start in zip(logprobs, sequences, starts, strict=True)
        ]
