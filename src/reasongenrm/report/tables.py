"""Tables of text cells, written as Markdown, for the terminal, and as HTML by `table.html.jinja`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from reasongenrm.console import escape_controls
from reasongenrm.metrics.intervals import Interval
from reasongenrm.metrics.scores import OUTCOMES, BenchmarkScore

if TYPE_CHECKING:
    from rich.table import Table as RichTable

MISSING = "–"
COUNTS = ("n", *OUTCOMES, "rescued")

# An underscore inside a word emphasises nothing, and slugs are easier to read without the backslash.
_MARKS = re.compile(r"[\\`*\[\]<|~&]|(?<![^\W_])_|_(?![^\W_])")


@dataclass(frozen=True, slots=True)
class TextTable:
    """A table whose cells are text.

    Attributes:
        headings: one per column; may be empty.
        rows: cells, one per column.
        text_columns: how many columns, from the left, hold text; the others are aligned as numbers.
        title: a heading for the table.
        notes: what a reader must know before comparing the numbers.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 1
    title: str = ""
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """Return the table and its notes as Markdown, ending in a newline; the title is not part of it."""
        notes = "".join(f"\n{escape_markdown(note)}\n" for note in self.notes)
        return grid(self.headings, self.rows, text_columns=self.text_columns) + "\n" + notes

    def rich(self, *, narrow: bool = False) -> RichTable:
        """Return the table for the terminal, its notes as the caption.

        Args:
            narrow: break a heading at every space, where the cells are wider than single words of it.
        """
        from rich.table import Table as RichTable
        from rich.text import Text  # Text: a name is not markup

        table = RichTable(
            title=Text(self.title) if self.title else None,
            caption=Text("\n".join(self.notes)) if self.notes else None,
            caption_justify="left",
        )
        for number, heading in enumerate(self.headings):
            justify: Any = "left" if number < self.text_columns else "right"
            label = heading.replace(" ", "\n") if narrow else heading
            table.add_column(Text(escape_controls(label)), justify=justify, overflow="fold")
        for row in self.rows:
            table.add_row(*(Text(escape_controls(one_line(cell))) for cell in row))
        return table


def one_line(text: str, longest: int | None = None) -> str:
    """Return text on one line; of a longer one the beginning and an ellipsis."""
    line = " ".join(text.split())
    return line if longest is None or len(line) <= longest else f"{line[:longest]}…"


def escape_markdown(text: str) -> str:
    """Return text on one line that a Markdown table cell or paragraph shows unchanged."""
    return escape_controls(_MARKS.sub(r"\\\g<0>", one_line(text)))


def grid(headings: Sequence[str], rows: Sequence[Sequence[Any]], *, text_columns: int = 1) -> str:
    """Return a Markdown table without a final newline; an empty cell below the headings reads "(empty)".

    Args:
        headings: one per column.
        rows: cells, written with `str` and escaped.
        text_columns: how many columns, from the left, hold text; the others are aligned as numbers.
    """
    alignment = ["---"] * text_columns + ["---:"] * (len(headings) - text_columns)
    cells = [[escape_markdown(str(cell)) or "(empty)" for cell in row] for row in rows]
    lines = [list(map(escape_markdown, headings)), alignment, *cells]
    return "\n".join("|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in lines)


def percent(share: float | None) -> str:
    """Return a share as a percentage with one decimal and no sign, `–` for None."""
    return MISSING if share is None else f"{100 * share:.1f}"


def points(difference: float | None) -> str:
    """Return a difference of shares in percentage points with its sign, `–` for None."""
    return MISSING if difference is None else f"{round(100 * difference, 1) + 0.0:+.1f}"  # + 0.0: no "-0.0"


def with_interval(value: float | None, interval: Interval | None) -> str:
    """Return a share in percent with its interval, or alone where the interval is not known."""
    if value is None or interval is None:
        return percent(value)
    return f"{percent(value)} [{percent(interval[0])}, {percent(interval[1])}]"


def score_cell(score: BenchmarkScore) -> str:
    """Return a score with its interval and the marks of its footnotes."""
    marks = ("†" if score.partial else "") + ("‡" if score.toy else "")
    return with_interval(score.score, score.interval) + marks


def footnotes(scores: Sequence[BenchmarkScore]) -> tuple[str, ...]:
    """Return what a reader must know before comparing these scores: partial and toy benchmarks."""
    notes = []
    if any(score.partial for score in scores):
        missing = dict.fromkeys(name for score in scores if score.partial for name in score.missing)
        notes.append(
            "† partial benchmark: the score is the mean of the sections present; absent or incomplete: "
            f"{', '.join(missing)}."
        )
    if any(score.toy for score in scores):
        notes.append(
            "‡ toy benchmark made by this suite: it shows that the stages work; do not compare its scores with published ones."
        )
    return tuple(notes)


def score_table(scores: Mapping[str, BenchmarkScore]) -> TextTable:
    """Return the scores of some models on one benchmark.

    Columns: model, the sections, the score with its 95% interval, the strict score (percentages), then counts over
    judgements.
    """
    sections = list(dict.fromkeys(name for score in scores.values() for name in score.sections))
    rows = [
        (
            name,
            *(percent(score.sections.get(section)) for section in sections),
            score_cell(score),
            percent(score.strict),
            *(str(getattr(score.counts, key)) for key in COUNTS),
        )
        for name, score in scores.items()
    ]
    headings = ("model", *sections, "score [95%]", "strict", *COUNTS)
    return TextTable(headings, tuple(rows), notes=footnotes(list(scores.values())))
