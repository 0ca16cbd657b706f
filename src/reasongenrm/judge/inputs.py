"""Validate the prompts and answers passed to the Python API."""

from __future__ import annotations

from collections.abc import Sequence

from reasongenrm.chat.prompts import PromptFile, rating_prompt
from reasongenrm.errors import DataError
from reasongenrm.records import Message, PreferencePair, RatingPrompt
from reasongenrm.rows.turns import BadRow, check_text, read_prompt, replace_surrogates

Prompt = str | Sequence[Message]
"""What is answered: one user turn, or the turns up to and including the last user turn."""


def validated_pair(number: int, prompt: Prompt, a: str, b: str) -> PreferencePair:
    """Return two answers to a prompt as a pair, the first one chosen.

    Raises:
        DataError: the prompt or an answer is no text, or the turns do not end in the user's; names the row.
    """
    try:
        prompt, a, b = replace_surrogates([prompt, a, b])
        return PreferencePair.make(read_prompt(prompt, "prompt"), check_text(a, "a"), check_text(b, "b"), "")
    except BadRow as bad:
        raise DataError(bad.reason.replace("_", " "), location=f"row {number}", hint=bad.detail) from None


def validated_answer(number: int, prompt: Prompt, answer: str, prompts: PromptFile) -> RatingPrompt:
    """Return an answer as it is rated alone.

    Raises:
        ConfigError: the prompt file has no wording for it.
        DataError: see `given_pair`.
    """
    try:
        prompt, answer = replace_surrogates([prompt, answer])
        return rating_prompt(read_prompt(prompt, "prompt"), check_text(answer, "answer"), prompts)
    except BadRow as bad:
        raise DataError(bad.reason.replace("_", " "), location=f"row {number}", hint=bad.detail) from None
