"""One annotator's way through the prompts: rank, skip, undo. All that is known is what the journal says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reasongenrm.answers.journal import Entry, Journal, annotator_name
from reasongenrm.answers.table import Order, Prompt
from reasongenrm.errors import ConfigError
from reasongenrm.records import Message, content_id


class WrongRanking(ConfigError):
    """Groups that do not name every answer once."""


class StalePrompt(ConfigError):
    """The annotator saw another prompt than the one that is to be ranked now."""


@dataclass(frozen=True, slots=True)
class Question:
    """What an annotator is shown: nothing here says who wrote which answer.

    Attributes:
        id: the prompt's id.
        history: turns up to and including the last user turn.
        answers: the answers' texts; they are called 1, 2, … in this order.
    """

    id: str
    history: tuple[Message, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an annotator is.

    Attributes:
        ranked: prompts that have a ranking.
        skipped: prompts that were skipped and wait at the end.
        total: all prompts.
    """

    ranked: int
    skipped: int
    total: int


@dataclass(frozen=True, slots=True)
class _Done:
    """An operation, and what it takes to undo it: the prompt's ranking and place in the queue before."""

    entry: Entry
    order: Order | None
    place: int | None


class _State:
    """What a sequence of entries of one annotator comes to."""

    def __init__(self, queue: list[str]) -> None:
        self.queue = queue
        self.ranked: dict[str, Order] = {}
        self.done: list[_Done] = []

    def apply(self, entry: Entry) -> None:
        """Carry out one operation; that it fits was checked before it was written."""
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


def read_rankings(prompts: Sequence[Prompt], journal: Journal) -> dict[str, dict[str, Order]]:
    """Return annotator -> prompt id -> order, for those who have ranked a prompt.

    Raises:
        ConfigError: the journal is of other answers.
        DataError: the journal cannot be read.
    """
    known = {prompt.id: prompt for prompt in prompts}
    states: dict[str, _State] = {}
    for entry in journal.read()[0]:
        _check(entry, known, journal.path)
        # The order in which prompts are asked does not bear on what is ranked.
        states.setdefault(entry.annotator, _State(list(known))).apply(entry)
    return {name: state.ranked for name, state in states.items() if state.ranked}


def _check(entry: Entry, known: Mapping[str, Prompt], path: Path) -> None:
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
        hint="rank the answers it was begun with, or begin another (--journal FILE, or another --out)",
    )


class RankingSession:
    """An annotator's session. Opening it again over the same journal goes on where it stopped.

    The order of the prompts, and of the answers within a prompt, is a function of their ids, the annotator
    and the seed. Other processes, and other sessions of the same annotator, may use the journal at the same
    time. A session itself is used by one thread at a time.

    Args:
        prompts: what is to be ranked.
        journal_path: the journal; made by the first operation.
        annotator: see `annotator_name`.
        seed: of the order.

    Raises:
        ConfigError: the name cannot be used, or the journal is of other answers.
        DataError: the journal cannot be read.
    """

    def __init__(self, prompts: Sequence[Prompt], journal_path: Path, annotator: str, seed: int = 17) -> None:
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
    def current(self) -> Question | None:
        """What is to be ranked now; None when all is ranked."""
        if not self._state.queue:
            return None
        prompt = self._prompts[self._state.queue[0]]
        texts = {answer.id: answer.text for answer in prompt.answers}
        return Question(prompt.id, prompt.history, tuple(texts[key] for key in self._shown(prompt)))

    @property
    def progress(self) -> Progress:
        """How far this annotator is."""
        skipped = {done.entry.prompt for done in self._state.done if done.entry.kind == "skip"}
        waiting = skipped & set(self._state.queue)
        return Progress(len(self._state.ranked), len(waiting), len(self._prompts))

    @property
    def can_undo(self) -> bool:
        """Whether there is a ranking or a skip to take back."""
        return bool(self._state.done)

    @property
    def rankings(self) -> dict[str, Order]:
        """Prompt id -> order, of this annotator."""
        return dict(self._state.ranked)

    def rank(self, groups: Sequence[Sequence[int]], *, prompt: str | None = None) -> None:
        """Rank the current prompt.

        Args:
            groups: numbers of answers as they are shown, from 1, the best group first; those of one group are
                tied.
            prompt: id of the prompt that was shown, if it is to be checked.

        Raises:
            WrongRanking: an answer is missing, named twice, or not there.
            StalePrompt: another prompt is current, or none.
            ConfigError, DataError: the journal cannot be used.
        """

        def ranking() -> Entry:
            current = self._prompts[self._expect(prompt)]
            _check_groups(groups, len(current.answers))
            shown = self._shown(current)
            order = tuple(tuple(shown[number - 1] for number in sorted(group)) for group in groups)
            return Entry(self.annotator, "rank", current.id, order)

        self._write(ranking)

    def skip(self, *, prompt: str | None = None) -> None:
        """Put the current prompt behind all others.

        Raises:
            StalePrompt: another prompt than the given one is current, or none.
            ConfigError, DataError: the journal cannot be used.
        """
        self._write(lambda: Entry(self.annotator, "skip", self._expect(prompt)))

    def undo(self) -> None:
        """Take back this annotator's last ranking or skip that still holds.

        Raises:
            ConfigError: there is none, or the journal cannot be used.
            DataError: the journal cannot be used.
        """

        def taken_back() -> Entry:
            if not self._state.done:
                raise ConfigError("there is nothing to undo", hint="rank or skip a prompt first")
            return Entry(self.annotator, "undo", self._state.done[-1].entry.prompt)

        self._write(taken_back)

    def _write(self, made: Callable[[], Entry]) -> None:
        """Append an operation, made from all that the journal holds by now, and take it in."""
        with self.journal.locked() as file:
            self.refresh()
            self.journal.append(file, made())
            self.refresh()

    def refresh(self) -> None:
        """Take in what other sessions of this annotator wrote since.

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
            raise StalePrompt("all prompts are ranked", hint="undo takes the last ranking back")
        if prompt not in (None, current):
            raise StalePrompt("another prompt is to be ranked now", hint="look at it again, then rank it")
        return current

    def _shown(self, prompt: Prompt) -> list[str]:
        """Return the answers' ids in the order in which they are shown."""
        ids = [answer.id for answer in prompt.answers]
        return sorted(ids, key=lambda key: content_id("answer", prompt.id, key, self.annotator, self.seed))


def _check_groups(groups: Sequence[Sequence[int]], count: int) -> None:
    """Check that every number from 1 to `count` stands in one group.

    Raises:
        WrongRanking: it does not.
    """
    hint = f"name each of 1 to {count} once, the best first"
    seen: set[int] = set()
    for group in groups:
        if not group:
            raise WrongRanking("a group is empty", hint=hint)
        for number in group:
            if not 1 <= number <= count:
                raise WrongRanking(f"there is no answer {number}", hint=hint)
            if number in seen:
                raise WrongRanking(f"answer {number} is named twice", hint=hint)
            seen.add(number)
    missing = [str(number) for number in range(1, count + 1) if number not in seen]
    if missing:
        noun = "answer" if len(missing) == 1 else "answers"
        verb = "is" if len(missing) == 1 else "are"
        raise WrongRanking(f"{noun} {', '.join(missing)} {verb} not ranked", hint=hint)
