"""The sources of a recipe: preference datasets and ranked answers, mixed, as one pair or one drop per row.

The columns of a preference dataset are those of Skywork-Reward-Preference-80K-v0.2: `chosen` and `rejected` contain
the whole conversation, each with its own answer at the end, and `source` (optional) names the row's origin. `criteria` (optional)
are those by which the answers of the row are compared. `reference_points` (optional) are the points of a reason why `chosen` is better.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from typing import Any

from reasongenrm.config.prepare import SourceConfig
from reasongenrm.data.helpsteer3 import pair_rows
from reasongenrm.data.ranked import load_ranked
from reasongenrm.errors import DataError
from reasongenrm.records import (
    CRITERIA,
    REFERENCE_POINTS,
    Drop,
    Message,
    PreferencePair,
    unit_hash,
    with_criteria,
)
from reasongenrm.rows.files import UNKNOWN_SOURCE, JsonLine, RawRow, undecoded_rows
from reasongenrm.rows.turns import BadRow, check_text, check_turns, read_criteria, read_points, read_turns

SIDES = ("chosen", "rejected")

SourceRow = JsonLine | RawRow | PreferencePair | Drop
"""A row of a source: a pair that follows from ranks, or a row that `read_pair` turns into a pair."""


def load_sources(
    sources: Sequence[SourceConfig], limit: int | None = None
) -> Iterator[PreferencePair | Drop]:
    """Yield the rows of all sources as pairs; see `source_rows`."""
    return map(read_pair, source_rows(sources, limit))


def source_rows(sources: Sequence[SourceConfig], limit: int | None = None) -> Iterator[SourceRow]:
    """Yield the rows of all sources, not decoded yet where another process can decode them.

    Without a limit, the sources are read one after the other. Under a limit they take turns, so that every source has
    a share of the rows: one of weight 1 yields two rows for each row of one of weight 0.5, and the rest of a source
    that ends early comes from the others. The rows of one source are in its order, and the same arguments yield the
    same rows.

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
    if source.path.lower().endswith(".csv"):
        hint = "for a ranked CSV set kind: ranked; otherwise give a .jsonl or .parquet file"
        raise DataError("a .csv file cannot contain conversations", location=source.path, hint=hint)
    if source.kind == "helpsteer3":
        return pair_rows(source.path, split=source.split, revision=source.revision)
    return undecoded_rows(
        source.path,
        required=SIDES,
        optional=("source", CRITERIA, REFERENCE_POINTS),
        split=source.split,
        revision=source.revision,
    )


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


def read_pair(row: SourceRow) -> PreferencePair | Drop:
    """Return one row as a pair, or as a Drop of stage `load`; never raises on invalid input.

    A pair or a Drop is returned unchanged. Texts are not stripped; keys of a message other than `role` and `content`
    are ignored. A row without a source gets the row's origin as its source.
    """
    if isinstance(row, JsonLine):
        row = row.decode()
    if isinstance(row, (PreferencePair, Drop)):
        return row
    source = UNKNOWN_SOURCE
    try:
        source = source_of(row)
        chosen, rejected = (_conversation(row.columns, side) for side in SIDES)
        _check_pair(chosen, rejected)
        history = with_criteria(chosen[:-1], read_criteria(row.columns.get(CRITERIA)))
        points = read_points(row.columns.get(REFERENCE_POINTS))
    except BadRow as bad:
        return Drop(row.location, source, bad.reason, bad.detail, "load")
    answers = chosen[-1]["content"], rejected[-1]["content"]
    return PreferencePair.make(history, *answers, source, reference_points=points)


def source_of(row: RawRow) -> str:
    """Return a row's column `source`, or the row's origin if there is none.

    Raises:
        BadRow: the column is not a text.
    """
    source = row.columns.get("source")
    return (check_text(source, "source").strip() if source is not None else "") or row.origin


def _conversation(columns: dict[str, Any], side: str) -> list[Message]:
    """Return one side as turns: [system], user, assistant, user, …, assistant."""
    if side not in columns:
        present = ", ".join(sorted(map(str, columns))[:8]) or "none"
        detail = f"There is no `{side}` (found: {present}); name the columns chosen and rejected."
        raise BadRow("missing_column", detail)
    turns = read_turns(columns[side], side)
    if turns[-1]["role"] != "assistant":
        detail = f"`{side}` ends in a {turns[-1]['role']} turn; end it in the assistant's answer."
        raise BadRow("no_final_answer", detail)
    check_turns(turns, side)
    if not turns[-1]["content"].strip():
        raise BadRow("empty_answer", f"The answer of `{side}` is empty; fill it or remove the row.")
    return turns


def _check_pair(chosen: list[Message], rejected: list[Message]) -> None:
    if chosen[:-1] != rejected[:-1]:
        longest = max(len(chosen), len(rejected)) - 1
        turn = next(at for at in range(longest) if chosen[:-1][at : at + 1] != rejected[:-1][at : at + 1])
        detail = (
            f"`chosen` and `rejected` differ at turn {turn}, before the answer; give both the same prompt."
        )
        raise BadRow("history_mismatch", detail)
    if chosen[-1]["content"].strip() == rejected[-1]["content"].strip():
        detail = "Both answers are the same, so neither can be preferred; remove the row."
        raise BadRow("equal_answers", detail)
