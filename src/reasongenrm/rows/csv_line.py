"""Cells and lines of a CSV file: `rows.files.csv_rows` reads them back unchanged, and no spreadsheet computes them.

A spreadsheet takes a cell that begins with `=`, `+`, `-`, `@`, a tab or a line end for a formula, and runs it when the file is
opened (OWASP, "CSV Injection"). Such a text gets an apostrophe in front; a number does not need one.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from typing import Any

from reasongenrm.rows.turns import is_text

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
"""The beginning of a formula, or of a text that has one behind apostrophes."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def csv_cell(value: Any) -> str:
    """Return a text as it is, or with an apostrophe where it begins like a formula; None as an empty cell; anything else as
    JSON."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if not is_text(text):
        return json.dumps(value)  # UTF-8 cannot hold a lone surrogate; JSON escapes it
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def csv_text(cell: str) -> str:
    """Return the text of a cell: without the apostrophe of `csv_cell`."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def csv_line(values: Iterable[Any]) -> str:
    """Return one line of cells, with a line feed at its end."""
    out = io.StringIO(newline="")
    # With a line feed as the line end, the csv module does not quote a carriage return.
    csv.writer(out, lineterminator="\r\n").writerow(map(csv_cell, values))
    return out.getvalue().removesuffix("\r\n") + "\n"
