"""The pairs of one file or dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from reasongenrm.config.prepare import SourceConfig
from reasongenrm.data.sources import load_sources
from reasongenrm.records import Drop, PreferencePair


def load_pairs(path: str, *, limit: int | None = None, **options: Any) -> Iterator[PreferencePair | Drop]:
    """Stream the rows of one preference dataset; the options are those of a source."""
    return load_sources([SourceConfig(path=path, **options)], limit)
