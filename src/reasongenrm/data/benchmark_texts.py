"""The texts of a benchmark, in whichever of the usual formats: what training data must not hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.errors import DataError
from reasongenrm.records import Drop
from reasongenrm.rows.files import RawRow, array_rows, read_rows

PROMPTS = ("prompt", "question", "instruction", "query", "input", "messages", "conversation")
"""Columns that hold what is asked."""
ANSWERS = (
    *("chosen", "rejected", "answer", "answers", "response", "responses", "output", "outputs", "completion"),
    *(
        f"{name}_{side}"
        for name in ("response", "output", "answer")
        for side in ("1", "2", "a", "b", "A", "B")
    ),
)
"""Columns that hold answers."""


@dataclass(frozen=True, slots=True)
class BenchmarkText:
    """One row of a benchmark.

    Attributes:
        row: `file:line`, `file[row]` or `dataset[row]`.
        prompt: its user turns, one after the other.
        answers: its answers, and the assistant turns of its prompt.
    """

    row: str
    prompt: str
    answers: tuple[str, ...]


def benchmark_texts(
    path: str, *, split: str = "train", revision: str | None = None
) -> Iterator[BenchmarkText | Drop]:
    """Yield the texts of a benchmark, one item per row; a row without any is a Drop of stage `decontaminate`.

    A column of PROMPTS or ANSWERS holds a text, a list of texts (RM-Bench, RewardBench 2), one or more messages
    of `role` and `content`, or lists of those; other columns are ignored. System turns are left out: rows share them.

    Args:
        path: a `.json` file with one array of rows, or what `reading.read_rows` takes.
        split, revision: see `reading.read_rows`.

    Raises:
        ConfigError: a revision of a local path.
        DataError: nothing is at `path`, it cannot be opened, or no row of it has a text.
    """
    found = 0
    for row in _rows(path, split, revision):
        text = row if isinstance(row, Drop) else _texts(row)
        found += isinstance(text, BenchmarkText)
        yield text
    if not found:
        raise DataError(
            "no readable row in this benchmark",
            location=path,
            hint=f"a row has some of the columns {', '.join(PROMPTS[:3])}, {', '.join(ANSWERS[:3])}, response_A, …",
        )


def _rows(path: str, split: str, revision: str | None) -> Iterator[RawRow | Drop]:
    file = Path(path).expanduser()
    if file.suffix.lower() == ".json" and file.is_file():
        return array_rows(file, revision=revision, stage="decontaminate")
    return read_rows(path, required=(), optional=(*PROMPTS, *ANSWERS), split=split, revision=revision)


def _texts(row: RawRow) -> BenchmarkText | Drop:
    asked: list[str] = []
    answered: list[str] = []
    for name in PROMPTS:
        _collect(row.columns.get(name), "user", asked, answered)
    whole = [text for text in asked if text.strip()]
    # The messages of an answer may repeat the conversation before it, which is the prompt where no column is.
    repeated: list[str] = []
    for name in ANSWERS:
        _collect(row.columns.get(name), "assistant", repeated, answered)
    whole = whole or [text for text in dict.fromkeys(repeated) if text.strip()]
    answers = tuple(text for text in dict.fromkeys(answered) if text.strip())
    if not whole and not answers:
        found = ", ".join(sorted(map(str, row.columns))[:12]) or "none"
        detail = f"The row has no text in a column that holds prompts or answers (found: {found})."
        return Drop(row.location, row.origin, "no_text", detail, "decontaminate")
    return BenchmarkText(row.location, "\n".join(whole), answers)


def _collect(value: Any, role: str, asked: list[str], answered: list[str]) -> None:
    """Put the texts of a column's value where their role belongs; `role` is that of a text that names none."""
    if isinstance(value, str):
        (asked if role == "user" else answered).append(value)
    elif isinstance(value, list | tuple):
        for item in value:
            _collect(item, role, asked, answered)
    elif isinstance(value, Mapping) and isinstance(value.get("content"), str):
        named = value.get("role")
        if named != "system":
            _collect(value["content"], "user" if named == "user" else "assistant", asked, answered)
