"""Errors a user can mend: each says what is wrong, where, and how to mend it."""

from __future__ import annotations


class ReasonGenRMError(Exception):
    """Base of every error a user can mend; the command line prints it in one line and exits with code 2.

    Args:
        what: what is wrong, in one sentence.
        where: `file:line`, or the dotted key of a recipe.
        mend: what to do about it.
    """

    def __init__(self, problem: str, *, location: str = "", hint: str = "") -> None:
        self.problem, self.location, self.hint = problem, location, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.location}: {self.problem}" if self.location else self.problem
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(ReasonGenRMError):
    """A recipe, a prompt file or a command line that cannot be used as it is."""


class DataError(ReasonGenRMError):
    """Input data that cannot be read, or of which nothing is left."""


class EngineError(ReasonGenRMError):
    """A model, an adapter or a server that cannot be used."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or its type's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
