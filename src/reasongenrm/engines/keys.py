"""API keys: read from the environment, and kept out of everything that is shown or written."""

from __future__ import annotations

import os

from reasongenrm.errors import EngineError


class Secret:
    """The key of a server.

    Args:
        variable: environment variable that holds it; None for servers that want none.
        where: the recipe key that names the variable, shown in errors.

    Raises:
        EngineError: the variable is not set, or holds what cannot be sent as a key.
    """

    def __init__(self, variable: str | None, *, location: str) -> None:
        self._value: str | None = None
        if variable is None:
            return
        value = os.environ.get(variable, "").strip()
        if not value:
            raise EngineError(
                f"the environment variable {variable} is not set",
                location=location,
                hint=f"export {variable}=…",
            )
        if not (value.isascii() and value.isprintable()) or " " in value:
            raise EngineError(
                f"the environment variable {variable} holds characters that no key has",
                location=location,
                hint="set it again",
            )
        self._value = value

    def reveal(self, otherwise: str = "") -> str:
        """Return the key for a client, or what such a client is given when there is none."""
        return self._value or otherwise

    def hide(self, text: str) -> str:
        """Return a text, such as what a server says of a refused key, without the key."""
        return text.replace(self._value, "***") if self._value else text
