"""Rows that somebody else wrote -> a benchmark's rows: one item per row, and never a silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop, Message, Row
from reasongenrm.rows.files import UNKNOWN_SOURCE, RawRow, read_rows
from reasongenrm.rows.turns import BadRow, check_text, is_list, is_text, kind_of, read_turns


def raw_rows(
    path: str,
    columns: Sequence[str],
    *,
    split: str,
    revision: str | None = None,
    limit: int | None = None,
) -> Iterator[RawRow | Drop]:
    """Stream the rows of a benchmark.

    Args:
        path: a `.json` file with one array of rows, a folder of such files (also in its folders, read in order
            of their paths), or what `reading.read_rows` takes.
        columns: the columns to read where they are there (of Parquet files and hub datasets).
        split, revision, limit: see `reading.read_rows`.

    Raises:
        ConfigError, DataError: see `reading.read_rows`.
    """
    arrays = _arrays(Path(path).expanduser()) if path.strip() else []
    if not arrays:
        return read_rows(path, required=(), optional=columns, split=split, revision=revision, limit=limit)
    return files_rows(arrays, revision=revision, limit=limit)


def files_rows(files: Sequence[Path], *, revision: str | None, limit: int | None) -> Iterator[RawRow | Drop]:
    """Stream the rows of some `.json` files, each of which holds one array.

    Raises:
        ConfigError, DataError: see `files.read_rows`; a negative limit.
    """
    if limit is not None and limit < 0:
        raise ConfigError(
            f"limit is {limit}", location="limit", hint="give a number of rows, or none for all"
        )
    return islice(chain.from_iterable([read_rows(str(file), revision=revision) for file in files]), limit)


def _arrays(path: Path) -> list[Path]:
    if path.is_file():
        return [path] if path.suffix.lower() == ".json" else []
    if not path.is_dir() or any(file.suffix.lower() in (".jsonl", ".parquet") for file in path.iterdir()):
        return []
    return sorted(file for file in path.rglob("*.json") if file.is_file() and not file.name.startswith("."))


def parsed_rows(
    raw: Iterable[RawRow | Drop], parse: Callable[[RawRow], Row], *, location: str, hint: str
) -> Iterator[Row | Drop]:
    """Yield one item per raw row; what `parse` refuses is a Drop of stage `load`. Row ids are distinct.

    Args:
        parse: raises BadRow at a row that cannot be used.
        where, mend: of the error when no row can be read.

    Raises:
        DataError: no row can be read.
    """
    copies: Counter[str] = Counter()
    for one in raw:
        row = one if isinstance(one, Drop) else _parsed(one, parse)
        if isinstance(row, Drop):
            yield row
            continue
        copies[row.id] += 1
        yield row if copies[row.id] == 1 else replace(row, id=f"{row.id}-{copies[row.id]}")
    if not copies:
        raise DataError("no readable row", location=location, hint=hint)


def _parsed(raw: RawRow, parse: Callable[[RawRow], Row]) -> Row | Drop:
    try:
        return parse(raw)
    except BadRow as bad:
        names = (raw.columns.get(name) for name in ("subset", "domain", "category_path", "source"))
        source = next((n for n in names if is_text(n)), UNKNOWN_SOURCE)
        return Drop(raw.location, source, bad.reason, bad.detail, "load")


def column(row: RawRow, *names: str) -> Any:
    """Return the value of the first of these columns that the row has, and that is not null.

    Raises:
        BadRow: it has none of them.
    """
    for name in names:
        value = row.columns.get(name)
        if value is not None:
            return value
    present = ", ".join(sorted(map(str, row.columns))[:12]) or "none"
    wanted = " or ".join(f"`{name}`" for name in names)
    raise BadRow("missing_column", f"There is no column {wanted} (found: {present}).")


def text(row: RawRow, *names: str) -> str:
    """Return the first of these columns as a text; an empty one is a text too.

    Raises:
        BadRow: see `column`; it is no string, or holds half a surrogate pair.
    """
    return check_text(column(row, *names), names[0])


def texts(row: RawRow, name: str) -> list[str]:
    """Return a column that holds a list of texts, at least one.

    Raises:
        BadRow: it holds something else.
    """
    value = column(row, name)
    if not is_list(value):
        raise BadRow("bad_type", f"`{name}` is {kind_of(value)}; make it a list of strings.")
    if not value:
        raise BadRow("no_answer", f"`{name}` is an empty list; a comparison needs an answer of each kind.")
    return [check_text(item, f"{name}[{number}]") for number, item in enumerate(value)]


def prompt(row: RawRow, *names: str) -> list[Message]:
    """Return the first of these columns as turns: a text is one user turn, a list of messages ends with one.

    Raises:
        BadRow: it is neither.
    """
    value = column(row, *names)
    if isinstance(value, str):
        return [Message(role="user", content=check_text(value, names[0]))]
    turns = read_turns(value, names[0])
    if turns[-1]["role"] != "user":
        problem = f"`{names[0]}` ends in a {turns[-1]['role']} turn; it must end in the user's."
        raise BadRow("no_final_question", problem)
    return turns


def one_of(row: RawRow, name: str, known: Mapping[str, Any]) -> Any:
    """Return what a column's value stands for.

    Raises:
        BadRow: the column is absent, or its value is not among the known ones.
    """
    value = column(row, name)
    if isinstance(value, str) and value.strip() in known:
        return known[value.strip()]
    if isinstance(value, int) and not isinstance(value, bool) and str(value) in known:
        return known[str(value)]
    shown = repr(value)[:60]
    raise BadRow(f"bad_{name}", f"`{name}` is {shown}; it must be one of {', '.join(known)}.")
