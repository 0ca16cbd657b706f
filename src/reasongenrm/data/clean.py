"""Filters over loaded pairs: sources that leak their label, and rows that repeat or contradict others."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import NamedTuple, TypeVar

from reasongenrm.records import Drop, HasPair, Message, PreferencePair

Row = TypeVar("Row", bound=HasPair)


class Sight(NamedTuple):
    """What `clean` looks at in a pair.

    Attributes:
        id, source: the pair's.
        key: 63 bits of a hash of history and answers, whatever the answers' order.
        first: whether the chosen answer is the one that sorts first.
    """

    id: str
    source: str
    key: int
    first: bool


def sight(pair: PreferencePair) -> Sight:
    """Look at a pair for `clean`; nearly all the time goes here, so that it may run in other processes."""
    first = pair.chosen <= pair.rejected
    answers = (pair.chosen, pair.rejected) if first else (pair.rejected, pair.chosen)
    return Sight(pair.id, pair.source, _key(pair.history, answers), first)


def _sight_of(row: HasPair) -> Sight:
    return sight(row.pair)


def clean(
    rows: Iterable[Row | Drop],
    *,
    drop_sources: Sequence[str],
    on_drop: Callable[[Drop], None],
    look: Callable[[Row], Sight] = _sight_of,
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
        look: returns what `sight` says of a row's pair.
    """
    unwanted = frozenset(drop_sources)
    with closing(_Earlier()) as earlier:
        for row in rows:
            if isinstance(row, Drop):
                on_drop(row)
                continue
            seen = look(row)
            problem = _unwanted(seen.source) if seen.source in unwanted else earlier.problem(seen)
            if problem is None:
                yield row
            else:
                on_drop(Drop(seen.id, seen.source, *problem, "clean"))


def _unwanted(source: str) -> tuple[str, str]:
    return (
        "unwanted_source",
        f"The source {source[:80]!r} is in drop_sources; take it off to keep.",
    )


class _Earlier:
    """The pairs that came, in a temporary SQLite file: their keys, and which of the two answers was chosen."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("")  # a temporary file, which goes with the connection
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("PRAGMA synchronous = OFF")
        self._base.execute("PRAGMA cache_size = -16384")  # KiB
        self._base.execute("CREATE TABLE seen (key INTEGER PRIMARY KEY, first INTEGER)")

    def close(self) -> None:
        self._base.close()

    def problem(self, seen: Sight) -> tuple[str, str] | None:
        """Note a pair; return slug and detail if it came before."""
        row = (seen.key, seen.first)
        if self._base.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", row).rowcount:
            return None
        [(earlier,)] = self._base.execute("SELECT first FROM seen WHERE key = ?", (seen.key,))
        if earlier == seen.first:
            return (
                "duplicate",
                "An earlier row has the same history and the same two answers; remove one of them.",
            )
        return (
            "contradicts_earlier_row",
            "An earlier row prefers the other of these two answers; remove one of them.",
        )


def _key(history: Sequence[Message], answers: Sequence[str]) -> int:
    texts = [text for turn in history for text in (turn["role"], turn["content"])] + [*answers]
    # With their lengths in front: no two lists of texts run together.
    whole = f"{','.join([str(len(text)) for text in texts])}:{''.join(texts)}".encode(
        "utf-8", "surrogatepass"
    )
    return int.from_bytes(hashlib.blake2b(whole, digest_size=8).digest(), "big") >> 1
