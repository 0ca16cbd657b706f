"""The student on vLLM, as a scorer: for a student that fits into no single device otherwise."""

from __future__ import annotations

from collections.abc import Sequence

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.engines.base import Request
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.reasons.score import Group, scored_reason
from reasongenrm.records import ScoredReason


class VLLMStudent:
    """A running vLLM engine of the untouched student, as a scorer.

    A prompt is computed once and its reasons read it from the prefix cache, in whole blocks of the cache
    (`VLLMEngine.cached_tokens`). The cache is emptied before each batch, so that scores depend on the batch alone.
    Scores are those of `score_transformers.Student` to 1e-3 nats per token in float32.

    Args:
        engine: serves the student.
        encoder: tokenizer and chat template of the reasoning judge.

    Attributes:
        encoder: as given.
    """

    def __init__(self, engine: VLLMEngine, encoder: ChatEncoder) -> None:
        self._engine = engine
        self.encoder = encoder

    def score(self, groups: Sequence[Group]) -> list[ScoredReason]:
        """Return mean log-probabilities (nats per token) of reason and verdict for one batch, in its order.

        Raises:
            EngineError: prompt, reason and verdict do not fit into `engine.max_model_len`.
        """
        self._engine.reset_prefix_cache()
        for _ in self._engine.complete(
            Request(f"prompt-{number}", group.asked, max_tokens=1)
            for number, group in enumerate(groups)
            if len(group.lines) > 1 and len(group.asked) >= self._engine.cached_tokens
        ):
            pass
        rows = [(group, line) for group in groups for line in group.lines]
        # Reasons that are alike would read each other from the cache for most of their length.
        starts = {(*group.asked, *line.ids): len(group.asked) for group, line in rows}
        found = dict(zip(starts, self._continuations(list(starts), list(starts.values())), strict=True))
        scored = []
        for group, line in rows:
            values = found[(*group.asked, *line.ids)]
            scored.append(scored_reason(group, line, [values[place] for place in line.scored]))
        return scored

    def _continuations(
        self, sequences: Sequence[tuple[int, ...]], starts: Sequence[int]
    ) -> list[list[float]]:
        """Return log p (nats) of every token from its sequence's start on.

        Two reasons that begin alike share blocks of the cache beyond the prompt. What is missing of a sequence for
        that is asked for again, from the end: each time at least one token more.
        """
        found: list[list[float]] = [[] for _ in sequences]
        owed = {number: len(sequence) for number, sequence in enumerate(sequences)}
        while owed:
            numbers, ends = list(owed), list(owed.values())
            owed = {}
            asked = [sequences[number][:end] for number, end in zip(numbers, ends, strict=True)]
            for place, first, values in self._engine.prompt_logprobs(asked):
                number = numbers[place]
                found[number] = values + found[number]
                if first > starts[number]:
                    owed[number] = first
        return [
            values[start - len(sequence) :]
            for values, sequence, start in zip(found, sequences, starts, strict=True)
        ]
