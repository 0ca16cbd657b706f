"""Labelling session of one annotator: which of two answers is better, before the judge's verdict is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from reasongenrm.answers.journal import AnnotationSession, Journal, annotator_name, answers_by_annotator
from reasongenrm.answers.pairs import LabelPair
from reasongenrm.answers.verdicts import swap
from reasongenrm.errors import ConfigError
from reasongenrm.records import Winner, content_id, unit_hash

LONGEST_NOTE = 2000
"""Limit of a note, in characters."""


@dataclass(frozen=True, slots=True)
class LabelEntry:
    """One operation.

    Attributes:
        annotator: name of the annotator.
        kind: `label`, `skip`, or `undo` of their last operation that was not undone.
        pair: the pair's id.
        label: of a label: `A` when the file's first answer is better, `B` the second, or `tie`.
        note: of a label; may be empty.
        blind: of a label: whether the annotator had not seen a judge's verdict on this pair before.
        verdict_shown: of a label: whether a verdict was shown after it.
    """

    annotator: str
    kind: Literal["label", "skip", "undo"]
    pair: str
    label: Winner | None = None
    note: str = ""
    blind: bool = True
    verdict_shown: bool = False

    @property
    def item(self) -> str:
        """The pair's id."""
        return self.pair

    def to_row(self) -> dict[str, Any]:
        """Return the entry as a line of the journal."""
        row = {"annotator": self.annotator, "kind": self.kind, "pair": self.pair}
        label = {
            "label": self.label,
            "note": self.note,
            "blind": self.blind,
            "verdict_shown": self.verdict_shown,
        }
        return row | (label if self.kind == "label" else {})


@dataclass(frozen=True, slots=True)
class ShownPair:
    """A pair as an annotator sees it.

    Attributes:
        pair: in the order of the file.
        swapped: whether its second answer is shown as A.
    """

    pair: LabelPair
    swapped: bool

    @property
    def id(self) -> str:
        """The pair's id."""
        return self.pair.id

    @property
    def answers(self) -> tuple[str, str]:
        """The answers shown as A and B."""
        return (self.pair.b, self.pair.a) if self.swapped else (self.pair.a, self.pair.b)


def label_journal(path: Path) -> Journal[LabelEntry]:
    """Return the journal of labels at a path."""
    return Journal(path, LabelEntry)


def read_label_entries(
    pairs: Sequence[LabelPair], journal: Journal[LabelEntry]
) -> dict[str, dict[str, LabelEntry]]:
    """Return annotator -> pair id -> entry, for annotators with a label.

    Raises:
        ConfigError: the journal belongs to other pairs.
        DataError: the journal cannot be read.
    """
    known = {pair.id: pair for pair in pairs}
    entries = journal.read()
    for entry in entries:
        _check(entry, known, journal.path)
    return answers_by_annotator(entries)


def _check(entry: LabelEntry, known: Mapping[str, Any], path: Path) -> None:
    if entry.pair in known and (entry.kind != "label" or entry.label is not None):
        return
    raise ConfigError(
        f"the journal holds a label of a pair that the input does not have ({entry.pair[:40]!r})",
        location=str(path),
        hint="label the same pairs as before, or give another --labels",
    )


class LabelSession(AnnotationSession[ShownPair, LabelEntry]):
    """An annotator's session of labelling.

    The order of the pairs, and which answer of a pair is shown as A, are functions of the pair's id, the annotator and the
    seed.

    Args:
        pairs: to label.
        journal_path: the journal; created by the first operation.
        annotator: see `annotator_name`.
        seed: of the order.

    Raises:
        ConfigError: the name cannot be used, or the journal belongs to other pairs.
        DataError: the journal cannot be read.
    """

    noun, participle = "pair", "labelled"

    def __init__(
        self, pairs: Sequence[LabelPair], journal_path: Path, annotator: str, seed: int = 17
    ) -> None:
        name = annotator_name(annotator)
        self._revealed: set[str] = set()
        shuffled = [
            ShownPair(pair, unit_hash("shown as A", pair.id, name, seed) < 0.5)
            for pair in sorted(pairs, key=lambda pair: content_id("pair", pair.id, name, seed))
        ]
        super().__init__(shuffled, label_journal(journal_path), name)

    def _check(self, entry: LabelEntry) -> None:
        _check(entry, self._items, self.journal.path)

    def _operation(self, kind: str, item: str) -> LabelEntry:
        return LabelEntry(self.annotator, "skip" if kind == "skip" else "undo", item)

    def _apply(self, entry: LabelEntry) -> None:
        super()._apply(entry)
        if entry.verdict_shown:
            self._revealed.add(entry.pair)

    @property
    def last(self) -> tuple[ShownPair, LabelEntry] | None:
        """The pair of this annotator's last operation, and its entry, if that is a label which is not undone."""
        entry = self._done[-1] if self._done else None
        return (self._items[entry.pair], entry) if entry and entry.kind == "label" else None

    def label(self, winner: str, *, note: str = "", pair: str | None = None) -> None:
        """Label the current pair.

        Args:
            winner: `A` or `B`, as the answers are shown, or `tie`.
            note: a remark; white space around it is removed.
            pair: id of the pair that the annotator saw, checked if given.

        Raises:
            StaleItem: another pair is current, or none.
            ConfigError: the label or the note is not valid, or the journal cannot be used.
            DataError: the journal cannot be used.
        """
        labels = get_args(Winner)
        if winner not in labels:
            raise ConfigError("not a label", location="label", hint=f"give {', '.join(labels)}")
        if len(note) > LONGEST_NOTE:
            problem = f"the note has {len(note)} characters"
            raise ConfigError(problem, location="note", hint=f"give at most {LONGEST_NOTE}")

        def entry() -> LabelEntry:
            shown = self._expect(pair)
            label = swap(winner, shown.swapped)  # type: ignore[arg-type]  # checked above
            blind, reveals = shown.id not in self._revealed, bool(shown.pair.verdicts)
            return LabelEntry(self.annotator, "label", shown.id, label, note.strip(), blind, reveals)

        self._write(entry)
