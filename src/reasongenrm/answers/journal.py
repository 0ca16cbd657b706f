"""Journal of the annotators: one JSON line per operation, appended atomically."""

from __future__ import annotations

import fcntl
import json
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reasongenrm.answers.table import Order
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.store import dump_line, explain_write_errors

Kind = Literal["rank", "skip", "undo"]
_KINDS = ("rank", "skip", "undo")
_LONGEST_NAME = 80


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """One operation.

    Attributes:
        annotator: name of the annotator.
        kind: `rank`, `skip`, or `undo` of their last operation that was not undone.
        prompt: the prompt's id.
        order: of a ranking; empty otherwise.
    """

    annotator: str
    kind: Kind
    prompt: str
    order: Order = ()


def annotator_name(name: str) -> str:
    """Return an annotator's name in its normal form: composed characters, single spaces.

    Raises:
        ConfigError: the name is empty, too long, or not printable.
    """
    tidy = " ".join(unicodedata.normalize("NFC", name).split())
    if not tidy or len(tidy) > _LONGEST_NAME or not tidy.isprintable():
        problem = "is empty" if not tidy else "is too long" if tidy.isprintable() else "cannot be printed"
        hint = f"give a name of 1 to {_LONGEST_NAME} printable characters"
        raise ConfigError(f"the annotator's name {problem}", location="annotator", hint=hint)
    return tidy


class Journal:
    """An append-only file of entries, shared by several annotators and processes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self, start: int = 0) -> tuple[list[JournalEntry], int]:
        """Return the entries from a byte offset on, and the offset where the complete lines end.

        A last line without its line end was torn by a kill, and is ignored.

        Raises:
            DataError: the file is shorter than `start`, cannot be read, or contains a line that is not an entry.
        """
        try:
            with self.path.open("rb") as lines:
                size = lines.seek(0, os.SEEK_END)
                lines.seek(start)
                raw = lines.read()
        except FileNotFoundError:
            size, raw = 0, b""
        except OSError as error:
            hint = "check the path and its permissions"
            raise DataError(f"cannot be read: {error.strerror}", location=str(self.path), hint=hint) from None
        if size < start:
            hint = "restore it, or start again"
            raise DataError(
                "the journal became shorter while it was in use", location=str(self.path), hint=hint
            )
        complete = raw[: raw.rfind(b"\n") + 1]
        entries: list[JournalEntry] = []
        for line in complete.split(b"\n")[:-1]:
            try:
                entries.append(_entry(json.loads(line.decode("utf-8"))))
            except (ValueError, KeyError, TypeError, RecursionError):
                self._broken(start, len(entries))
        return entries, start + len(complete)

    def _broken(self, start: int, after: int) -> None:
        with self.path.open("rb") as lines:
            number = lines.read(start).count(b"\n") + after + 1
        hint = "delete that line; the other lines are kept"
        raise DataError("the line is not a journal entry", location=f"{self.path}:{number}", hint=hint)

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Lock the file against all other threads and processes; yields the descriptor for `append`.

        Raises:
            DataError: the file cannot be opened for writing.
        """
        with explain_write_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # released with the descriptor, also after a kill
            yield file
        finally:
            os.close(file)

    def append(self, file: int, entry: JournalEntry) -> None:
        """Write one entry to the disk; a failed write leaves nothing.

        Args:
            file: the descriptor from `locked`.
            entry: the operation.

        Raises:
            DataError: the file cannot be written.
        """
        row = {"annotator": entry.annotator, "kind": entry.kind, "prompt": entry.prompt}
        line = dump_line(row | ({"order": entry.order} if entry.kind == "rank" else {})).encode("utf-8")
        with explain_write_errors(self.path):
            size = _whole_lines(file)
            os.ftruncate(file, size)  # the rest was torn by a kill, since the file is locked
            try:
                if os.write(file, line) < len(line):  # one write: a reader sees the line or does not
                    raise OSError("no room for a complete line")
                os.fsync(file)
            except BaseException:
                os.ftruncate(file, size)
                raise


def _whole_lines(file: int) -> int:
    """Return the offset after the last line end."""
    end = os.fstat(file).st_size
    while end:
        begin = max(0, end - 65536)
        offset = os.pread(file, end - begin, begin).rfind(b"\n")
        if offset >= 0:
            return begin + offset + 1
        end = begin
    return 0


def _entry(row: Any) -> JournalEntry:
    annotator, kind, prompt = row["annotator"], row["kind"], row["prompt"]
    order = row.get("order", [])
    if kind not in _KINDS or not isinstance(annotator, str) or not isinstance(prompt, str):
        raise ValueError
    if not isinstance(order, list) or not all(isinstance(group, list) for group in order):
        raise ValueError
    if not all(isinstance(answer, str) for group in order for answer in group):
        raise ValueError
    return JournalEntry(annotator, kind, prompt, tuple(map(tuple, order)))
