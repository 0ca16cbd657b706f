"""Single calls of Anthropic's Messages API: answers at once, at twice the price of batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anthropic
import msgspec

from reasongenrm.config.engines import AnthropicConfig
from reasongenrm.engines.base import PartialCompletion, Request
from reasongenrm.engines.batch_api import Block, Message, StopDetails, Usage
from reasongenrm.engines.fleet import SDK, InvalidRequest, Server
from reasongenrm.engines.http import BrokenStream, LimitedClient, one_line, read_events
from reasongenrm.engines.messages import message_params, read_message
from reasongenrm.engines.served import ServedEngine, ShowPartial
from reasongenrm.records import Completion


class _Client(LimitedClient, anthropic.DefaultAsyncHttpxClient):
    """The SDK's HTTP client, which reads answers of limited size."""


class AnthropicDirectEngine(ServedEngine):
    """Calls of one message each, `max_concurrent` at the same time.

    There are no seeds, token ids or log-probabilities. A model that refuses schemas gets none. A stream has the same completions.

    Args:
        config: model and limits.
        max_model_len: tokens of prompt and completion together.
        key: the recipe key of `config`, named in errors.
        on_event: called with one line when the service is given up, or refuses schemas.

    Raises:
        EngineError: the API key is not in the environment.
    """

    sdk = SDK(anthropic, anthropic.AsyncAnthropic, _Client)
    adapter_refusal = ("Anthropic serves no adapters", "use vLLM for them")

    def __init__(
        self,
        config: AnthropicConfig,
        *,
        max_model_len: int,
        key: str,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        url = config.url or str(anthropic.AsyncAnthropic(api_key="none").base_url)  # of the environment
        super().__init__(config, [url], max_model_len=max_model_len, key=key, on_event=on_event)
        self._settings, self._takes_schemas = config, True

    async def _send(self, server: Server, request: Request, *, show: ShowPartial | None = None) -> Completion:
        if request.temperature > 1:
            raise InvalidRequest(f"temperature {request.temperature:g} is above 1, Anthropic's maximum")
        schema = request.schema if self._takes_schemas else None
        params = message_params(replace(request, schema=schema), self._settings)
        required = {name: params.pop(name) for name in ("model", "max_tokens", "messages")}
        try:
            # The raw response: the SDK does not check what a server sends. The extra body: versions of the SDK lack some
            # of these parameters, such as temperature.
            if show:
                return read_message(request, await _stream(server, required, params, request, show))
            create = server.client.messages.with_raw_response.create
            response = await create(**required, extra_body=params)
        except anthropic.BadRequestError as error:
            if schema is None or "output_config" not in str(error):
                raise
            if self._takes_schemas:
                self._takes_schemas = False
                self._announce(f"{self._key}: {server.url} refuses schemas: {one_line(str(error))}")
            return await self._send(server, request, show=show)
        message = msgspec.json.decode(response.http_response.content, type=Message)
        return read_message(request, message)


class _Delta(msgspec.Struct):
    text: str = ""  # of a block
    stop_reason: str | None = None  # of the message, as are the next two
    stop_sequence: str | None = None
    stop_details: StopDetails | None = None


class _Problem(msgspec.Struct):
    message: str = ""


class _Event(msgspec.Struct):
    """The parts of a stream's events that are read (docs.anthropic.com, Streaming messages)."""

    type: str
    message: Message | None = None  # of message_start
    delta: _Delta | None = None  # of content_block_delta and message_delta
    usage: Usage | None = None  # of message_delta: counts so far
    error: _Problem = msgspec.field(default_factory=_Problem)


async def _stream(
    server: Server, required: dict[str, Any], params: dict[str, Any], request: Request, show: ShowPartial
) -> Message:
    """Return the message of a stream; `show` gets its text so far.

    Raises:
        ValueError: the events are not those of a message, or have an error.
    """
    whole: Message | None = None
    text = ""
    create = server.client.messages.with_streaming_response.create
    async with create(**required, stream=True, extra_body=params) as reply:
        async for data in read_events(reply.http_response):
            event = msgspec.json.decode(data, type=_Event)
            if event.type == "error":
                raise BrokenStream(f"the stream ends with an error: {one_line(event.error.message)}")
            whole = event.message or whole
            if event.type == "content_block_delta" and event.delta and event.delta.text:
                text += event.delta.text
                show(PartialCompletion(request.id, text, "length"))
            elif event.type == "message_delta" and whole and event.delta:
                for name in ("stop_reason", "stop_sequence", "stop_details"):
                    setattr(whole, name, getattr(event.delta, name))
                if event.usage:
                    whole.usage.output_tokens = event.usage.output_tokens
    if whole is None or whole.stop_reason is None:
        raise BrokenStream("the stream ends before its message")
    whole.content = [Block("text", text)]
    return whole
