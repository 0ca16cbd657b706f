"""Tab Browse: a run's tables, its training, its rows with reasons, and the comparison of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reasongenrm.app.notices import notice
from reasongenrm.app.pager import error_html
from reasongenrm.app.run_compare import CompareFields
from reasongenrm.app.run_rows import RowFields, first_judge
from reasongenrm.app.runs import RunFolders, models_of
from reasongenrm.app.sources import AppSources

if TYPE_CHECKING:
    from reasongenrm.report.run_files import BenchmarkRun


def build_browse(sources: AppSources) -> None:
    """Add the tab's parts to the open `gr.Tab`."""
    BrowseTab(RunFolders(sources.runs))


class BrowseTab:
    """The choice of a run, and the parts that show it. A run is read when it is chosen, its tables first.

    Args:
        runs: the runs to choose from.

    Attributes:
        rows, compare: the parts with rows.
    """

    def __init__(self, runs: RunFolders) -> None:
        import gradio as gr

        self._runs = runs
        with gr.Row():
            self._run = gr.Dropdown(runs.names(), value=None, label="Run", elem_id="run", scale=4)
            again = gr.Button("Read the list again", size="sm", elem_id="runs-again", scale=1)
        self._head = gr.HTML(self._first_notice(), elem_id="run-head")
        with gr.Tabs():
            with gr.Tab("Scores"):
                self._scores = gr.HTML(elem_id="run-scores")
            with gr.Tab("Training"):
                self._training = gr.HTML(elem_id="run-training")
            with gr.Tab("Rows"):
                self.rows = RowFields(runs, self._run)
            with gr.Tab("Compare"):
                self.compare = CompareFields(runs, self._run)
        lists = [self._run, self.compare.other]
        again.click(self._read_list, lists, lists, api_visibility="private")
        self._connect()

    def _first_notice(self) -> str:
        if self._runs.names():
            return notice("Choose a run.")
        return notice(
            "There is no run folder in --runs: train a judge first, or name the folder of the runs."
        )

    def _connect(self) -> None:
        pager = self.rows.pager
        opened = [self._head, self._scores, self._training, *self.rows.filters, self.compare.reference]
        shown = self._run.input(
            self.open_run,
            [self._run],
            [*opened, *pager.outputs, *self.compare.cleared],
            api_visibility="private",
        )
        shown = shown.then(pager.first, pager.inputs, pager.outputs, api_visibility="private")
        shown.then(self.open_training, [self._run], [self._training], api_visibility="private")

    def _read_list(self, *chosen: str | None) -> list[Any]:
        import gradio as gr

        names = self._runs.names()
        return [gr.Dropdown(choices=names, value=name if name in names else None) for name in chosen]

    def open_run(self, name: str | None) -> list[Any]:
        """Return the head and the tables of a run, and the choices of the other parts, which are emptied."""
        import gradio as gr

        from reasongenrm.app.run_pages import head_html, scores_html
        from reasongenrm.report.run_files import read_scores

        head = ""
        benchmarks: Sequence[BenchmarkRun] = ()
        try:
            folder = self._runs.path(name)
            head = head_html(folder)
            run = read_scores(folder)
            scores = scores_html(run)
            benchmarks = run.benchmarks
        except Exception as error:
            scores = error_html(error)
        models = models_of(benchmarks)
        filters = [*self.rows.choices(benchmarks), gr.Dropdown(choices=models, value=first_judge(models))]
        return [head, scores, "", *filters, *self.rows.pager.empty(), *self.compare.clear()]

    def open_training(self, name: str | None) -> str:
        """Return the training of a run."""
        from reasongenrm.app.run_pages import training_html

        try:
            return training_html(self._runs.path(name))
        except Exception as error:
            return error_html(error)
