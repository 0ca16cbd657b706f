"""Client of OpenAI-compatible servers of one model: token ids for vLLM and SGLang, messages for any other server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import openai

from reasongenrm.chat.markers import break_markers
from reasongenrm.chat.thoughts import with_thoughts
from reasongenrm.config.engines import OpenAIConfig
from reasongenrm.engines.base import PartialCompletion, Request
from reasongenrm.engines.fleet import SDK, AttemptFailed, InvalidRequest, Server
from reasongenrm.engines.http import LimitedClient, one_line
from reasongenrm.engines.openai_answers import (
    ChatMessage,
    Choice,
    PromptDetails,
    ShowChoice,
    Usage,
    post,
)
from reasongenrm.engines.served import ServedEngine, ShowPartial
from reasongenrm.records import Completion

TOP_LOGPROBS = 20
"""Number of most likely tokens whose log-probabilities a server returns if it does not know `logprob_token_ids`, such as
vLLM 0.24; a letter that is not among them has no P(A)."""


class _Client(LimitedClient, openai.DefaultAsyncHttpxClient):
    """The SDK's HTTP client, which reads answers of limited size."""


class OpenAIEngine(ServedEngine):
    """OpenAI-compatible servers of one model.

    `api: completions` posts token ids. A request gets the same completion as from vLLM in this process: text
    with special tokens and stop string, token ids, log-probabilities. This needs some fields of vLLM in every request;
    SGLang and llama.cpp ignore fields that they do not know.

    `api: chat` posts the messages with broken markers (`break_markers`) and the role `reason` as `assistant`. Of
    vLLM's fields it sends only `stop_token_ids`, `ignore_eos` and `allowed_token_ids`, where a request uses them. The completion has no
    token ids or log-probabilities. What a request does not set is the server's default. A schema becomes `response_format`; a
    server that refuses that gets `json_object`, and then none.

    A stream has the same completions. A server that refuses to stream, or does not know how, gives whole answers.

    Args:
        config: servers, model, limits.
        max_model_len: tokens of prompt and completion together, of the servers.
        key: the recipe key of `config`, named in errors.
        on_event: called with one line when a server is given up, or refuses schemas.

    Raises:
        EngineError: the API key is not in the environment.
    """

    sdk = SDK(openai, openai.AsyncOpenAI, _Client)
    adapter_refusal = (
        "OpenAI-compatible servers have models by name, and no adapter folders",
        "serve the adapter under its own name (vLLM: --lora-modules) and set model to that name",
    )

    def __init__(
        self,
        config: OpenAIConfig,
        *,
        max_model_len: int,
        key: str,
        on_event: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__(config, config.urls, max_model_len=max_model_len, key=key, on_event=on_event)
        self._takes_messages = config.api == "chat"
        self._limit_name = "max_tokens"  # of the chat servers
        self._format = "json_schema"  # the best `response_format` of the chat servers

    async def _send(self, server: Server, request: Request, *, show: ShowPartial | None = None) -> Completion:
        """Send a request to one server (the SDK retries), with `show` as a stream; see `Fleet` for its exceptions."""
        if self._takes_messages:
            return await self._send_chat(server, request, show)
        room = self.max_model_len - len(request.prompt_ids)
        if room <= 0:
            raise InvalidRequest(
                f"a prompt of {len(request.prompt_ids)} tokens leaves no room in a context of {self.max_model_len}"
            )
        body = self._fields(request) | {
            "prompt": list(request.prompt_ids),
            # In process, a completion ends where the context does; a server refuses a request that could exceed it.
            "max_tokens": min(request.max_tokens, room),
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            "include_stop_str_in_output": True,  # also keeps the end-of-turn token
            "return_token_ids": True,
            # Neutral values: a server's defaults come from the model's `generation_config.json`.
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
        }
        if ids := request.logprob_token_ids:
            body |= {
                "logprob_token_ids": list(ids),
                "logprobs": TOP_LOGPROBS,
                "return_tokens_as_token_ids": True,
            }
        return _read_completion(
            *await post(server, "/completions", body, _choices_to(show, request)), request
        )

    async def _send_chat(self, server: Server, request: Request, show: ShowPartial | None) -> Completion:
        role_names = {"reason": "assistant"}
        messages = [
            {"role": role_names.get(turn["role"], turn["role"]), "content": break_markers(turn["content"])}
            for turn in request.messages
        ]
        limit, response_format = self._limit_name, self._format
        body = self._fields(request) | {"messages": messages, limit: request.max_tokens}
        if request.schema is not None and response_format:
            body["response_format"] = _response_format(response_format, request.schema)
        try:
            choice, usage = await post(server, "/chat/completions", body, _choices_to(show, request))
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            problem = str(error)
            if limit == "max_tokens" and "max_completion_tokens" in problem:
                self._limit_name = "max_completion_tokens"  # the only name that OpenAI's newer models accept
            elif "response_format" in body and any(word in problem for word in FORMAT_WORDS):
                if self._format == response_format:  # else another request has changed it
                    self._format = LESS_STRICT[response_format]
                    self._announce(
                        f"{self._key}: {server.url} refuses response_format {response_format}: {one_line(problem)}"
                    )
            else:
                raise
            return await self._send_chat(server, request, show)
        message = choice.message or ChatMessage()
        if message.refusal and not message.content:
            refusal = one_line(f"refusal: {message.refusal}")
            return _failed(request, refusal, usage, refused=True)
        return _checked(choice, usage, request, _text(choice, request), billed=usage.completion_tokens)

    def _fields(self, request: Request) -> dict[str, Any]:
        """Return the fields that both APIs have, and those of vLLM that the request uses."""
        optional = {
            "seed": request.seed,
            "stop": list(request.stop) or None,
            "stop_token_ids": list(request.stop_ids) or None,
            "ignore_eos": request.ignore_eos or None,
            "allowed_token_ids": list(request.allowed) or None,
        }
        fields = {"model": self._config.model, "temperature": request.temperature, "top_p": request.top_p}
        return fields | {name: value for name, value in optional.items() if value is not None}


FORMAT_WORDS = ("response_format", "json_schema", "json_object", "guided", "grammar")
"""One of these is in a server's message that refuses a response format."""

LESS_STRICT = {"json_schema": "json_object", "json_object": ""}
"""The next format to try after one that a server refuses; empty for none."""


def _response_format(kind: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    if kind == "json_object":
        return {"type": kind}
    return {"type": kind, kind: {"name": "answer", "strict": True, "schema": schema}}


def _choices_to(show: ShowPartial | None, request: Request) -> ShowChoice | None:
    """Return a function that shows a request's choice so far as a partial completion; None where nobody looks."""
    if show is None:
        return None

    def show_choice(choice: Choice) -> None:
        text, ids = _text(choice, request) or "", tuple(choice.token_ids or ())
        show(PartialCompletion(request.id, text, "length", ids))

    return show_choice


def _text(choice: Choice, request: Request) -> str | None:
    """Return the text of a choice of either API, with the thoughts of the chat API where the request has such."""
    if choice.message is None:
        return choice.text
    message, text = choice.message, choice.message.content
    if request.thoughts and (thoughts := message.reasoning or message.reasoning_content):
        return with_thoughts(thoughts, text)
    return text


def _read_completion(choice: Choice, usage: Usage, request: Request) -> Completion:
    """Return the same completion as vLLM in this process, where the server gives token ids."""
    token_ids = tuple(choice.token_ids or ())
    logprobs: dict[int, dict[int, float]] = {}
    ids = request.logprob_token_ids
    top_logprobs = (choice.logprobs.top_logprobs or ()) if ids and choice.logprobs else ()
    for position, (token, entry) in enumerate(zip(token_ids, top_logprobs, strict=False)):
        if token in ids and entry:
            values = ((other, entry.get(f"token_id:{other}")) for other in ids)
            logprobs[position] = {other: round(value, 6) for other, value in values if value is not None}
    return _checked(choice, usage, request, choice.text, token_ids=token_ids, logprobs=logprobs)


def _checked(choice: Choice, usage: Usage, request: Request, text: str | None, **fields: Any) -> Completion:
    """Return the completion, or one with an error where the server reports another end than stop and length.

    Raises:
        AttemptFailed: the choice has no text.
    """
    finish = choice.finish_reason
    if text is None and finish == "length":
        text = ""  # a reasoning model that was truncated before its answer
    if finish == "content_filter":
        return _failed(request, "finish_reason content_filter", usage, refused=True)
    if text is None:
        raise AttemptFailed("a choice without text", empty=True)
    if finish not in ("stop", "length"):
        return _failed(request, f"finish_reason {str(finish)[:40]}", usage, text=text)
    return Completion(request.id, text, finish, **_input_tokens(usage), **fields)


def _failed(
    request: Request, error: str, usage: Usage, *, text: str = "", refused: bool = False
) -> Completion:
    billed = usage.completion_tokens
    return Completion(
        request.id, text, "error", error=error, billed=billed, refused=refused, **_input_tokens(usage)
    )


def _input_tokens(usage: Usage) -> dict[str, Any]:
    """Return what a completion says of the tokens of its prompt."""
    details = usage.prompt_tokens_details or PromptDetails()
    return {
        "prompt_tokens": usage.prompt_tokens or 0,
        "cached": details.cached_tokens or 0,
        "cache_write": details.cache_write_tokens or 0,
    }
