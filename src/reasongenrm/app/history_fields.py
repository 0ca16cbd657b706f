"""The history in the tab Try: a table of past calls, one of which can be restored, and links to its rows as files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reasongenrm.app.history import Call, History
from reasongenrm.app.notices import error_notice, table_html
from reasongenrm.console import escape_controls
from reasongenrm.errors import ReasonGenRMError

SHOWN = 50
"""Calls in the table, the newest first."""

LONGEST = 120
"""Characters of a prompt in the table."""

EXPORTS = {
    "compare": "comparisons, for `reasongenrm judge compare --in`",
    "rank": "rankings, for `reasongenrm judge rank --in`",
    "rate": "ratings, for `reasongenrm judge rate --in`",
    "pairs": "the judge's preferences, for `data.sources` of stage 1",
    "history": "everything, with the results",
}
"""Name of an export -> what its rows are."""


class HistoryFields:
    """The table, the choice of a call, and the links.

    Args:
        history: all calls.

    Attributes:
        outputs: the fields that `values` fills.
    """

    def __init__(self, history: History) -> None:
        import gradio as gr

        self._history = history
        with gr.Accordion("History", open=False, elem_id="history") as self._accordion:
            self._again = gr.Dropdown(
                [], label="Fill the fields with a call", info="the newest first", elem_id="history-again"
            )
            self._table = gr.HTML(elem_id="history-table")
            links = "".join(
                f'<li><a href="history/{name}.jsonl" download>{name}.jsonl</a>: {text}</li>'
                for name, text in EXPORTS.items()
            )
            gr.HTML(f'<ul class="exports">{links}</ul>')
        self.outputs = [self._again, self._table]

    def values(self) -> tuple[Any, str]:
        """Return the choices, and the table as HTML or an error of the file."""
        import gradio as gr

        try:
            calls = self._history.calls()
        except ReasonGenRMError as error:
            return gr.Dropdown([], value=None), error_notice(error)
        shown = [(number, _row(calls[number])) for number in reversed(range(len(calls)))][:SHOWN]
        choices = [(f"{number + 1}: {kind}, {prompt}", number) for number, (_, _, kind, prompt, _) in shown]
        head = ["call", "time (UTC)", "judge", "kind", "prompt", "result"]
        table = table_html(head, [[str(number + 1), *row] for number, row in shown])
        return gr.Dropdown(choices, value=None), table

    def connect(self, restore: Callable[[Call], list[Any]], restored: list[Any]) -> None:
        """Fill the table when the page or the history is opened, and other fields when a call is chosen.

        Args:
            restore: returns the values of `restored` for a call.
            restored: the other fields.
        """
        import gradio as gr

        def fill(number: int | None) -> list[Any]:
            calls = self._history.calls()
            if number is None or number >= len(calls):
                return [gr.skip() for _ in restored]
            return restore(calls[number])

        options: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        gr.on([self._accordion.expand], self.values, None, self.outputs, **options)
        gr.on(None, self.values, None, self.outputs, **options)
        self._again.input(fill, [self._again], restored, **options)


def _row(call: Call) -> list[str]:
    prompt = escape_controls(call.prompt[-1]["content"].replace("\n", " "))
    if len(prompt) > LONGEST:
        prompt = prompt[:LONGEST] + "…"
    return [call.time.removesuffix("+00:00"), call.judge, call.kind, prompt, call.verdict]
