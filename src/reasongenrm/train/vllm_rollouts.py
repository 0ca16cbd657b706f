"""Sample completions of a judge in two turns with TRL's vLLM: in the training processes, or on a server."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from reasongenrm.train.rollouts import Rollout, TwoTurns

TOP = 20
"""Most log-probabilities per token that vLLM returns by default; both letters are among them where a verdict is likely."""
UNLIKELY = -30.0
"""Log-probability of a letter that is not among them."""


class VLLMSampler:
    """Samples with `trainer.vllm_generation`, whose weights TRL has just synchronised.

    Unlike those of transformers, samples depend on the batch, and a resumed training does not repeat them.

    Args:
        turns: of the judge.
        samples: equal prompts that follow each other.
    """

    def __init__(self, turns: TwoTurns, samples: int) -> None:
        self.turns, self.samples = turns, samples

    def sample(self, trainer: Any, prompts: Sequence[Sequence[int]], keys: Sequence[str]) -> list[Rollout]:
        """Return one completion per prompt (see `rollouts.Sampler`)."""
        vllm = trainer.vllm_generation
        with _settings(vllm, max_completion_length=self.turns.max_tokens, logprobs=0):
            vllm.generation_kwargs |= {"stop_token_ids": list(self.turns.stops)}
            reasons, chosen, _ = _generate(vllm, prompts, self.samples)
        # Every process asks for as many verdicts: a server's processes take equal shares. Those without a reason are not read.
        before = [
            [*prompt, *reason, *self.turns.before] for prompt, reason in zip(prompts, reasons, strict=True)
        ]
        with _settings(vllm, max_completion_length=1, logprobs=TOP):
            letters, _, tables = _generate(vllm, before, 1)
        rollouts = []
        for key, reason, own, [letter], [table] in zip(keys, reasons, chosen, letters, tables, strict=True):
            ended = self.turns.ends_reason(reason)
            both = {one: table.get(one, UNLIKELY) for one in self.turns.tokens.letters}
            joined = self.turns.join(key, reason, letter if ended else None, both)
            rest = [0.0] * (len(joined.written) - len(own))
            if ended:
                rest[len(self.turns.before)] = table[letter]
            rollouts.append(Rollout(joined.completion, joined.written, (*own, *rest)))
        return rollouts


def _generate(
    vllm: Any, prompts: Sequence[Sequence[int]], samples: int
) -> tuple[list[list[int]], list[list[float]], list[list[dict[int, float]]]]:
    """Return ids, their log-probabilities, and the tables of log-probabilities by id, of one completion per prompt.

    Args:
        vllm: TRL's.
        prompts: ids; `samples` equal ones follow each other.
        samples: completions that a server makes of a prompt.
    """
    _, ids, logprobs, named = vllm.generate([list(prompt) for prompt in prompts], None, samples)
    tables = [
        [dict(zip(place_ids, values, strict=True)) for place_ids, values in zip(row_ids, row, strict=True)]
        for row_ids, row in zip(named, logprobs, strict=True)
    ]
    chosen = [
        [table[one] for one, table in zip(row, row_tables, strict=True)]
        for row, row_tables in zip(ids, tables, strict=True)
    ]
    return [list(row) for row in ids], chosen, tables


@contextmanager
def _settings(vllm: Any, **values: Any) -> Iterator[None]:
    """Change settings of TRL's generation for one call."""
    saved = {name: getattr(vllm, name) for name in (*values, "generation_kwargs")}
    vllm.generation_kwargs = dict(vllm.generation_kwargs)
    try:
        for name, value in values.items():
            setattr(vllm, name, value)
        yield
    finally:
        for name, value in saved.items():
            setattr(vllm, name, value)
