"""`RemoteJudge`: client of a judge served over HTTP (`judge.server`)."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from reasongenrm.engines.keys import Secret
from reasongenrm.errors import DataError, EngineError, first_line
from reasongenrm.judge.api import ComparisonInput
from reasongenrm.records import Comparison

COMPARISON_FIELDS = ("winner", "prob_a", "reason", "reasons", "outcome", "prompt_tokens", "tokens")
"""Fields of a comparison in the HTTP API; its `error` is called `problem` there."""


class RemoteJudge:
    """A judge served over HTTP, for rewards in another process than the engine's.

    Args:
        url: of the server.
        api_key_env: environment variable with its key.
        timeout: seconds to wait for an answer.
        concurrency: number of simultaneous requests; the server judges them together.

    Raises:
        EngineError: the key is not in the environment.
    """

    def __init__(
        self, url: str, *, api_key_env: str | None = None, timeout: float = 600, concurrency: int = 64
    ) -> None:
        self._url, self._timeout, self._concurrency = url.rstrip("/"), timeout, concurrency
        self._key = Secret(api_key_env, location="api_key_env")
        # The judge is on the local network: a proxy set in the environment is for hosts outside.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
        """Yield a comparison for each row, in their order; without the verdicts of each order.

        Raises:
            DataError: the server refuses a row.
            EngineError: the server cannot be reached, or fails.
        """
        with ThreadPoolExecutor(self._concurrency) as pool:
            yield from pool.map(self._compare, rows)

    def _compare(self, row: ComparisonInput) -> Comparison:
        prompt, a, b = row
        body: dict[str, Any] = {"prompt": prompt, "a": a, "b": b}
        if not isinstance(prompt, str):
            turns = [{"role": turn["role"], "content": turn["content"]} for turn in prompt]
            body = {"messages": turns, "a": a, "b": b}
        headers = {"Content-Type": "application/json"}
        if key := self._key.reveal():
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(f"{self._url}/compare", json.dumps(body).encode("ascii"), headers)
        try:
            with self._open(request, timeout=self._timeout) as answer:
                comparison = json.load(answer)
            fields = {name: comparison[name] for name in COMPARISON_FIELDS}
            return Comparison(id="", verdicts=(), error=comparison["problem"], **fields)
        except urllib.error.HTTPError as error:
            kind = DataError if error.code in (400, 413, 422) else EngineError
            problem, hint = _error_body(error)
            raise kind(problem, location=self._url, hint=hint) from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise EngineError(
                f"the judge does not answer: {first_line(error)}",
                location=self._url,
                hint="start it with `reasongenrm serve`, or check the URL",
            ) from None


def _error_body(error: urllib.error.HTTPError) -> tuple[str, str]:
    """Return the problem and the hint in a server's answer; another kind of server may send any body."""
    try:
        body = json.load(error)
        return str(body["error"]), str(body["hint"])
    except (ValueError, LookupError, TypeError, OSError):
        return f"HTTP {error.code} {error.reason}", "check that this is the judge's address"
