"""Scheduling over several servers of one model: which one is asked, and who is to blame when an answer fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Container
from dataclasses import dataclass, field
from typing import Any

from reasongenrm.config.engines import OpenAIConfig
from reasongenrm.engines.base import Request
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import EngineError, first_line
from reasongenrm.records import Completion

PATIENCE = 3
"""A server that fails so many requests in a row is dead; a request that fails so often is answered with an error."""

CONNECT_SECONDS = 10.0
"""A server that takes no connection for so long is down, however long its answers may take."""


class Failed(Exception):
    """One try that a server did not answer as it should.

    Args:
        text: what happened, in one line.
        gone: nothing listens there any more.
        limited: the server has more to do than it takes, which is no request's fault.
        empty: the server speaks as it should, but has nothing to say to this request.
    """

    def __init__(self, text: str, *, gone: bool = False, limited: bool = False, empty: bool = False) -> None:
        super().__init__(text)
        self.text, self.gone, self.limited, self.empty = text, gone, limited, empty


class Refused(Exception):
    """The request itself cannot be answered by any server: it is too long, or holds what they do not take."""


@dataclass(eq=False)
class Server:
    """What is known of one server.

    Attributes:
        url: its base URL.
        calls: the tries that wait for it.
        failing: the requests it failed since it answered one.
        last: its last failure.
        dead: it is asked no more.
        client: the SDK's, while a `Fleet` is open.
    """

    url: str
    calls: set[asyncio.Task[Completion]] = field(default_factory=set)
    failing: set[object] = field(default_factory=set)
    last: str = ""
    dead: bool = False
    client: Any = None


class Fleet:
    """Answers requests in an event loop: each by the live server with the fewest outstanding, `max_concurrent` at most.

    A try that fails goes to another server, where there is one. A server that fails three requests in a row, or takes
    no connection any more, is dead, and what waits for it goes to the others. A request that has failed three times is
    answered with `finish_reason` error, but only when it is known that the request is to blame: a server that is asked
    for one token then answers. So neither does a broken server spoil requests, nor a request that no server can answer
    end the work. Backoff and the first retries are the SDK's.

    Args:
        servers: dead ones are not asked.
        config: the model's name and the limits.
        secret: the servers' key.
        send: asks one server for one completion. Raises the SDK's errors, `ValueError`, `TypeError`, `KeyError` or
            `IndexError` on an answer it cannot read, `Failed` or `Refused`.
        key: the recipe key of `config`.
        tell: told, in one line, of a server's death.
    """

    def __init__(
        self,
        servers: list[Server],
        config: OpenAIConfig,
        secret: Secret,
        send: Callable[[Server, Request], Awaitable[Completion]],
        key: str,
        tell: Callable[[str], None],
    ) -> None:
        self._servers, self._config, self._secret = servers, config, secret
        self._send, self._key, self._tell = send, key, tell

    async def __aenter__(self) -> Fleet:
        import openai

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
        """Return the request's completion; it may have moved from server to server before.

        Raises:
            EngineError: no server is left, or they refuse the key or the model.
        """
        failures = 0
        failed_by: set[Server] = set()
        while True:
            server, outcome = await self._try(request, failed_by)
            if isinstance(outcome, Completion):
                return outcome
            if outcome is None:
                continue
            failures += not outcome.limited
            failed_by.add(server)
            if failures >= PATIENCE and (outcome.empty or await self._probe(request, failures)):
                return Completion(request.id, "", "error", logprob=None, error=outcome.text)

    async def _probe(self, request: Request, number: int) -> bool:
        """Whether a server answers a request of one token."""
        probe = Request(
            f"probe {number} of {request.id}",  # each counts as a request of its own
            request.prompt_ids[:1],
            max_tokens=1,
            messages=({"role": "user", "content": "Hi"},) if request.messages else (),
        )
        _, outcome = await self._try(probe, ())
        return isinstance(outcome, Completion)

    async def _try(
        self, request: Request, avoid: Container[Server]
    ) -> tuple[Server, Completion | Failed | None]:
        """Ask one server, and note what that says of it; None when the server died of other requests' failures."""
        server, call = await self._start(request, avoid)
        try:
            completion = await call
        except Refused as refusal:
            completion = Completion(request.id, "", "error", logprob=None, error=str(refusal))
        except Failed as failure:
            self._blame(server, failure, request)
            return server, failure
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not server.dead or (task is not None and task.cancelling()):
                raise  # it is the caller who stopped
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
        """Wait for a free server, of those to avoid only where there is no other, and ask it."""

        def free() -> list[Server]:
            live = [server for server in self._servers if not server.dead]
            if not live:
                raise self._all_dead()
            wanted = [server for server in live if server not in avoid] or live
            return [server for server in wanted if len(server.calls) < self._config.max_concurrent]

        async with self._freed:
            candidates = await self._freed.wait_for(free)
            server = min(candidates, key=lambda one: len(one.calls))
            call = asyncio.create_task(self._ask(server, request))
            server.calls.add(call)
        return server, call

    def _blame(self, server: Server, failure: Failed, request: Request) -> None:
        server.last = failure.text
        if failure.limited:
            server.failing.add(object())  # it may have too much to do for the same request again and again
        elif not failure.empty:
            server.failing.add(request.id)
        if server.dead or not (failure.gone or len(server.failing) >= PATIENCE):
            return
        server.dead = True
        self._tell(f"{self._key}: {server.url} is given up: {failure.text}")
        for call in server.calls:
            call.cancel()

    def _all_dead(self) -> EngineError:
        servers = "; ".join(f"{server.url}: {server.last}" for server in self._servers)
        return EngineError(
            f"no server answers any more ({servers})",
            location=f"{self._key}.urls",
            hint="start them again, then the same command: what was answered is kept",
        )

    async def _ask(self, server: Server, request: Request) -> Completion:
        """Ask one server, and translate what the SDK raises."""
        import openai

        try:
            return await self._send(server, request)
        except openai.APITimeoutError:
            raise Failed(f"no answer within {self._config.timeout:g} s") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            gone = type(cause).__name__ == "ConnectError"
            raise Failed(self._secret.hide(f"no connection: {first_line(cause)}"), gone=gone) from None
        except openai.APIStatusError as error:
            raise self._status(server, error) from None
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise Failed(f"an answer that cannot be read: {first_line(error)}") from None

    def _status(self, server: Server, error: Any) -> Exception:
        """What an HTTP status says of the request, the server or the recipe."""
        status = error.status_code
        said = error.body.get("message") if isinstance(error.body, dict) else None
        text = self._secret.hide((str(said or error.message).strip().splitlines() or ["no message"])[0])
        if status in (400, 413, 422):
            return Refused(text)
        if status in (408, 409, 429) or status >= 500:
            return Failed(f"HTTP {status}: {text}", limited=status == 429)
        if status in (401, 403):
            variable = self._config.api_key_env
            return EngineError(
                f"{server.url} refuses the key (HTTP {status})",
                location=f"{self._key}.api_key_env",
                hint=f"check the key in {variable}" if variable else "name the variable that holds the key",
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
