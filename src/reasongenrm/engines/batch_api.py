"""Calls of Anthropic's Message Batches API: each has a time limit, its answer a size limit and a checked shape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import anthropic
import msgspec
from anyio.from_thread import BlockingPortal, start_blocking_portal

from reasongenrm.config.engines import AnthropicConfig
from reasongenrm.engines.http import MAX_BYTES, AnswerTooLarge, LimitedClient
from reasongenrm.errors import first_line

T = TypeVar("T")

POLL_RETRIES = 50
"""Retries of one poll by the SDK, 8 seconds apart: an outage of so many minutes does not stop the work."""

CONNECT_SECONDS = 10.0
"""Limit for a new connection."""

LONGEST_LIST = 100_000
"""Batches that are looked at; a list of more is no list."""

NO_ANSWER = (
    anthropic.APIConnectionError,
    anthropic.InternalServerError,
    TimeoutError,
    ValueError,
    RecursionError,
)
"""What a call raises when no valid answer came; the server may have done what was asked."""

_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class Block(msgspec.Struct):
    """One part of a message's content."""

    type: str
    text: str = ""


class Usage(msgspec.Struct):
    """Tokens of a message, as they are billed."""

    input_tokens: _Count = 0  # besides those of the cache
    output_tokens: _Count = 0
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None


class StopDetails(msgspec.Struct):
    """Why a message was refused."""

    category: str | None = None
    explanation: str | None = None


class Message(msgspec.Struct):
    """The parts of a message that are read."""

    content: list[Block]
    stop_reason: str | None = None
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None
    usage: Usage = msgspec.field(default_factory=Usage)


class _Problem(msgspec.Struct):
    type: str
    message: str


class _Error(msgspec.Struct):
    error: _Problem


class Succeeded(msgspec.Struct, tag="succeeded"):
    """A request's message."""

    message: Message


class Errored(msgspec.Struct, tag="errored"):
    """A request that was refused, or that the server could not answer."""

    error: _Error


class Canceled(msgspec.Struct, tag="canceled"):
    """A request of a batch that was canceled."""


class Expired(msgspec.Struct, tag="expired"):
    """A request that was not begun within a day."""


Result = Succeeded | Errored | Canceled | Expired


class ResultLine(msgspec.Struct):
    """A line of a batch's results."""

    custom_id: str
    result: Result


class _Counts(msgspec.Struct):
    processing: _Count
    succeeded: _Count
    errored: _Count
    canceled: _Count
    expired: _Count


class BatchView(msgspec.Struct):
    """The service's view of a batch."""

    id: str
    processing_status: Literal["in_progress", "canceling", "ended"]
    request_counts: _Counts
    results_url: str | None = None


class _Page(msgspec.Struct):
    data: list[BatchView]
    has_more: bool = False


_LINE = msgspec.json.Decoder(ResultLine)


class _Client(LimitedClient, anthropic.DefaultAsyncHttpxClient):
    """The SDK's HTTP client, which reads answers of limited size, and calls one server."""

    origin: tuple[str, str, int | None]

    async def send(self, request: Any, **options: Any) -> Any:
        """Send a request; the address of a batch's results comes from the server."""
        if origin(request.url) != self.origin:
            raise ValueError(f"the results are at {str(request.url)[:200]!r}, where the key is not sent")
        return await super().send(request, **options)


def origin(url: Any) -> tuple[str, str, int | None]:
    """Return scheme, host and port."""
    return url.scheme, url.host, url.port


class BatchAPI:
    """Message batches, from a thread without an event loop.

    The calls raise errors of the SDK, or TimeoutError, ValueError and RecursionError (see `NO_ANSWER`).

    Args:
        portal: runs the calls.
        client: of the service.
        config: its `timeout` is the limit of one call, and of one part of the results.
    """

    def __init__(
        self, portal: BlockingPortal, client: anthropic.AsyncAnthropic, config: AnthropicConfig
    ) -> None:
        self._portal, self._seconds = portal, config.timeout
        self.host = client.base_url.host
        # Raw responses: the SDK does not check what a server sends.
        self._batches = client.messages.batches
        self._patient = client.with_options(max_retries=POLL_RETRIES).messages.batches
        self._without_retries = client.with_options(max_retries=0).messages.batches

    @classmethod
    @contextmanager
    def open(cls, config: AnthropicConfig, key: str) -> Iterator[BatchAPI]:
        """Yield the API of the service in `config`; the block's end closes the connections, and batches continue."""
        timeout = anthropic.Timeout(None, connect=min(config.timeout, CONNECT_SECONDS))
        http = _Client(timeout=timeout, follow_redirects=False)
        client = anthropic.AsyncAnthropic(
            api_key=key,
            base_url=config.url,
            timeout=timeout,
            max_retries=config.max_retries,
            http_client=http,
        )
        http.origin = origin(client.base_url)
        with start_blocking_portal() as portal, portal.wrap_async_context_manager(client):
            yield cls(portal, client, config)

    def _call(self, function: Callable[[], Awaitable[T]], seconds: float | None = None) -> T:
        limit = seconds or self._seconds

        async def within() -> T:
            try:
                async with asyncio.timeout(limit):
                    return await function()
            except TimeoutError:
                raise TimeoutError(f"no answer within {limit:g} s") from None

        return self._portal.call(within)

    def _read(self, call: Callable[[], Awaitable[Any]], kind: type[T], seconds: float | None = None) -> T:
        """Return the answer to a call, of the right shape."""
        response = self._call(call, seconds)
        return msgspec.json.decode(response.http_response.content, type=kind)

    def newest(self, limit: int) -> Iterator[BatchView]:
        """Yield the service's batches, the newest first.

        Args:
            limit: batches per page.
        """
        fetch, count = self._batches.with_raw_response.list, 0
        options: dict[str, Any] = {"limit": limit}
        while count < LONGEST_LIST:
            page = self._read(partial(fetch, **options), _Page)
            yield from page.data
            if not page.data or not page.has_more:
                return
            count += len(page.data)
            options["after_id"] = page.data[-1].id

    def create(self, body: Sequence[Any]) -> str:
        """Create a batch, and return its id. The SDK must not retry: the server may have received the first call."""
        create = self._without_retries.with_raw_response.create
        return self._read(partial(create, requests=body), BatchView).id

    def retrieve(self, server_id: str) -> BatchView:
        """Return the service's view of a batch."""
        return self._read(partial(self._batches.with_raw_response.retrieve, server_id), BatchView)

    def poll(self, server_id: str) -> BatchView:
        """Return the service's view of a batch, also after minutes without an answer."""
        seconds = self._seconds + 8 * POLL_RETRIES
        return self._read(partial(self._patient.with_raw_response.retrieve, server_id), BatchView, seconds)

    def results(self, server_id: str, count: int) -> Generator[ResultLine, None, None]:
        """Yield the results of a batch as they come.

        Args:
            server_id: of a batch that has ended.
            count: its number of requests.
        """
        rest, lines = b"", 0
        with self._portal.wrap_async_context_manager(self._stream(server_id)) as response:
            parts = aiter(response.iter_bytes())

            async def following() -> bytes | None:
                try:
                    return await anext(parts, None)
                except Exception as error:  # of the HTTP library, which is another one in older SDKs
                    raise ValueError(f"the results end too early: {first_line(error)}") from None

            for part in iter(partial(self._call, following), None):
                *whole, rest = (rest + (part or b"")).split(b"\n")
                if len(rest) > MAX_BYTES:
                    raise AnswerTooLarge(f"a result has more than {MAX_BYTES >> 20} MiB")
                for line in filter(None, whole):
                    lines += 1
                    if lines > count:
                        raise ValueError(f"more results than the batch's {count} requests")
                    yield _LINE.decode(line)
        if rest.strip():
            yield _LINE.decode(rest)

    @asynccontextmanager
    async def _stream(self, server_id: str) -> AsyncIterator[Any]:
        manager = self._batches.with_streaming_response.results(server_id)
        try:
            async with asyncio.timeout(self._seconds):
                response = await manager.__aenter__()
        except (anthropic.APIError, TimeoutError):
            raise
        except Exception as error:  # the SDK does not check the batch that names the address of the results
            raise ValueError(f"no results: {first_line(error)}") from None
        try:
            yield response
        finally:
            await manager.__aexit__(None, None, None)
