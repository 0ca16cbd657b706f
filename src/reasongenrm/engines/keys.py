"""API keys: read from the environment, and hidden in messages and files."""

from __future__ import annotations

import os
from functools import partial
from typing import Any

from reasongenrm.errors import EngineError
from reasongenrm.redaction import MASK, hide_in_message, keep_secret


class Secret:
    """The key of a server.

    Args:
        variable: environment variable with the key; None for servers that need none.
        location: the recipe key that names the variable, shown in errors.

    Raises:
        EngineError: the variable is not set, or its value cannot be sent as a key.
    """

    def __init__(self, variable: str | None, *, location: str) -> None:
        self._value: str | None = None
        self._variable, self._location = variable, location
        if variable is None:
            return
        value = os.environ.get(variable, "").strip()
        problem, hint = "", "set it again"
        if not value:
            problem, hint = "is not set", f"export {variable}=…"
        elif not (value.isascii() and value.isprintable()) or " " in value:
            problem = "has characters that are not allowed in a key"
        if problem:
            raise EngineError(f"the environment variable {variable} {problem}", location=location, hint=hint)
        self._value = value
        keep_secret(value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the variable's name and never the key: a trainer's other process reads its own environment."""
        return partial(Secret, location=self._location), (self._variable,)

    def reveal(self, otherwise: str = "") -> str:
        """Return the key for a client, or `otherwise` when there is none."""
        return self._value or otherwise

    def hide(self, text: str) -> str:
        """Return a text, such as a server's error message, with the key, however short, replaced by `***`."""
        return hide_in_message(text.replace(self._value, MASK) if self._value else text)
