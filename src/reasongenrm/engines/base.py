"""`Engine`: requests in, completions out; and how an interrupted run continues."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from reasongenrm.records import Completion, Message, content_id
from reasongenrm.store import PartStore, completion_to_json


@dataclass(frozen=True, slots=True)
class Request:
    """A prompt and the sampling options of its completion.

    Attributes:
        id: id of the completion.
        prompt_ids: token ids (not a string: vLLM adds special tokens to a string); may be empty for an engine that
            takes messages.
        max_tokens: limit of sampled tokens.
        temperature: 0 is greedy.
        top_p: nucleus sampling.
        seed: of this request alone, so that a sample does not depend on the other requests.
        stop: strings that end the completion; they stay in its text.
        stop_ids: token ids that end the completion, besides the model's own; they stay in it.
        ignore_eos: continue after the model's end of turn.
        allowed: the only token ids that may be sampled; all when empty.
        logprob_token_ids: token ids whose log-probabilities are returned wherever one of them is sampled. They
            cost time on every token: ask for them only where they are read.
        urgent: start it before waiting requests, because its prompt is in the prefix cache (vLLM in this process).
        messages: the same prompt as a conversation, for servers that take no token ids.
    """

    id: str
    prompt_ids: tuple[int, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    allowed: tuple[int, ...] = ()
    logprob_token_ids: tuple[int, ...] = ()
    urgent: bool = False
    messages: tuple[Message, ...] = ()


class Engine(Protocol):
    """A model that completes requests.

    Attributes:
        max_model_len: tokens of prompt and completion together.
        block: number of requests that are completed, stored and, after a kill, repeated together; None for servers,
            whose completions are stored one by one.
    """

    max_model_len: int
    block: int | None = None

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield completions as they are done, in any order; `adapter` is a LoRA folder.

        Requests are taken as there is room for them, so that they may follow from completions.
        """
        ...

    def reset_prefix_cache(self) -> None:
        """Empty the prefix cache, so that later completions do not depend on earlier ones; servers have their own."""
        return

    def close(self) -> None:
        """Free memory and connections."""
        return


def complete_missing(
    engine: Engine,
    requests: Iterable[Request],
    store: PartStore,
    *,
    adapter: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
    convert: Callable[[Completion], dict[str, object]] = completion_to_json,
) -> None:
    """Complete every request that is not in the store: block by block, or one by one where `block` is None.

    A completion with `finish_reason` error is stored like any other.

    Args:
        engine: the engine; its `block` is the number of requests per block.
        requests: all requests of the step, in the same order in every run.
        store: for the completions, keyed by the request's id.
        adapter: a LoRA folder.
        progress: called with the number of requests just found or done.
        convert: returns the row to store for a completion.
    """
    source = iter(requests)
    if engine.block is not None:
        while block := list(islice(source, engine.block)):
            if any(request.id not in store for request in block):
                engine.reset_prefix_cache()
                rows = {c.id: convert(c) for c in engine.complete(block, adapter=adapter)}
                store.append(rows[request.id] for request in block)
            progress(len(block))
        return

    def missing() -> Iterator[Request]:
        for request in source:
            if request.id in store:
                progress(1)
            else:
                yield request

    completions = engine.complete(missing(), adapter=adapter)
    try:
        for completion in completions:
            store.append([convert(completion)])
            progress(1)
    finally:  # after an error, close the engine's connections and threads
        if isinstance(completions, Generator):
            completions.close()


def request_seed(seed: int, name: str) -> int:
    """Return the sampling seed of one request, a function of the run's seed and the request's id."""
    return int(content_id("sample", seed, name), 16) % 2**31
