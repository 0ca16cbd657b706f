"""Errors that a user can correct: each has a problem, a location and a hint."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from reasongenrm.redaction import hide_in_message


class ReasonGenRMError(Exception):
    """Base of every error that a user can correct; the command line prints it in one line and exits with code 2.

    Keys and passwords are removed from its texts (`redaction`), wherever they are shown or written.

    Args:
        problem: what is wrong, in one sentence.
        location: `file:line`, or the dotted key of a recipe.
        hint: how to correct it.
    """

    def __init__(self, problem: str, *, location: str = "", hint: str = "") -> None:
        self.problem, self.location, self.hint = map(hide_in_message, (problem, location, hint))
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.location}: {self.problem}" if self.location else self.problem
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(ReasonGenRMError):
    """A recipe, a prompt file or a command line that is not valid."""


class DataError(ReasonGenRMError):
    """Input data that cannot be read, or that has no usable row."""


class EngineError(ReasonGenRMError):
    """A model, an adapter or a server that cannot be used."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def first_invalid(errors: Sequence[Any], hint: str) -> tuple[tuple[Any, ...], str, str]:
    """Return the location, the problem and the hint of pydantic's errors that a user should correct first.

    Args:
        errors: of a `ValidationError`; those of `config.engines.Strict` have the key and the hint in their context.
        hint: for an error that has none.
    """
    # A misspelt key may leave a required one missing: name the former.
    first = min(errors, key=lambda error: error["type"] != "unknown_key")
    context = first.get("ctx", {})
    location = (*first["loc"], *([context["key"]] if "key" in context else []))
    return location, first["msg"].removeprefix("Value error, "), context.get("hint", hint)


def write_hint(error: OSError) -> str:
    """Return how a user can correct a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room there; then the same command resumes from here"
    return "check the path and its permissions"
