"""Run requests so that a killed run goes on where it stopped; with an engine in this process, to the same bytes.

What a model computes for a prompt depends, in the last bits, on what is computed beside it. So requests go to an
engine in this process in blocks whose content is fixed by their order alone; a block is written when all of it is
done, and a killed run repeats the block it was in, on its own and from an empty prefix cache, as the first time.
What else a server computes beside a request is not ours to fix. Its completions are written one by one as they come,
so that none is paid for twice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice

from reasongenrm.engines.base import Engine, Request
from reasongenrm.records import Completion
from reasongenrm.records_json import completion_to_json
from reasongenrm.store import PartStore


def complete_missing(
    engine: Engine,
    requests: Iterable[Request],
    store: PartStore,
    *,
    adapter: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
    convert: Callable[[Completion], dict[str, object]] = completion_to_json,
) -> None:
    """Complete every request that the store does not hold: block by block, or one by one where `block` is None.

    A completion with `finish_reason` error is stored like any other.

    Args:
        engine: the engine; its `block` is the number of requests per block.
        requests: all requests of the work, in an order that is the same in every run.
        store: where completions go; rows are keyed by the request's id.
        adapter: a LoRA folder.
        progress: called with the number of requests just found or done.
        convert: what is stored of a completion.
    """
    waiting = iter(requests)
    if engine.block is None:
        _stream(engine, waiting, store, adapter, progress, convert)
        return
    while block := list(islice(waiting, engine.block)):
        if any(request.id not in store for request in block):
            engine.forget()
            rows = {c.id: convert(c) for c in engine.complete(block, adapter=adapter)}
            store.append(rows[request.id] for request in block)
        progress(len(block))


def _stream(
    engine: Engine,
    requests: Iterator[Request],
    store: PartStore,
    adapter: str | None,
    progress: Callable[[int], None],
    convert: Callable[[Completion], dict[str, object]],
) -> None:
    def missing() -> Iterator[Request]:
        for request in requests:
            if request.id in store:
                progress(1)
            else:
                yield request

    completions = engine.complete(missing(), adapter=adapter)
    try:
        for completion in completions:
            store.append([convert(completion)])
            progress(1)
    finally:  # an error above must not leave the engine's connections and threads behind
        if isinstance(completions, Generator):
            completions.close()
