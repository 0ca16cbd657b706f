"""Prompts and completions of trainers as what a judge reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reasongenrm.errors import DataError
from reasongenrm.judge.inputs import PromptInput
from reasongenrm.records import Message


def prompt_input(prompt: Any) -> PromptInput:
    """Return a prompt of a trainer as a text or as messages."""
    if isinstance(prompt, str):
        return prompt
    return [Message(role=turn["role"], content=_text(turn["content"], "prompt")) for turn in prompt]


def completion_text(completion: Any, location: str) -> str:
    """Return the text of a completion; for messages, the last assistant turn, which follows any tool calls."""
    if not isinstance(completion, list):
        return _text(completion, location)
    contents = [turn.get("content") for turn in completion if turn.get("role") == "assistant"]
    if not contents:
        raise DataError("no assistant turn", location=location, hint="end the messages with one")
    return _text(contents[-1] or "", location)


def _text(content: Any, location: str) -> str:
    """Return the text of a message: a string, or the text parts of a multimodal content list."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part.get("type") == "text")
    raise DataError("not a text", location=location, hint="use a text or a list of messages")


def column_values(columns: Mapping[str, Any], name: str) -> Sequence[Any]:
    """Return a column of the data set.

    Raises:
        DataError: the data set does not have it.
    """
    if name not in columns:
        hint = f"its columns: {', '.join(columns) or 'none'}"
        raise DataError("the data set does not have this column", location=name, hint=hint)
    values: Sequence[Any] = columns[name]
    return values


def openrlhf_responses(queries: Sequence[str], prompts: Sequence[str], ends: Sequence[str] = ()) -> list[str]:
    """Return the responses in OpenRLHF's queries, which are a prompt followed by its response.

    Args:
        queries: prompts with their responses.
        prompts: one per query.
        ends: texts such as the policy's end-of-turn marker; the first that ends a response is removed from it.

    Raises:
        DataError: a query does not begin with its prompt.
    """
    responses = []
    for number, (query, prompt) in enumerate(zip(queries, prompts, strict=True)):
        if not query.startswith(prompt):
            raise DataError(
                "the query does not begin with its prompt",
                location=f"query[{number}]",
                hint="raise the prompt's length limit; or the tokenizer does not decode to the same text",
            )
        response = query[len(prompt) :]
        end = next((end for end in ends if response.endswith(end)), "")
        responses.append(response.removesuffix(end))
    return responses
