"""Anthropic's Message Batches: half the price of single calls, done within a day."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reasongenrm.config.engines import AnthropicConfig
from reasongenrm.engines.base import Request
from reasongenrm.engines.batches import Batch, Ledger, failure, message_params, read_result
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import EngineError, first_line
from reasongenrm.records import Completion

IN_FLIGHT = 4
"""Batches that are worked on at the same time; their requests are held in memory."""

MAX_BYTES = 200 * 2**20
"""Of one batch. The service takes 256 MB (docs.anthropic.com, Message Batches, limits)."""

POLLS = 10
"""Looks at the batches that may fail in a row, each after the SDK's own retries, before the work is given up."""

ALL_REFUSED = 32
"""A batch of so many requests that are all refused is the recipe's fault, and none of them is recorded."""


class AnthropicEngine:
    """Sends requests as message batches, waits for them and yields their results.

    A batch costs money when it is made. So each is noted in `state` before and after it is sent, and a run that was
    killed waits for the batches of the last one and fetches their results; results stay fetchable for 29 days. Where
    it is not known whether the server took a batch (killed, or no answer, in between), the batches that are newer than
    the newest one before it are looked through for one of its size, and that one's results for its custom ids, which no
    other batch has. This may mean waiting for someone else's batch of the same size to end, but never paying twice.

    A request that expires, or that fails by the server's fault, is sent once more. There are no seeds, token ids or
    log-probabilities here. Texts reach the model as data of a message, so that markers in them need no care.

    Args:
        config: model and limits.
        max_model_len: tokens of prompt and completion together.
        state: the file of batches, one per work; can be deleted when the work is finished.
        key: the recipe key of `config`, named in errors.
        on_event: told, in one line each, of batches made and ended.
        sleep: waits for some seconds.

    Raises:
        EngineError: the SDK is missing, or the key is not in the environment.
        DataError: the state cannot be read.
    """

    block: int | None = None

    def __init__(
        self,
        config: AnthropicConfig,
        *,
        max_model_len: int,
        state: Path,
        key: str,
        on_event: Callable[[str], None] = lambda text: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        try:
            import anthropic
        except ImportError:
            raise EngineError(
                "the package anthropic is not installed", location=key, hint="pip install anthropic"
            ) from None
        self.max_model_len = max_model_len
        self._config, self._key = config, key
        self._on_event, self._sleep = on_event, sleep
        self._secret = Secret(config.api_key_env, location=f"{key}.api_key_env")
        self._ledger = Ledger(state)
        self._client = anthropic.Anthropic(
            api_key=self._secret.reveal(),
            base_url=config.url,
            timeout=config.timeout,
            max_retries=config.max_retries,
        )
        self._batches = self._client.messages.batches

    def reset_prefix_cache(self) -> None:
        """Do nothing: there is no cache of ours."""

    def close(self) -> None:
        """Close the connections; batches go on, and the next run finds them."""
        self._client.close()

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield the completions of one batch after the other, each request's exactly once.

        Stopping early leaves the batches to the next call.

        Raises:
            EngineError: the key, the model or a whole batch is refused; the service cannot be reached; an adapter is
                asked for.
        """
        if adapter is not None:
            raise EngineError("Anthropic serves no adapters", location=self._key, hint="use vLLM for them")
        return self._complete(requests)

    def _complete(self, requests: Iterable[Request]) -> Iterator[Completion]:
        waiting = iter(requests)
        fresh: list[Request] = []  # in no batch
        size = 0  # bytes of those
        flying: dict[Batch, dict[str, Request]] = {}
        more = True
        while True:
            full = len(fresh) >= self._config.batch or size >= MAX_BYTES
            while more and not full and len(flying) < IN_FLIGHT:
                request = next(waiting, None)
                if request is None:
                    more = False
                elif home := self._home(request):
                    flying.setdefault(home, {})[request.id] = request
                else:
                    fresh.append(request)
                    size += len(json.dumps(self._params(request)))
                    full = len(fresh) >= self._config.batch or size >= MAX_BYTES
            if fresh and (full or not more) and len(flying) < IN_FLIGHT:
                now, fresh, size = fresh[: self._config.batch], fresh[self._config.batch :], 0
                flying[self._submit(now)] = {request.id: request for request in now}
            elif flying:
                for batch in self._ended(flying):
                    fresh += yield from self._results(batch, flying.pop(batch))
            elif not more:
                return

    def _params(self, request: Request) -> dict[str, Any]:
        if request.temperature > 1:
            raise EngineError(
                f"temperature {request.temperature:g} is above 1, the most that Anthropic takes",
                location=self._key,
            )
        return {"model": self._config.model} | message_params(request)

    def _home(self, request: Request) -> Batch | None:
        """The batch in which a request stands, once it is known that the server has that batch."""
        batch = self._ledger.home(request.id)
        if batch and not batch.server_id:
            self._on_event(f"{self._key}: looking for a batch that the last run may have sent")
            with self._reaching():
                found = self._find(batch)
            if not found:
                self._ledger.void(batch, "never reached the server")
                return None
            self._ledger.taken(batch, found)
        return batch

    def _submit(self, requests: list[Request]) -> Batch:
        with self._reaching():
            newest = next(iter(self._batches.list(limit=1)), None)
        batch = self._ledger.plan([request.id for request in requests], newest.id if newest else None)
        body = [
            {"custom_id": batch.custom_id(place), "params": self._params(request)}
            for place, request in enumerate(requests)
        ]
        server_id = self._create(batch, body)
        self._ledger.taken(batch, server_id)
        self._on_event(f"{self._key}: batch {server_id} of {len(requests)} requests is sent")
        return batch

    def _create(self, batch: Batch, body: list[dict[str, Any]]) -> str:
        """Make a batch, and return its id. The SDK must not repeat this call: the server may have heard the first."""
        import anthropic

        once = self._client.with_options(max_retries=0).messages.batches
        doubtful = False
        for attempt in range(self._config.max_retries + 1):
            if attempt:
                self._back_off(attempt)
            if doubtful:
                with self._reaching():
                    found = self._find(batch)
                if found:
                    return found
            try:
                return str(once.create(requests=body).id)
            except (anthropic.APIConnectionError, anthropic.InternalServerError) as error:
                doubtful = True
                problem: anthropic.APIError = error
            except (anthropic.RateLimitError, anthropic.ConflictError) as error:
                problem = error
            except anthropic.APIStatusError as error:
                self._ledger.void(batch, f"HTTP {error.status_code}")
                raise self._problem(error) from None
        raise self._problem(problem) from None

    def _back_off(self, attempt: int) -> None:
        self._sleep(min(0.5 * 2 ** (attempt - 1), 8))

    def _find(self, batch: Batch) -> str | None:
        """The server's id of a batch that was sent, if it was."""
        known = self._ledger.server_ids()
        for seen in self._batches.list(limit=100):  # the newest first
            if seen.id == batch.after:
                break
            if seen.id in known or _total(seen.request_counts) != len(batch.ids):
                continue
            while seen.processing_status != "ended":
                self._sleep(self._config.poll_seconds)
                seen = self._batches.retrieve(seen.id)
            first = next(iter(self._batches.results(seen.id)), None) if seen.results_url else None
            if first and batch.request_id(first.custom_id) is not None:
                return str(seen.id)
        return None

    def _ended(self, flying: Iterable[Batch]) -> list[Batch]:
        """Wait until some of the batches have ended, and return those."""
        import anthropic

        failures = 0
        while True:
            try:
                ended = [batch for batch in flying if self._has_ended(batch)]
                failures = 0
            except (
                anthropic.APIConnectionError,
                anthropic.InternalServerError,
                anthropic.RateLimitError,
            ) as error:
                ended = []
                failures += 1
                if failures == POLLS:
                    raise self._problem(error) from None
            if ended:
                return ended
            self._sleep(self._config.poll_seconds)

    def _has_ended(self, batch: Batch) -> bool:
        import anthropic

        assert batch.server_id
        try:
            return bool(self._batches.retrieve(batch.server_id).processing_status == "ended")
        except anthropic.NotFoundError:
            return True  # as far as it concerns us
        except (anthropic.AuthenticationError, anthropic.PermissionDeniedError) as error:
            raise self._problem(error) from None

    def _results(self, batch: Batch, left: dict[str, Request]) -> Generator[Completion, None, list[Request]]:
        """Yield the completions of a batch that has ended; return the requests that must be sent again."""
        import anthropic

        assert batch.server_id
        try:
            with_results = self._check(batch)
        except anthropic.NotFoundError:
            with_results = False
        if not with_results:
            self._ledger.void(batch, "gone")
            self._on_event(f"{self._key}: batch {batch.server_id} is gone, its requests are sent again")
            return list(left.values())
        again: list[Request] = []
        problem: Exception | None = None
        for attempt in range(self._config.max_retries + 1):
            if not left:
                break
            if attempt:
                self._back_off(attempt)
            try:
                for line in self._batches.results(batch.server_id):
                    request = left.pop(batch.request_id(line.custom_id) or "", None)
                    if request is None:
                        continue
                    completion, owed = read_result(request, line.result)
                    if owed and not self._ledger.repeated(request.id):
                        again.append(request)
                    else:
                        yield completion
                problem = None
            except Exception as error:  # inside the stream, these are the transport's and the parser's own
                problem = error
        if left and problem:
            raise self._problem(problem) from None
        for request in left.values():
            if self._ledger.repeated(request.id):
                yield failure(request, "not among the batch's results")
            else:
                again.append(request)
        return again

    def _check(self, batch: Batch) -> bool:
        """Return whether a batch that has ended has results.

        Raises:
            EngineError: it was refused as a whole.
        """
        assert batch.server_id
        seen = self._batches.retrieve(batch.server_id)
        if not seen.results_url:
            return False
        counts = seen.request_counts
        if counts.errored == _total(counts) >= ALL_REFUSED:
            first = next(iter(self._batches.results(batch.server_id)), None)
            completion, owed = read_result(Request("", (), 1), first.result) if first else (None, True)
            if completion and not owed:
                self._ledger.void(batch, "refused")
                raise EngineError(
                    f"all {counts.errored} requests of batch {batch.server_id} failed: "
                    f"{self._secret.hide(completion.error or '')}",
                    location=self._key,
                    hint="mend the recipe and run again: none of them was recorded",
                )
        return True

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        import anthropic

        try:
            yield
        except anthropic.APIError as error:
            raise self._problem(error) from None

    def _problem(self, error: Exception) -> EngineError:
        """What an error of the SDK says to a user."""
        import anthropic

        host = self._client.base_url.host
        text = self._secret.hide(first_line(error))
        if isinstance(error, anthropic.AuthenticationError | anthropic.PermissionDeniedError):
            return EngineError(
                f"{host} refuses the key (HTTP {error.status_code})",
                location=f"{self._key}.api_key_env",
                hint=f"check the key in {self._config.api_key_env}",
            )
        if isinstance(error, anthropic.NotFoundError):
            return EngineError(
                f"{host} answers HTTP 404: {text}", location=self._key, hint="check model and url"
            )
        return EngineError(
            f"{host} fails: {text}",
            location=self._key,
            hint="run the same command again: batches that were sent are found, and paid for once",
        )


def _total(counts: Any) -> int:
    return int(counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired)
