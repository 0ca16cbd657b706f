"""Scheduling over several servers of one model: the choice of a server, retries, and dead servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from reasongenrm.config.engines import AnthropicConfig, OpenAIConfig
from reasongenrm.engines.base import Request, Unanswered
from reasongenrm.engines.http import LONGEST_TEXT, one_line, redirect_text
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import EngineError, first_line
from reasongenrm.records import Completion

PATIENCE = 3
"""A server is tested after so many failed requests in a row."""

ATTEMPTS = 10
"""A server is dead after so many failed tests, and a request is `Unanswered` after so many failed attempts: three in ten of
all attempts may fail in a run of 10,000 requests, and none is lost."""

SLOW_ATTEMPTS = 4
"""What an attempt without an answer in time counts for."""

TEST_SECONDS = 60.0
"""Limit for the answer to a test."""

CONNECT_SECONDS = 10.0
"""Limit for a new connection; an answer may take longer."""


class SDK(NamedTuple):
    """The client library of a protocol: OpenAI's or Anthropic's, whose errors have the same names.

    Attributes:
        errors: the module.
        client: its asynchronous client.
        http: its HTTP client, which reads answers of limited size.
    """

    errors: Any
    client: Any
    http: Any


class AttemptFailed(Exception):
    """An attempt to get an answer from a server failed.

    Args:
        text: what happened, in one line.
        gone: the server accepts no connection any more.
        limited: the server has too much work, which is not the request's fault.
        empty: the server works, but its answer to this request is empty.
        count: what it counts for, among ATTEMPTS.
    """

    def __init__(
        self, text: str, *, gone: bool = False, limited: bool = False, empty: bool = False, count: int = 1
    ) -> None:
        super().__init__(text)
        self.text, self.gone, self.limited, self.empty, self.count = text, gone, limited, empty, count


class InvalidRequest(Exception):
    """No server can answer the request: it is too long, or has a field that they do not accept."""


@dataclass(eq=False)
class Server:
    """The state of one server.

    Attributes:
        url: its base URL.
        calls: the attempts that wait for it.
        failing: the requests that failed since its last answer.
        last: its last failure.
        check: the task that tests it, while it gets no other request.
        dead: it gets no more requests.
        client: the SDK's, while a `Fleet` is open.
    """

    url: str
    calls: set[asyncio.Task[Completion]] = field(default_factory=set)
    failing: set[object] = field(default_factory=set)
    last: str = ""
    check: asyncio.Task[None] | None = None
    dead: bool = False
    client: Any = None


class Fleet:
    """Answers requests in an event loop: each by the live server with the fewest open ones, `max_concurrent` at most.

    A failed attempt is repeated on another server, if there is one. A server is tested when three requests in a row fail: it
    gets up to ten requests of one token. It is dead when it answers none of them, or when it accepts no connection or
    redirects; its open requests go to the others. A request that failed ten times is `Unanswered`, but only when a server
    answers a test. So a broken server does not spoil requests, and a bad request does not end the work. Backoff and the
    first retries are the SDK's.

    Args:
        servers: dead ones get no requests.
        config: the model's name and the limits.
        secret: the servers' key.
        send: gets one completion from one server. Raises the SDK's errors, `ValueError` or `RecursionError` on an invalid
            answer, `AttemptFailed` or `InvalidRequest`.
        key: the recipe key of `config`.
        on_event: called with one line when a server is given up.
        sdk: the client library.
    """

    def __init__(
        self,
        servers: list[Server],
        config: OpenAIConfig | AnthropicConfig,
        secret: Secret,
        send: Callable[[Server, Request], Awaitable[Completion]],
        key: str,
        on_event: Callable[[str], None],
        sdk: SDK,
    ) -> None:
        self._servers, self._config, self._secret = servers, config, secret
        self._send, self._key, self._on_event, self._sdk = send, key, on_event, sdk

    async def __aenter__(self) -> Fleet:
        self._freed = asyncio.Condition()
        seconds = self._config.timeout
        for server in self._servers:
            server.calls.clear()
            server.check = None
            # `_ask` limits the time of a request: a limit per read never ends a server that sends byte by byte.
            timeout = self._sdk.errors.Timeout(None, connect=min(seconds, CONNECT_SECONDS))
            server.client = self._sdk.client(
                api_key=self._secret.reveal("none"),
                base_url=server.url,
                timeout=timeout,
                max_retries=self._config.max_retries,
                http_client=self._sdk.http(timeout=timeout, follow_redirects=False),
            )
        return self

    async def __aexit__(self, *raised: object) -> None:
        for server in self._servers:
            if server.check:
                server.check.cancel()
            await server.client.close()

    async def answer(self, request: Request) -> Completion:
        """Return the request's completion, after attempts on several servers if need be.

        Raises:
            EngineError: no server is left, or a server refuses the key or the model.
        """
        failures = 0
        failed_by: set[Server] = set()
        while True:
            server, outcome = await self._attempt(request, failed_by)
            if isinstance(outcome, Completion):
                return outcome
            if outcome is None:
                continue
            failures += 0 if outcome.limited else outcome.count
            failed_by.add(server)
            if failures >= ATTEMPTS and (outcome.empty or await self._probe(request, failures)):
                return Unanswered(request.id, "", "error", error=outcome.text)

    async def _probe(self, request: Request, number: int) -> bool:
        """Return whether a server answers a test."""
        # Each counts as another request.
        _, outcome = await self._attempt(_test_request(request, f"probe {number} of {request.id}"), ())
        return isinstance(outcome, Completion)

    async def _attempt(
        self, request: Request, avoid: Container[Server]
    ) -> tuple[Server, Completion | AttemptFailed | None]:
        """Ask one server, and update its state; the outcome is None when other requests made the server dead."""
        server, call = await self._start(request, avoid)
        try:
            completion = await call
        except InvalidRequest as refusal:
            completion = Completion(request.id, "", "error", error=str(refusal))
        except AttemptFailed as failure:
            self._record_failure(server, failure, request)
            return server, failure
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not server.dead or (task is not None and task.cancelling()):
                raise  # the caller stopped
            return server, None
        finally:
            server.calls.discard(call)
            async with self._freed:
                self._freed.notify_all()
        server.failing.clear()
        return server, completion

    async def _start(
        self, request: Request, avoid: Container[Server]
    ) -> tuple[Server, asyncio.Task[Completion]]:
        """Wait for a free server and ask it; one of `avoid` only where no other is alive."""

        def free() -> list[Server]:
            live = [server for server in self._servers if not server.dead]
            if not live:
                raise self._all_dead()
            preferred = [server for server in live if server not in avoid] or live
            limit = self._config.max_concurrent
            return [server for server in preferred if not server.check and len(server.calls) < limit]

        async with self._freed:
            candidates = await self._freed.wait_for(free)
            server = min(candidates, key=lambda one: len(one.calls))
            call = asyncio.create_task(self._ask(server, request, self._config.timeout))
            server.calls.add(call)
        return server, call

    def _record_failure(self, server: Server, failure: AttemptFailed, request: Request) -> None:
        server.last = failure.text
        if failure.limited:
            server.failing.add(object())  # the same request may meet this limit several times
        elif not failure.empty:
            server.failing.add(request.id)
        if server.dead:
            return
        if failure.gone:
            self._give_up(server)
        elif len(server.failing) >= PATIENCE and not server.check:
            server.check = asyncio.create_task(self._test(server, request))

    async def _test(self, server: Server, request: Request) -> None:
        """Give a server up, unless it answers a test, or an open request meanwhile."""
        failures = 0
        while failures < ATTEMPTS and server.failing and not server.dead:
            try:
                test = _test_request(request, f"test {failures}")
                await self._ask(server, test, min(self._config.timeout, TEST_SECONDS))
                server.failing.clear()
            except InvalidRequest:
                server.failing.clear()
            except AttemptFailed as failure:
                server.last, failures = failure.text, failures + failure.count
            except EngineError as refusal:
                server.last, failures = refusal.problem, ATTEMPTS
        if server.failing and not server.dead:
            self._give_up(server)
        server.check = None
        async with self._freed:
            self._freed.notify_all()

    def _give_up(self, server: Server) -> None:
        server.dead = True
        self._on_event(f"{self._key}: {server.url} is given up: {server.last}")
        for call in server.calls:
            call.cancel()

    def _all_dead(self) -> EngineError:
        servers = "; ".join(f"{server.url}: {server.last}" for server in self._servers)
        return EngineError(
            f"no server is left ({servers})",
            location=f"{self._key}.{'urls' if self._config.kind == 'openai' else 'url'}",
            hint="restart the servers, then run the same command: completed requests are kept",
        )

    async def _ask(self, server: Server, request: Request, seconds: float) -> Completion:
        """Ask one server; errors of the SDK become `AttemptFailed`, `InvalidRequest` or EngineError."""
        errors = self._sdk.errors
        try:
            async with asyncio.timeout(seconds):
                return await self._send(server, request)
        except (TimeoutError, errors.APITimeoutError):
            raise AttemptFailed(f"no answer within {seconds:g} s", count=SLOW_ATTEMPTS) from None
        except errors.APIConnectionError as error:
            cause = error.__cause__ or error
            gone = type(cause).__name__ == "ConnectError"
            raise AttemptFailed(self._line(f"no connection: {first_line(cause)}"), gone=gone) from None
        except errors.APIStatusError as error:
            raise self._status_error(server, error) from None
        except (ValueError, RecursionError) as error:
            raise AttemptFailed(self._line(f"invalid answer: {first_line(error)}")) from None

    def _line(self, text: str) -> str:
        """Return the first line of a server's message, shortened, without the key and control characters."""
        # Cut before it is searched for the key, and after.
        return self._secret.hide(one_line(text, 8 * LONGEST_TEXT))[:LONGEST_TEXT]

    def _status_error(self, server: Server, error: Any) -> Exception:
        """Return the exception for an HTTP status: a fault of the request, the server or the recipe."""
        status = error.status_code
        if 300 <= status < 400:
            return AttemptFailed(self._line(redirect_text(error.response)), gone=True)
        body = error.body if isinstance(error.body, dict) else {}
        inner = body.get("error")  # of Anthropic's
        message = body.get("message") or (inner.get("message") if isinstance(inner, dict) else None)
        text = self._line(str(message or error.message))
        if status in (400, 413, 422):
            return InvalidRequest(text)
        if status in (408, 409, 429) or status >= 500:
            return AttemptFailed(f"HTTP {status}: {text}", limited=status == 429)
        if status in (401, 403):
            variable = self._config.api_key_env
            return EngineError(
                f"{server.url} refuses the key (HTTP {status})",
                location=f"{self._key}.api_key_env",
                hint=f"check the key in {variable}" if variable else "set it to the variable with the key",
            )
        if status == 404:
            return EngineError(
                f"{server.url} knows no model {self._config.model!r} (HTTP 404: {text})",
                location=f"{self._key}.model",
                hint="check the model's name and the URL"
                + ", which usually ends in /v1" * (self._config.kind == "openai"),
            )
        return EngineError(
            f"{server.url} answers HTTP {status}: {text}", location=self._key, hint="check the URL"
        )


def _test_request(request: Request, name: str) -> Request:
    """Return a request of one token that any server of the model answers."""
    return Request(
        name,
        request.prompt_ids[:1],
        max_tokens=1,
        messages=({"role": "user", "content": "Hi"},) if request.messages else (),
    )
