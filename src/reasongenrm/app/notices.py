"""Texts of the page as HTML: notices, errors and tables; markup in a text stays text."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Literal

from reasongenrm.console import escape_controls
from reasongenrm.errors import ReasonGenRMError

Kind = Literal["info", "good", "error"]


def text_html(text: str) -> str:
    """Return a text as HTML that shows it: markup is escaped, control characters are visible, lines are kept."""
    return escape(escape_controls(text))


def notice(text: str, kind: Kind = "info") -> str:
    """Return a notice as HTML for `gr.HTML`; screen readers announce an error at once."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="notice {kind}" role="{role}">{text_html(text)}</p>'


def error_notice(error: Exception) -> str:
    """Return the notice of an error: problem, location and hint of one that the user can correct."""
    if not isinstance(error, ReasonGenRMError):
        return notice("internal error: see the log of the page", "error")
    location = f'<span class="location">{text_html(error.location)}:</span> ' if error.location else ""
    hint = f'<span class="hint">{text_html(error.hint)}</span>' if error.hint else ""
    return f'<p class="notice error" role="alert">{location}{text_html(error.problem)} {hint}</p>'


def table_html(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table of texts as HTML; it scrolls sideways where the page is narrow."""
    header = "".join(f'<th scope="col">{text_html(cell)}</th>' for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td>{text_html(str(cell))}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'
