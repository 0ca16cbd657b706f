"""Filters over loaded pairs: sources that leak their label, and rows that repeat or contradict others."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TypeVar

from reasongenrm.records import Drop, HasPair, Message, PreferencePair

Row = TypeVar("Row", bound=HasPair)


def clean(
    rows: Iterable[Row | Drop],
    *,
    drop_sources: Sequence[str],
    on_drop: Callable[[Drop], None],
) -> Iterator[Row]:
    """Yield the rows worth training on, in their order; hand every other row to `on_drop`.

    Drops of earlier stages pass to `on_drop` as they are. Of rows that repeat or contradict each other the
    first one is kept: later ones are dropped. Which rows came is kept in a temporary file, so that memory does not
    grow with their number.

    Args:
        rows: pairs, or what holds a `pair`.
        drop_sources: sources to leave out whole. In Skywork-80K v0.2 `magpie_ultra` belongs here: every
            rejected answer of it holds `<im_start>` and no chosen one does, so a judge learns the marker.
        on_drop: called once for each row left out; new Drops have stage `clean` and the pair's id as `where`.
    """
    unwanted = frozenset(drop_sources)
    with closing(_Seen()) as seen:
        for row in rows:
            if isinstance(row, Drop):
                on_drop(row)
                continue
            pair = row.pair
            problem = _unwanted(pair.source) if pair.source in unwanted else seen.problem(pair)
            if problem is None:
                yield row
            else:
                on_drop(Drop(pair.id, pair.source, *problem, "clean"))


def _unwanted(source: str) -> tuple[str, str]:
    return (
        "label_leak_source",
        f"The source {source[:80]!r} is in drop_sources (it leaks its label); take it off to keep.",
    )


class _Seen:
    """The pairs that came, in a temporary SQLite file: 63 bits of a hash of history and answers, whatever the
    answers' order, and which of the two was chosen."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("")  # a temporary file, which goes with the connection
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("PRAGMA synchronous = OFF")
        self._base.execute("PRAGMA cache_size = -16384")  # KiB
        self._base.execute("CREATE TABLE seen (key INTEGER PRIMARY KEY, first INTEGER)")

    def close(self) -> None:
        self._base.close()

    def problem(self, pair: PreferencePair) -> tuple[str, str] | None:
        """Note a pair; return slug and detail if it came before."""
        first = pair.chosen <= pair.rejected
        answers = (pair.chosen, pair.rejected) if first else (pair.rejected, pair.chosen)
        key = _key(pair.history, answers)
        if self._base.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, first)).rowcount:
            return None
        [(earlier,)] = self._base.execute("SELECT first FROM seen WHERE key = ?", (key,))
        if earlier == first:
            return (
                "duplicate",
                "An earlier row has the same history and the same two answers; remove one of them.",
            )
        return (
            "contradicts_earlier_row",
            "An earlier row prefers the other of these two answers; remove one of them.",
        )


def _key(history: Sequence[Message], answers: Sequence[str]) -> int:
    texts = [text for turn in history for text in (turn["role"], turn["content"])]
    parts = [text.encode("utf-8", "surrogatepass") for text in (*texts, *answers)]
    digest = hashlib.blake2b(b"%d" % len(parts), digest_size=8)
    for part in parts:  # with its length: no two lists of texts run together
        digest.update(b":%d:" % len(part))
        digest.update(part)
    return int.from_bytes(digest.digest(), "big") >> 1
