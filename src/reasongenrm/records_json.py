"""Records as plain JSON objects, and back."""

from __future__ import annotations

from dataclasses import is_dataclass
from typing import Any

from reasongenrm.records import Completion


def to_json(record: Any) -> dict[str, Any]:
    """Return a record as a plain JSON object."""
    # What `dataclasses.asdict` does, without its deep copy of every text and turn.
    row = {name: getattr(record, name) for name in record.__slots__}
    for name, value in row.items():
        if isinstance(value, tuple) and value and is_dataclass(value[0]):
            row[name] = [to_json(item) for item in value]
    return row


def completion_to_json(completion: Completion) -> dict[str, Any]:
    """Return a completion as JSON; the watched positions and token ids become strings."""
    row = to_json(completion)
    row["watched"] = {
        str(place): {str(t): value for t, value in entry.items()}
        for place, entry in completion.watched.items()
    }
    return row


def completion_from_json(row: dict[str, Any]) -> Completion:
    """Read back what `completion_to_json` wrote."""
    watched = {
        int(place): {int(t): float(v) for t, v in entry.items()} for place, entry in row["watched"].items()
    }
    return Completion(**(row | {"token_ids": tuple(row["token_ids"]), "watched": watched}))
