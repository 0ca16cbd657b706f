"""A client of `judge.http.serve`: the judge of another process."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from reasongenrm.engines.keys import Secret
from reasongenrm.errors import DataError, EngineError, first_line
from reasongenrm.judge.sharing import Row
from reasongenrm.records import Comparison


class RemoteJudge:
    """A judge behind `serve`, for rewards in another process than the engine's.

    Args:
        url: of the server.
        api_key_env: environment variable with its key.
        timeout: seconds until an answer must be there.
        concurrency: requests that are on their way at once; the server takes them together.

    Raises:
        EngineError: the key is not in the environment.
    """

    def __init__(
        self, url: str, *, api_key_env: str | None = None, timeout: float = 600, concurrency: int = 64
    ) -> None:
        self._url, self._timeout, self._concurrency = url.rstrip("/"), timeout, concurrency
        self._key = Secret(api_key_env, location="api_key_env")
        # A judge stands near: a proxy of the environment is for what lies outside.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def compare_many(self, rows: Iterable[Row]) -> Iterator[Comparison]:
        """Yield a comparison for each row, in their order; without the verdicts of the single orders.

        Raises:
            DataError: the server refuses a row.
            EngineError: it cannot be reached, or fails.
        """
        with ThreadPoolExecutor(self._concurrency) as pool:
            yield from pool.map(self._compare, rows)

    def _compare(self, row: Row) -> Comparison:
        prompt, a, b = row
        asked: dict[str, Any] = {"prompt": prompt}
        if not isinstance(prompt, str):
            asked = {"messages": [{"role": turn["role"], "content": turn["content"]} for turn in prompt]}
        told = self._post("/compare", asked | {"a": a, "b": b})
        return Comparison(
            "",
            told["winner"],
            told["prob_a"],
            told["reason"],
            told["outcome"],
            (),
            told["prompt_tokens"],
            told["tokens"],
            told["problem"],
        )

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        request = urllib.request.Request(self._url + path, json.dumps(body).encode("ascii"), method="POST")
        request.add_header("Content-Type", "application/json")
        if key := self._key.reveal():
            request.add_header("Authorization", f"Bearer {key}")
        try:
            with self._open(request, timeout=self._timeout) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            kind = DataError if error.code in (400, 413, 422) else EngineError
            problem, hint = _said(error)
            raise kind(problem, location=self._url, hint=hint) from None
        except (OSError, ValueError) as error:
            raise EngineError(
                f"the judge does not answer: {first_line(error)}", location=self._url, hint="is it served?"
            ) from None


def _said(error: urllib.error.HTTPError) -> tuple[str, str]:
    """What a server says is wrong, and how to mend it; another kind of server may say anything."""
    try:
        told = json.load(error)
        return str(told["error"]), str(told["hint"])
    except (ValueError, LookupError, TypeError, OSError):
        return f"HTTP {error.code} {error.reason}", "is this the judge's address?"
