"""`Engine`: requests in, completions out; and how an interrupted run continues."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any, Protocol

from reasongenrm.errors import EngineError
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
        schema: JSON schema of the completion, for servers that take messages; one that does not know such schemas writes
            free text.
        cache_system: the system turn is shared with many requests: ask the server to keep it in its prompt cache.
        task: name of the task of a judge, where another request follows the completion (see `judge.turns`).
        thoughts: whether the text begins with the model's thoughts between think tags, also where a server's reasoning
            parser cuts them out of a chat answer.
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
    thoughts: bool = False
    schema: Mapping[str, Any] | None = None
    cache_system: bool = False
    task: str = ""


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Ids of requests whose completions nobody waits for any more."""

    ids: frozenset[str]


LiveRequest = Request | Withdrawal | None
"""What a live source of requests has next; None where it has nothing now."""

POLL_SECONDS = 0.01
"""How often an engine that waits for others looks into a live source."""


@dataclass(frozen=True, slots=True)
class Unanswered(Completion):
    """An error that a server caused, not the request: `complete_missing` does not store it the first time."""


@dataclass(frozen=True, slots=True)
class PartialCompletion(Completion):
    """What a request has so far: its text and token ids. Its `finish_reason` is `length`; it is never stored."""


UNANSWERED = "#unanswered"
"""Ends the id of the row that notes a failed request."""


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

    def complete_live(
        self, requests: Iterable[LiveRequest], *, adapter: str | None = None
    ) -> Generator[Completion, None, None]:
        """Yield completions as they are done, of requests that may come while others are completed.

        The source is asked again and again, also after it had nothing; the call ends where it has nothing and all is done.
        A withdrawn request is ended where the engine can; its completion may come all the same.

        An engine that takes no requests while it works completes together what is there, as this default does.
        """
        source = iter(requests)
        while now := requests_now(source):
            yield from self.complete(now, adapter=adapter)

    def stream(
        self, requests: Iterable[Request], *, adapter: str | None = None
    ) -> Generator[Completion, None, None]:
        """Yield the completions of `complete`, and before each any number of `PartialCompletion`s of its growing text.

        An engine that cannot stream yields no partial ones. Closing the generator ends the requests in progress. After a
        failed attempt on a server, a text may begin again.
        """
        yield from self.complete(requests, adapter=adapter)

    def complete_blocks(
        self, blocks: Iterable[Sequence[Request]], *, adapter: str | None = None
    ) -> Generator[list[Completion], None, None]:
        """Yield the completions of each block, in the order of its requests; the blocks come in any order.

        A block begins with an empty prefix cache, so that its completions depend on the block alone.
        """
        for block in blocks:
            self.reset_prefix_cache()
            completions = {c.id: c for c in self.complete(block, adapter=adapter)}
            yield [completions[request.id] for request in block]

    def wrapped(self, wrap: Callable[[Engine], Engine]) -> Engine:
        """Return `wrap(engine)` of the engine that computes: this one, or each of many workers' own."""
        return wrap(self)

    def reset_prefix_cache(self) -> None:
        """Empty the prefix cache, so that later completions do not depend on earlier ones; servers have their own."""
        return

    def close(self) -> None:
        """Free memory and connections."""
        return


def requests_now(source: Iterator[LiveRequest], limit: int | None = None) -> list[Request]:
    """Return the requests that a live source has now, at most `limit`."""
    now = islice(takewhile(lambda item: item is not None, source), limit)
    return [item for item in now if isinstance(item, Request)]


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

    A completion with `finish_reason` error is stored like any other, but an `Unanswered` one only if the same request
    failed in an earlier call too: the first time, its id is noted, and an error ends the call when all others are stored.

    Args:
        engine: the engine; its `block` is the number of requests per block.
        requests: all requests of the step, in the same order in every run.
        store: for the completions, keyed by the request's id.
        adapter: a LoRA folder.
        progress: called with the number of requests just found or done.
        convert: returns the row to store for a completion.

    Raises:
        EngineError: servers failed to answer some requests; the next call asks for them again.
    """
    source = iter(requests)
    if engine.block is not None:
        blocks = _missing_blocks(source, engine.block, store, progress)
        with closing(engine.complete_blocks(blocks, adapter=adapter)) as results:
            for done in results:
                store.append(map(convert, done))
                progress(len(done))
        return

    def missing() -> Iterator[Request]:
        for request in source:
            if request.id in store:
                progress(1)
            else:
                yield request

    noted_before = {name for name in store if name.endswith(UNANSWERED)}
    unanswered: list[Completion] = []
    completions = engine.complete(missing(), adapter=adapter)
    try:
        for completion in completions:
            note = completion.id + UNANSWERED
            if isinstance(completion, Unanswered) and note not in noted_before:
                store.append([{"id": note, "error": completion.error}])
                unanswered.append(completion)
                continue
            store.append([convert(completion)])
            progress(1)
    finally:  # after an error, close the engine's connections and threads
        if isinstance(completions, Generator):
            completions.close()
    if unanswered:
        raise EngineError(
            f"{len(unanswered)} requests failed by faults of the servers, the last one with: {unanswered[-1].error}",
            location=store.final.name,
            hint="run the same command again: it asks for these alone, and records as errors those that fail again",
        )


def _missing_blocks(
    requests: Iterator[Request], size: int, store: PartStore, progress: Callable[[int], None]
) -> Iterator[list[Request]]:
    while block := list(islice(requests, size)):
        if any(request.id not in store for request in block):
            yield block
        else:
            progress(len(block))


def request_seed(seed: int, name: str) -> int:
    """Return the sampling seed of one request, a function of the run's seed and the request's id."""
    return int(content_id("sample", seed, name), 16) % 2**31
