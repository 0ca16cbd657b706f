"""Stream rows from .jsonl and .parquet files, folders of them, and hub datasets."""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Drop

UNKNOWN_SOURCE = "?"
"""The source of a Drop whose row names none that can be read."""


_ROWS_PER_BATCH = 256


_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)  # owner/name


_SHARD = re.compile(
    r"(.+)-\d{5}-of-\d{5}(-\w+)?"
)  # the hub's name for a part of a split: train-00000-of-00004


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it was read.

    Attributes:
        where: `file:line` (from 1) for JSONL, `file[row]` or `dataset[row]` (from 0) for Parquet and the hub.
        origin: the name of the file without its suffix, or of the hub dataset without its owner.
        columns: column name -> value; every column of a line of JSONL, else those asked for.
    """

    location: str
    origin: str
    columns: dict[str, Any]


class RawLine(NamedTuple):
    """One line of a JSONL file, not looked at yet, so that another process can do it.

    Attributes:
        file: the file's path.
        number: of the line, from 1.
        origin: see `RawRow`.
        line: its bytes.
    """

    file: str
    number: int
    origin: str
    line: bytes

    def read(self) -> RawRow | Drop:
        """Return the row, or a Drop of stage `load`."""
        import msgspec

        location = f"{self.file}:{self.number}"
        try:  # twice as fast, and stricter: what it refuses, json may read, or says what is wrong
            row = msgspec.json.decode(self.line)
        except (msgspec.DecodeError, ValueError, RecursionError):
            return _json_row(self.line, location, self.origin)
        return RawRow(location, self.origin, row) if isinstance(row, dict) else _no_object(row, location)


@dataclass(frozen=True, slots=True)
class _Columns:
    """The columns asked for."""

    required: Sequence[str]
    optional: Sequence[str]

    def select(self, found: Sequence[str], location: str) -> list[str]:
        """Return the columns to read.

        Raises:
            DataError: a required column is not among those found.
        """
        missing = [name for name in self.required if name not in found]
        if missing:
            raise DataError(
                f"there is no column {', '.join(map(repr, missing))}",
                location=location,
                hint=f"name the columns {', '.join(self.required)}; found: {', '.join(found) or 'none'}",
            )
        return [name for name in (*self.required, *self.optional) if name in found]


def read_rows(
    path: str,
    *,
    required: Sequence[str],
    optional: Sequence[str] = (),
    split: str,
    revision: str | None = None,
    limit: int | None = None,
) -> Iterator[RawRow | Drop]:
    """Stream the rows of a dataset, one item per row; a Drop has stage `load`.

    Args and raises: see `raw_rows`.
    """
    rows = raw_rows(path, required=required, optional=optional, split=split, revision=revision, limit=limit)
    return (row.read() if isinstance(row, RawLine) else row for row in rows)


def raw_rows(
    path: str,
    *,
    required: Sequence[str],
    optional: Sequence[str] = (),
    split: str,
    revision: str | None = None,
    limit: int | None = None,
) -> Iterator[RawLine | RawRow | Drop]:
    """Stream the rows of a dataset, one item per row: the lines of JSONL files as they are.

    The path, the columns of Parquet files and the hub are checked at the call, before the first row. Memory
    does not grow with the input.

    Args:
        path: a `.jsonl` or `.parquet` file, a folder that holds such files (read in order of their names),
            or a dataset id of the Hugging Face hub, `owner/name`. What is on this disk comes before the hub.
        required: columns that must be there; of a line of JSONL the caller checks that itself.
        optional: columns to read where they are there.
        split: split of a hub dataset. In a folder, files named like the hub's shards of another split
            (`test-00000-of-00001.parquet`) are left out; a file is read whole.
        revision: commit, tag or branch of a hub dataset.
        limit: how many rows to read, good and bad together; None reads all. Blank lines are no rows.

    Raises:
        ConfigError: a negative limit, an empty path, or a revision of a local path.
        DataError: nothing readable is there, or a Parquet file or hub dataset lacks a required column.
    """
    if limit is not None and limit < 0:
        raise ConfigError(
            f"limit is {limit}", location="limit", hint="give a number of rows, or none for all"
        )
    if not path.strip():
        raise ConfigError("the path is empty", location="path", hint="give a file, a folder or a hub id")
    columns = _Columns(required, optional)
    local = Path(path).expanduser()
    if not local.exists():
        return islice(_hub_rows(path, columns, split, revision), limit)
    if revision is not None:
        raise ConfigError(
            f"revision {revision!r} is asked for, but this path is on this disk",
            location=path,
            hint="set revision=null, or rename what is here to read from the hub",
        )
    files = _folder_files(local, split) if local.is_dir() else [local]
    return islice(chain.from_iterable([_file_rows(file, columns) for file in files]), limit)


def array_rows(file: Path, *, revision: str | None = None, stage: str = "load") -> Iterator[RawRow | Drop]:
    """Return the rows of a `.json` file that holds one array of objects; the file is read whole.

    Args:
        stage: of the Drops, one per item that is no object.

    Raises:
        ConfigError: a revision is given; a file on this disk has none.
        DataError: the file cannot be opened, is no JSON, or holds something else than an array.
    """
    if revision is not None:
        problem = f"revision {revision!r} is asked for, but this path is on this disk"
        raise ConfigError(problem, location=str(file), hint="set revision=null")
    hint = "write one JSON array of rows, or one row per line into a .jsonl file"
    try:
        rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        problem = f"cannot be opened: {error.strerror}"
        raise DataError(problem, location=str(file), hint="check its permissions") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"no JSON: {_one_line(error)}", location=str(file), hint=hint) from None
    if not isinstance(rows, list):
        raise DataError(f"the file is {kind_of(rows)}, not an array", location=str(file), hint=hint)
    return (_array_row(row, f"{file}[{number}]", file.stem, stage) for number, row in enumerate(rows))


def _array_row(row: Any, location: str, origin: str, stage: str) -> RawRow | Drop:
    if isinstance(row, dict):
        return RawRow(location, origin, row)
    return Drop(location, UNKNOWN_SOURCE, "broken_json", f"The row is {kind_of(row)}, not an object.", stage)


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


def half_surrogate(text: str) -> int | None:
    """Return where the text holds half of a surrogate pair, or None.

    JSON can escape one; no tokenizer and no UTF-8 file can hold one.
    """
    try:
        text.isascii() or text.encode("utf-8")
    except UnicodeEncodeError as error:
        return error.start
    return None


def _folder_files(folder: Path, split: str) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if _readable(file))
    if not files:
        deeper = sorted({file.parent for file in folder.glob("*/*") if _readable(file)})
        hint = f"give the folder {deeper[0]}" if deeper else "put .jsonl or .parquet files into it"
        raise DataError("the folder holds no .jsonl or .parquet file", location=str(folder), hint=hint)
    shards = {file: named[1] for file in files if (named := _SHARD.fullmatch(file.stem))}
    wanted = [file for file in files if shards.get(file, split) == split]
    if not wanted:
        hint = f"set the split to one of: {', '.join(sorted(set(shards.values())))}"
        raise DataError(f"no file of split {split!r}", location=str(folder), hint=hint)
    return wanted


def _readable(file: Path) -> bool:
    return file.suffix.lower() in (".jsonl", ".parquet") and not file.name.startswith(".") and file.is_file()


def _file_rows(file: Path, columns: _Columns) -> Iterator[RawLine | RawRow | Drop]:
    """Check that a file can be opened and return the iterator over its rows."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(file, columns.select(_parquet_columns(file), str(file)))
    if suffix != ".jsonl":
        problem = f"cannot read a {suffix or 'file without a suffix'}"
        raise DataError(problem, location=str(file), hint="give a .jsonl or .parquet file")
    _check_opens(file)
    return _jsonl_rows(file)


def raw_lines(path: str) -> Iterator[RawLine]:
    """Stream the lines of a JSONL file, or of stdin (`-`); blank lines are none.

    Raises:
        DataError: the file cannot be opened.
    """
    if path == "-":
        return _lines(sys.stdin.buffer, "stdin", "stdin")
    _check_opens(Path(path))
    return _jsonl_rows(Path(path))


def _check_opens(file: Path) -> None:
    try:
        file.open("rb").close()
    except OSError as error:
        problem = f"cannot be opened: {error.strerror}"
        raise DataError(problem, location=str(file), hint="check the path and its permissions") from None


def _jsonl_rows(file: Path) -> Iterator[RawLine]:
    with file.open("rb") as lines:
        yield from _lines(lines, str(file), file.stem)


def _lines(lines: Iterable[bytes], name: str, origin: str) -> Iterator[RawLine]:
    # Read as bytes: lines end at \n alone (U+2028 is text), and one line that is no UTF-8 costs one row.
    for number, line in enumerate(lines, 1):
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if line and not line.isspace():
            yield RawLine(name, number, origin, line)


def _json_row(line: bytes, location: str, origin: str) -> RawRow | Drop:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        detail = f"Byte {error.start} of the line is not UTF-8; save the file as UTF-8."
        return Drop(location, UNKNOWN_SOURCE, "bad_encoding", detail, "load")
    except (ValueError, RecursionError) as error:  # ValueError also for a number of more than 4300 digits
        at = (
            f"{error.msg} at character {error.pos}" if isinstance(error, json.JSONDecodeError) else str(error)
        )
        detail = f"The line is no JSON: {at}; write one whole object per line."
        return Drop(location, UNKNOWN_SOURCE, "broken_json", detail, "load")
    return RawRow(location, origin, row) if isinstance(row, dict) else _no_object(row, location)


def _no_object(row: Any, location: str) -> Drop:
    detail = f"The row is {kind_of(row)}, not a JSON object; write one object per line."
    return Drop(location, UNKNOWN_SOURCE, "broken_json", detail, "load")


def _parquet_columns(file: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(file).names)
    except (pa.ArrowException, OSError) as error:
        problem = f"not a readable Parquet file: {_one_line(error)}"
        raise DataError(problem, location=str(file), hint="fetch or write it again") from None


def _parquet_rows(file: Path, columns: list[str]) -> Iterator[RawRow | Drop]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        # A row group may be the whole file; buffer_size without pre_buffer makes it come page by page.
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as table:
            for batch in table.iter_batches(batch_size=_ROWS_PER_BATCH, columns=columns):
                for at in range(batch.num_rows):
                    yield _arrow_row(partial(_batch_row, batch, columns, at), f"{file}[{number}]", file.stem)
                    number += 1
    except (pa.ArrowException, OSError) as error:
        problem = f"cannot be read on: {_one_line(error)}"
        raise DataError(problem, location=f"{file}[{number}]", hint="fetch or write it again") from None


def _batch_row(batch: Any, columns: Sequence[str], at: int) -> dict[str, Any]:
    return {name: batch.column(name)[at].as_py() for name in columns}


def _arrow_row(decode: partial[dict[str, Any]], location: str, origin: str) -> RawRow | Drop:
    # Arrow does not check that a string is UTF-8 until it is looked at.
    try:
        return RawRow(location, origin, decode())
    except UnicodeDecodeError:
        detail = "A text of the row is not UTF-8; write the file again from UTF-8 texts."
        return Drop(location, UNKNOWN_SOURCE, "bad_encoding", detail, "load")


def _hub_rows(name: str, columns: _Columns, split: str, revision: str | None) -> Iterator[RawRow | Drop]:
    """Load a dataset of the hub (memory-mapped from its cache) and return the iterator over its rows."""
    looks_local = Path(name).suffix.lower() in (".jsonl", ".json", ".parquet", ".csv", ".gz", ".zip", ".txt")
    if looks_local or not _HUB_ID.fullmatch(name):
        hint = "check the path; it is no id of the hub either"
        raise DataError("no such file or folder", location=name, hint=hint)
    import datasets

    try:
        table = datasets.load_dataset(name, split=split, revision=revision)
    except Exception as error:  # the hub, its client and the builders raise dozens of classes without a base
        raise DataError(
            f"not found on this disk, and the hub says: {type(error).__name__}: {_one_line(error)}",
            location=name,
            hint="check the id, the split and the revision; without a network give a .jsonl or .parquet file",
        ) from error
    table = table.select_columns(columns.select(table.column_names, name))
    origin = name.rsplit("/", 1)[-1]
    rows = range(len(table))
    return (_arrow_row(partial(table.__getitem__, at), f"{name}[{at}]", origin) for at in rows)


def _one_line(error: BaseException) -> str:
    """Return the first 300 characters of an error's text, on one line."""
    return " ".join(str(error).split())[:300]
