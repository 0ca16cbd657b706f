"""Ranking session of one annotator. The journal of all annotators holds the whole state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from reasongenrm.answers.journal import AnnotationSession, Journal, annotator_name, answers_by_annotator
from reasongenrm.answers.table import Order, PromptAnswers
from reasongenrm.errors import ConfigError
from reasongenrm.records import content_id


@dataclass(frozen=True, slots=True)
class RankingEntry:
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

    @property
    def item(self) -> str:
        """The prompt's id."""
        return self.prompt

    def to_row(self) -> dict[str, Any]:
        """Return the entry as a line of the journal."""
        row = {"annotator": self.annotator, "kind": self.kind, "prompt": self.prompt}
        return row | ({"order": self.order} if self.kind == "rank" else {})


def ranking_journal(path: Path) -> Journal[RankingEntry]:
    """Return the journal of rankings at a path."""
    return Journal(path, RankingEntry)


def read_rankings(
    prompts: Sequence[PromptAnswers], journal: Journal[RankingEntry]
) -> dict[str, dict[str, Order]]:
    """Return annotator -> prompt id -> order, for annotators with a ranking.

    Raises:
        ConfigError: the journal belongs to other answers.
        DataError: the journal cannot be read.
    """
    known = {prompt.id: prompt for prompt in prompts}
    entries = journal.read()
    for entry in entries:
        _check(entry, known, journal.path)
    return {
        name: {prompt: entry.order for prompt, entry in rankings.items()}
        for name, rankings in answers_by_annotator(entries).items()
    }


def _check(entry: RankingEntry, known: Mapping[str, PromptAnswers], path: Path) -> None:
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


class RankingSession(AnnotationSession[PromptAnswers, RankingEntry]):
    """An annotator's session of ranking.

    The order of the prompts, and of the answers within a prompt, is a function of their ids, the annotator and the seed.

    Args:
        prompts: with the answers to rank.
        journal_path: the journal; created by the first operation.
        annotator: see `annotator_name`.
        seed: of the order.

    Raises:
        ConfigError: the name cannot be used, or the journal belongs to other answers.
        DataError: the journal cannot be read.
    """

    noun, participle = "prompt", "ranked"

    def __init__(
        self, prompts: Sequence[PromptAnswers], journal_path: Path, annotator: str, seed: int = 17
    ) -> None:
        name = annotator_name(annotator)

        def place(kind: str, *ids: str) -> str:
            return content_id(kind, *ids, name, seed)

        shuffled = [
            replace(
                prompt,
                answers=tuple(
                    sorted(prompt.answers, key=lambda answer: place("answer", prompt.id, answer.id))
                ),
            )
            for prompt in sorted(prompts, key=lambda prompt: place("prompt", prompt.id))
        ]
        super().__init__(shuffled, ranking_journal(journal_path), name)

    def _check(self, entry: RankingEntry) -> None:
        _check(entry, self._items, self.journal.path)

    def _operation(self, kind: str, item: str) -> RankingEntry:
        return RankingEntry(self.annotator, "skip" if kind == "skip" else "undo", item)

    def rank(self, groups: Sequence[Sequence[int]], *, prompt: str | None = None) -> None:
        """Rank the current prompt.

        Args:
            groups: numbers of the answers, from 1, the best group first; answers of one group are tied.
            prompt: id of the prompt that the annotator saw, checked if given.

        Raises:
            StaleItem: another prompt is current, or none.
            ConfigError: an answer is missing, repeated, or does not exist, or the journal cannot be used.
            DataError: the journal cannot be used.
        """

        def ranking() -> RankingEntry:
            shown = self._expect(prompt)
            _check_groups(groups, len(shown.answers))
            order = tuple(tuple(shown.answers[number - 1].id for number in sorted(group)) for group in groups)
            return RankingEntry(self.annotator, "rank", shown.id, order)

        self._write(ranking)


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
