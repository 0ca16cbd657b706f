"""Rows of several sources: one source after the other, or in turn up to a limit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

from reasongenrm.config.prepare import SourceConfig
from reasongenrm.data.ranked import load_ranked
from reasongenrm.data.sources import read_pair, undecoded_pairs
from reasongenrm.records import Drop, PreferencePair, unit_hash
from reasongenrm.rows.files import JsonLine, RawRow

SourceRow = JsonLine | RawRow | PreferencePair | Drop
"""A row of a source: a pair that follows from ranks, or a row that `pair_of` turns into a pair."""


def load_sources(
    sources: Sequence[SourceConfig], limit: int | None = None
) -> Iterator[PreferencePair | Drop]:
    """Yield the rows of all sources as pairs; see `source_rows`."""
    return map(pair_of, source_rows(sources, limit))


def pair_of(row: SourceRow) -> PreferencePair | Drop:
    """Return a row as a pair, or as a Drop of stage `load`."""
    return row if isinstance(row, PreferencePair) else read_pair(row)


def source_rows(sources: Sequence[SourceConfig], limit: int | None = None) -> Iterator[SourceRow]:
    """Yield the rows of all sources, not decoded yet where another process can decode them.

    Without a limit, the sources are read one after the other. Under a limit they take turns, so that every source has
    a share of the rows: one of weight 1 yields two rows for each row of one of weight 0.5, and the rest of a source that
    ends early comes from the others. The rows of one source are in its order, and the same arguments yield the same rows.

    A weight w < 1 keeps the share w of a source's rows, chosen by a hash of their content: a larger weight keeps the
    same rows and more. Rows that cannot be read are always kept, to be counted as dropped.

    Args:
        sources: where the rows are.
        limit: number of rows of all sources together; None for all rows.

    Raises:
        ConfigError, DataError: a source cannot be opened; raised at the call. Later, a row cannot be read from a file.
    """
    streams = [_share(_rows(source), source.weight) for source in sources]
    if limit is None:
        return chain.from_iterable(streams)
    return islice(_in_turn(streams, [source.weight for source in sources]), limit)


def _rows(source: SourceConfig) -> Iterator[SourceRow]:
    if source.kind == "ranked":
        return load_ranked(source.path)
    return undecoded_pairs(source.path, split=source.split, revision=source.revision)


def _share(rows: Iterator[SourceRow], weight: float) -> Iterator[SourceRow]:
    if weight >= 1:
        return rows
    return (row for row in rows if isinstance(row, Drop) or unit_hash("weight", _content(row)) < weight)


def _content(row: JsonLine | RawRow | PreferencePair) -> str:
    """Return a text that identifies the content of a row."""
    if isinstance(row, JsonLine):
        return row.line.strip().decode("utf-8", "replace")
    return row.id if isinstance(row, PreferencePair) else repr(row.columns)


def _in_turn(streams: Sequence[Iterator[SourceRow]], weights: Sequence[float]) -> Iterator[SourceRow]:
    """Yield the next row of the source with the fewest rows for its weight; of several such sources, the first."""
    counts = [0] * len(streams)
    unfinished = list(range(len(streams)))
    while unfinished:
        source = min(unfinished, key=lambda number: counts[number] / weights[number])
        row = next(streams[source], None)
        if row is None:
            unfinished.remove(source)
        else:
            counts[source] += 1
            yield row
