"""Files of a labelling: labels for `reasongenrm agree`, preference pairs for stage 1, and the agreement of the labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

from reasongenrm.answers.labels import LabelEntry, LabelSession, label_journal, read_label_entries
from reasongenrm.answers.pairs import LabelPair, read_pairs, with_verdicts
from reasongenrm.answers.rank import beside, check_files, write_drops
from reasongenrm.answers.verdicts import JUDGES, judge_name, read_verdicts
from reasongenrm.console import say
from reasongenrm.errors import DataError
from reasongenrm.records import CRITERIA, Message, Winner
from reasongenrm.store import write_jsonl

Labels = Mapping[str, Mapping[str, LabelEntry]]
"""Annotator -> pair id -> label."""

_LABELS: tuple[Winner, ...] = ("A", "B", "tie")


class LabelFiles:
    """Input, outputs and journal of a labelling.

    Args:
        source: see `pairs.read_pairs`.
        out: the labels, JSONL; beside it are written `<out>.pairs.jsonl`, `<out>.journal.jsonl` and
            `<out>.dropped.jsonl`.
        verdicts: a judge's verdicts, see `verdicts.read_verdicts`; None if there are none beside those in the pairs.
        seed: of the order of pairs and answers.

    Raises:
        ConfigError: the files do not fit.
        DataError: a file cannot be read or written, or the input has nothing to label.
    """

    def __init__(self, source: str, out: str, *, verdicts: str | None = None, seed: int = 17) -> None:
        self.target, self._seed = Path(os.path.expanduser(out)), seed
        self.journal = label_journal(beside(self.target, ".journal.jsonl"))
        inputs = [Path(os.path.expanduser(path)) for path in (source, verdicts) if path]
        outputs = [beside(self.target, ending) for ending in (".pairs.jsonl", ".dropped.jsonl")]
        check_files([inputs[0], self.target, *outputs, *inputs[1:]], self.journal.path)
        table = read_pairs(source)
        self.pairs, drops = table.pairs, list(table.drops)
        for note in table.notes:
            say(f"{source}: {note}")
        if self.pairs and verdicts:
            by_id, bad = read_verdicts(inputs[1])
            self.pairs, count = with_verdicts(self.pairs, judge_name(inputs[1]), by_id)
            drops += bad
            say(f"{verdicts}: verdicts on {count} of {len(self.pairs)} pairs")
        self.dropped = len(drops)
        write_drops(drops, self.target)
        if not self.pairs:
            hint = (
                f"the reasons are in {outputs[1]}"
                if drops
                else "give prompt, a and b, or chosen and rejected"
            )
            raise DataError("there is no pair to label", location=source, hint=hint)
        self.labels()  # a journal of other pairs is an error here

    def open_session(self, annotator: str) -> LabelSession:
        """Return the session of an annotator.

        Raises:
            ConfigError: the name cannot be used.
            DataError: the journal cannot be read.
        """
        return LabelSession(self.pairs, self.journal.path, annotator, self._seed)

    def labels(self) -> Labels:
        """Return annotator -> pair id -> label.

        Raises:
            ConfigError, DataError: the journal cannot be used.
        """
        return read_label_entries(self.pairs, self.journal)

    def write(self) -> None:
        """Write the labels and the preference pairs from the journal.

        Raises:
            ConfigError, DataError: the journal cannot be used, or an output cannot be written.
        """
        # Under the journal's lock: of two processes, the last to write has read the entries of both.
        with self.journal.locked():
            labels = self.labels()
            write_jsonl(self.target, label_rows(self.pairs, labels))
            write_jsonl(beside(self.target, ".pairs.jsonl"), preference_rows(self.pairs, labels))

    def summary(self) -> str:
        """Return one line: labels per annotator, the preference pairs, and what was left out."""
        labels = self.labels()
        by_name = ", ".join(f"{name} {len(entries)}" for name, entries in sorted(labels.items())) or "nobody"
        decisions = Counter(decision(winners) for winners in winners_by_pair(labels).values())
        parts = [f"{self.target}: {len(self.pairs)} pairs; labelled by {by_name}"]
        parts.append(
            f"preference pairs: {decisions['A'] + decisions['B']} ({beside(self.target, '.pairs.jsonl').name})"
        )
        if left_out := decisions["tie"] + decisions[None]:
            parts.append(f"left out: {left_out} (tie {decisions['tie']}, no majority {decisions[None]})")
        if self.dropped:
            parts.append(f"{self.dropped} dropped ({beside(self.target, '.dropped.jsonl').name})")
        return "; ".join(parts)


def winners_by_pair(labels: Labels) -> dict[str, dict[str, Winner]]:
    """Return pair id -> annotator -> label, for pairs with a label."""
    by_pair: dict[str, dict[str, Winner]] = {}
    for name in sorted(labels):
        for pair, entry in labels[name].items():
            if entry.label is not None:
                by_pair.setdefault(pair, {})[name] = entry.label
    return by_pair


def decision(winners: Mapping[str, Winner]) -> Winner | None:
    """Return the label that more than half of the annotators gave; None if there is none."""
    label, votes = Counter(winners.values()).most_common(1)[0]
    return label if 2 * votes > len(winners) else None


def label_rows(pairs: Sequence[LabelPair], labels: Labels) -> Iterator[dict[str, Any]]:
    """Yield the rows of the labels, in the order of the input; pairs without a label have none.

    `labels` holds annotator -> `A`, `B` or `tie`, in the order of the input; `labels_after_verdict` those that an annotator
    changed after a judge's verdict on the pair had been shown.
    """
    for pair in pairs:
        entries = {name: labels[name][pair.id] for name in sorted(labels) if pair.id in labels[name]}
        if not entries:
            continue
        text = pair.prompt[0]["content"] if len(pair.prompt) == 1 else list(pair.prompt)
        row: dict[str, Any] = {"id": pair.name, "prompt": text, "a": pair.a, "b": pair.b}
        row["labels"] = {name: entry.label for name, entry in entries.items() if entry.blind}
        optional: dict[str, Any] = {
            "labels_after_verdict": {name: entry.label for name, entry in entries.items() if not entry.blind},
            "notes": {name: entry.note for name, entry in entries.items() if entry.note},
            JUDGES: {name: verdict.to_row() for name, verdict in pair.verdicts.items()},
            CRITERIA: pair.criteria,
        }
        row |= {name: value for name, value in optional.items() if value}
        yield (
            row
            | {"source": pair.source}
            | {name: value for name, value in pair.extras.items() if name not in row}
        )


def preference_rows(pairs: Sequence[LabelPair], labels: Labels) -> Iterator[dict[str, Any]]:
    """Yield a preference pair, as stage 1 reads it, for each pair of which more than half of the labels name one answer."""
    winners = winners_by_pair(labels)
    for pair in pairs:
        winner = decision(winners[pair.id]) if pair.id in winners else None
        if winner not in ("A", "B"):
            continue
        texts = (pair.a, pair.b) if winner == "A" else (pair.b, pair.a)
        turns = [[*pair.prompt, Message(role="assistant", content=text)] for text in texts]
        row: dict[str, Any] = {
            "chosen": turns[0],
            "rejected": turns[1],
            "source": pair.source,
            "id": pair.name,
        }
        yield row | ({CRITERIA: pair.criteria} if pair.criteria else {})


def agreement_lines(pairs: Sequence[LabelPair], labels: Labels) -> list[str]:
    """Return in words how often each annotator agrees with each judge, and annotators with one another.

    With a judge only labels count that were given before its verdict was seen.
    """
    blind = {
        name: {pair: entry.label for pair, entry in entries.items() if entry.blind and entry.label}
        for name, entries in sorted(labels.items())
    }
    judges: dict[str, dict[str, Winner]] = {}
    for pair in pairs:
        for judge, verdict in pair.verdicts.items():
            if verdict.winner is not None:
                judges.setdefault(judge, {})[pair.id] = verdict.winner
    lines = [
        f"{name} and judge {judge}: {_in_words(found)}"
        for judge, verdicts in judges.items()
        for name, own in blind.items()
        if (found := _agreement(own, verdicts))
    ]
    everybody = {
        name: {pair: entry.label for pair, entry in entries.items() if entry.label}
        for name, entries in sorted(labels.items())
    }
    found_by_names = {
        f"{one} and {other}": found
        for one, other in combinations(everybody, 2)
        if (found := _agreement(everybody[one], everybody[other]))
    }
    if len(found_by_names) <= 3:
        return [*lines, *(f"{names}: {_in_words(found)}" for names, found in found_by_names.items())]
    kappas = [kappa for _, _, kappa in found_by_names.values() if kappa is not None]
    mean = f"{fmean(kappas):.2f}" if kappas else "not defined"
    return [*lines, f"{len(found_by_names)} pairs of annotators: mean Cohen's kappa {mean}"]


Agreement = tuple[int, int, float | None]
"""Number of equal labels, number of pairs with both labels, and Cohen's kappa; None where it is not defined."""


def _agreement(one: Mapping[str, Winner], other: Mapping[str, Winner]) -> Agreement | None:
    """Return the agreement of two raters; None if no pair has a label of both."""
    import numpy as np

    from reasongenrm.metrics.kappa import cohen_kappa, joint_counts

    both = [pair for pair in one if pair in other]
    if not both:
        return None
    first, second = ([_LABELS.index(labels[pair]) for pair in both] for labels in (one, other))
    kappa = float(cohen_kappa(joint_counts(first, second, len(_LABELS)), np.ones((1, len(both))))[0])
    return sum(one[pair] == other[pair] for pair in both), len(both), kappa if kappa == kappa else None


def _in_words(found: Agreement) -> str:
    equal, count, kappa = found
    value = "not defined (all labels are the same)" if kappa is None else f"{kappa:.2f}"
    return f"{equal} of {count} equal, Cohen's kappa {value}"
