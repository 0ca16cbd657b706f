"""Checks of texts and conversations that the loaders of rows share; what fails carries a slug and a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reasongenrm.records import Message
from reasongenrm.rows.files import half_surrogate, kind_of

ROLES = ("system", "user", "assistant")


class BadRow(Exception):
    """A row that cannot be used.

    Args:
        reason: the slug of the Drop.
        detail: one sentence for the user.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


def check_text(value: Any, name: str) -> str:
    """Return a text as it is.

    Raises:
        BadRow: it is no string, or holds half a surrogate pair.
    """
    if not isinstance(value, str):
        raise BadRow("bad_type", f"`{name}` is {kind_of(value)}; make it a string.")
    at = half_surrogate(value)
    if at is not None:
        detail = f"`{name}` holds half a surrogate pair at character {at}; write the whole character."
        raise BadRow("bad_encoding", detail)
    return value


def is_list(value: Any) -> bool:
    """Whether a value is a list as JSON or Arrow gives one."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def read_turns(value: Any, name: str, roles: Sequence[str] = ROLES) -> list[Message]:
    """Return a list of `{role, content}` objects as messages; other keys are ignored.

    Raises:
        BadRow: it is no list, is empty, or holds something else than such objects in the given roles.
    """
    if not is_list(value):
        raise BadRow(
            "bad_type", f"`{name}` is {kind_of(value)}; make it a list of {{role, content}} objects."
        )
    if not value:
        raise BadRow("no_messages", f"`{name}` has no messages; it needs at least a user turn.")
    return [_turn(turn, name, number, roles) for number, turn in enumerate(value)]


def _turn(turn: Any, name: str, number: int, roles: Sequence[str]) -> Message:
    if isinstance(turn, dict):  # nearly all are good: their names are not spelled out
        role, content = turn.get("role"), turn.get("content")
        if (
            isinstance(role, str)
            and role in roles
            and isinstance(content, str)
            and half_surrogate(content) is None
        ):
            return Message(role=role, content=content)
    place = f"{name}[{number}]"
    if not isinstance(turn, Mapping):
        detail = f"`{place}` is {kind_of(turn)}; make it an object with role and content."
        raise BadRow("bad_type", detail)
    role = check_text(turn.get("role"), f"{place}.role")
    if role not in roles:
        raise BadRow("bad_role", f"`{place}` has the role {role[:40]!r}; use {', '.join(roles)}.")
    return Message(role=role, content=check_text(turn.get("content"), f"{place}.content"))


def read_prompt(value: Any, name: str) -> list[Message]:
    """Return what an answer answers: a text becomes one user turn, a list of messages is checked.

    Raises:
        BadRow: it is neither, or does not run [system], user, assistant, user, …, user with filled user turns.
    """
    turns = [Message(role="user", content=check_text(value, name))] if isinstance(value, str) else None
    turns = turns or read_turns(value, name)
    check_prompt(turns, name)
    return turns


def check_prompt(turns: Sequence[Message], name: str) -> None:
    """Check that turns run [system], user, assistant, user, …, user, with filled user turns.

    Raises:
        BadRow: they do not.
    """
    roles = [turn["role"] for turn in turns]
    dialogue = roles[1:] if roles[:1] == ["system"] else roles
    if dialogue != (["user", "assistant"] * len(dialogue))[: len(dialogue)]:
        shown = " ".join(roles[:8]) + (" …" if len(roles) > 8 else "")
        raise BadRow(
            "roles_not_alternating",
            f"`{name}` runs {shown}; after at most one system turn, user and assistant must take turns.",
        )
    if dialogue[-1:] != ["user"]:
        problem = f"ends in a {roles[-1]} turn" if roles else "has no turn"
        raise BadRow("no_final_question", f"`{name}` {problem}; it must end in the user's.")
    if any(turn["role"] == "user" and not turn["content"].strip() for turn in turns):
        raise BadRow("empty_prompt", "The prompt is empty; fill it or remove the row.")
