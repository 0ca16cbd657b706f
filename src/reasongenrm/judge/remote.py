"""`RemoteJudge`: client of a judge served over HTTP (`judge.server`)."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Iterable, Iterator
from typing import Annotated, Any

import httpx
import msgspec
from anyio.from_thread import start_blocking_portal

from reasongenrm.engines.http import one_line, read_body, redirect_text
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import DataError, EngineError, first_line
from reasongenrm.judge.api import ComparisonInput
from reasongenrm.records import Comparison, Order, Outcome, Winner

COMPARISON_FIELDS = ("winner", "prob_a", "reason", "reasons", "outcome", "prompt_tokens", "tokens")
"""Fields of a comparison in the HTTP API; its `error` is called `problem` there."""

_Count = Annotated[int, msgspec.Meta(ge=0)]


class _Answer(msgspec.Struct):
    """What the server answers; anything of another type is an error."""

    winner: Winner | None
    prob_a: Annotated[float, msgspec.Meta(ge=0, le=1)] | None
    reason: str | None
    reasons: dict[Order, str]
    outcome: Outcome
    prompt_tokens: _Count
    tokens: _Count
    problem: str | None


class _Problem(msgspec.Struct):
    error: str
    hint: str


class RemoteJudge:
    """A judge served over HTTP, for rewards in another process than the engine's.

    Redirects are not followed: a request carries the judged text and the key.

    Args:
        url: of the server.
        api_key_env: environment variable with its key.
        timeout: seconds until the whole answer to a request must be there.
        concurrency: number of simultaneous requests; the server judges them together.

    Raises:
        EngineError: the key is not in the environment.
    """

    def __init__(
        self, url: str, *, api_key_env: str | None = None, timeout: float = 600, concurrency: int = 64
    ) -> None:
        self._url, self._timeout, self._concurrency = url.rstrip("/"), timeout, concurrency
        self._key = Secret(api_key_env, location="api_key_env")

    def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
        """Yield a comparison for each row, in their order; without the verdicts of each order.

        Raises:
            DataError: the server refuses a row.
            EngineError: the server cannot be reached, or fails.
        """
        client = httpx.AsyncClient(
            timeout=None,  # `_compare` limits the whole request
            limits=httpx.Limits(max_connections=None),
            follow_redirects=False,
            # The judge is on the local network: a proxy set in the environment is for hosts outside.
            trust_env=False,
            verify=ssl.create_default_context(),
        )
        turn = asyncio.Semaphore(self._concurrency)
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            futures = [portal.start_task_soon(self._compare, client, turn, row) for row in rows]
            try:
                for future in futures:
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()

    async def _compare(
        self, client: httpx.AsyncClient, turn: asyncio.Semaphore, row: ComparisonInput
    ) -> Comparison:
        prompt, a, b = row
        body: dict[str, Any] = {"prompt": prompt, "a": a, "b": b}
        if not isinstance(prompt, str):
            turns = [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
            body = {"messages": turns, "a": a, "b": b}
        try:
            async with turn, asyncio.timeout(self._timeout):
                return await self._post(client, json.dumps(body).encode("ascii"))
        except TimeoutError:
            problem = f"the judge does not answer within {self._timeout:g} s"
        except httpx.HTTPError as error:
            problem = f"the judge does not answer: {first_line(error)}"
        except (ValueError, RecursionError) as error:
            problem = f"the judge's answer is not valid: {first_line(error)[:200]}"
        hint = "start it with `reasongenrm serve`, or check the URL"
        raise EngineError(problem, location=self._url, hint=hint)

    async def _post(self, client: httpx.AsyncClient, body: bytes) -> Comparison:
        headers = {"Content-Type": "application/json"}
        if key := self._key.reveal():
            headers["Authorization"] = f"Bearer {key}"
        async with client.stream("POST", f"{self._url}/compare", content=body, headers=headers) as response:
            if response.is_redirect:
                hint = "if you trust that address, give it as the URL"
                raise EngineError(redirect_text(response), location=self._url, hint=hint)
            content = await read_body(response)
        if not response.is_success:
            refused = response.status_code in (400, 413, 422)
            problem, hint = _problem(response, content)
            raise (DataError if refused else EngineError)(problem, location=self._url, hint=hint)
        answer = msgspec.json.decode(content, type=_Answer)
        fields = {name: getattr(answer, name) for name in COMPARISON_FIELDS}
        return Comparison(id="", verdicts=(), error=answer.problem, **fields)


def _problem(response: httpx.Response, content: bytes) -> tuple[str, str]:
    """Return the problem and the hint in a server's answer; another kind of server may send any body."""
    try:
        problem = msgspec.json.decode(content, type=_Problem)
        return one_line(problem.error), problem.hint and one_line(problem.hint)
    except (ValueError, RecursionError):
        status = one_line(f"HTTP {response.status_code} {response.reason_phrase}")
        return status, "check that this is the judge's address"
