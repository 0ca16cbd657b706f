"""HelpSteer3's preferences as rows of pairs, with the points by which people preferred one answer, where a row has them.

HelpSteer3: https://arxiv.org/abs/2505.11475. The column `human-checklist` is of RationaleRM's copy (`Qwen/RationaleRM`,
https://arxiv.org/abs/2602.04649); rows of `nvidia/HelpSteer3` have none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from reasongenrm.data.points import says_something
from reasongenrm.records import REFERENCE_POINTS, Drop
from reasongenrm.rows.files import UNKNOWN_SOURCE, RawRow, read_rows
from reasongenrm.rows.turns import BadRow, check_text, is_list, is_number, kind_of, quoted, read_prompt

COLUMNS = ("context", "response1", "response2", "overall_preference")
CHECKLIST = "human-checklist"

_NAMED = r"responses?[\s_#-]*[12]\b"
_SECOND = r"[12]\b(?!%|[.:]\d|[–-]\w|\s*(?:[,/&]|and|or|to)\s*\d)"
_NAME = re.compile(
    rf"\b(?:the\s+)?{_NAMED}"
    rf"(?:\s*(?:,|/|&|and|or|than)\s*(?:the\s+)?{_NAMED}|\s*(?:/|&|and|or|than)\s*(?:the\s+)?{_SECOND})*(?:['’]s\b)?",
    re.IGNORECASE,
)
"""The names of the answers in points. A judge calls the answers by letters that change with their order. A number alone is a
name after `and` ("Responses 1 and 2"), and content in a list of numbers ("Response 1, 2 and 3 items listed")."""

MOST_PREFERENCE = 3
"""`overall_preference` is from -3 (the first answer is much better) to 3."""


def better_answer(preference: Any) -> int:
    """Return 0 for an `overall_preference` below 0, which says that the first answer is better, else 1.

    Raises:
        BadRow: it is not a number from -3 to 3 (`bad_preference`), or 0 (`human_tie`).
    """
    if not is_number(preference) or abs(preference) > MOST_PREFERENCE:
        problem = f"`overall_preference` is {quoted(preference)}; make it a number from -{MOST_PREFERENCE} to {MOST_PREFERENCE}."
        raise BadRow("bad_preference", problem)
    if preference == 0:
        raise BadRow("human_tie", "People prefer neither answer; a pair needs a preference.")
    return int(preference > 0)


def checklist(value: Any) -> list[str]:
    """Return a row's `human-checklist` as it is; empty for none.

    Raises:
        BadRow: the value is not a list of texts.
    """
    if value is None:
        return []
    if not is_list(value):
        raise BadRow("bad_type", f"`{CHECKLIST}` is {kind_of(value)}; make it a list of texts.")
    return [check_text(point, f"{CHECKLIST}[{number}]") for number, point in enumerate(value)]


def unnamed(points: list[str]) -> list[str]:
    """Return points without the names of the answers.

    A point without a letter or digit is left out, as is one that names an answer and beside it has only short words, which any
    reason would cover ("Response 1 or Response 2: so").
    """
    return [text for point in points if (text := _unnamed(point))]


def _unnamed(point: str) -> str:
    text, names = _NAME.subn(" ", point)
    is_kept = any(map(str.isalnum, text)) and (not names or says_something(text))
    return " ".join(text.split()) if is_kept else ""


def pair_rows(path: str, *, split: str = "train", revision: str | None = None) -> Iterator[RawRow | Drop]:
    """Stream the rows with the columns `chosen`, `rejected`, `source` (`helpsteer3-` and the domain) and `reference_points`.

    Args and raises: see `rows.files.read_rows`.
    """
    rows = read_rows(path, required=COLUMNS, optional=("domain", CHECKLIST), split=split, revision=revision)
    return (row if isinstance(row, Drop) else _pair_row(row) for row in rows)


def _pair_row(row: RawRow) -> RawRow | Drop:
    source = UNKNOWN_SOURCE
    try:
        domain = row.columns.get("domain")
        source = (
            f"helpsteer3-{check_text(domain, 'domain').strip() or 'unknown'}"
            if domain is not None
            else "helpsteer3"
        )
        turns = read_prompt(row.columns.get("context"), "context")
        answers = [check_text(row.columns.get(name), name) for name in ("response1", "response2")]
        better = better_answer(row.columns.get("overall_preference"))
        points = unnamed(checklist(row.columns.get(CHECKLIST)))
    except BadRow as bad:
        return Drop(row.location, source, bad.reason, bad.detail, "load")
    chosen, rejected = (
        [*turns, {"role": "assistant", "content": answers[number]}] for number in (better, 1 - better)
    )
    columns = {"chosen": chosen, "rejected": rejected, "source": source, REFERENCE_POINTS: points}
    return RawRow(row.location, row.origin, columns)
