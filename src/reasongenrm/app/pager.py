"""`Pager`: a list of rows in the tab Browse, and the buttons for its pages."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from reasongenrm.app.notices import error_notice
from reasongenrm.errors import ReasonGenRMError

PAGE = 10
"""Rows on a page."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A page of rows.

    Attributes:
        html: its rows.
        start: number of rows before it.
        shown, count, total: rows on it, rows that the filters leave, and all rows.
    """

    html: str
    start: int
    shown: int
    count: int
    total: int


Show = Callable[..., Rows | None]
"""From the first row that should be on a page, and the values of some fields, to the page; None where there is nothing."""


def page_start(start: int, count: int) -> int:
    """Return the start of the page that holds a row, or of the last page."""
    return max(0, min(start, count - 1)) // PAGE * PAGE


class Pager:
    """The list, its count and its two buttons.

    Args:
        name: of the list, for the ids of its elements.
        show: returns a page.
        inputs: the fields whose values `show` takes after the start.
    """

    def __init__(self, name: str, show: Show, inputs: Sequence[Any]) -> None:
        import gradio as gr

        self._show, self.inputs = show, [*inputs]
        with gr.Row():
            previous = gr.Button("Previous", size="sm", interactive=False, elem_id=f"{name}-previous")
            count = gr.HTML(elem_id=f"{name}-count")
            following = gr.Button("Next", size="sm", interactive=False, elem_id=f"{name}-next")
        rows, self._start = gr.HTML(elem_id=f"{name}-list"), gr.State(0)
        self.outputs = [rows, count, self._start, previous, following]
        for button, step in ((previous, -PAGE), (following, PAGE)):
            button.click(
                lambda start, *values, step=step: self.page(start + step, values),
                [self._start, *self.inputs],
                self.outputs,
                api_visibility="private",
            )

    def first(self, *values: Any) -> list[Any]:
        """Return the values of `outputs` for the first page; a handler of events with the inputs of the pager."""
        return self.page(0, values)

    def page(self, start: int, values: Sequence[Any]) -> list[Any]:
        """Return the values of `outputs` for the page at a row, or the last page."""
        try:
            rows = self._show(max(0, start), *values)
        except Exception as error:
            return [error_html(error), *self.empty()[1:]]
        if rows is None:
            return self.empty()
        place = f"{rows.start + 1:,}–{rows.start + rows.shown:,} of {rows.count:,}" if rows.shown else "none"
        line = f'<p role="status" class="count">{place} ({rows.total:,} in all)</p>'
        more = rows.start + rows.shown < rows.count
        return [rows.html, line, rows.start, *_buttons(rows.start > 0, more)]

    def empty(self) -> list[Any]:
        """Return the values of `outputs` without a list."""
        return ["", "", 0, *_buttons(False, False)]


def _buttons(previous: bool, following: bool) -> list[Any]:
    import gradio as gr

    return [gr.Button(interactive=previous), gr.Button(interactive=following)]


def error_html(error: Exception) -> str:
    """Return the notice of an error; one that the user cannot correct also goes to the log."""
    if not isinstance(error, ReasonGenRMError):
        traceback.print_exception(error)
    return error_notice(error)
