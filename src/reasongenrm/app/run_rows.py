"""Part "Rows" of the tab Browse: the rows of a benchmark as one judge judged them, with its reasons."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reasongenrm.app.pager import PAGE, Pager, Rows, page_start
from reasongenrm.app.runs import RunFolders, judged_rows
from reasongenrm.errors import ReasonGenRMError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reasongenrm.report.run_files import BenchmarkRun

ALL = ""
"""Value of a filter that keeps everything."""


class RowFields:
    """The filters and the list.

    Args:
        runs: the runs.
        run: the field with the name of the run.
    """

    def __init__(self, runs: RunFolders, run: Any) -> None:
        import gradio as gr

        from reasongenrm.report.explorer import OUTCOME_NOTES

        self._runs = runs
        outcomes = [("any", ALL), *((f"{name}: {note}", name) for name, note in OUTCOME_NOTES.items())]
        with gr.Row():
            benchmark = gr.Dropdown([], label="Benchmark", elem_id="rows-benchmark")
            model = gr.Dropdown([], label="Judge", elem_id="rows-judge")
            subset = gr.Dropdown([("all", ALL)], value=ALL, label="Subset", elem_id="rows-subset")
            outcome = gr.Dropdown(outcomes, value=ALL, label="Outcome", elem_id="rows-outcome")
        self.filters = [benchmark, model, subset]
        """The fields whose choices depend on the run."""
        self.pager = Pager("rows", self._page, [run, benchmark, model, subset, outcome])
        first, inputs, outputs = self.pager.first, self.pager.inputs, self.pager.outputs
        triggers = [field.input for field in (model, subset, outcome)]
        gr.on(triggers, first, inputs, outputs, api_visibility="private")
        chosen = benchmark.input(
            self._choose_benchmark, [run, benchmark], [model, subset], api_visibility="private"
        )
        chosen.then(first, inputs, outputs, api_visibility="private")

    def choices(self, benchmarks: Sequence[BenchmarkRun]) -> list[Any]:
        """Return the `filters` for the benchmarks of a run; empty ones where there are none."""
        import gradio as gr

        if not benchmarks:
            empty = gr.Dropdown(choices=[], value=None)
            return [empty, empty, gr.Dropdown(choices=[("all", ALL)], value=ALL)]
        keys = [benchmark.key for benchmark in benchmarks]
        return [gr.Dropdown(choices=keys, value=keys[0]), *self._benchmark_choices(benchmarks[0])]

    def _benchmark_choices(self, benchmark: BenchmarkRun) -> list[Any]:
        import gradio as gr

        from reasongenrm.report.run_table import sections_and_subsets

        models, subsets = list(benchmark.models), sections_and_subsets(benchmark)[1]
        choices = [("all", ALL), *((name, name) for name in subsets)]
        return [
            gr.Dropdown(choices=models, value=first_judge(models)),
            gr.Dropdown(choices=choices, value=ALL),
        ]

    def _choose_benchmark(self, name: str | None, key: str | None) -> list[Any]:
        import gradio as gr

        from reasongenrm.report.run_files import read_scores

        try:
            benchmarks = {one.key: one for one in read_scores(self._runs.path(name)).benchmarks}
        except ReasonGenRMError:  # the list says what is wrong
            return [gr.Dropdown(), gr.Dropdown()]
        return (
            self._benchmark_choices(benchmarks[key]) if key in benchmarks else [gr.Dropdown(), gr.Dropdown()]
        )

    def _page(
        self, start: int, name: str | None, key: str | None, model: str | None, subset: str, outcome: str
    ) -> Rows | None:
        if not (key and model):
            return None
        from reasongenrm.app.run_pages import pairs_html
        from reasongenrm.report.explorer import payload

        judged = judged_rows(self._runs.path(name), key, model)
        pairs = [p for p in judged.pairs if subset in (ALL, p.row.subset) and outcome in (ALL, p.outcome)]
        start = page_start(start, len(pairs))
        shown = pairs[start : start + PAGE]
        rows = tuple({pair.row.id: pair.row for pair in shown}.values())
        values = payload(replace(judged.benchmark, judged_rows=rows))
        by_id = {pair["id"]: pair for pair in values["pairs"]}
        values["pairs"] = [by_id[pair.id] for pair in shown]
        html = pairs_html(values, [pair.number for pair in shown])
        return Rows(html, start, len(shown), len(pairs), len(judged.pairs))


def first_judge(models: Sequence[str]) -> str | None:
    """Return the model to show first: a trained judge rather than a base or the scalar head."""
    from reasongenrm.report.run_files import BASES, SCALAR

    judges = [name for name in models if name not in (*BASES, SCALAR)]
    return next(iter([*judges, *models]), None)
