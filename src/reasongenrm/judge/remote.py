"""`RemoteJudge`: client of a judge served over HTTP (`service.server`)."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import cycle
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

import httpx
import msgspec
from anyio.from_thread import start_blocking_portal

from reasongenrm.engines.http import one_line, read_body, redirect_text
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import ConfigError, DataError, EngineError, first_line
from reasongenrm.judge.criteria import RubricComparison, RubricRating
from reasongenrm.judge.inputs import ComparisonInput, PlacedRow, RatingInput
from reasongenrm.records import Comparison, Order, Outcome, Rating, Winner, split_criteria

COMPARISON_FIELDS = ("winner", "prob_a", "reason", "reasons", "outcome", "prompt_tokens", "tokens")
"""Fields of a comparison in the HTTP API; its `error` is called `problem` there."""

CONNECTIONS = 8
"""Simultaneous requests per client: at each request, httpx looks at every connection of its client."""

_Count = Annotated[int, msgspec.Meta(ge=0)]


RATING_FIELDS = ("rating", "outcome", "reason", "prompt_tokens", "tokens", "rescued", "votes")
"""Fields of a rating in the HTTP API; its `error` is called `problem` there, too."""


class _ComparisonAnswer(msgspec.Struct):
    """What the server answers to /compare; anything of another type is an error."""

    winner: Winner | None
    prob_a: Annotated[float, msgspec.Meta(ge=0, le=1)] | None
    reason: str | None
    reasons: dict[Order, str]
    outcome: Outcome
    prompt_tokens: _Count
    tokens: _Count
    problem: str | None
    criteria: dict[str, _ComparisonAnswer] | None = None

    def comparison(self) -> Comparison:
        """Return it as the record, without ids and verdicts."""
        fields = {name: getattr(self, name) for name in COMPARISON_FIELDS}
        fields |= {"id": "", "verdicts": (), "error": self.problem}
        if self.criteria is None:
            return Comparison(**fields)
        criteria = {name: answer.comparison() for name, answer in self.criteria.items()}
        return RubricComparison(**fields, criteria=criteria)


_Stars = Annotated[float, msgspec.Meta(ge=1, le=10)] | None


class _RatingAnswer(msgspec.Struct):
    """What the server answers to /rate."""

    rating: _Stars
    score: Annotated[float, msgspec.Meta(ge=0, le=1)] | None
    reason: str
    outcome: Literal["ok", "unparsed", "truncated", "error"]
    prompt_tokens: _Count
    tokens: _Count
    rescued: bool
    votes: tuple[_Stars, ...]
    problem: str | None
    scores: dict[str, float] | None = None
    criteria: dict[str, _RatingAnswer] | None = None

    def record(self) -> Rating:
        """Return it as the record, without an id."""
        fields = {name: getattr(self, name) for name in RATING_FIELDS} | {"id": "", "error": self.problem}
        if self.criteria is None:
            return Rating(**fields)
        criteria = {name: answer.record() for name, answer in self.criteria.items()}
        return RubricRating(**fields, score=self.score, scores=self.scores or {}, criteria=criteria)


class _CheckShown(msgspec.Struct):
    """What the server answers to /alarm."""

    runs: _Count


class _Problem(msgspec.Struct):
    error: str
    hint: str


Answer = TypeVar("Answer", bound=msgspec.Struct)


class RemoteJudge:
    """A judge served over HTTP, for rewards in another process than the engine's.

    Redirects are not followed: a request carries the judged text and the key. A server that is still loading its judge, or has too
    many requests, is asked again until it answers.

    Args:
        url: of the server.
        api_key_env: environment variable with its key.
        timeout: seconds until the whole answer to a request must be there, the time that the judge loads included.
        concurrency: number of simultaneous requests; the server judges them together.

    Raises:
        ConfigError: the URL is not one of HTTP, or `timeout` or `concurrency` is not positive.
        EngineError: the key is not in the environment.
    """

    def __init__(
        self, url: str, *, api_key_env: str | None = None, timeout: float = 600, concurrency: int = 64
    ) -> None:
        _check_url(url)
        for name, value, kinds in (("timeout", timeout, int | float), ("concurrency", concurrency, int)):
            if not isinstance(value, kinds) or not value > 0:  # `not >`: NaN is refused, too
                hint = f"give a {'whole ' if kinds is int else ''}number above 0"
                raise ConfigError(f"{value!r} is not possible", location=name, hint=hint)
        self._url, self._timeout, self._concurrency = url.rstrip("/"), timeout, concurrency
        self._key = Secret(api_key_env, location="api_key_env")

    def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
        """Yield a comparison for each row, in their order; without the verdicts of each order.

        Raises:
            DataError: the server refuses a row.
            EngineError: the server cannot be reached, or fails.
        """
        bodies = (request_body(row, "a", "b") for row in rows)
        for answer in self._answers("/compare", bodies, _ComparisonAnswer):
            yield answer.comparison()

    def rate_many(self, rows: Iterable[RatingInput]) -> Iterator[Rating]:
        """Yield a rating for each row, in their order; see `compare_many`."""
        bodies = (request_body(row, "answer") for row in rows)
        for answer in self._answers("/rate", bodies, _RatingAnswer):
            yield answer.record()

    async def ask(self, path: str, body: dict[str, Any], kind: type[Answer]) -> Answer:
        """Return the answer to one request in the caller's event loop.

        Args:
            path: of the server.
            body: of the request.
            kind: what the answer is read as.

        Raises:
            DataError: the server refuses the request.
            EngineError: the server cannot be reached, or fails.
        """
        async with _http_client() as client:
            return await self._ask(client, asyncio.Semaphore(), path, body, kind)

    def show_check(self, body: dict[str, Any]) -> None:
        """Show a check of held-out prompts in the server's /metrics; see `service.alarm_routes.AlarmRequest`.

        Raises:
            DataError: the server refuses it.
            EngineError: the server cannot be reached, or has no such route.
        """
        list(self._answers("/alarm", [body], _CheckShown))

    def _answers(self, path: str, bodies: Iterable[dict[str, Any]], kind: type[Answer]) -> Iterator[Answer]:
        turn, sent = asyncio.Semaphore(self._concurrency), list(bodies)
        clients = [_http_client() for _ in range(0, min(self._concurrency, len(sent)), CONNECTIONS)]
        with start_blocking_portal() as portal, ExitStack() as stack:
            for client in clients:
                stack.enter_context(portal.wrap_async_context_manager(client))
            ask: Callable[..., Coroutine[Any, Any, Answer]] = self._ask
            futures = [
                portal.start_task_soon(ask, client, turn, path, body, kind)
                for client, body in zip(cycle(clients), sent, strict=False)
            ]
            try:
                for future in futures:
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()

    async def _ask(
        self,
        client: httpx.AsyncClient,
        turn: asyncio.Semaphore,
        path: str,
        body: dict[str, Any],
        kind: type[Answer],
    ) -> Answer:
        try:
            async with turn, asyncio.timeout(self._timeout):
                sent = json.dumps(body).encode("ascii")
                while isinstance(content := await self._post(client, path, sent), float):
                    await asyncio.sleep(content)
                return msgspec.json.decode(content, type=kind)
        except TimeoutError:
            problem = f"the judge does not answer within {self._timeout:g} s"
        except httpx.HTTPError as error:
            problem = f"the judge does not answer: {first_line(error)}"
        except (ValueError, RecursionError) as error:
            problem = f"the judge's answer is not valid: {first_line(error)[:200]}"
        hint = "start it with `reasongenrm serve`, or check the URL"
        raise EngineError(problem, location=self._url, hint=hint)

    async def _post(self, client: httpx.AsyncClient, path: str, body: bytes) -> bytes | float:
        """Return the answer, or the seconds after which a server that is still loading, or full, wants to be asked again."""
        headers = {"Content-Type": "application/json"}
        if key := self._key.reveal():
            headers["Authorization"] = f"Bearer {key}"
        async with client.stream("POST", f"{self._url}{path}", content=body, headers=headers) as response:
            if response.is_redirect:
                hint = "if you trust that address, give it as the URL"
                raise EngineError(redirect_text(response), location=self._url, hint=hint)
            content = await read_body(response)
        if response.status_code in (429, 503) and response.headers.get("retry-after", "").isdecimal():
            return max(1.0, float(response.headers["retry-after"]))
        if not response.is_success:
            refused = response.status_code in (400, 413, 422)
            problem, hint = _problem(response, content)
            raise (DataError if refused else EngineError)(problem, location=self._url, hint=hint)
        return content


def _check_url(url: Any) -> None:
    """Raise ConfigError for what is not the address of a server."""
    try:
        parts = urlsplit(url) if isinstance(url, str) else None
        valid = parts is not None and parts.scheme.lower() in ("http", "https") and bool(parts.hostname)
    except ValueError:
        valid = False
    if not valid:
        hint = "give the address that `reasongenrm serve` printed, such as http://127.0.0.1:8080"
        raise ConfigError("not a URL of HTTP", location="url", hint=hint)


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()  # takes some 10 ms


def _http_client() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        timeout=None,  # `_ask` limits the whole request
        limits=httpx.Limits(max_connections=None),
        follow_redirects=False,
        # The judge is on the local network: a proxy set in the environment is for hosts outside.
        trust_env=False,
        verify=_tls(),
    )


def request_body(row: ComparisonInput | RatingInput, *names: str) -> dict[str, Any]:
    """Return the body of a request: the prompt, the answers of these names, and the rubric."""
    rest: list[Any] = [*row[1:]]
    rubric = rest.pop() if len(rest) > len(names) else None
    body: dict[str, Any] = dict(zip(names, rest, strict=True))
    if isinstance(row[0], str):
        body["prompt"] = row[0]
    else:
        body["criteria"], turns = split_criteria(row[0])
        body["messages"] = [{"role": turn["role"], "content": turn["content"]} for turn in turns]
    if isinstance(row, PlacedRow):
        body["placed"] = True
    return body if rubric is None else body | {"rubric": rubric.model_dump()}


def _problem(response: httpx.Response, content: bytes) -> tuple[str, str]:
    """Return the problem and the hint in a server's answer; another kind of server may send any body."""
    try:
        problem = msgspec.json.decode(content, type=_Problem)
        return one_line(problem.error), problem.hint and one_line(problem.hint)
    except (ValueError, RecursionError):
        status = one_line(f"HTTP {response.status_code} {response.reason_phrase}")
        return status, "check that this is the judge's address"
