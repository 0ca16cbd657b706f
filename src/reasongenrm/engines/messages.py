"""A request as a message of Anthropic's API, and a batch's result as a completion."""

from __future__ import annotations

from typing import Any

from reasongenrm.engines.base import Request
from reasongenrm.records import Completion

SERVER_FAULTS = ("api_error", "overloaded_error", "timeout_error", "rate_limit_error")
"""Types of errors that say nothing against the request."""


def message_params(request: Request) -> dict[str, Any]:
    """Return the body of one message, but for the model.

    System turns become `system`, and turns of other roles than `user` the assistant's. Temperature and top_p are left
    out where they are the service's default (1), since some models take no more than one of them, or none.
    """
    turns = [(turn["role"], turn["content"]) for turn in request.messages]
    params: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "messages": [
            {"role": "user" if role == "user" else "assistant", "content": content}
            for role, content in turns
            if role != "system"
        ],
    }
    if system := "\n\n".join(content for role, content in turns if role == "system"):
        params["system"] = system
    if request.stop:
        params["stop_sequences"] = list(request.stop)
    if request.temperature != 1:
        params["temperature"] = request.temperature
    if request.top_p != 1:
        params["top_p"] = request.top_p
    return params


def failure(request: Request, text: str) -> Completion:
    """Return what stands for a request that got no answer."""
    return Completion(request.id, "", "error", logprob=None, error=text)


def read_result(request: Request, result: Any) -> tuple[Completion, bool]:
    """Return the completion in one result of a batch, and whether it is the service's fault that it is none."""
    if result.type == "succeeded":
        message = result.message
        text = "".join(block.text for block in message.content if block.type == "text")
        reason = message.stop_reason
        usage = {"billed": message.usage.output_tokens, "prompt_tokens": message.usage.input_tokens}
        if reason == "stop_sequence":
            text += message.stop_sequence or ""  # which a request's text keeps
        if reason in ("end_turn", "stop_sequence"):
            return Completion(request.id, text, "stop", logprob=None, **usage), False
        if reason in ("max_tokens", "model_context_window_exceeded"):
            return Completion(request.id, text, "length", logprob=None, **usage), False
        return failure(request, f"stop_reason {reason}"), False
    if result.type == "errored":
        error = result.error.error
        return failure(request, f"{error.type}: {error.message}"), error.type in SERVER_FAULTS
    return failure(request, f"the batch's request is {result.type}"), result.type == "expired"
