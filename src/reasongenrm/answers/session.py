"""Ranking session of one annotator: rank, skip, undo. The journal holds the whole state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasongenrm.answers.journal import Journal, JournalEntry, annotator_name
from reasongenrm.answers.table import Order, PromptAnswers
from reasongenrm.errors import ConfigError
from reasongenrm.records import Message, content_id


class WrongRanking(ConfigError):
    """Groups that do not contain every answer exactly once."""


class StalePrompt(ConfigError):
    """The annotator saw another prompt than the current one."""


@dataclass(frozen=True, slots=True)
class RankingTask:
    """A prompt to rank, without the models that wrote the answers.

    Attributes:
        id: the prompt's id.
        history: turns up to and including the last user turn.
        answers: the texts, numbered 1, 2, … in this order.
    """

    id: str
    history: tuple[Message, ...]
    answers: tuple[str, ...]


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


@dataclass(frozen=True, slots=True)
class _Done:
    """An operation with the data to undo it: the prompt's earlier ranking and place in the queue."""

    entry: JournalEntry
    order: Order | None
    place: int | None


class _State:
    """State of one annotator after a sequence of entries."""

    def __init__(self, queue: list[str]) -> None:
        self.queue = queue
        self.ranked: dict[str, Order] = {}
        self.done: list[_Done] = []

    def apply(self, entry: JournalEntry) -> None:
        """Apply one operation; it was checked before it was written."""
        if entry.kind == "undo":
            if self.done:
                self._undo(self.done.pop())
            return
        place = self.queue.index(entry.prompt) if entry.prompt in self.queue else None
        self.done.append(_Done(entry, self.ranked.get(entry.prompt), place))
        if place is not None:
            del self.queue[place]
        if entry.kind == "rank":
            self.ranked[entry.prompt] = entry.order
        elif place is not None:
            self.queue.append(entry.prompt)

    def _undo(self, done: _Done) -> None:
        prompt = done.entry.prompt
        if prompt in self.queue:
            self.queue.remove(prompt)
        if done.place is not None:
            self.queue.insert(done.place, prompt)
        if done.order is None:
            self.ranked.pop(prompt, None)
        else:
            self.ranked[prompt] = done.order


def read_rankings(prompts: Sequence[PromptAnswers], journal: Journal) -> dict[str, dict[str, Order]]:
    """Return annotator -> prompt id -> order, for annotators with a ranking.

    Raises:
        ConfigError: the journal belongs to other answers.
        DataError: the journal cannot be read.
    """
    known = {prompt.id: prompt for prompt in prompts}
    states: dict[str, _State] = {}
    for entry in journal.read()[0]:
        _check(entry, known, journal.path)
        # The order of the queue does not change the rankings.
        states.setdefault(entry.annotator, _State(list(known))).apply(entry)
    return {name: state.ranked for name, state in states.items() if state.ranked}


def _check(entry: JournalEntry, known: Mapping[str, PromptAnswers], path: Path) -> None:
    prompt = known.get(entry.prompt)
    if prompt is not None:
        ids = sorted(answer for group in entry.order for answer in group)
        if entry.kind != "rank" or (
            ids == sorted(answer.id for answer in prompt.answers) and all(entry.order)
        ):
            return
    problem = "of a prompt" if prompt is None else "of answers"
    raise ConfigError(
        f"the journal holds a ranking {problem} that the input does not have ({entry.prompt[:40]!r})",
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
        self.seed = seed
        self.journal = Journal(journal_path)
        self._prompts = {prompt.id: prompt for prompt in prompts}
        self._state = _State(
            sorted(self._prompts, key=lambda prompt: content_id("prompt", prompt, self.annotator, seed))
        )
        self._read = 0
        self.refresh()

    @property
    def current(self) -> RankingTask | None:
        """The prompt to rank now; None when all are ranked."""
        if not self._state.queue:
            return None
        prompt = self._prompts[self._state.queue[0]]
        texts = {answer.id: answer.text for answer in prompt.answers}
        return RankingTask(prompt.id, prompt.history, tuple(texts[key] for key in self._shuffled_ids(prompt)))

    @property
    def progress(self) -> RankingProgress:
        """Progress of this annotator."""
        skipped = {done.entry.prompt for done in self._state.done if done.entry.kind == "skip"}
        waiting = skipped & set(self._state.queue)
        return RankingProgress(len(self._state.ranked), len(waiting), len(self._prompts))

    @property
    def can_undo(self) -> bool:
        """Whether there is a ranking or a skip to undo."""
        return bool(self._state.done)

    @property
    def rankings(self) -> dict[str, Order]:
        """Prompt id -> order, of this annotator."""
        return dict(self._state.ranked)

    def rank(self, groups: Sequence[Sequence[int]], *, prompt: str | None = None) -> None:
        """Rank the current prompt.

        Args:
            groups: numbers of the answers, from 1, the best group first; answers of one group are tied.
            prompt: id of the prompt that the annotator saw, checked if given.

        Raises:
            WrongRanking: an answer is missing, repeated, or does not exist.
            StalePrompt: another prompt is current, or none.
            ConfigError, DataError: the journal cannot be used.
        """

        def ranking() -> JournalEntry:
            current = self._prompts[self._expect(prompt)]
            _check_groups(groups, len(current.answers))
            shown = self._shuffled_ids(current)
            order = tuple(tuple(shown[number - 1] for number in sorted(group)) for group in groups)
            return JournalEntry(self.annotator, "rank", current.id, order)

        self._write(ranking)

    def skip(self, *, prompt: str | None = None) -> None:
        """Move the current prompt to the end of the queue.

        Raises:
            StalePrompt: another prompt than the given one is current, or none.
            ConfigError, DataError: the journal cannot be used.
        """
        self._write(lambda: JournalEntry(self.annotator, "skip", self._expect(prompt)))

    def undo(self) -> None:
        """Undo this annotator's last ranking or skip.

        Raises:
            ConfigError: there is none, or the journal cannot be used.
            DataError: the journal cannot be used.
        """

        def undo_entry() -> JournalEntry:
            if not self._state.done:
                raise ConfigError("there is nothing to undo", hint="rank or skip a prompt first")
            return JournalEntry(self.annotator, "undo", self._state.done[-1].entry.prompt)

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
        entries, end = self.journal.read(self._read)
        for entry in entries:
            _check(entry, self._prompts, self.journal.path)
        self._read = end
        for entry in entries:
            if entry.annotator == self.annotator:
                self._state.apply(entry)

    def _expect(self, prompt: str | None) -> str:
        current = self._state.queue[0] if self._state.queue else None
        if current is None:
            raise StalePrompt("all prompts are ranked", hint="undo removes the last ranking")
        if prompt not in (None, current):
            raise StalePrompt("another prompt is current", hint="look at the current prompt, then rank it")
        return current

    def _shuffled_ids(self, prompt: PromptAnswers) -> list[str]:
        """Return the ids of the answers in this annotator's order."""
        ids = [answer.id for answer in prompt.answers]
        return sorted(ids, key=lambda key: content_id("answer", prompt.id, key, self.annotator, self.seed))


def _check_groups(groups: Sequence[Sequence[int]], count: int) -> None:
    """Check that every number from 1 to `count` is in one group.

    Raises:
        WrongRanking: a number is missing, repeated, or out of range.
    """
    hint = f"give each of 1 to {count} once, the best first"
    numbers = [number for group in groups for number in group]
    if not all(groups):
        raise WrongRanking("a group is empty", hint=hint)
    for number in numbers:
        if not 1 <= number <= count:
            raise WrongRanking(f"there is no answer {number}", hint=hint)
        if numbers.count(number) > 1:
            raise WrongRanking(f"answer {number} is repeated", hint=hint)
    if missing := [str(number) for number in range(1, count + 1) if number not in numbers]:
        raise WrongRanking(f"not ranked: answer {', '.join(missing)}", hint=hint)
