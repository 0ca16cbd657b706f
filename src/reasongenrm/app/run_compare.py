"""Part "Compare" of the tab Browse: a judge of one run against one of another, and the rows that changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reasongenrm.app.pager import PAGE, Pager, Rows, error_html, page_start
from reasongenrm.app.run_rows import ALL, first_judge
from reasongenrm.app.runs import RunFolders, compared_runs
from reasongenrm.errors import ConfigError

if TYPE_CHECKING:
    from reasongenrm.report.comparison import RunsComparison


class CompareFields:
    """The fields for both sides, the tables, and the list of changed rows.

    Args:
        runs: the runs.
        run: the field with the name of the reference's run.

    Attributes:
        reference: the field for the reference; its choices depend on the run.
        other: the field for the other run.
        cleared: the fields that show a comparison; see `clear`.
        pager: the list of changed rows.
    """

    def __init__(self, runs: RunFolders, run: Any) -> None:
        import gradio as gr

        from reasongenrm.report.comparison import CHANGES

        self._runs = runs
        with gr.Row():
            self.reference = gr.Dropdown(
                [], label="Reference: a judge of this run", elem_id="compare-reference"
            )
            self.other = gr.Dropdown(runs.names(), value=None, label="Another run", elem_id="compare-run")
            model = gr.Dropdown([], label="Its judge", elem_id="compare-judge")
        button = gr.Button("Compare", variant="primary", elem_id="compare-runs")
        tables = gr.HTML(elem_id="comparison")
        with gr.Row():
            benchmark = gr.Dropdown([], label="Changed rows of", elem_id="changed-benchmark")
            kinds = [("any", ALL), *((name, name) for name in CHANGES)]
            kind = gr.Dropdown(kinds, value=ALL, label="Change", elem_id="changed-kind")
        sides = [run, self.reference, self.other, model]
        self.pager = Pager("changed", self._page, [*sides, benchmark, kind])
        self.cleared = [tables, benchmark, *self.pager.outputs]
        first, inputs, outputs = self.pager.first, self.pager.inputs, self.pager.outputs
        self.other.input(self._choose_run, [self.other], [model, tables], api_visibility="private")
        compared = button.click(self.compare, sides, self.cleared, api_visibility="private")
        compared.then(first, inputs, outputs, api_visibility="private")
        gr.on([benchmark.input, kind.input], first, inputs, outputs, api_visibility="private")

    def clear(self, html: str = "") -> list[Any]:
        """Return the values of `cleared` without a comparison."""
        import gradio as gr

        return [html, gr.Dropdown(choices=[], value=None), *self.pager.empty()]

    def _choose_run(self, name: str | None) -> list[Any]:
        import gradio as gr

        try:
            models = self._runs.models(name)
        except Exception as error:
            return [gr.Dropdown(choices=[], value=None), error_html(error)]
        return [gr.Dropdown(choices=models, value=first_judge(models)), ""]

    def _comparison(
        self, run: str | None, reference: str | None, other: str | None, model: str | None
    ) -> RunsComparison:
        if not (reference and model):
            hint = "choose a judge of this run, another run, and a judge of that"
            raise ConfigError("nothing to compare", location="Compare", hint=hint)
        return compared_runs((self._runs.path(run), reference), (self._runs.path(other), model))

    def compare(self, *sides: str | None) -> list[Any]:
        """Return the values of `cleared` for a comparison.

        Args:
            sides: run and judge of the reference, and those of the other side.
        """
        import gradio as gr

        from reasongenrm.app.run_pages import comparison_html

        try:
            comparison = self._comparison(*sides)
        except Exception as error:
            return self.clear(error_html(error))
        keys = [one.reference.benchmark.key for one in comparison.comparisons]
        benchmark = gr.Dropdown(choices=keys, value=keys[0])
        return [comparison_html(comparison), benchmark, *self.pager.empty()]

    def _page(self, start: int, *values: Any) -> Rows | None:
        *sides, key, kind = values
        if not key:
            return None
        from reasongenrm.app.run_pages import pairs_html
        from reasongenrm.report.compare import changed_payload

        one = next(c for c in self._comparison(*sides).comparisons if c.reference.benchmark.key == key)
        changes: Sequence[Any] = [row for row in one.changes if kind in (ALL, row["change"])]
        start = page_start(start, len(changes))
        shown = changes[start : start + PAGE]
        pages = changed_payload(replace(one, changes=shown))
        places = {row["id"]: start + number for number, row in enumerate(shown, 1)}
        numbers = [places[pages["rows"][pair["row"]]["id"]] for pair in pages["pairs"]]
        return Rows(pairs_html(pages, numbers), start, len(shown), len(changes), len(one.changes))
