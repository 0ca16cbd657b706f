"""Preference datasets with the columns chosen, rejected, source: JSONL, Parquet, folders and hub ids."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from reasongenrm.data.rows import OPTIONAL, REQUIRED, read_pair
from reasongenrm.errors import DataError
from reasongenrm.reading import RawLine, RawRow, raw_rows
from reasongenrm.records import Drop, PreferencePair


def raw_pairs(
    path: str, *, split: str = "train", revision: str | None = None, limit: int | None = None
) -> Iterator[RawLine | RawRow | Drop]:
    """Stream the rows of a preference dataset, unchecked: `rows.read_pair` makes pairs of them.

    Args:
        path, split, revision, limit: see `reading.raw_rows`.

    Raises:
        ConfigError: a negative limit, or a revision of a local path.
        DataError: nothing readable is there, or a Parquet file or hub dataset lacks a required column.
    """
    local = Path(path).expanduser()
    if local.suffix.lower() == ".csv" and local.is_file():
        mend = "for a ranked CSV set kind: ranked; else give a .jsonl or .parquet file"
        raise DataError("a .csv holds no conversations", where=path, mend=mend)
    return raw_rows(path, required=REQUIRED, optional=OPTIONAL, split=split, revision=revision, limit=limit)


def load_pairs(
    path: str, *, split: str = "train", revision: str | None = None, limit: int | None = None
) -> Iterator[PreferencePair | Drop]:
    """Stream the rows of a preference dataset, each as a pair or as a Drop of stage `load`.

    Returns:
        An iterator with exactly one item per input row.

    Raises:
        ConfigError, DataError: see `raw_pairs`.
    """
    return map(read_pair, raw_pairs(path, split=split, revision=revision, limit=limit))
