"""Answers of OpenAI-compatible servers: the parts that are read, of a whole answer or of a stream's events."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import httpx
import msgspec
import openai

from reasongenrm.engines.fleet import AttemptFailed, Server
from reasongenrm.engines.http import BrokenStream, one_line, read_body, read_events

_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class PromptDetails(msgspec.Struct):
    """Tokens of a prompt by their place in a server's cache."""

    cached_tokens: _Count | None = None
    cache_write_tokens: _Count | None = None


class Usage(msgspec.Struct):
    """Numbers of tokens."""

    completion_tokens: _Count | None = None
    prompt_tokens: _Count | None = None
    prompt_tokens_details: PromptDetails | None = None


class ChatMessage(msgspec.Struct):
    """A turn of the chat API, or the part of one in an event."""

    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None  # of vLLM's reasoning parsers
    reasoning_content: str | None = None  # the same of SGLang and DeepSeek


class Logprobs(msgspec.Struct):
    """Log-probabilities per position, in nats, by token."""

    top_logprobs: list[dict[str, float] | None] | None = None


class Choice(msgspec.Struct):
    """One completion, or the part of one in an event."""

    finish_reason: str | None = None
    text: str | None = None  # of the completions API
    message: ChatMessage | None = None  # of the chat API
    delta: ChatMessage | None = None  # of its stream
    token_ids: list[_Count] | None = None
    logprobs: Logprobs | None = None


class _Answer(msgspec.Struct):
    """The parts of a server's answer that are read; anything of another type is an invalid answer."""

    choices: list[Choice]
    usage: Usage | None = None


class _Problem(msgspec.Struct):
    message: str = ""


class _Event(msgspec.Struct):
    """The parts of an event of a stream that are read."""

    choices: list[Choice] = msgspec.field(default_factory=list)
    usage: Usage | None = None
    error: _Problem | None = None


_ANSWER = msgspec.json.Decoder(_Answer)
_EVENT = msgspec.json.Decoder(_Event)

ShowChoice = Callable[[Choice], None]
"""Called with the choice of a stream so far."""


async def post(
    server: Server, path: str, body: dict[str, Any], show: ShowChoice | None = None
) -> tuple[Choice, Usage]:
    """Return the first choice of the answer, and the answer's usage; with `show`, which gets the choice so far, of a stream.

    Raises:
        ValueError, RecursionError: the answer is not a completion, or its stream has an error.
        AttemptFailed: it has no choice.
    """
    if show:
        try:
            return await _post_stream(server, path, body, show)
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            if "stream" not in str(error):
                raise
    # Not `create`: it checks every token of the prompt, which takes longer than the rest of the client.
    reply = await server.client.post(path, cast_to=httpx.Response, body=body)
    return _first_choice(reply.content)


def _first_choice(content: bytes) -> tuple[Choice, Usage]:
    answer = _ANSWER.decode(content)
    if not answer.choices:
        raise AttemptFailed("an answer without a choice", empty=True)
    return answer.choices[0], answer.usage or Usage()


async def _post_stream(
    server: Server, path: str, body: dict[str, Any], show: ShowChoice
) -> tuple[Choice, Usage]:
    api = server.client.chat.completions if "messages" in body else server.client.completions
    extra = {"stream_options": {"include_usage": True}}
    required = {"model": body["model"], "messages" if "messages" in body else "prompt": []}
    whole, usage = Choice(), Usage()
    async with api.with_streaming_response.create(**required, stream=True, extra_body=body | extra) as reply:
        if "event-stream" not in reply.headers.get("content-type", ""):
            return _first_choice(await read_body(reply.http_response))
        async for data in read_events(reply.http_response):
            if data == b"[DONE]":
                break
            event = _EVENT.decode(data)
            if event.error:
                raise BrokenStream(f"the stream ends with an error: {one_line(event.error.message)}")
            usage = event.usage or usage
            for choice in event.choices[:1]:
                _append(whole, choice)
                show(whole)
    if not whole.finish_reason:
        raise BrokenStream("the stream ends before its completion")
    return whole, usage


def _append(whole: Choice, part: Choice) -> None:
    """Add an event's part of a choice to what came before."""
    whole.finish_reason = part.finish_reason or whole.finish_reason
    if part.text is not None:
        whole.text = (whole.text or "") + part.text
    if part.token_ids:
        whole.token_ids = [*(whole.token_ids or ()), *part.token_ids]
    if part.logprobs and part.logprobs.top_logprobs:
        earlier = whole.logprobs.top_logprobs if whole.logprobs else None
        whole.logprobs = Logprobs([*(earlier or ()), *part.logprobs.top_logprobs])
    if part.delta:
        whole.message = message = whole.message or ChatMessage()
        for name in ChatMessage.__struct_fields__:
            if (piece := getattr(part.delta, name)) is not None:
                setattr(message, name, (getattr(message, name) or "") + piece)
