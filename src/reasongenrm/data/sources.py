"""Preference datasets with the columns chosen, rejected, source: one pair or one drop per row.

The columns are those of Skywork-Reward-Preference-80K-v0.2: `chosen` and `rejected` hold the whole
conversation, each ending in its own answer, and `source` (optional) says where the row comes from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reasongenrm.errors import DataError
from reasongenrm.records import Drop, Message, PreferencePair
from reasongenrm.rows.files import UNKNOWN_SOURCE, RawLine, RawRow, raw_rows
from reasongenrm.rows.turns import BadRow, check_text, read_turns

REQUIRED = ("chosen", "rejected")


OPTIONAL = ("source",)


def read_pair(row: RawLine | RawRow | Drop) -> PreferencePair | Drop:
    """Check one row and return it as a pair, or as a Drop of stage `load`; never raises on bad input.

    A Drop stays what it is.
    Texts are kept as they are (not stripped); keys of a message other than `role` and `content` are ignored.
    A row that names no source has the row's origin as its source.
    """
    if isinstance(row, RawLine):
        row = row.read()
    if isinstance(row, Drop):
        return row
    source = UNKNOWN_SOURCE
    try:
        source = _source(row.columns, row.origin)
        chosen, rejected = (_conversation(row.columns, side) for side in REQUIRED)
        _check_pair(chosen, rejected)
    except BadRow as bad:
        return Drop(row.location, source, bad.reason, bad.detail, "load")
    return PreferencePair.make(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"], source)


def _source(row: Mapping[str, Any], default: str) -> str:
    source = row.get("source")
    if source is None:
        return default
    return check_text(source, "source").strip() or default


def _conversation(row: Mapping[str, Any], side: str) -> list[Message]:
    """Return one side as a list of turns: [system], user, assistant, user, …, assistant."""
    if side not in row:
        found = ", ".join(sorted(map(str, row))[:8]) or "none"
        raise BadRow(
            "missing_column", f"There is no `{side}` (found: {found}); name the columns chosen and rejected."
        )
    messages = read_turns(row[side], side)
    _check_roles(messages, side)
    return messages


def _check_roles(messages: list[Message], side: str) -> None:
    roles = [message["role"] for message in messages]
    if roles[-1] != "assistant":
        raise BadRow(
            "no_final_answer", f"`{side}` ends in a {roles[-1]} turn; end it in the assistant's answer."
        )
    start = 1 if roles[0] == "system" else 0
    dialogue = roles[start:]
    if len(dialogue) % 2 or dialogue != ["user", "assistant"] * (len(dialogue) // 2):
        shown = " ".join(roles[:8]) + (" …" if len(roles) > 8 else "")
        raise BadRow(
            "roles_not_alternating",
            f"`{side}` runs {shown}; after at most one system turn, user and assistant must take turns.",
        )
    for number, message in enumerate(messages):
        if message["role"] == "user" and not message["content"].strip():
            raise BadRow(
                "empty_prompt", f"`{side}[{number}]` is an empty user turn; fill it or remove the row."
            )
    if not messages[-1]["content"].strip():
        raise BadRow("empty_answer", f"The answer of `{side}` is empty; fill it or remove the row.")


def _check_pair(chosen: list[Message], rejected: list[Message]) -> None:
    if chosen[:-1] != rejected[:-1]:
        longest = max(len(chosen), len(rejected)) - 1
        turn = next(at for at in range(longest) if chosen[:-1][at : at + 1] != rejected[:-1][at : at + 1])
        raise BadRow(
            "history_mismatch",
            f"`chosen` and `rejected` differ at turn {turn}, before the answer; make both answer one prompt.",
        )
    if chosen[-1]["content"].strip() == rejected[-1]["content"].strip():
        raise BadRow(
            "equal_answers", "Both answers are the same; there is nothing to prefer, remove the row."
        )


def raw_pairs(
    path: str, *, split: str = "train", revision: str | None = None, limit: int | None = None
) -> Iterator[RawLine | RawRow | Drop]:
    """Stream the rows of a preference dataset, unchecked: `rows.read_pair` makes pairs of them.

    Args:
        path, split, revision, limit: see `reading.raw_rows`.

    Raises:
        ConfigError: a negative limit, or a revision of a local path.
        DataError: nothing readable is there, or a Parquet file or hub dataset lacks a required column.
    """
    local = Path(path).expanduser()
    if local.suffix.lower() == ".csv" and local.is_file():
        hint = "for a ranked CSV set kind: ranked; else give a .jsonl or .parquet file"
        raise DataError("a .csv holds no conversations", location=path, hint=hint)
    return raw_rows(path, required=REQUIRED, optional=OPTIONAL, split=split, revision=revision, limit=limit)


def load_pairs(
    path: str, *, split: str = "train", revision: str | None = None, limit: int | None = None
) -> Iterator[PreferencePair | Drop]:
    """Stream the rows of a preference dataset, each as a pair or as a Drop of stage `load`.

    Returns:
        An iterator with exactly one item per input row.

    Raises:
        ConfigError, DataError: see `raw_pairs`.
    """
    return map(read_pair, raw_pairs(path, split=split, revision=revision, limit=limit))
