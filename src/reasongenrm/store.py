"""Files that survive SIGKILL: atomic writes, and append-only JSONL whose incomplete last line is discarded."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import cached_property, partial
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from reasongenrm.errors import DataError
from reasongenrm.records import Completion

_READABLE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False)
_CHANGED = "the file was changed after it was written: restore it, or use another name=…"
_ESCAPED = json.JSONEncoder(ensure_ascii=True, allow_nan=False)


def dump_line(row: dict[str, Any]) -> str:
    """Return one row as a line of JSON (UTF-8; a lone surrogate is escaped, since UTF-8 cannot hold it)."""
    line = _READABLE.encode(row)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        line = _ESCAPED.encode(row)
    return line + "\n"


def dump_texts(record: Any) -> bytes:
    """Return a record that holds no numbers as a line of JSON; several times faster than `dump_line`."""
    try:
        return msgspec.json.encode(record) + b"\n"  # NaN would become null
    except UnicodeEncodeError:  # a lone surrogate
        return dump_line(record if isinstance(record, dict) else to_json(record)).encode("utf-8")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file that this suite wrote.

    Raises:
        DataError: the file is missing, or a line is not a JSON object in UTF-8; names `file:line`.
    """
    if not path.exists():
        raise DataError("file not found", location=str(path), hint="run the stage that writes it first")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line.decode("utf-8"))
            except ValueError as error:
                problem = f"invalid JSON: {getattr(error, 'msg', error)}"
                raise DataError(problem, location=f"{path}:{number}", hint=_CHANGED) from None
            if not isinstance(row, dict):
                raise DataError("not a JSON object", location=f"{path}:{number}", hint=_CHANGED)
            yield row


@contextmanager
def _explain_os_errors(action: str, path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        problem = f"cannot be {action}: {error.strerror or error}"
        raise DataError(problem, location=str(path), hint=write_hint(error)) from error


explain_read_errors = partial(_explain_os_errors, "read")
"""`with explain_read_errors(path):` turns a failed read into a DataError that names the file."""
explain_write_errors = partial(_explain_os_errors, "written")
"""`with explain_write_errors(path):` turns a failed write, such as one to a full disk, into such a DataError."""


def write_hint(error: OSError) -> str:
    """Return how a user can correct a failed write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room there; then the same command resumes from here"
    return "check the path and its permissions"


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces `path` at the end, when all of it is on the disk."""
    temporary = path.with_name(path.name + ".tmp")
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb", buffering=1 << 20) as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)  # the disk may be full
            raise


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows atomically: `path` is complete or unchanged. Return the count."""
    count = 0
    with jsonl_writer(path) as write:
        for row in rows:
            write(row)
            count += 1
    return count


@contextmanager
def jsonl_writer(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that writes one row; `path` is replaced when the block ends without an error."""
    with atomic_writer(path) as out:

        def write(row: dict[str, Any]) -> None:
            out.write(dump_line(row).encode("utf-8"))

        yield write


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically: it is complete or unchanged."""
    with atomic_writer(path) as out:
        out.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document, atomically, with sorted keys."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON document that this suite wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


class PartStore:
    """Work in progress, `<name>.part.jsonl`: rows with an `id`, appended one after the other.

    Memory holds the ids and the offsets of their rows, not the rows. A process killed while writing leaves at most one
    incomplete line; the next start cuts it off, and the row has to be computed again. `finish` writes the rows in
    canonical order to the final file. `reopen` continues a finished one: its rows become `<name>.earlier.jsonl`, and
    `finish` joins both.

    Attributes:
        earlier: the rows from before `reopen`, or None.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.part = final.with_name(final.stem + ".part" + final.suffix)
        earlier = final.with_name(final.stem + ".earlier" + final.suffix)
        self.earlier: PartStore | None = None
        self._out: FileIO | None = None
        if final.exists():
            for path in (self.part, earlier):
                path.unlink(missing_ok=True)  # a kill in `finish` may leave them
            return
        if earlier.exists():
            self.earlier = PartStore(earlier)
        self._open_part()

    def _open_part(self) -> None:
        with explain_write_errors(self.part):
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self._out = self.part.open("ab", buffering=0)
        self._offset_by_id, self._end = _read_offsets(self.part)
        self._out.truncate(self._end)

    @property
    def finished(self) -> bool:
        """Whether the final file exists."""
        return self._out is None

    @cached_property
    def _offset_by_id(self) -> dict[str, int]:
        return _read_offsets(self.final)[0]  # of the part: see `__init__`

    @cached_property
    def _reader(self) -> BinaryIO:
        return (self.final if self.finished else self.part).open("rb")

    def reopen(self) -> None:
        """Add rows to a finished file."""
        earlier = self.final.with_name(self.final.stem + ".earlier" + self.final.suffix)
        with explain_write_errors(earlier):
            self.final.replace(earlier)
        self.__dict__.pop("_reader", None)
        self.earlier = PartStore(earlier)
        self._open_part()

    def __contains__(self, key: str) -> bool:
        return key in self._offset_by_id or (self.earlier is not None and key in self.earlier)

    def __len__(self) -> int:
        return len(self._offset_by_id) + len(self.earlier or ())

    def __iter__(self) -> Iterator[str]:
        """Yield the ids, in the order of the file; those from before `reopen` first."""
        return chain(self.earlier or (), self._offset_by_id)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Return one row, read from the file.

        Raises:
            KeyError: no row has this id.
        """
        row: dict[str, Any] = json.loads(self._line(key))
        return row

    def _line(self, key: str) -> bytes:
        if self.earlier is not None and key in self.earlier:
            return self.earlier._line(key)
        self._reader.seek(self._offset_by_id[key])
        return self._reader.readline()

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write the rows whose id is new; they survive a kill as soon as this returns.

        Raises:
            DataError: the operating system cannot write; rows that were written completely are kept.
        """
        assert self._out is not None, "the store is finished"
        new_lines: dict[str, bytes] = {}
        for row in rows:
            if row["id"] not in self and row["id"] not in new_lines:
                new_lines[row["id"]] = dump_line(row).encode("utf-8")
        with explain_write_errors(self.part):
            content = memoryview(b"".join(new_lines.values()))
            while content:  # a full disk accepts a part of it, and raises at the next write
                content = content[self._out.write(content) :]
        for key, line in new_lines.items():
            self._offset_by_id[key] = self._end
            self._end += len(line)

    def finish(self, order: Iterable[str]) -> None:
        """Write the final file, its rows in the order of the given ids, and remove the part.

        Raises:
            KeyError: an id has no row yet.
            DataError: the operating system cannot write.
        """
        if self._out is None:
            return
        with explain_write_errors(self.part):
            os.fsync(self._out.fileno())
        order = list(order)
        if order == list(self) and self.earlier is None:
            with explain_write_errors(self.final):
                self.part.replace(self.final)
        else:
            with atomic_writer(self.final) as out:
                out.writelines(map(self._line, order))
            self.part.unlink()
        if self.earlier is not None:
            self.earlier.final.unlink()
            self.earlier = None
        self._out.close()
        self._out = None
        self.__dict__.pop("_reader", None)
        del self._offset_by_id  # the final file has other offsets


def _read_offsets(path: Path) -> tuple[dict[str, int], int]:
    """Return the offset of each id's row, and the offset where the complete lines end."""
    offsets: dict[str, int] = {}
    end = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line)
                if not line.endswith(b"\n"):
                    break
                offsets.setdefault(row["id"], end)
            except (ValueError, KeyError, TypeError):
                break
            end += len(line)
    return offsets, end


def to_json(record: Any) -> dict[str, Any]:
    """Return a record as a plain JSON object."""
    # Like `dataclasses.asdict`, but without its deep copies.
    row = {name: getattr(record, name) for name in record.__dataclass_fields__}
    for name, value in row.items():
        if isinstance(value, tuple) and value and is_dataclass(value[0]):
            row[name] = [to_json(item) for item in value]
    return row


def completion_to_json(completion: Completion) -> dict[str, Any]:
    """Return a completion as JSON; the positions and token ids of `logprobs` become strings."""
    row: dict[str, Any] = msgspec.to_builtins(completion, str_keys=True)
    return row


def completion_from_json(row: dict[str, Any]) -> Completion:
    """Read back what `completion_to_json` wrote."""
    return msgspec.convert(row, Completion, str_keys=True)
