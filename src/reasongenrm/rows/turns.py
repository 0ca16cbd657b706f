"""Checks of texts and conversations: a valid one is returned, an invalid one raises `BadRow`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from pydantic import ValidationError

from reasongenrm.config.rubric import Rubric
from reasongenrm.records import CRITERIA, REFERENCE_POINTS, Message

RUBRIC = "rubric"
"""Column of rows with criteria by each of which the answers are judged alone."""

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


def is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is a string without lone surrogates, which JSON can escape and UTF-8 cannot hold."""
    if not isinstance(value, str):
        return False
    try:
        value.isascii() or value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number that a float can hold; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # JSON may have whole numbers of any length
        return False


def check_text(value: Any, name: str) -> str:
    """Return a text unchanged.

    Raises:
        BadRow: the value is not a string (`bad_type`), or contains a lone surrogate (`bad_encoding`).
    """
    if is_text(value):
        return value
    if not isinstance(value, str):
        raise BadRow("bad_type", f"`{name}` is {kind_of(value)}; make it a string.")
    at = next(place for place, character in enumerate(value) if "\ud800" <= character <= "\udfff")
    detail = f"`{name}` contains half of a surrogate pair at character {at}; write the whole character."
    raise BadRow("bad_encoding", detail)


def replace_surrogates(value: Any) -> Any:
    """Return a text, or all texts in lists and mappings, with a question mark for every lone surrogate."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping):
        return {name: replace_surrogates(part) for name, part in value.items()}
    return [replace_surrogates(part) for part in value] if is_list(value) else value


def quoted(value: Any, longest: int = 60) -> str:
    """Return a value as a message quotes it: its `repr`, of which at most `longest` characters are shown."""
    text = repr(value[: longest + 1] if isinstance(value, str) else value)
    return text if len(text) <= longest + 2 else f"{text[:longest]}…"


def is_list(value: Any) -> bool:
    """Whether a value is a list as JSON or Arrow gives one."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def kind_of(value: Any) -> str:
    """Name a value's type in the words of JSON."""
    if value is None:
        return "missing or null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    names: dict[type, str] = {str: "a string", list: "a list", tuple: "a list", dict: "an object"}
    return names.get(type(value), f"of type {type(value).__name__}")


def read_turns(value: Any, name: str, roles: Sequence[str] = ROLES) -> list[Message]:
    """Return a list of `{role, content}` objects as messages; other keys are ignored.

    Raises:
        BadRow: the value is not a list, is empty, or has an item that is not such an object or has another role.
    """
    if not is_list(value):
        detail = f"`{name}` is {kind_of(value)}; make it a list of {{role, content}} objects."
        raise BadRow("bad_type", detail)
    if not value:
        raise BadRow("no_messages", f"`{name}` has no messages; it needs at least a user turn.")
    return [_turn(turn, name, number, roles) for number, turn in enumerate(value)]


def _turn(turn: Any, name: str, number: int, roles: Sequence[str]) -> Message:
    if isinstance(turn, dict):  # fast path: no names of places are formatted for a valid turn
        role, content = turn.get("role"), turn.get("content")
        if isinstance(role, str) and role in roles and is_text(content):
            return Message(role=role, content=content)
    place = f"{name}[{number}]"
    if not isinstance(turn, Mapping):
        raise BadRow("bad_type", f"`{place}` is {kind_of(turn)}; make it an object with role and content.")
    role = check_text(turn.get("role"), f"{place}.role")
    if role not in roles:
        raise BadRow("bad_role", f"`{place}` has the role {quoted(role)}; use {', '.join(roles)}.")
    return Message(role=role, content=check_text(turn.get("content"), f"{place}.content"))


def read_prompt(value: Any, name: str) -> list[Message]:
    """Return a prompt as messages: a text becomes one user turn, a list of messages is checked.

    Raises:
        BadRow: the value is neither, or the turns are not [system], user, assistant, user, …, user (see
            `check_prompt`).
    """
    if isinstance(value, str):
        turns = [Message(role="user", content=check_text(value, name))]
    else:
        turns = read_turns(value, name)
    check_prompt(turns, name)
    return turns


def read_criteria(value: Any) -> str:
    """Return a row's criteria as text: a text, or a list of texts, which becomes lines that begin with `- `; empty for none.

    Raises:
        BadRow: it is neither.
    """
    if value is None or (is_list(value) and not value):
        return ""
    texts = value if is_list(value) else [value]
    checked = [check_text(text, CRITERIA).strip() for text in texts]
    if is_list(value):
        return "\n".join(f"- {text}" for text in checked)
    return checked[0]


def read_points(value: Any) -> tuple[str, ...]:
    """Return a row's reference points: a list of texts; empty for none.

    Raises:
        BadRow: the value is not a list (`bad_type`), or one of its items is not a text (`bad_type`, `bad_encoding`) or has no
            letter or digit (`empty_point`).
    """
    if value is None:
        return ()
    if not is_list(value):
        detail = f"`{REFERENCE_POINTS}` is {kind_of(value)}; make it a list of texts."
        raise BadRow("bad_type", detail)
    points = tuple(check_text(point, f"{REFERENCE_POINTS}[{number}]") for number, point in enumerate(value))
    for number, point in enumerate(points):
        if not any(map(str.isalnum, point)):
            detail = f"`{REFERENCE_POINTS}[{number}]` has no letter or digit; write a text, or remove it."
            raise BadRow("empty_point", detail)
    return points


def read_rubric(value: Any) -> Rubric | None:
    """Return a row's rubric: a list of criteria, each an object or a text, or an object with the key `criteria`; None for none.

    A key whose value is null is as if it were left out, as in a column that a table makes of objects.

    Raises:
        BadRow: it is neither, or a criterion is not valid.
    """
    if value is None or (is_list(value) and not value):
        return None
    if not is_list(value) and not isinstance(value, Mapping):
        detail = f"`{RUBRIC}` is {kind_of(value)}; make it a list of criteria, each a text or an object with name and text."
        raise BadRow("bad_type", detail)
    checked = _without_nulls(value)
    try:
        return Rubric.model_validate(checked)
    except ValidationError as error:
        first = min(
            error.errors(), key=lambda e: len(e["loc"]) < 2
        )  # the criterion's before that of the list
        place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        key = f" {quoted(first['ctx']['key'])}" if first["type"] == "unknown_key" else ""
        raise BadRow("bad_rubric", f"`{RUBRIC}{place}`: {problem}{key}.") from None


def _without_nulls(value: Any) -> Any:
    """Return a row's rubric without null values; its texts are checked."""
    if isinstance(value, Mapping):
        return {name: _without_nulls(part) for name, part in value.items() if part is not None}
    if is_list(value):
        return [_without_nulls(part) for part in value]
    return check_text(value, RUBRIC) if isinstance(value, str) else value


def turn_name(role: str) -> str:
    """Return how an error names a turn."""
    return f"an {role} turn" if role == "assistant" else f"a {role} turn"


def check_prompt(turns: Sequence[Message], name: str) -> None:
    """Check that turns are [system], user, assistant, user, …, user, and that no user turn is empty.

    Raises:
        BadRow: they are not.
    """
    check_turns(turns, name)
    if not turns or turns[-1]["role"] != "user":
        problem = f"ends in {turn_name(turns[-1]['role'])}" if turns else "has no turn"
        raise BadRow("no_final_question", f"`{name}` {problem}; it must end in the user's.")


def check_turns(turns: Sequence[Message], name: str) -> None:
    """Check that user and assistant take turns, after at most one system turn, and that no user turn is empty.

    Raises:
        BadRow: they do not, or one is empty.
    """
    roles = [turn["role"] for turn in turns]
    dialogue = roles[1:] if roles[:1] == ["system"] else roles
    if dialogue != (["user", "assistant"] * len(dialogue))[: len(dialogue)]:
        order = " ".join(roles[:8]) + (" …" if len(roles) > 8 else "")
        detail = f"`{name}` has the turns {order}; user and assistant must alternate, after at most one system turn."
        raise BadRow("roles_not_alternating", detail)
    if any(turn["role"] == "user" and not turn["content"].strip() for turn in turns):
        raise BadRow("empty_prompt", f"A user turn of `{name}` is empty; fill it or remove the row.")
