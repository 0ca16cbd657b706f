"""Results as tables: the same cells as Markdown for files and as a rich table for the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from reasongenrm.metrics.scores import OUTCOMES, BenchmarkScore

if TYPE_CHECKING:
    from rich.table import Table


# An underscore within a word emphasises nothing, and slugs are easier to read without the backslash.
_MARKS = re.compile(r"[\\`*\[\]<|~&]|(?<![^\W_])_|_(?![^\W_])")


def escape_markdown(text: str) -> str:
    """Return text that stands in a Markdown table cell or paragraph as itself, on one line."""
    return _MARKS.sub(r"\\\g<0>", " ".join(text.split()))


def grid(headings: Sequence[str], rows: Sequence[Sequence[Any]], *, text_columns: int = 1) -> str:
    """Return a table without a final newline; an empty cell says so.

    Args:
        headings: one per column.
        rows: cells, written with `str` and escaped.
        text_columns: how many columns, from the left, hold text; the others are aligned as numbers.
    """
    alignment = ["---"] * text_columns + ["---:"] * (len(headings) - text_columns)
    lines = [[escape_markdown(str(cell)) or "(empty)" for cell in cells] for cells in (headings, *rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (lines[0], alignment, *lines[1:]))


Entry = tuple[str, BenchmarkScore, Mapping[str, str]]
"""A model's name, its result, and further columns (heading -> cell) to stand at the end of its row."""


MISSING = "–"


def percent(share: float | None) -> str:
    """Return a share as a percentage with one decimal and no sign, `–` for None."""
    return MISSING if share is None else f"{100 * share:.1f}"


def score_cell(result: BenchmarkScore) -> str:
    """Return a score with its interval and the marks of its footnotes."""
    low, high = result.interval
    marks = ("†" if result.partial else "") + ("‡" if result.toy else "")
    return f"{percent(result.score)} [{percent(low)}, {percent(high)}]{marks}"


def _cells(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Return the headings and one list of cells per entry."""
    sections = list(dict.fromkeys(name for _, result, _ in entries for name in result.sections))
    extras = list(dict.fromkeys(name for *_, extra in entries for name in extra))
    headings = ["model", *sections, "score [95%]", "strict", "n", *OUTCOMES, "rescued", *extras]
    rows = [
        [
            name,
            *(percent(result.sections.get(section)) for section in sections),
            score_cell(result),
            percent(result.strict),
            str(result.counts.n),
            *(str(getattr(result.counts, outcome)) for outcome in OUTCOMES),
            str(result.counts.rescued),
            *(extra.get(heading, MISSING) for heading in extras),
        ]
        for name, result, extra in entries
    ]
    return headings, rows


def footnotes(entries: Sequence[Entry]) -> list[str]:
    """Return what a reader must know before comparing these numbers: partial and toy benchmarks."""
    notes = []
    missing = list(
        dict.fromkeys(name for _, result, _ in entries if result.partial for name in result.missing)
    )
    if any(result.partial for _, result, _ in entries):
        notes.append(
            "† partial benchmark: the score is the mean of the sections present; absent or incomplete: "
            + ", ".join(missing)
            + "."
        )
    if any(result.toy for _, result, _ in entries):
        notes.append(
            "‡ toy benchmark made by this suite: it shows that the stages work, and compares with nothing."
        )
    return notes


def markdown_table(entries: Sequence[Entry]) -> str:
    """Return the results as a Markdown table with its footnotes, ending in a newline.

    Columns: model, the sections, the score with its 95% interval, the strict score (percentages), then counts
    over judgements, then the entries' own columns.
    """
    headings, rows = _cells(entries)
    notes = [escape_markdown(note) for note in footnotes(entries)]
    return grid(headings, rows) + "\n" + "".join(f"\n{note}\n" for note in notes)


def rich_table(entries: Sequence[Entry]) -> Table:
    """Return the same table for the terminal, the footnotes as its caption."""
    from rich.table import Table
    from rich.text import Text

    headings, rows = _cells(entries)
    notes = footnotes(entries)
    table = Table(caption=Text("\n".join(notes)) if notes else None, caption_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(Text(heading), justify="left" if number == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(" ".join(cell.split())) for cell in row))  # Text: a name is not markup
    return table
