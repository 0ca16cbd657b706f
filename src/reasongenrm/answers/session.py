"""Ranking session of one annotator: rank, skip, undo. The journal of all annotators holds the whole state."""

from __future__ import annotations

import fcntl
import os
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec

from reasongenrm.answers.table import Order, PromptAnswers
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import content_id
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


class StalePrompt(ConfigError):
    """The annotator saw another prompt than the current one."""


@dataclass(frozen=True, slots=True)
class RankingProgress:
    """Progress of an annotator.

    Attributes:
        ranked: prompts with a ranking.
        skipped: skipped prompts, which come again at the end.
        total: all prompts.
    """

    ranked: int
    skipped: int
    total: int


def _apply(done: list[JournalEntry], entry: JournalEntry) -> None:
    """Add an operation to an annotator's operations, or remove the last one if it is undone."""
    if entry.kind != "undo":
        done.append(entry)
    elif done:
        done.pop()


def _rankings(done: Sequence[JournalEntry]) -> dict[str, Order]:
    return {entry.prompt: entry.order for entry in done if entry.kind == "rank"}


def read_rankings(prompts: Sequence[PromptAnswers], journal: Journal) -> dict[str, dict[str, Order]]:
    """Return annotator -> prompt id -> order, for annotators with a ranking.

    Raises:
        ConfigError: the journal belongs to other answers.
        DataError: the journal cannot be read.
    """
    known = {prompt.id: prompt for prompt in prompts}
    done_by_annotator: dict[str, list[JournalEntry]] = {}
    for entry in journal.read():
        _check(entry, known, journal.path)
        _apply(done_by_annotator.setdefault(entry.annotator, []), entry)
    return {name: rankings for name, done in done_by_annotator.items() if (rankings := _rankings(done))}


def _check(entry: JournalEntry, known: Mapping[str, PromptAnswers], path: Path) -> None:
    prompt = known.get(entry.prompt)
    ids = sorted(answer for group in entry.order for answer in group)
    if prompt and (entry.kind != "rank" or ids == sorted(answer.id for answer in prompt.answers)):
        return
    missing = "answers" if prompt else "a prompt"
    raise ConfigError(
        f"the journal holds a ranking of {missing} that the input does not have ({entry.prompt[:40]!r})",
        location=str(path),
        hint="rank the same answers as before, or use another journal (--journal FILE, or another --out)",
    )


class RankingSession:
    """An annotator's session. A session on the same journal resumes an earlier one.

    The order of the prompts, and of the answers within a prompt, is a function of their ids, the annotator
    and the seed. Other processes, and other sessions of the same annotator, may use the journal at the same
    time. A session itself is used by one thread at a time.

    Args:
        prompts: with the answers to rank.
        journal_path: the journal; created by the first operation.
        annotator: see `annotator_name`.
        seed: of the order.

    Raises:
        ConfigError: the name cannot be used, or the journal belongs to other answers.
        DataError: the journal cannot be read.
    """

    def __init__(
        self, prompts: Sequence[PromptAnswers], journal_path: Path, annotator: str, seed: int = 17
    ) -> None:
        self.annotator = annotator_name(annotator)
        self.journal = Journal(journal_path)

        def place(kind: str, *ids: str) -> str:
            return content_id(kind, *ids, self.annotator, seed)

        self._prompts: dict[str, PromptAnswers] = {}
        for prompt in sorted(prompts, key=lambda prompt: place("prompt", prompt.id)):
            answers = sorted(prompt.answers, key=lambda answer: place("answer", prompt.id, answer.id))
            self._prompts[prompt.id] = replace(prompt, answers=tuple(answers))
        self._read = 0
        self._done: list[JournalEntry] = []
        self.refresh()

    @property
    def current(self) -> PromptAnswers | None:
        """The prompt to rank now, its answers in the order in which they are shown; None when all are ranked."""
        queue = self._queue()
        return self._prompts[queue[0]] if queue else None

    def _queue(self) -> list[str]:
        """Return the ids of the prompts without a ranking, skipped ones last."""
        ranked = _rankings(self._done)
        waiting = [prompt for prompt in self._prompts if prompt not in ranked]
        last_skip = {entry.prompt: place for place, entry in enumerate(self._done)}
        return sorted(waiting, key=lambda prompt: last_skip.get(prompt, -1))

    @property
    def progress(self) -> RankingProgress:
        """Progress of this annotator."""
        queue = self._queue()
        skipped = {entry.prompt for entry in self._done}.intersection(queue)
        return RankingProgress(len(self._prompts) - len(queue), len(skipped), len(self._prompts))

    @property
    def can_undo(self) -> bool:
        """Whether there is a ranking or a skip to undo."""
        return bool(self._done)

    def rank(self, groups: Sequence[Sequence[int]], *, prompt: str | None = None) -> None:
        """Rank the current prompt.

        Args:
            groups: numbers of the answers, from 1, the best group first; answers of one group are tied.
            prompt: id of the prompt that the annotator saw, checked if given.

        Raises:
            StalePrompt: another prompt is current, or none.
            ConfigError: an answer is missing, repeated, or does not exist, or the journal cannot be used.
            DataError: the journal cannot be used.
        """

        def ranking() -> JournalEntry:
            shown = self._expect(prompt)
            _check_groups(groups, len(shown.answers))
            order = tuple(tuple(shown.answers[number - 1].id for number in sorted(group)) for group in groups)
            return JournalEntry(self.annotator, "rank", shown.id, order)

        self._write(ranking)

    def skip(self, *, prompt: str | None = None) -> None:
        """Move the current prompt to the end of the queue.

        Raises:
            StalePrompt: another prompt than the given one is current, or none.
            ConfigError, DataError: the journal cannot be used.
        """
        self._write(lambda: JournalEntry(self.annotator, "skip", self._expect(prompt).id))

    def undo(self) -> None:
        """Undo this annotator's last ranking or skip.

        Raises:
            ConfigError: there is none, or the journal cannot be used.
            DataError: the journal cannot be used.
        """

        def undo_entry() -> JournalEntry:
            if not self._done:
                raise ConfigError(
                    "there is nothing to undo", location="ranking", hint="rank or skip a prompt first"
                )
            return JournalEntry(self.annotator, "undo", self._done[-1].prompt)

        self._write(undo_entry)

    def _write(self, make_entry: Callable[[], JournalEntry]) -> None:
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
            _check(entry, self._prompts, self.journal.path)
        self._read += len(entries)
        for entry in entries:
            if entry.annotator == self.annotator:
                _apply(self._done, entry)

    def _expect(self, prompt: str | None) -> PromptAnswers:
        current = self.current
        if current is None:
            raise StalePrompt(
                "all prompts are ranked", location="ranking", hint="undo removes the last ranking"
            )
        if prompt not in (None, current.id):
            hint = "look at the current prompt, then rank it"
            raise StalePrompt("another prompt is current", location="ranking", hint=hint)
        return current


def _check_groups(groups: Sequence[Sequence[int]], count: int) -> None:
    """Check that every number from 1 to `count` is in one group.

    Raises:
        ConfigError: a number is missing, repeated, or out of range.
    """
    numbers = [number for group in groups for number in group]
    missing = [str(number) for number in range(1, count + 1) if number not in numbers]
    problems = [
        *("a group is empty" for group in groups if not group),
        *(f"there is no answer {number}" for number in numbers if not 1 <= number <= count),
        *(f"answer {number} is repeated" for number in numbers if numbers.count(number) > 1),
        *([f"not ranked: answer {', '.join(missing)}"] if missing else ()),
    ]
    if problems:
        hint = f"give each of 1 to {count} once, the best first"
        raise ConfigError(problems[0], location="ranking", hint=hint)
