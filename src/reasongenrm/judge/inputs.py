"""Validate the prompts and answers passed to the Python API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reasongenrm.chat.prompts import PromptFile, rating_prompt
from reasongenrm.errors import DataError
from reasongenrm.records import Message, PreferencePair, RatingPrompt
from reasongenrm.rows.turns import BadRow, check_text, read_prompt

Prompt = str | Sequence[Message]
"""What is answered: one user turn, or the turns up to and including the last user turn."""


def validated_pair(number: int, prompt: Prompt, a: str, b: str) -> PreferencePair:
    """Return two answers to a prompt as a pair, the first one chosen.

    Raises:
        DataError: the prompt or an answer is no text, or the turns do not end in the user's; names the row.
    """
    try:
        history = read_prompt(_whole(prompt), "prompt")
        return PreferencePair.make(history, check_text(_whole(a), "a"), check_text(_whole(b), "b"), "")
    except BadRow as bad:
        raise DataError(bad.reason.replace("_", " "), location=f"row {number}", hint=bad.detail) from None


def validated_answer(number: int, prompt: Prompt, answer: str, prompts: PromptFile) -> RatingPrompt:
    """Return an answer as it is rated alone.

    Raises:
        ConfigError: the prompt file has no wording for it.
        DataError: see `given_pair`.
    """
    try:
        history = read_prompt(_whole(prompt), "prompt")
        return rating_prompt(history, check_text(_whole(answer), "answer"), prompts)
    except BadRow as bad:
        raise DataError(bad.reason.replace("_", " "), location=f"row {number}", hint=bad.detail) from None


def _whole(value: Any) -> Any:
    """A text, or turns, in which half of a surrogate pair is a question mark, as the tokenizer reads it."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {name: _whole(part) for name, part in value.items()}
    return [_whole(part) for part in value] if isinstance(value, Sequence) else value
