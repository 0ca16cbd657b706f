"""Files that survive SIGKILL: atomic writes, and append-only JSONL whose incomplete last line is discarded.

Every writer holds a lock on its file, and keys and passwords are removed from what it writes (`redaction`).
"""

from __future__ import annotations

import codecs
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from functools import cached_property, partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, ClassVar
from weakref import WeakValueDictionary

import msgspec

from reasongenrm.console import say
from reasongenrm.errors import DataError, first_line, write_hint
from reasongenrm.lock import open_locked
from reasongenrm.records import Completion
from reasongenrm.redaction import hide_in_setting, hide_known

_READABLE = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False)
_CHANGED = "the file was changed after it was written: correct or restore it, or use another name=…"
_RESTORE = "restore it, name its step with --redo, or use another name=…"
_ESCAPED = json.JSONEncoder(ensure_ascii=True, allow_nan=False)


def dump_line(row: dict[str, Any]) -> str:
    """Return one row as a line of JSON (UTF-8; a lone surrogate is escaped, since UTF-8 cannot hold it)."""
    line = _READABLE.encode(row)
    try:
        line.encode("utf-8")
    except UnicodeEncodeError:
        line = _ESCAPED.encode(row)
    return hide_known(line) + "\n"


def dump_texts(record: Any) -> bytes:
    """Return a record that holds no numbers as a line of JSON; several times faster than `dump_line`."""
    try:
        return msgspec.json.encode(record) + b"\n"  # NaN would become null
    except UnicodeEncodeError:  # a lone surrogate
        return dump_line(record if isinstance(record, dict) else to_json(record)).encode("utf-8")


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file that this suite wrote, and that a person may have edited: a byte order mark at its start and
    empty lines at its end are accepted. An empty line between rows is not, so that the number of a row is that of its line.

    Raises:
        DataError: the file is missing, or a line is not a JSON object in UTF-8; names `file:line`.
    """
    if not path.exists():
        raise DataError("file not found", location=str(path), hint="run the stage that writes it first")
    with path.open("rb") as lines:
        empty = 0
        for number, line in enumerate(lines, 1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if not line.strip():
                empty = empty or number
                continue
            if empty:
                problem, hint = "an empty line between rows", f"remove line {empty}"
                raise DataError(problem, location=f"{path}:{empty}", hint=hint)
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


WAIT_SECONDS = 10.0
"""How long an atomic write waits for another process that writes the same file."""


@contextmanager
def atomic_writer(path: Path) -> Iterator[BinaryIO]:
    """Yield a temporary file that replaces `path` at the end, when all of it is on the disk.

    Raises:
        DataError: the operating system cannot write it, or another process goes on writing it.
    """
    temporary = path.with_name(path.name + ".tmp")
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = open_locked(temporary, location=path, seconds=WAIT_SECONDS)
        with io.BufferedWriter(raw, 1 << 20) as out:
            try:
                raw.truncate()  # a killed process has left it
                yield out
                out.flush()
                os.fsync(out.fileno())
                temporary.replace(path)
            except BaseException:
                temporary.unlink(missing_ok=True)  # the disk may be full
                _discard(out)
                raise


def _discard(out: io.BufferedWriter[io.FileIO]) -> None:
    """Close a file whose buffer may not fit on the disk."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, out.fileno())
    os.close(null)
    out.close()


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
        out.write(hide_known(text).encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write one JSON document, atomically, with sorted keys."""
    write_text(path, hide_in_setting(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=True)) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON document that this suite wrote.

    Raises:
        DataError: it cannot be read, or is not JSON.
    """
    try:
        with explain_read_errors(path):
            return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"invalid JSON: {first_line(error)}", location=str(path), hint=_CHANGED) from None


@dataclass(frozen=True, slots=True)
class EndMark:
    """Content of the hidden file `.<name>.end` beside a finished file.

    Attributes:
        rows: lines of the file.
        bytes: its size.
        sha256: hash of its content, in hex digits.
    """

    rows: int
    bytes: int
    sha256: str


def end_mark(final: Path) -> Path:
    """Return the file of a finished file's end mark."""
    return final.with_name(f".{final.name}.end")


def write_end_mark(final: Path) -> None:
    """Write the end mark of a JSONL file."""
    write_json(end_mark(final), asdict(_measured(final)))


def check_end_mark(final: Path) -> None:
    """Check that a JSONL file is the one that its end mark describes; a file without one is not checked.

    Raises:
        DataError: it is missing, was cut or changed, or its mark is broken.
    """
    mark = _read_end_mark(final)
    if mark is not None and _measured(final) != mark:
        raise _changed_file(final, mark)


def _measured(final: Path) -> EndMark:
    rows, content_hash = 0, hashlib.sha256()
    with explain_read_errors(final), final.open("rb") as lines:
        for line in lines:
            rows += 1
            content_hash.update(line)
        return EndMark(rows, lines.tell(), content_hash.hexdigest())


def _read_end_mark(final: Path) -> EndMark | None:
    path = end_mark(final)
    try:
        return msgspec.convert(read_json(path), EndMark) if path.exists() else None
    except ValueError as error:
        raise DataError(f"broken: {first_line(error)}", location=str(path), hint=_RESTORE) from None


def _changed_file(final: Path, mark: EndMark) -> DataError:
    problem = f"this finished file was changed: it had {mark.rows} rows and another content"
    return DataError(problem, location=str(final), hint=_RESTORE)


class PartStore:
    """Work in progress, `<name>.part.jsonl`: rows with an `id`, appended one after the other.

    Memory holds the ids and the offsets of their rows, not the rows. A process killed while writing leaves at most one
    incomplete line; the next start cuts it off, and the row has to be computed again. `finish` writes the rows in
    canonical order to the final file, and its `EndMark`. A finished file that was cut later is work in progress again: its
    whole rows are kept. `reopen` continues a finished one: its rows become `<name>.earlier.jsonl`, and `finish` joins both.

    Args:
        final: the final file.
        marked: whether `finish` writes the end mark.

    Attributes:
        earlier: the rows from before `reopen`, or None.

    Raises:
        DataError: the part cannot be written, or another process writes it.
    """

    _writers: ClassVar[WeakValueDictionary[Path, PartStore]] = WeakValueDictionary()
    """The stores of this process that hold a lock, by their parts; a new store takes it over."""

    def __init__(self, final: Path, *, marked: bool = True) -> None:
        self.final, self._marked = final, marked
        self.part = final.with_name(final.stem + ".part" + final.suffix)
        earlier = final.with_name(final.stem + ".earlier" + final.suffix)
        self.earlier: PartStore | None = None
        self._out: io.FileIO | None = None
        if final.exists():
            for path in (self.part, earlier):
                path.unlink(missing_ok=True)  # a kill in `finish` may leave them
            if not self._was_cut():
                return
        if earlier.exists():
            self.earlier = PartStore(earlier)
        self._open_part()

    def _was_cut(self) -> bool:
        """Whether the final file is shorter than it was; then make it the part."""
        mark = _read_end_mark(self.final)
        if mark is None or self.final.stat().st_size >= mark.bytes:
            return False
        with explain_write_errors(self.part):
            self.final.replace(self.part)
        say(
            f"{self.final}: the end of this finished file is missing; the rows that are missing are done again"
        )
        return True

    def _open_part(self) -> None:
        with explain_write_errors(self.part):
            self.part.parent.mkdir(parents=True, exist_ok=True)
            key = self.part.absolute()
            before = self._writers.pop(key, None)
            if before is not None and before._out is not None:
                before._out.close()
            self._out = open_locked(self.part, location=self.final)
            self._writers[key] = self
            self._offset_by_id, self._end, self._hash = _read_offsets(self.part)
            self._out.truncate(self._end)
            self._out.seek(self._end)

    @property
    def finished(self) -> bool:
        """Whether the final file exists."""
        return self._out is None

    @cached_property
    def _offset_by_id(self) -> dict[str, int]:
        """Offsets in the final file; those in the part are set by `_open_part`."""
        offsets, end, content_hash = _read_offsets(self.final)
        mark = _read_end_mark(self.final)
        size = self.final.stat().st_size
        if mark is not None and (mark.bytes, mark.bytes, mark.sha256) != (
            size,
            end,
            content_hash.hexdigest(),
        ):
            raise _changed_file(self.final, mark)
        return offsets

    @cached_property
    def _reader(self) -> BinaryIO:
        return (self.final if self.finished else self.part).open("rb")

    def reopen(self) -> None:
        """Add rows to a finished file."""
        earlier = self.final.with_name(self.final.stem + ".earlier" + self.final.suffix)
        with explain_write_errors(earlier):
            self.final.replace(earlier)
            end_mark(self.final).unlink(missing_ok=True)
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
            KeyError: no row has this id yet.
            DataError: no row of the finished file has it, or the file was changed.
        """
        row: dict[str, Any] = json.loads(self._line(key))
        return row

    def _line(self, key: str) -> bytes:
        if self.earlier is not None and key in self.earlier:
            return self.earlier._line(key)
        if self.finished and key not in self._offset_by_id:
            raise DataError(f"the row {key} is missing", location=str(self.final), hint=_RESTORE)
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
        for line in new_lines.values():
            self._hash.update(line)
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
            self._write_mark(EndMark(len(order), self._end, self._hash.hexdigest()))
            with explain_write_errors(self.final):
                self.part.replace(self.final)
        else:
            content_hash = hashlib.sha256()
            with atomic_writer(self.final) as out:
                for line in map(self._line, order):
                    out.write(line)
                    content_hash.update(line)
                self._write_mark(EndMark(len(order), out.tell(), content_hash.hexdigest()))
            self.part.unlink()
        if self.earlier is not None:
            self.earlier.final.unlink()
            self.earlier = None
        self._out.close()
        self._out = None
        self.__dict__.pop("_reader", None)
        del self._offset_by_id  # the final file has other offsets

    def _write_mark(self, mark: EndMark) -> None:
        """Write the end mark before the final file exists, so that a kill leaves no finished file without one."""
        if self._marked:
            write_json(end_mark(self.final), asdict(mark))


def _read_offsets(path: Path) -> tuple[dict[str, int], int, hashlib._Hash]:
    """Return the offset of each id's row, the offset where the complete lines end, and their SHA-256."""
    offsets: dict[str, int] = {}
    end, content_hash = 0, hashlib.sha256()
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
            content_hash.update(line)
    return offsets, end, content_hash


def to_json(record: Any) -> dict[str, Any]:
    """Return a record as a plain JSON object."""
    # Like `dataclasses.asdict`, but without its deep copies.
    row = {name: getattr(record, name) for name in record.__dataclass_fields__}
    for name, value in row.items():
        if isinstance(value, tuple) and value and is_dataclass(value[0]):
            row[name] = [to_json(item) for item in value]
    return row


def completion_to_json(completion: Completion) -> dict[str, Any]:
    """Return a completion as JSON; the positions and token ids of `logprobs` become strings.

    JSON has no NaN and no infinity: a log-probability that is not finite becomes null. Fields that only paid servers
    fill are left out where they are empty.
    """
    row: dict[str, Any] = msgspec.to_builtins(completion, str_keys=True)
    for name in ("cached", "cache_write", "refused"):
        if not row[name]:
            del row[name]
    for values in row["logprobs"].values():
        values.update({token: None for token, value in values.items() if not math.isfinite(value)})
    return row


def completion_from_json(row: dict[str, Any]) -> Completion:
    """Read back what `completion_to_json` wrote; a log-probability that is null becomes NaN."""
    logprobs = {
        place: {token: math.nan if value is None else value for token, value in values.items()}
        for place, values in row.get("logprobs", {}).items()
    }
    return msgspec.convert(row | {"logprobs": logprobs}, Completion, str_keys=True)
