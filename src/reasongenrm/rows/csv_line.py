"""Lines of a CSV file that `rows.files.csv_rows` reads back unchanged."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from typing import Any

from reasongenrm.rows.turns import is_text


def csv_cell(value: Any) -> str:
    """Return a text unchanged, None as an empty cell, anything else as JSON."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # UTF-8 cannot hold a lone surrogate; JSON escapes it.
    return text if is_text(text) else json.dumps(value)


def csv_line(values: Iterable[Any]) -> str:
    """Return one line of cells, with a line feed at its end."""
    out = io.StringIO(newline="")
    # With a line feed as the line end, the csv module does not quote a carriage return.
    csv.writer(out, lineterminator="\r\n").writerow(map(csv_cell, values))
    return out.getvalue().removesuffix("\r\n") + "\n"
