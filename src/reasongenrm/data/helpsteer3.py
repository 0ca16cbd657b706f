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

_NAME = re.compile(
    r"\b(?:the\s+)?responses?[\s_#-]*[12]\b(?:\s*(?:,|/|&|and|or|than)\s*(?:the\s+)?(?:responses?[\s_#-]*)?[12]\b)*(?:['’]s\b)?",
    re.IGNORECASE,
)
"""The names of the answers in points. A judge calls the answers by letters that change with their order."""


def better_answer(preference: Any) -> int:
    """Return 0 for an `overall_preference` below 0, which says that the first answer is better, else 1.

    Raises:
        BadRow: it is not a number, or 0 (`human_tie`).
    """
    if not is_number(preference):
        problem = f"`overall_preference` is {quoted(preference)}; make it a number from -3 to 3."
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
    """Return points without the names of the answers; a point that says nothing else is left out."""
    texts = (" ".join(_NAME.sub(" ", point).split()) for point in points)
    return [text for text in texts if says_something(text)]


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
