"""Scheduling over several servers of one model: the choice of a server, retries, and dead servers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field
from typing import Any

import openai

from reasongenrm.config.engines import OpenAIConfig
from reasongenrm.engines.base import Request
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import EngineError, first_line
from reasongenrm.records import Completion

PATIENCE = 3
"""A server is dead after so many failed requests in a row; a request gets an error after so many failed attempts."""

CONNECT_SECONDS = 10.0
"""Limit for a new connection; an answer may take longer."""


class AttemptFailed(Exception):
    """An attempt to get an answer from a server failed.

    Args:
        text: what happened, in one line.
        gone: the server accepts no connection any more.
        limited: the server has too much work, which is not the request's fault.
        empty: the server works, but its answer to this request is empty.
    """

    def __init__(self, text: str, *, gone: bool = False, limited: bool = False, empty: bool = False) -> None:
        super().__init__(text)
        self.text, self.gone, self.limited, self.empty = text, gone, limited, empty


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
        dead: it gets no more requests.
        client: the SDK's, while a `Fleet` is open.
    """

    url: str
    calls: set[asyncio.Task[Completion]] = field(default_factory=set)
    failing: set[object] = field(default_factory=set)
    last: str = ""
    dead: bool = False
    client: Any = None


class Fleet:
    """Answers requests in an event loop: each by the live server with the fewest open ones, `max_concurrent` at most.

    A failed attempt is repeated on another server, if there is one. A server is dead when three requests in a row fail,
    or when it accepts no connection; its open requests go to the others. A request that failed three times gets
    `finish_reason` error, but only when the request is the cause: when a server answers a test request of one token.
    So a broken server does not spoil requests, and a bad request does not end the work. Backoff and the first retries
    are the SDK's.

    Args:
        servers: dead ones get no requests.
        config: the model's name and the limits.
        secret: the servers' key.
        send: gets one completion from one server. Raises the SDK's errors, `ValueError`, `TypeError`, `KeyError` or
            `IndexError` on an invalid answer, `AttemptFailed` or `InvalidRequest`.
        key: the recipe key of `config`.
        on_event: called with one line when a server is given up.
    """

    def __init__(
        self,
        servers: list[Server],
        config: OpenAIConfig,
        secret: Secret,
        send: Callable[[Server, Request], Awaitable[Completion]],
        key: str,
        on_event: Callable[[str], None],
    ) -> None:
        self._servers, self._config, self._secret = servers, config, secret
        self._send, self._key, self._on_event = send, key, on_event

    async def __aenter__(self) -> Fleet:
        self._freed = asyncio.Condition()
        seconds = self._config.timeout
        for server in self._servers:
            server.calls.clear()
            server.client = openai.AsyncOpenAI(
                api_key=self._secret.reveal("none"),
                base_url=server.url,
                timeout=openai.Timeout(seconds, connect=min(seconds, CONNECT_SECONDS)),
                max_retries=self._config.max_retries,
            )
        return self

    async def __aexit__(self, *raised: object) -> None:
        for server in self._servers:
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
            failures += not outcome.limited
            failed_by.add(server)
            if failures >= PATIENCE and (outcome.empty or await self._probe(request, failures)):
                return Completion(request.id, "", "error", error=outcome.text)

    async def _probe(self, request: Request, number: int) -> bool:
        """Return whether a server answers a test request of one token."""
        probe = Request(
            f"probe {number} of {request.id}",  # each counts as another request
            request.prompt_ids[:1],
            max_tokens=1,
            messages=({"role": "user", "content": "Hi"},) if request.messages else (),
        )
        _, outcome = await self._attempt(probe, ())
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
            return [server for server in preferred if len(server.calls) < self._config.max_concurrent]

        async with self._freed:
            candidates = await self._freed.wait_for(free)
            server = min(candidates, key=lambda one: len(one.calls))
            call = asyncio.create_task(self._ask(server, request))
            server.calls.add(call)
        return server, call

    def _record_failure(self, server: Server, failure: AttemptFailed, request: Request) -> None:
        server.last = failure.text
        if failure.limited:
            server.failing.add(object())  # the same request may meet this limit several times
        elif not failure.empty:
            server.failing.add(request.id)
        if server.dead or not (failure.gone or len(server.failing) >= PATIENCE):
            return
        server.dead = True
        self._on_event(f"{self._key}: {server.url} is given up: {failure.text}")
        for call in server.calls:
            call.cancel()

    def _all_dead(self) -> EngineError:
        servers = "; ".join(f"{server.url}: {server.last}" for server in self._servers)
        return EngineError(
            f"no server is left ({servers})",
            location=f"{self._key}.urls",
            hint="restart the servers, then run the same command: completed requests are kept",
        )

    async def _ask(self, server: Server, request: Request) -> Completion:
        """Ask one server; errors of the SDK become `AttemptFailed`, `InvalidRequest` or EngineError."""
        try:
            return await self._send(server, request)
        except openai.APITimeoutError:
            raise AttemptFailed(f"no answer within {self._config.timeout:g} s") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            gone = type(cause).__name__ == "ConnectError"
            raise AttemptFailed(self._secret.hide(f"no connection: {first_line(cause)}"), gone=gone) from None
        except openai.APIStatusError as error:
            raise self._status_error(server, error) from None
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise AttemptFailed(f"invalid answer: {first_line(error)}") from None

    def _status_error(self, server: Server, error: Any) -> Exception:
        """Return the exception for an HTTP status: a fault of the request, the server or the recipe."""
        status = error.status_code
        message = error.body.get("message") if isinstance(error.body, dict) else None
        text = self._secret.hide((str(message or error.message).strip().splitlines() or ["no message"])[0])
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
                hint="check the model's name and the URL, which usually ends in /v1",
            )
        return EngineError(
            f"{server.url} answers HTTP {status}: {text}", location=self._key, hint="check the URL"
        )
