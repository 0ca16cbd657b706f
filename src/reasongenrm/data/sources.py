"""Preference datasets with the columns chosen, rejected, source: one pair or one drop per row.

The columns are those of Skywork-Reward-Preference-80K-v0.2: `chosen` and `rejected` contain the whole
conversation, each with its own answer at the end, and `source` (optional) names the row's origin.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasongenrm.errors import DataError
from reasongenrm.records import Drop, Message, PreferencePair
from reasongenrm.rows.files import UNKNOWN_SOURCE, JsonLine, RawRow, undecoded_rows
from reasongenrm.rows.turns import BadRow, check_filled, check_order, check_text, read_turns

REQUIRED = ("chosen", "rejected")
OPTIONAL = ("source",)


def undecoded_pairs(
    path: str, *, split: str = "train", revision: str | None = None, limit: int | None = None
) -> Iterator[JsonLine | RawRow | Drop]:
    """Stream the rows of a preference dataset unchecked; `read_pair` turns each into a pair.

    Args:
        path, split, revision, limit: see `rows.files.undecoded_rows`.

    Raises:
        ConfigError: a negative limit, or a revision of a local path.
        DataError: nothing readable at `path`, or a Parquet file or hub dataset lacks a required column.
    """
    local = Path(path).expanduser()
    if local.suffix.lower() == ".csv" and local.is_file():
        hint = "for a ranked CSV set kind: ranked; otherwise give a .jsonl or .parquet file"
        raise DataError("a .csv file cannot contain conversations", location=path, hint=hint)
    return undecoded_rows(
        path, required=REQUIRED, optional=OPTIONAL, split=split, revision=revision, limit=limit
    )


def load_pairs(
    path: str, *, split: str = "train", revision: str | None = None, limit: int | None = None
) -> Iterator[PreferencePair | Drop]:
    """Stream the rows of a preference dataset, each as a pair or as a Drop of stage `load`.

    Returns:
        An iterator with exactly one item per input row.

    Raises:
        ConfigError, DataError: see `undecoded_pairs`.
    """
    return map(read_pair, undecoded_pairs(path, split=split, revision=revision, limit=limit))


def read_pair(row: JsonLine | RawRow | Drop) -> PreferencePair | Drop:
    """Return one row as a pair, or as a Drop of stage `load`; never raises on invalid input.

    A Drop is returned unchanged. Texts are not stripped; keys of a message other than `role` and `content` are
    ignored. A row without a source gets the row's origin as its source.
    """
    if isinstance(row, JsonLine):
        row = row.decode()
    if isinstance(row, Drop):
        return row
    source = UNKNOWN_SOURCE
    try:
        source = source_of(row)
        chosen, rejected = (_conversation(row.columns, side) for side in REQUIRED)
        _check_pair(chosen, rejected)
    except BadRow as bad:
        return Drop(row.location, source, bad.reason, bad.detail, "load")
    return PreferencePair.make(chosen[:-1], chosen[-1]["content"], rejected[-1]["content"], source)


def source_of(row: RawRow) -> str:
    """Return a row's column `source`, or the row's origin if there is none.

    Raises:
        BadRow: the column is not a text.
    """
    source = row.columns.get("source")
    return (check_text(source, "source").strip() if source is not None else "") or row.origin


def _conversation(columns: dict[str, Any], side: str) -> list[Message]:
    """Return one side as turns: [system], user, assistant, user, …, assistant."""
    if side not in columns:
        present = ", ".join(sorted(map(str, columns))[:8]) or "none"
        detail = f"There is no `{side}` (found: {present}); name the columns chosen and rejected."
        raise BadRow("missing_column", detail)
    turns = read_turns(columns[side], side)
    if turns[-1]["role"] != "assistant":
        detail = f"`{side}` ends in a {turns[-1]['role']} turn; end it in the assistant's answer."
        raise BadRow("no_final_answer", detail)
    check_order(turns, side)
    check_filled(turns, side)
    if not turns[-1]["content"].strip():
        raise BadRow("empty_answer", f"The answer of `{side}` is empty; fill it or remove the row.")
    return turns


def _check_pair(chosen: list[Message], rejected: list[Message]) -> None:
    if chosen[:-1] != rejected[:-1]:
        longest = max(len(chosen), len(rejected)) - 1
        turn = next(at for at in range(longest) if chosen[:-1][at : at + 1] != rejected[:-1][at : at + 1])
        detail = (
            f"`chosen` and `rejected` differ at turn {turn}, before the answer; give both the same prompt."
        )
        raise BadRow("history_mismatch", detail)
    if chosen[-1]["content"].strip() == rejected[-1]["content"].strip():
        detail = "Both answers are the same, so neither can be preferred; remove the row."
        raise BadRow("equal_answers", detail)
