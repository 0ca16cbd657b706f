"""The append-only journal of annotators' work, and the session of one annotator: answer, skip, undo."""

from __future__ import annotations

import fcntl
import os
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.store import dump_line, explain_write_errors

_LONGEST_NAME = 80


class Line(Protocol):
    """What a journal holds."""

    def to_row(self) -> dict[str, Any]:
        """Return it as a line of the journal."""


LineT = TypeVar("LineT", bound=Line)


class Entry(Line, Protocol):
    """One operation: an answer (such as a ranking or a label), a skip, or the undoing of the last of the two."""

    @property
    def annotator(self) -> str:
        """Name of the annotator."""

    @property
    def kind(self) -> str:
        """`skip`, `undo`, or the kind of the answer."""

    @property
    def item(self) -> str:
        """Id of the prompt or pair."""


EntryT = TypeVar("EntryT", bound=Entry)


class Item(Protocol):
    """What an annotator answers: a prompt to rank, or a pair to label."""

    @property
    def id(self) -> str:
        """Its id, a content hash."""


ItemT = TypeVar("ItemT", bound=Item)


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


class Journal(Generic[LineT]):
    """An append-only file of entries, shared by several annotators and processes.

    Args:
        path: the file; created by the first entry.
        entry_type: class of its entries.
    """

    def __init__(self, path: Path, entry_type: type[LineT]) -> None:
        self.path, self._type = path, entry_type

    def read(self, start: int = 0) -> list[LineT]:
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
                entries.append(msgspec.json.decode(line, type=self._type))
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

    def append(self, file: int, entry: LineT) -> None:
        """Write one entry to the disk; a failed write leaves nothing.

        Args:
            file: the descriptor from `locked`.
            entry: the operation.

        Raises:
            DataError: the file cannot be written.
        """
        line = dump_line(entry.to_row()).encode("utf-8")
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


def apply_entry(done: list[EntryT], entry: EntryT) -> None:
    """Add an operation to an annotator's operations, or remove the last one if it is undone."""
    if entry.kind != "undo":
        done.append(entry)
    elif done:
        done.pop()


def answers_of(done: Iterable[EntryT]) -> dict[str, EntryT]:
    """Return the answers among an annotator's operations: item id -> entry."""
    return {entry.item: entry for entry in done if entry.kind != "skip"}


def answers_by_annotator(entries: Iterable[EntryT]) -> dict[str, dict[str, EntryT]]:
    """Return annotator -> item id -> entry, of annotators with an answer that is not undone."""
    done_by_annotator: dict[str, list[EntryT]] = {}
    for entry in entries:
        apply_entry(done_by_annotator.setdefault(entry.annotator, []), entry)
    return {name: answers for name, done in done_by_annotator.items() if (answers := answers_of(done))}


class StaleItem(ConfigError):
    """The annotator saw another prompt, or pair, than the current one."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of an annotator.

    Attributes:
        done: items with an answer.
        skipped: skipped items, which come again at the end.
        total: all items.
    """

    done: int
    skipped: int
    total: int

    def text(self, done: str) -> str:
        """Return it in words, such as `3 of 8 ranked, 1 skipped`; `done` is the participle."""
        return f"{self.done} of {self.total} {done}" + (f", {self.skipped} skipped" if self.skipped else "")


class AnnotationSession(Generic[ItemT, EntryT]):
    """An annotator's session. A session on the same journal resumes an earlier one.

    Other processes, and other sessions of the same annotator, may use the journal at the same time. A session itself is
    used by one thread at a time.

    Args:
        items: in the order in which they are shown.
        journal: of all annotators.
        annotator: see `annotator_name`.

    Raises:
        ConfigError: the name cannot be used, or the journal belongs to other items.
        DataError: the journal cannot be read.
    """

    noun: ClassVar[str]
    """What an item is called."""
    participle: ClassVar[str]
    """What happens to it."""

    def __init__(self, items: Iterable[ItemT], journal: Journal[EntryT], annotator: str) -> None:
        self.annotator = annotator_name(annotator)
        self.journal = journal
        self._items: Mapping[str, ItemT] = {item.id: item for item in items}
        self._read = 0
        self._done: list[EntryT] = []
        self.refresh()

    def _check(self, entry: EntryT) -> None:
        """Check that an entry belongs to the items.

        Raises:
            ConfigError: it does not.
        """
        raise NotImplementedError

    def _operation(self, kind: str, item: str) -> EntryT:
        """Return the entry of a skip or of an undo."""
        raise NotImplementedError

    def _apply(self, entry: EntryT) -> None:
        """Apply an entry of this annotator."""
        apply_entry(self._done, entry)

    @property
    def current(self) -> ItemT | None:
        """The item to answer now; None when all have an answer."""
        queue = self._queue()
        return self._items[queue[0]] if queue else None

    def _queue(self) -> list[str]:
        """Return the ids of the items without an answer, skipped ones last."""
        answered = answers_of(self._done)
        waiting = [item for item in self._items if item not in answered]
        last_skip = {entry.item: place for place, entry in enumerate(self._done)}
        return sorted(waiting, key=lambda item: last_skip.get(item, -1))

    @property
    def progress(self) -> Progress:
        """Progress of this annotator."""
        queue = self._queue()
        skipped = {entry.item for entry in self._done}.intersection(queue)
        return Progress(len(self._items) - len(queue), len(skipped), len(self._items))

    @property
    def can_undo(self) -> bool:
        """Whether there is an answer or a skip to undo."""
        return bool(self._done)

    def skip(self, *, item: str | None = None) -> None:
        """Move the current item to the end of the queue.

        Args:
            item: id of the item that the annotator saw, checked if given.

        Raises:
            StaleItem: another item than the given one is current, or none.
            ConfigError, DataError: the journal cannot be used.
        """
        self._write(lambda: self._operation("skip", self._expect(item).id))

    def undo(self) -> None:
        """Undo this annotator's last answer or skip.

        Raises:
            ConfigError: there is none, or the journal cannot be used.
            DataError: the journal cannot be used.
        """

        def undo_entry() -> EntryT:
            if not self._done:
                hint = f"there must be a {self.noun} that is {self.participle} or skipped"
                raise ConfigError("there is nothing to undo", location=self.noun, hint=hint)
            return self._operation("undo", self._done[-1].item)

        self._write(undo_entry)

    def _write(self, make_entry: Callable[[], EntryT]) -> None:
        """Append an operation that is made from the current journal, and apply it."""
        with self.journal.locked() as file:
            self.refresh()
            self.journal.append(file, make_entry())
            self.refresh()

    def refresh(self) -> None:
        """Apply the new entries of other sessions of this annotator.

        Raises:
            ConfigError, DataError: the journal cannot be used.
        """
        entries = self.journal.read(self._read)
        for entry in entries:
            self._check(entry)
        self._read += len(entries)
        for entry in entries:
            if entry.annotator == self.annotator:
                self._apply(entry)

    def _expect(self, item: str | None) -> ItemT:
        """Return the current item.

        Raises:
            StaleItem: it is not the one that the annotator saw, or there is none.
        """
        current = self.current
        if current is None:
            problem = f"all {self.noun}s are {self.participle}"
            raise StaleItem(problem, location=self.noun, hint="undo removes your last answer")
        if item not in (None, current.id):
            hint = f"look at the current {self.noun}, then answer it"
            raise StaleItem(f"another {self.noun} is current", location=self.noun, hint=hint)
        return current
