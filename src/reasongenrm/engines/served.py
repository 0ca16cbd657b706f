"""`ServedEngine`: requests to servers of one model, many at the same time."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from queue import Empty, SimpleQueue
from typing import ClassVar

from reasongenrm.config.engines import AnthropicConfig, OpenAIConfig
from reasongenrm.engines.base import (
    POLL_SECONDS,
    Engine,
    LiveRequest,
    PartialCompletion,
    Request,
    Withdrawal,
)
from reasongenrm.engines.fleet import SDK, Fleet, Server
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import EngineError
from reasongenrm.records import Completion

ShowPartial = Callable[[PartialCompletion], None]
"""Called in the thread of the servers with what a request has so far."""

FIRST_FAILURES = 32
"""Failed requests that are held back until one succeeds: where all fail, the recipe or the server is wrong, and none of
them may be recorded as done."""


class ServedEngine(Engine):
    """Sends each request to the live server with the fewest open requests; the others take over a dead server's work.

    Args:
        config: model, limits and the variable with the key.
        urls: the servers.
        max_model_len: tokens of prompt and completion together, of the servers.
        key: the recipe key of `config`, named in errors.
        on_event: called with one line when a server is given up.

    Raises:
        EngineError: the API key is not in the environment.
    """

    sdk: ClassVar[SDK]
    adapter_refusal: ClassVar[tuple[str, str]]
    """Problem and hint where a request is for an adapter."""

    def __init__(
        self,
        config: OpenAIConfig | AnthropicConfig,
        urls: Iterable[str],
        *,
        max_model_len: int,
        key: str,
        on_event: Callable[[str], None],
    ) -> None:
        self.max_model_len = max_model_len
        self._config, self._key, self._on_event = config, key, on_event
        self._announce = on_event  # for the threads of `complete`
        self._secret = Secret(config.api_key_env, location=f"{key}.api_key_env")
        self._servers = [Server(url) for url in dict.fromkeys(url.rstrip("/") for url in urls)]
        self._any_success = False

    async def _send(self, server: Server, request: Request, *, show: ShowPartial | None = None) -> Completion:
        """Send a request to one server (the SDK retries), with `show` as a stream; see `Fleet` for its exceptions."""
        raise NotImplementedError

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield completions as they are done, each request's exactly once; the caller may stop at any time.

        Requests are taken from the iterable as servers become free. A request that the servers refuse, or that fails
        ten times while others succeed (`Unanswered`), comes back with `finish_reason` error.

        Raises:
            EngineError: no server is left; a key, a model or all requests are refused; `adapter` is set.
        """
        yield from self._complete(requests, adapter)

    def complete_live(
        self, requests: Iterable[LiveRequest], *, adapter: str | None = None
    ) -> Generator[Completion, None, None]:
        """Yield completions as `complete` does; the source is asked every 10 ms while requests are open."""
        yield from self._complete(requests, adapter, live=True)

    def stream(
        self, requests: Iterable[Request], *, adapter: str | None = None
    ) -> Generator[Completion, None, None]:
        """Yield completions as `complete` does, and partial ones as their events come; see `Engine.stream`."""
        yield from self._complete(requests, adapter, stream=True)

    def _complete(
        self,
        requests: Iterable[LiveRequest],
        adapter: str | None,
        *,
        stream: bool = False,
        live: bool = False,
    ) -> Generator[Completion, None, None]:
        if adapter is not None:
            problem, hint = self.adapter_refusal
            raise EngineError(problem, location=self._key, hint=hint)
        from anyio.from_thread import start_blocking_portal

        source = iter(requests)
        # Also lines for `on_event`.
        results: SimpleQueue[Future[Completion] | PartialCompletion | str] = SimpleQueue()
        self._announce = results.put
        in_flight: dict[Future[Completion], str] = {}  # -> the request's id
        held_back: list[Completion] = []
        send = partial(self._send, show=results.put if stream else None)
        fleet = Fleet(self._servers, self._config, self._secret, send, self._key, results.put, self.sdk)
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(fleet):
            try:
                while True:
                    while len(in_flight) < self._max_in_flight(len(held_back)):
                        request = next(source, None)
                        if request is None:
                            break
                        if isinstance(request, Withdrawal):
                            for future in [one for one, name in in_flight.items() if name in request.ids]:
                                del in_flight[future]
                                future.cancel()
                            continue
                        future = portal.start_task_soon(fleet.answer, request)
                        in_flight[future] = request.id
                        future.add_done_callback(results.put)
                    if not in_flight:
                        break
                    try:
                        result = results.get(timeout=POLL_SECONDS if live else None)
                    except Empty:
                        continue
                    if isinstance(result, str):
                        self._on_event(result)
                        continue
                    if isinstance(result, PartialCompletion):
                        if result.id in in_flight.values():  # not of a test of a server
                            yield result
                        continue
                    if in_flight.pop(result, None) is None:
                        continue  # it was withdrawn
                    completion = result.result()
                    failed = completion.finish_reason == "error" and not completion.refused
                    if failed and not self._any_success:
                        held_back.append(completion)
                        continue
                    self._any_success = True
                    yield from held_back
                    held_back.clear()
                    yield completion
                if self._max_in_flight(len(held_back)) <= 0 and next(source, None) is not None:
                    raise EngineError(
                        f"all of the first {len(held_back)} requests failed, the last one with: {held_back[-1].error}",
                        location=self._key,
                        hint="correct the recipe or the servers and run again: none of them was recorded",
                    )
                yield from held_back
            finally:
                for future in in_flight:
                    future.cancel()

    def _max_in_flight(self, held_back: int) -> int:
        live = sum(not server.dead for server in self._servers)
        # Where none is left, the next request raises the error.
        limit = self._config.max_concurrent * max(live, 1)
        return limit if self._any_success else min(limit, max(limit, FIRST_FAILURES) - held_back)
