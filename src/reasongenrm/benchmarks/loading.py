"""Read benchmark files: every input row yields a row or a recorded drop; and checks of single columns."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from reasongenrm.errors import DataError
from reasongenrm.records import Drop, Message, Row
from reasongenrm.rows.files import UNKNOWN_SOURCE, RawRow
from reasongenrm.rows.turns import (
    BadRow,
    check_text,
    is_list,
    is_text,
    kind_of,
    quoted,
    read_turns,
    turn_name,
)

LONGEST_NAME = 200
"""Largest number of characters of a subset's name."""


def source_files(path: str, array_file: str | None) -> list[str]:
    """Return the files of a folder of `.json` files, each with one array of rows, in order of their paths; or the path.

    Subfolders count. In a folder with files called `array_file`, all others are ignored.
    """
    folder = Path(os.path.expanduser(path))
    if not path.strip() or not folder.is_dir():
        return [path]
    files = sorted(folder.rglob(array_file)) if array_file else []
    if not files and not any(file.suffix.lower() in (".jsonl", ".parquet") for file in folder.iterdir()):
        files = sorted(f for f in folder.rglob("*.json") if f.is_file() and not f.name.startswith("."))
    return [str(file) for file in files] or [path]


def parsed_rows(
    raw: Iterable[RawRow | Drop], parse: Callable[[RawRow], Row], *, location: str, hint: str
) -> Iterator[Row | Drop]:
    """Yield one item per raw row; a row for which `parse` raises BadRow is a Drop of stage `load`. Ids are distinct.

    All rows are read before the first is yielded: a row that occurs in several subsets has the subset's name in its id
    (`<hash>-<subset>`), so that its id does not depend on the order of the rows. A row repeated within its subset gets
    `-2`, `-3`, ….

    Raises:
        DataError: no row can be read; with this location and hint.
    """
    items = [item if isinstance(item, Drop) else _parsed(item, parse) for item in raw]
    subsets_by_id: defaultdict[str, set[str]] = defaultdict(set)
    for item in items:
        if isinstance(item, Row):
            subsets_by_id[item.id].add(item.subset)
    if not subsets_by_id:
        raise DataError("no readable row", location=location, hint=hint)
    copies: Counter[str] = Counter()
    for item in items:
        if isinstance(item, Row):
            name = item.id if len(subsets_by_id[item.id]) == 1 else f"{item.id}-{item.subset}"
            copies[name] += 1
            item = replace(item, id=name if copies[name] == 1 else f"{name}-{copies[name]}")
        yield item


def _parsed(raw: RawRow, parse: Callable[[RawRow], Row]) -> Row | Drop:
    try:
        row = parse(raw)
        if len(row.subset) > LONGEST_NAME:
            problem = f"The subset {quoted(row.subset)} has {len(row.subset):,} characters; use at most {LONGEST_NAME}."
            raise BadRow("long_subset", problem)
    except BadRow as bad:
        names = (raw.columns.get(name) for name in ("subset", "domain", "category_path", "source"))
        source = next((name for name in names if is_text(name)), UNKNOWN_SOURCE)
        return Drop(raw.location, source[:LONGEST_NAME], bad.reason, bad.detail, "load")
    return row


def column(row: RawRow, *names: str) -> Any:
    """Return the value of the first of these columns that exists and is not null.

    Raises:
        BadRow: all are missing or null.
    """
    for name in names:
        value = row.columns.get(name)
        if value is not None:
            return value
    present = ", ".join(sorted(name[:40] for name, value in row.columns.items() if value is not None)[:12])
    needed = " or ".join(f"`{name}`" for name in names)
    raise BadRow("missing_column", f"The column {needed} is missing or null (found: {present or 'none'}).")


def row_name(row: RawRow) -> dict[str, Any]:
    """Return the row's own `id` as details of a row, if it has a short one: a leaderboard's files name it."""
    name = row.columns.get("id")
    short = type(name) is int or (is_text(name) and 0 < len(name) <= LONGEST_NAME)
    return {"id": name} if short else {}


def text(row: RawRow, name: str, *, default: str | None = None) -> str:
    """Return a column as a text, which may be empty, or the default where the row does not have the column.

    Raises:
        BadRow: see `column`; the value is not a string, or contains a lone surrogate.
    """
    if default is not None and row.columns.get(name) is None:
        return default
    return check_text(column(row, name), name)


def texts(row: RawRow, name: str) -> list[str]:
    """Return a column that is a list of at least one text.

    Raises:
        BadRow: the value is something else.
    """
    value = column(row, name)
    if not is_list(value):
        raise BadRow("bad_type", f"`{name}` is {kind_of(value)}; make it a list of strings.")
    if not value:
        raise BadRow("no_answer", f"`{name}` is an empty list; a comparison needs an answer of each kind.")
    return [check_text(item, f"{name}[{number}]") for number, item in enumerate(value)]


def prompt(row: RawRow, *names: str) -> list[Message]:
    """Return the first of these columns as turns: a text is one user turn, a list of messages must end with one.

    Raises:
        BadRow: see `column`; the value is something else.
    """
    value = column(row, *names)
    if isinstance(value, str):
        return [Message(role="user", content=check_text(value, names[0]))]
    turns = read_turns(value, names[0])
    if turns[-1]["role"] != "user":
        problem = f"`{names[0]}` ends in {turn_name(turns[-1]['role'])}; it must end in the user's."
        raise BadRow("no_final_question", problem)
    return turns


def one_of(row: RawRow, name: str, known: Mapping[str, Any]) -> Any:
    """Return the meaning of a column's value, a string or an integer; `known` is value as text -> meaning.

    Raises:
        BadRow: the column is missing, or its value is not a known one.
    """
    value = column(row, name)
    key = str(value).strip() if isinstance(value, str) or type(value) is int else ""
    if key not in known:
        problem = f"`{name}` is {quoted(value)}; it must be one of {', '.join(known)}."
        raise BadRow(f"bad_{name}", problem)
    return known[key]
