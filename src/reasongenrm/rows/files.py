"""Stream rows from .jsonl, .json, .parquet and .csv files, folders of files, and datasets of the Hugging Face hub."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from reasongenrm.errors import ConfigError, DataError, first_line
from reasongenrm.records import Drop
from reasongenrm.rows.csv_line import csv_text
from reasongenrm.rows.turns import kind_of
from reasongenrm.store import explain_read_errors

UNKNOWN_SOURCE = "?"
"""The source of a Drop whose row has no readable source."""

_ROWS_PER_BATCH = 256
_HUB_ID = re.compile(
    r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(:[\w.-]+)?", re.ASCII
)  # owner/name or owner/name:configuration
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}(-\w+)?")  # the hub's file name of one part: train-00000-of-00004
_ROW_NUMBER = re.compile(r":\d+$|\[\d+\]$")
_FILE_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv", ".gz", ".zip", ".txt")  # never part of a hub id


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row before its contents are checked.

    Attributes:
        location: `file:line` (from 1) for JSONL and CSV, `file[row]` or `dataset[row]` (from 0) for JSON arrays,
            Parquet and the hub.
        origin: the name of the file without its suffix, or of the hub dataset without its owner.
        columns: column name -> value; only the requested columns for Parquet and the hub.
    """

    location: str
    origin: str
    columns: dict[str, Any]

    @property
    def file(self) -> str:
        """The file or dataset of the row: its location without the number of the line or row."""
        return _ROW_NUMBER.sub("", self.location)


class JsonLine(NamedTuple):
    """One line of a JSONL file before it is decoded, so that another process can decode it.

    Attributes:
        location, origin: see `RawRow`.
        line: its bytes.
    """

    location: str
    origin: str
    line: bytes

    def decode(self) -> RawRow | Drop:
        """Return the row, or a Drop of stage `load`."""
        try:  # twice as fast as json, and stricter: lines that it refuses get a second chance, or json's message
            row = msgspec.json.decode(self.line)
        except (msgspec.DecodeError, ValueError, RecursionError):
            try:
                row = json.loads(self.line.decode("utf-8"))
            except UnicodeDecodeError as error:
                detail = f"Byte {error.start} of the line is not UTF-8; save the file as UTF-8."
                return Drop(self.location, UNKNOWN_SOURCE, "bad_encoding", detail, "load")
            except (ValueError, RecursionError) as error:  # ValueError also for a number of over 4300 digits
                problem = str(error)
                if isinstance(error, json.JSONDecodeError):
                    problem = f"{error.msg} at character {error.pos}"
                detail = f"Invalid JSON: {problem} (write one JSON object per line)."
                return Drop(self.location, UNKNOWN_SOURCE, "broken_json", detail, "load")
        return _object(row, self.location, self.origin)


def _object(row: Any, location: str, origin: str) -> RawRow | Drop:
    if isinstance(row, dict):
        return RawRow(location, origin, row)
    detail = f"The row is {kind_of(row)}, not a JSON object; write one object per row."
    return Drop(location, UNKNOWN_SOURCE, "broken_json", detail, "load")


def read_rows(path: str, **options: Any) -> Iterator[RawRow | Drop]:
    """Stream the rows of a dataset, one item per row; a Drop has stage `load`.

    Args and raises: see `undecoded_rows`.
    """
    rows = undecoded_rows(path, **options)
    return (row.decode() if isinstance(row, JsonLine) else row for row in rows)


def undecoded_rows(
    path: str,
    *,
    required: Sequence[str] = (),
    optional: Sequence[str] = (),
    whole: bool = False,
    split: str = "train",
    revision: str | None = None,
    limit: int | None = None,
) -> Iterator[JsonLine | RawRow | Drop]:
    """Stream the rows of a dataset, one item per row; lines of JSONL files are not decoded.

    The path, the columns of Parquet files and the hub are checked at the call, before the first row. Memory
    does not grow with the input, except for a JSON array, which is read whole.

    Args:
        path: a `.jsonl` or `.parquet` file, a folder of such files (read in order of their names), a `.json`
            file with one array of objects, or a dataset id of the Hugging Face hub, `owner/name`, or
            `owner/name:configuration`. A local path takes precedence over the hub.
        required: columns that must exist in Parquet and hub datasets; for JSON the caller checks each row.
        optional: columns to read if they exist.
        whole: read all columns of Parquet files and the hub, not only the required and optional ones.
        split: split of a hub dataset. In a folder, files named like the hub's shards of another split
            (`test-00000-of-00001.parquet`) are skipped; a file is read whole.
        revision: commit, tag or branch of a hub dataset.
        limit: maximum number of rows, good and bad together; None reads all. Blank lines are not rows.

    Raises:
        ConfigError: a negative limit, an empty path, or a revision of a local path.
        DataError: nothing readable at `path`, or a Parquet file or hub dataset lacks a required column.
    """
    if limit is not None and limit < 0:
        hint = "give a number of rows, or null for all"
        raise ConfigError(f"limit is negative: {limit}", location="limit", hint=hint)
    if not path.strip():
        raise ConfigError("the path is empty", location="path", hint="give a file, a folder or a hub id")
    select = partial(_select, required, None if whole else optional)
    with explain_read_errors(path):
        local = Path(os.path.expanduser(path))
        files = []
        if local.exists():
            files = _folder_files(local, split) if local.is_dir() else [local]
    if not files:
        return islice(_hub_rows(path, select, split, revision), limit)
    if revision is not None:
        problem = f"revision {revision!r} applies to hub datasets, and this path is local"
        hint = "set revision=null, or rename the local path to read from the hub"
        raise ConfigError(problem, location=path, hint=hint)
    return islice(chain.from_iterable([_file_rows(file, select) for file in files]), limit)


def _select(
    required: Sequence[str], optional: Sequence[str] | None, present: Sequence[str], location: str
) -> list[str]:
    """Return the columns to read: the required and the optional ones that are present, or all where `optional` is None."""
    missing = [name for name in required if name not in present]
    if missing:
        problem = f"missing column {', '.join(map(repr, missing))}"
        hint = f"name the columns {', '.join(required)}; found: {', '.join(present) or 'none'}"
        raise DataError(problem, location=location, hint=hint)
    if optional is None:
        return list(present)
    return [name for name in (*required, *optional) if name in present]


def _folder_files(folder: Path, split: str) -> list[Path]:
    files = sorted(file for file in folder.iterdir() if _readable(file))
    if not files:
        nested = sorted({file.parent for file in folder.glob("*/*") if _readable(file)})
        hint = f"give the folder {nested[0]}" if nested else "put .jsonl or .parquet files into it"
        raise DataError("no .jsonl or .parquet file in this folder", location=str(folder), hint=hint)
    splits = {file: match[1] for file in files if (match := _SHARD.fullmatch(file.stem))}
    selected = [file for file in files if splits.get(file, split) == split]
    if not selected:
        hint = f"set the split to one of: {', '.join(sorted(set(splits.values())))}"
        raise DataError(f"no file of split {split!r}", location=str(folder), hint=hint)
    return selected


def _readable(file: Path) -> bool:
    return file.suffix.lower() in (".jsonl", ".parquet") and not file.name.startswith(".") and file.is_file()


def _file_rows(file: Path, select: partial[list[str]]) -> Iterator[JsonLine | RawRow | Drop]:
    """Check that a file can be opened and return the iterator over its rows."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return _parquet_rows(file, select(_parquet_columns(file), str(file)))
    if suffix == ".json":
        return _array_rows(file)
    if suffix != ".jsonl":
        problem = f"unsupported file type: {suffix or 'no suffix'}"
        raise DataError(problem, location=str(file), hint="give a .jsonl or .parquet file")
    return json_lines(str(file))


def has_splits(path: str) -> bool:
    """Whether a path has splits: a hub dataset, or a folder of files named like its shards."""
    local = Path(os.path.expanduser(path))
    return not local.exists() or (
        local.is_dir() and any(_SHARD.fullmatch(file.stem) for file in local.iterdir())
    )


def json_lines(path: str) -> Iterator[JsonLine]:
    """Stream the lines of a JSONL file, or of stdin (`-`); blank lines are skipped.

    Raises:
        DataError: the file cannot be opened.
    """
    if path != "-":
        with explain_read_errors(path):
            Path(path).open("rb").close()
    return _lines(path)


def _lines(path: str) -> Iterator[JsonLine]:
    # Bytes: a line ends at \n only (U+2028 is text), and a line that is not UTF-8 costs one row.
    name = "stdin" if path == "-" else path
    origin = Path(name).stem
    with nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line and not line.isspace():
                yield JsonLine(f"{name}:{number}", origin, line)


def _array_rows(file: Path) -> Iterator[RawRow | Drop]:
    hint = "write one JSON array of objects, or one object per line into a .jsonl file"
    try:
        with explain_read_errors(file):
            rows = json.loads(file.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"invalid JSON: {first_line(error)}", location=str(file), hint=hint) from None
    if not isinstance(rows, list):
        raise DataError(f"the file is {kind_of(rows)}, not an array", location=str(file), hint=hint)
    return (_object(row, f"{file}[{number}]", file.stem) for number, row in enumerate(rows))


def csv_rows(
    file: Path, required: Sequence[str], *, unique: Collection[str] | None = None
) -> Iterator[RawRow | Drop]:
    """Yield each CSV row that is not blank; its location is the line where it begins. The file is read whole.

    A row shorter than the header is filled with empty cells; a longer one is a Drop of stage `load`. The apostrophe before a
    text that begins like a formula is not part of the text (`csv_line`).

    Args:
        required: columns that must exist.
        unique: columns that must not exist twice (None: all columns with a name); of others the first counts.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or its columns or quotes are invalid.
    """
    # newline="": the csv module must see the line ends itself, as an answer may contain them.
    reader = csv.reader(io.StringIO(_csv_text(file), newline=""), strict=True)
    begin = 1
    try:
        header = [csv_text(name.strip()) for name in next(reader, [])]
        _check_header(header, file, required, header if unique is None else unique)
        places = {name: header.index(name) for name in header}
        begin = reader.line_num + 1
        for row in reader:
            if row:
                location = f"{file}:{begin}"
                if any(cell.strip() for cell in row[len(header) :]):
                    detail = "The row has more fields than the header; put quotes around texts with a comma."
                    yield Drop(location, file.stem, "extra_fields", detail, "load")
                else:
                    cells = {name: csv_text(row[at]) if at < len(row) else "" for name, at in places.items()}
                    yield RawRow(location, file.stem, cells)
            begin = reader.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"invalid CSV in the row that begins here: {error}",
            location=f"{file}:{begin}",
            hint='close every quote, and write a quote inside a quoted answer twice: ""',
        ) from None


def _csv_text(file: Path) -> str:
    with explain_read_errors(file):
        raw = file.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        hint = "save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
        raise DataError("the file is not UTF-8", location=f"{file}:{line}", hint=hint) from None


def _check_header(header: list[str], file: Path, required: Sequence[str], unique: Collection[str]) -> None:
    missing = [name for name in required if name not in header]
    repeated = [name for name in dict.fromkeys(header) if name and name in unique and header.count(name) > 1]
    if missing or repeated:
        problem = (
            f"missing column {', '.join(missing)}" if missing else f"repeated column {', '.join(repeated)}"
        )
        hint = f"make the first line: {','.join(required)}"
        if len(header) == 1 and any(separator in header[0] for separator in ";\t"):
            hint += ", and separate the columns with commas"
        raise DataError(f"{problem}; found: {', '.join(header) or 'none'}", location=f"{file}:1", hint=hint)


def _parquet_columns(file: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return list(pq.read_schema(file).names)
    except (pa.ArrowException, OSError) as error:
        problem = f"invalid Parquet file: {first_line(error)}"
        raise DataError(problem, location=str(file), hint="download or write it again") from None


def _parquet_rows(file: Path, columns: list[str]) -> Iterator[RawRow | Drop]:
    import pyarrow.parquet as pq

    # A row group may be the whole file; buffer_size without pre_buffer reads it page by page.
    with pq.ParquetFile(file, pre_buffer=False, buffer_size=1 << 20) as table:
        batches = table.iter_batches(batch_size=_ROWS_PER_BATCH, columns=columns)
        yield from _arrow_rows(batches, str(file), file.stem)


def _arrow_rows(batches: Iterable[Any], name: str, origin: str) -> Iterator[RawRow | Drop]:
    """Yield the rows of Arrow tables or record batches."""
    import pyarrow as pa

    number = 0
    try:
        for batch in batches:
            for at in range(batch.num_rows):
                location = f"{name}[{number}]"
                try:  # Arrow checks that a string is UTF-8 only when it is decoded
                    row = {column: batch.column(column)[at].as_py() for column in batch.schema.names}
                    yield RawRow(location, origin, row)
                except UnicodeDecodeError:
                    detail = "A text of the row is not UTF-8; write the file again from UTF-8 texts."
                    yield Drop(location, UNKNOWN_SOURCE, "bad_encoding", detail, "load")
                number += 1
    except (pa.ArrowException, OSError) as error:
        problem = f"reading failed here: {first_line(error)}"
        raise DataError(problem, location=f"{name}[{number}]", hint="download or write it again") from None


def _hub_rows(
    name: str, select: partial[list[str]], split: str, revision: str | None
) -> Iterator[RawRow | Drop]:
    """Load a hub dataset (memory-mapped from its cache) and return the iterator over its rows."""
    if Path(name).suffix.lower() in _FILE_SUFFIXES or not _HUB_ID.fullmatch(name):
        hint = "check the path, or give a hub id such as owner/name"
        raise DataError("no such file or folder", location=name, hint=hint)
    import datasets

    try:
        dataset, _, configuration = name.partition(":")
        options = {"name": configuration} if configuration else {}
        table = datasets.load_dataset(dataset, split=split, revision=revision, **options)
    except Exception as error:  # the hub, its client and the builders raise dozens of classes without a base
        message = " ".join(str(error).split())[:300]  # the cause is often in a later line
        raise DataError(
            f"not a local path, and the hub reports: {type(error).__name__}: {message}",
            location=name,
            hint="check the id, the split and the revision; without a network give a .jsonl or .parquet file",
        ) from error
    table = table.select_columns(select(table.column_names, name)).with_format("arrow")
    return _arrow_rows(table.iter(batch_size=_ROWS_PER_BATCH), name, name.rsplit("/", 1)[-1])
