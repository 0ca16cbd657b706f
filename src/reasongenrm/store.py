"""Append-only JSONL that survives SIGKILL: a torn last line is owed again, and the finished file is canonical."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import is_dataclass
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from reasongenrm.errors import DataError
from reasongenrm.records import Completion

_READABLE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False)


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
    """Return a record of texts, with no number in it, as a line of JSON; several times faster than `dump_line`."""
    import msgspec

    try:
        return msgspec.json.encode(record) + b"\n"  # would write NaN as null
    except UnicodeEncodeError:  # half of a surrogate pair
        return dump_line(record if isinstance(record, dict) else to_json(record)).encode("utf-8")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file that this suite wrote.

    Raises:
        DataError: the file is missing, or a line is no JSON object in UTF-8; names `file:line`.
    """
    if not path.exists():
        raise DataError("file not found", location=str(path), hint="run the stage that writes it first")
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line.decode("utf-8"))
            except ValueError as error:
                raise DataError(
                    f"broken JSON: {getattr(error, 'msg', error)}",
                    location=f"{path}:{number}",
                    hint="delete the file and run again",
                ) from None
            if not isinstance(row, dict):
                raise DataError("not a JSON object", location=f"{path}:{number}")
            yield row


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failed write, such as one to a full disk, into an error that names the file.

    Raises:
        DataError: the system refuses to write.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"cannot be written: {error.strerror or error}",
            location=str(path),
            hint="make room there; then the same command goes on, what is done is kept",
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Write to a temporary file that takes the place of `path` when all of it is on the disk, and never before."""
    temporary = path.with_name(path.name + ".tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb", buffering=1 << 20) as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)  # the room it takes may be what is missing
            raise


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> int:
    """Write rows to a temporary file and move it into place, so that `path` is whole or absent. Return the count."""
    count = 0
    with jsonl_writer(path) as write:
        for row in rows:
            write(row)
            count += 1
    return count


@contextmanager
def jsonl_writer(path: Path) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that writes one row; `path` takes its place when the block ends without an error."""
    with replacing(path) as out:

        def write(row: dict[str, Any]) -> None:
            out.write(dump_line(row).encode("utf-8"))

        yield write


def write_text(path: Path, text: str) -> None:
    """Write a text file so that it is whole or as it was."""
    with replacing(path) as out:
        out.write(text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document, atomically, with sorted keys."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True) + "\n")


class PartStore:
    """Work in progress, `<name>.part.jsonl`: rows keyed by `id`, appended as they are done.

    In memory are the ids and where their rows begin, not the rows. A process killed while writing leaves at most one
    torn line; opening the store cuts it off, so that this row is owed again. `finish` puts the rows into canonical
    order as the final file.
    """

    def __init__(self, final: Path) -> None:
        self.final = final
        self.part = final.with_name(final.stem + ".part" + final.suffix)
        self._index: dict[str, int] | None = None  # of a finished file, made when a row is asked for
        self._out: FileIO | None = None
        if final.exists():
            self.part.unlink(missing_ok=True)  # left by a kill in `finish`
            return
        with writing(self.part):
            self.part.parent.mkdir(parents=True, exist_ok=True)
            self._out = self.part.open("ab", buffering=0)
        self._index, good = _offsets(self.part)
        self._out.truncate(good)
        self._end = good

    @property
    def finished(self) -> bool:
        """Whether the final file is there."""
        return self._out is None

    @property
    def _path(self) -> Path:
        return self.final if self.finished else self.part

    @property
    def _at(self) -> dict[str, int]:
        if self._index is None:
            self._index, _ = _offsets(self.final)
        return self._index

    @cached_property
    def _reader(self) -> BinaryIO:
        return self._path.open("rb")

    def __contains__(self, key: str) -> bool:
        return key in self._at

    def __len__(self) -> int:
        return len(self._at)

    def __iter__(self) -> Iterator[str]:
        """Yield the ids, in the order of the file."""
        return iter(self._at)

    def __getitem__(self, key: str) -> dict[str, Any]:
        """Return one row, read from the file.

        Raises:
            KeyError: it is not there.
        """
        row: dict[str, Any] = json.loads(self._line(key))
        return row

    def _line(self, key: str) -> bytes:
        self._reader.seek(self._at[key])
        return self._reader.readline()

    def append(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows that are not there yet, and hand them to the operating system before returning.

        Raises:
            DataError: the system refuses to write; rows that were written whole are kept.
        """
        assert self._out is not None, "the store is finished"
        fresh: dict[str, bytes] = {}
        for row in rows:
            if row["id"] not in self._at and row["id"] not in fresh:
                fresh[row["id"]] = dump_line(row).encode("utf-8")
        with writing(self.part):
            left = memoryview(b"".join(fresh.values()))
            while left:  # a full disk takes a part, and refuses the next
                left = left[self._out.write(left) :]
        for key, line in fresh.items():
            self._at[key] = self._end
            self._end += len(line)

    def finish(self, order: Iterable[str]) -> None:
        """Write the final file, its rows in the order of the given ids, and remove the part.

        Raises:
            KeyError: an id has no row yet.
            DataError: the system refuses to write.
        """
        if self._out is None:
            return
        with writing(self.part):
            os.fsync(self._out.fileno())
        order = list(order)
        if order == list(self._at):
            with writing(self.final):
                self.part.replace(self.final)
        else:
            with replacing(self.final) as out:
                out.writelines(map(self._line, order))
            self.part.unlink()
        self._out.close()
        self._out = self._index = None
        self.__dict__.pop("_reader", None)


def _offsets(path: Path) -> tuple[dict[str, int], int]:
    """Return where the row of each id begins, and where the whole lines end."""
    found: dict[str, int] = {}
    good = 0
    with path.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line)
                if not line.endswith(b"\n"):
                    break
                found.setdefault(row["id"], good)
            except (ValueError, KeyError, TypeError):
                break
            good += len(line)
    return found, good


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
    row["logprobs"] = {
        str(place): {str(t): value for t, value in entry.items()}
        for place, entry in completion.logprobs.items()
    }
    return row


def completion_from_json(row: dict[str, Any]) -> Completion:
    """Read back what `completion_to_json` wrote."""
    logprobs = {
        int(place): {int(t): float(v) for t, v in entry.items()} for place, entry in row["logprobs"].items()
    }
    return Completion(**(row | {"token_ids": tuple(row["token_ids"]), "logprobs": logprobs}))
