"""Anthropic's Message Batches: half the price of single calls, results within a day."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import sleep
from typing import Any

import anthropic

from reasongenrm.config.engines import AnthropicConfig
from reasongenrm.engines.base import Engine, Request, Unanswered
from reasongenrm.engines.batch_api import NO_ANSWER, BatchAPI
from reasongenrm.engines.batches import Batch, Ledger, read_result
from reasongenrm.engines.http import LONGEST_TEXT, one_line, redirect_text
from reasongenrm.engines.keys import Secret
from reasongenrm.engines.messages import message_params
from reasongenrm.errors import EngineError
from reasongenrm.records import Completion

IN_FLIGHT = 4
"""Batches that are processed at the same time; their requests are held in memory."""

MAX_BYTES = 200 * 2**20
"""Size of one batch. The service accepts 256 MB (docs.anthropic.com, Message Batches, limits)."""

LONGEST_PAUSE = 60.0
"""Seconds that the service may ask to wait for before a batch is sent again."""

ALL_REFUSED = 32
"""Where at least so many requests are all refused, the recipe is wrong, and none of them is recorded."""


class AnthropicEngine(Engine):
    """Sends requests as message batches, waits for them and yields their results.

    A batch costs money when it is created. So each is recorded in `state` before and after it is sent: a restarted run
    waits for the batches of the run before and fetches their results, which the service keeps for 29 days. Where it is
    unknown whether the server received a batch (the run was killed, or no answer came), the engine looks at the
    server's newer batches of the same size, and finds its own by the custom ids of the results, which no other batch
    has. It may then wait for another program's batch of the same size to end, but it never pays twice.

    A request that expires, or that fails by a server error, is sent once more, and then is `Unanswered`: the next start
    sends it again. There are no seeds, token ids or log-probabilities. Texts reach the model as data of a message, so
    markers in them cannot become structure.

    Args:
        config: model and limits.
        max_model_len: tokens of prompt and completion together.
        state: the file of batches, one per step; it can be deleted when the step is finished.
        key: the recipe key of `config`, named in errors.
        on_event: called with one line about each batch that is sent or lost.

    Raises:
        EngineError: the API key is not in the environment.
        DataError: the state cannot be read.
    """

    def __init__(
        self,
        config: AnthropicConfig,
        *,
        max_model_len: int,
        state: Path,
        key: str,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.max_model_len = max_model_len
        self._config, self._key, self._on_event = config, key, on_event
        self._secret = Secret(config.api_key_env, location=f"{key}.api_key_env")
        self._ledger = Ledger(state)

    def complete(self, requests: Iterable[Request], *, adapter: str | None = None) -> Iterator[Completion]:
        """Yield the completions of one batch after the other, each request's exactly once.

        The next call continues with the batches of a call that was stopped early.

        Raises:
            EngineError: the key, the model or a whole batch is refused; the service cannot be reached; `adapter` is
                set.
        """
        if adapter is not None:
            raise EngineError("Anthropic serves no adapters", location=self._key, hint="use vLLM for them")
        with BatchAPI.open(self._config, self._secret.reveal()) as self._api:
            yield from self._complete(iter(requests))

    def _complete(self, source: Iterator[Request]) -> Iterator[Completion]:
        exhausted = False
        queue: list[Request] = []  # requests in no batch
        queue_bytes = 0
        in_flight: dict[Batch, dict[str, Request]] = {}

        def full() -> bool:
            return len(queue) >= self._config.batch or queue_bytes >= MAX_BYTES

        while True:
            while not exhausted and not full() and len(in_flight) < IN_FLIGHT:
                request = next(source, None)
                if request is None:
                    exhausted = True
                elif earlier := self._earlier_batch(request):
                    in_flight.setdefault(earlier, {})[request.id] = request
                else:
                    queue.append(request)
                    queue_bytes += len(json.dumps(self._params(request)))
            if queue and (full() or exhausted) and len(in_flight) < IN_FLIGHT:
                size = self._config.batch
                requests_of_batch, queue, queue_bytes = queue[:size], queue[size:], 0
                in_flight[self._submit(requests_of_batch)] = {r.id: r for r in requests_of_batch}
            elif in_flight:
                for batch, view in self._wait(in_flight).items():
                    queue += yield from self._results(batch, view, in_flight.pop(batch))
            elif exhausted:
                return

    def _params(self, request: Request) -> dict[str, Any]:
        if request.temperature > 1:
            raise EngineError(
                f"temperature {request.temperature:g} is above 1, Anthropic's maximum",
                location=self._key,
                hint="set the temperature to 1 or less",
            )
        return message_params(request, self._config)

    def _earlier_batch(self, request: Request) -> Batch | None:
        """Return the batch that holds a request already, once it is certain that the server has that batch."""
        batch = self._ledger.batch_of.get(request.id)
        if batch and not batch.server_id:
            self._on_event(f"{self._key}: looking for a batch that the last run may have sent")
            with self._sdk_errors():
                server_id = self._find(batch)
            if not server_id:
                self._ledger.discard(batch, "never reached the server")
                return None
            self._ledger.confirm(batch, server_id)
        return batch

    def _submit(self, requests: list[Request]) -> Batch:
        with self._sdk_errors():
            newest = next(self._api.newest(limit=1), None)
        batch = self._ledger.add([request.id for request in requests], newest.id if newest else None)
        body = [
            {"custom_id": custom_id, "params": self._params(request)}
            for custom_id, request in zip(batch.request_ids, requests, strict=True)
        ]
        with self._sdk_errors():
            server_id = self._create(batch, body)
        self._ledger.confirm(batch, server_id)
        self._on_event(f"{self._key}: batch {server_id} of {len(requests)} requests is sent")
        return batch

    def _create(self, batch: Batch, body: list[dict[str, Any]]) -> str:
        """Create a batch, and return its id; where no answer came, the server may have it already."""
        may_exist = False
        for _ in self._attempts():
            if may_exist and (server_id := self._find(batch)):
                return server_id
            try:
                return self._api.create(body)
            except (*NO_ANSWER, anthropic.RateLimitError, anthropic.ConflictError) as error:
                may_exist = may_exist or isinstance(error, NO_ANSWER)
                last: Exception = error
                self._asked_pause = _retry_after(error)
            except anthropic.APIStatusError as error:
                self._ledger.discard(batch, f"HTTP {error.status_code}")
                raise
        raise last

    def _attempts(self) -> Iterator[None]:
        """Yield once per attempt, with growing pauses between them, or longer ones that the service requests."""
        self._asked_pause = 0.0
        yield
        for retry in range(self._config.max_retries):
            sleep(max(min(0.5 * 2**retry, 8), self._asked_pause))
            self._asked_pause = 0.0
            yield

    def _find(self, batch: Batch) -> str | None:
        """Return the server's id of a batch that may have been sent, or None where the server does not have it."""
        known = self._ledger.server_ids()
        for candidate in self._api.newest(limit=100):  # the newest first
            if candidate.id == batch.after:
                break
            if candidate.id in known or _total(candidate.request_counts) != len(batch.ids):
                continue
            while candidate.processing_status != "ended":
                sleep(self._config.poll_seconds)
                candidate = self._api.retrieve(candidate.id)
            first = self._first_result(candidate.id, len(batch.ids)) if candidate.results_url else None
            if first and first.custom_id in batch.request_ids:
                return str(candidate.id)
        return None

    def _first_result(self, server_id: str, count: int) -> Any:
        with closing(self._api.results(server_id, count)) as lines:
            return next(lines, None)

    def _wait(self, batches: Iterable[Batch]) -> dict[Batch, Any]:
        """Wait until some of the batches have ended or are gone: the server's view of each, None of a gone one."""
        while True:
            ended: dict[Batch, Any] = {}
            for batch in batches:
                with self._sdk_errors():
                    try:
                        view = self._api.poll(batch.server_id or "")
                    except anthropic.NotFoundError:
                        view = None
                if view is None or view.processing_status == "ended":
                    ended[batch] = view
            if ended:
                return ended
            sleep(self._config.poll_seconds)

    def _results(
        self, batch: Batch, view: Any, missing: dict[str, Request]
    ) -> Generator[Completion, None, list[Request]]:
        """Yield the completions of a batch that has ended; return the requests to send again."""
        if view is None or not view.results_url:
            self._ledger.discard(batch, "gone")
            self._on_event(f"{self._key}: batch {batch.server_id} is gone, its requests are sent again")
            return list(missing.values())
        with self._sdk_errors():
            self._refuse_if_all_failed(batch, view.request_counts)
        again: list[Request] = []
        failed: list[Completion] = []
        problem: Exception | None = None

        def retry(request: Request, error: str | None) -> None:
            if request.id in self._ledger.sent_twice:
                failed.append(Unanswered(request.id, "", "error", error=error))
            else:
                again.append(request)

        for _ in self._attempts():
            try:
                for line in self._api.results(batch.server_id or "", len(batch.ids)):
                    request = missing.pop(batch.request_ids.get(line.custom_id, ""), None)
                    if request is None:
                        continue
                    completion, server_fault = read_result(request, line.result)
                    if server_fault:
                        retry(request, completion.error)
                    else:
                        yield completion
                problem = None
            except (anthropic.APIError, *NO_ANSWER) as error:
                problem = error
            if not missing:
                break
        if missing and problem:
            raise self._engine_error(problem) from None
        for request in missing.values():
            retry(request, "missing in the batch's results")
        if failed:
            self._ledger.release(batch, [completion.id for completion in failed])
            yield from failed
        return again

    def _refuse_if_all_failed(self, batch: Batch, counts: Any) -> None:
        """Raise an EngineError where all requests of a large batch were refused."""
        if not counts.errored == _total(counts) >= ALL_REFUSED:
            return
        first = self._first_result(batch.server_id or "", len(batch.ids))
        completion, server_fault = read_result(Request("", (), 1), first.result) if first else (None, True)
        if completion and not server_fault:
            self._ledger.discard(batch, "refused")
            raise EngineError(
                f"all {counts.errored} requests of batch {batch.server_id} failed: "
                f"{self._secret.hide(completion.error or '')}",
                location=self._key,
                hint="correct the recipe and run again: none of them was recorded",
            )

    @contextmanager
    def _sdk_errors(self) -> Iterator[None]:
        """Raise errors of the SDK as EngineError."""
        try:
            yield
        except (anthropic.APIError, *NO_ANSWER) as error:
            raise self._engine_error(error) from None

    def _engine_error(self, error: Exception) -> EngineError:
        host = self._api.host
        cause = error.__cause__ if isinstance(error, anthropic.APIConnectionError) else None
        line = one_line(str(cause or error) or type(error).__name__, 8 * LONGEST_TEXT)
        text = self._secret.hide(line)[:LONGEST_TEXT]
        problem, location = f"{host} fails: {text}", self._key
        hint = "run the same command again: batches that were sent are found, and paid for once"
        if isinstance(error, anthropic.AuthenticationError | anthropic.PermissionDeniedError):
            problem, location = (
                f"{host} refuses the key (HTTP {error.status_code})",
                f"{self._key}.api_key_env",
            )
            hint = f"check the key in {self._config.api_key_env}"
        elif isinstance(error, anthropic.NotFoundError):
            problem, hint = f"{host} answers HTTP 404: {text}", "check model and url"
        elif isinstance(error, anthropic.APIStatusError) and 300 <= error.status_code < 400:
            problem, hint = f"{host} fails: {redirect_text(error.response)}", "check url"
        return EngineError(problem, location=location, hint=hint)


def _retry_after(error: Exception) -> float:
    """Return the seconds of the header `retry-after`, at most LONGEST_PAUSE; 0 without one."""
    headers = error.response.headers if isinstance(error, anthropic.APIStatusError) else {}
    try:
        seconds = float(headers.get("retry-after", 0))
    except ValueError:  # a date
        return 0.0
    return min(seconds, LONGEST_PAUSE) if seconds > 0 else 0.0  # NaN is not


def _total(counts: Any) -> int:
    return int(counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired)
