"""Journal of the annotators: one JSON line per operation, appended atomically."""

from __future__ import annotations

import fcntl
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from reasongenrm.answers.table import Order
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.store import dump_line, explain_write_errors

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
    kind: Literal["rank", "skip", "undo"]
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

    def read(self, start: int = 0) -> list[JournalEntry]:
        """Return the entries after the first `start`.

        A last line without its line end was torn by a kill, and is ignored.

        Raises:
            DataError: the file has fewer entries than `start`, cannot be read, or contains a line that is not an entry.
        """
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            lines = []
        except OSError as error:
            hint = "check the path and its permissions"
            raise DataError(f"cannot be read: {error.strerror}", location=str(self.path), hint=hint) from None
        if len(lines) < start:
            problem = "the journal became shorter while it was in use"
            raise DataError(problem, location=str(self.path), hint="restore it, or start again")
        entries = []
        for number, line in enumerate(lines[start:], start + 1):
            try:
                entries.append(msgspec.json.decode(line, type=JournalEntry))
            except (ValueError, RecursionError):
                location, hint = f"{self.path}:{number}", "delete that line; the other lines are kept"
                raise DataError("the line is not a journal entry", location=location, hint=hint) from None
        return entries

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
            size = os.pread(file, os.fstat(file).st_size, 0).rfind(b"\n") + 1
            os.ftruncate(file, size)  # the rest was torn by a kill, since the file is locked
            try:
                if os.write(file, line) < len(line):  # one write: a reader sees the line or does not
                    raise OSError("no room for a complete line")
                os.fsync(file)
            except BaseException:
                os.ftruncate(file, size)
                raise
