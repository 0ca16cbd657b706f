"""Anthropic's messages: the body of a request, and the completion in an answer."""

from __future__ import annotations

from typing import Any

from reasongenrm.chat.markers import break_markers
from reasongenrm.config.engines import AnthropicConfig
from reasongenrm.engines.base import Request
from reasongenrm.engines.batch_api import Message
from reasongenrm.engines.http import one_line
from reasongenrm.records import Completion


def message_params(request: Request, config: AnthropicConfig) -> dict[str, Any]:
    """Return the body of one message.

    Chat markers in texts are broken up (`break_markers`): the URL may be that of any server. System turns become `system`;
    roles other than `user` become `assistant`. Temperature and top_p are omitted where they have the service's default (1):
    some models accept only one of them, or none.
    """
    turns = [(turn["role"], break_markers(turn["content"])) for turn in request.messages]
    params: dict[str, Any] = {
        "model": config.model,
        "max_tokens": request.max_tokens,
        "messages": [
            {"role": "user" if role == "user" else "assistant", "content": content}
            for role, content in turns
            if role != "system"
        ],
    }
    if system := "\n\n".join(content for role, content in turns if role == "system"):
        params["system"] = system
        if request.cache_system:  # the service caches a prompt up to this mark, if it is long enough
            mark = {"type": "ephemeral"}
            params["system"] = [{"type": "text", "text": system, "cache_control": mark}]
    output: dict[str, Any] = {} if config.effort is None else {"effort": config.effort}
    if request.schema is not None:
        output["format"] = {"type": "json_schema", "schema": request.schema}
    if output:
        params["output_config"] = output
    if request.stop:
        params["stop_sequences"] = list(request.stop)
    if request.temperature != 1:
        params["temperature"] = request.temperature
    if request.top_p != 1:
        params["top_p"] = request.top_p
    return params


FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
}
"""Stop reasons of the service with a text that can be used."""


def read_message(request: Request, message: Message) -> Completion:
    """Return the completion in a message; one that ended for another reason, such as a refusal, is an error."""
    usage, reason = message.usage, message.stop_reason or ""
    cached, cache_write = usage.cache_read_input_tokens or 0, usage.cache_creation_input_tokens or 0
    tokens: dict[str, Any] = {
        "billed": usage.output_tokens,
        "prompt_tokens": usage.input_tokens + cached + cache_write,
        "cached": cached,
        "cache_write": cache_write,
    }
    finish = FINISH_REASONS.get(reason)
    if finish is None:
        details = message.stop_details
        parts = (details.category, details.explanation) if details else ()
        error = one_line(": ".join([f"stop_reason {message.stop_reason}", *filter(None, parts)]))
        return Completion(request.id, "", "error", error=error, refused=reason == "refusal", **tokens)
    text = "".join(block.text for block in message.content if block.type == "text")
    if reason == "stop_sequence":
        text += message.stop_sequence or ""  # a completion's text keeps its stop string
    return Completion(request.id, text, finish, **tokens)
