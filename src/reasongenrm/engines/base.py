"""What every engine does: requests in, completions out, as they are done."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from reasongenrm.records import Completion, Message


@dataclass(frozen=True, slots=True)
class Request:
    """One prompt to be completed.

    Attributes:
        id: comes back with the completion.
        prompt_ids: token ids (never a string: a string would be tokenised with special tokens added); may be empty
            for an engine that reads messages.
        max_tokens: limit of sampled tokens.
        temperature: 0 is greedy.
        top_p: nucleus sampling.
        seed: of this request alone, so that a sample does not depend on what is sampled beside it.
        stop: strings that end the completion; they stay in its text.
        ignore_eos: go on after the end-of-turn token (the judge writes two turns).
        allowed: the only token ids that may be sampled; all when empty.
        messages: the same prompt as a conversation, for servers that take no token ids.
        watch: token ids whose log-probabilities are kept wherever one of them is sampled.
    """

    id: str
    prompt_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    allowed: tuple[int, ...] = ()
    watch: tuple[int, ...] = ()
    messages: tuple[Message, ...] = ()


class Engine(Protocol):
    """A model that completes requests."""

    @property
    def max_model_len(self) -> int:
        """Tokens of prompt and completion together."""
        ...

    @property
    def block(self) -> int | None:
        """Requests that are handed over together, and repeated together after a kill; None for servers, whose
        completions are kept one by one as they come."""
        ...

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield completions as they are done, in any order; `adapter` is a LoRA folder."""
        ...

    def forget(self) -> None:
        """Empty the prefix cache, so that what follows does not depend on what came before."""
        ...

    def close(self) -> None:
        """Free what the engine holds."""
        ...
