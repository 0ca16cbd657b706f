"""Tab Try: a judge compares, ranks and rates answers; both orders stream side by side, and every call is kept."""

from __future__ import annotations

import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any

from reasongenrm.app.examples import example_rows
from reasongenrm.app.heads import HeadCache
from reasongenrm.app.history import PLACE, Call, History, Kind, letter
from reasongenrm.app.history_fields import HistoryFields
from reasongenrm.app.judge_fields import JudgeFields
from reasongenrm.app.judges import head_folders
from reasongenrm.app.notices import error_notice, notice
from reasongenrm.app.question import CONVERSATION, MOST_ANSWERS, Question, ask, make_call, read_question
from reasongenrm.app.sources import AppSources
from reasongenrm.errors import ReasonGenRMError

STREAM_SECONDS = 0.1
"""Texts that grow are sent to the browser no more often."""

SIDES = ("AB", "BA")

NARROW = 300
"""Least width of a field, in pixels: on a phone the fields of a row are below each other."""


def build_try(sources: AppSources) -> None:
    """Add the tab's parts to the open `gr.Tab`."""
    TryTab(sources)


class TryTab:
    """The fields of the tab, and what its buttons do.

    Args:
        sources: inputs of the page.
    """

    def __init__(self, sources: AppSources) -> None:
        import gradio as gr

        self._sources, self._heads = sources, HeadCache()
        self._history = History(sources.runs / PLACE)
        JudgeFields(sources)
        self._question_fields()
        with gr.Row():
            self._compare = gr.Button("Compare A and B", variant="primary", elem_id="compare")
            self._rank = gr.Button("Rank all", elem_id="rank")
            self._rate = gr.Button("Rate each", elem_id="rate")
            self._stop = gr.Button("Stop", elem_id="stop")
        self._result_fields()
        rows = example_rows(sources)
        gr.Examples(rows, [self._prompt, *self._answers[:2]], label="Examples", cache_examples=False)
        self._past = HistoryFields(self._history)
        self._connect()

    def _question_fields(self) -> None:
        import gradio as gr

        with gr.Row():
            self._prompt = gr.Textbox(
                "",
                label="Prompt",
                lines=3,
                max_lines=12,
                elem_id="prompt",
                info="Shift+Enter compares",
                scale=4,
                min_width=NARROW,
            )
            self._form = gr.Radio(["text", CONVERSATION], value="text", label="Form of the prompt", scale=1)
        with gr.Row():
            self._answers = [self._answer_field(index) for index in range(MOST_ANSWERS)]
        self._count = gr.State(2)
        with gr.Row():
            self._more = gr.Button("Add an answer", size="sm", elem_id="more")
            self._fewer = gr.Button("Remove the last answer", size="sm", elem_id="fewer")
        with gr.Accordion("Rubric, votes, scalar head", open=False):
            self._rubric = gr.Textbox(
                "",
                label="Rubric (YAML)",
                info="each criterion is judged alone",
                placeholder="criteria:\n- {name: correct, text: the facts are right, weight: 2}\n- brief",
                lines=4,
                elem_id="rubric",
            )
            with gr.Row():
                own = "empty: the judge's own"
                self._votes = gr.Number(None, label="Votes", info=own, precision=0, minimum=1, maximum=64)
                self._temperature = gr.Number(None, label="Temperature", info=own, minimum=0, maximum=2)
                self._head = gr.Dropdown(
                    ["", *head_folders(self._sources.runs)],
                    value="",
                    label="Scores of a trained head",
                    info="its folder",
                    allow_custom_value=self._sources.local,
                    elem_id="head",
                )

    def _answer_field(self, index: int) -> Any:
        import gradio as gr

        name = letter(index)
        return gr.Textbox(
            "",
            label=f"Answer {name}",
            lines=4,
            max_lines=16,
            visible=index < 2,
            min_width=NARROW,
            elem_id=f"answer-{name}",
        )

    def _result_fields(self) -> None:
        import gradio as gr

        self._notice = gr.HTML(elem_id="notice")
        with gr.Row():
            labels = ("A first", "B first (called A there)")
            self._texts = [
                gr.Textbox(
                    label=f"The judge's text, {label}",
                    lines=6,
                    max_lines=20,
                    interactive=False,
                    buttons=["copy"],
                    min_width=NARROW,
                    elem_id=f"order-{side}",
                )
                for side, label in zip(SIDES, labels, strict=True)
            ]
        self._result, self._scores = gr.HTML(elem_id="result"), gr.HTML(elem_id="scores")

    def _connect(self) -> None:
        import gradio as gr

        fields = [self._prompt, self._form, self._rubric, self._votes, self._temperature, self._head]
        inputs = [*fields, self._count, *self._answers]
        outputs = [self._notice, *self._texts, self._result, self._scores, *self._past.outputs]
        enter = [field.submit for field in (self._prompt, *self._answers)]
        triggers: dict[Kind, list[Any]] = {
            "compare": [self._compare.click, *enter],
            "rank": [self._rank.click],
            "rate": [self._rate.click],
        }
        events = [
            gr.on(
                triggers[kind],
                partial(self._call, kind),
                inputs,
                outputs,
                api_name=kind,
                show_progress="hidden",
                concurrency_id="judge",
                concurrency_limit=1,
            )
            for kind in triggers
        ]
        stopped = notice("stopped: this call is not in the history")
        self._stop.click(lambda: stopped, None, [self._notice], cancels=events, api_visibility="private")
        for button, step in ((self._more, 1), (self._fewer, -1)):
            button.click(
                partial(self._show_answers, step),
                [self._count],
                [self._count, *self._answers],
                show_progress="hidden",
                api_visibility="private",
            )
        restored = [self._prompt, self._form, self._rubric, self._count, *self._answers, self._notice]
        self._past.connect(self._restore, restored)

    def _show_answers(self, step: int, count: int) -> list[Any]:
        import gradio as gr

        count = min(MOST_ANSWERS, max(2, count + step))
        return [count, *(gr.Textbox(visible=index < count) for index in range(MOST_ANSWERS))]

    def _restore(self, call: Call) -> list[Any]:
        """Return the values of the fields for a call of the history."""
        import gradio as gr
        import yaml

        from reasongenrm.app.question import prompt_fields

        prompt, form = prompt_fields(call.prompt)
        rubric = yaml.safe_dump(call.rubric, sort_keys=False, allow_unicode=True) if call.rubric else ""
        count = min(MOST_ANSWERS, max(2, len(call.answers)))
        texts = [*call.answers, *[""] * MOST_ANSWERS][:MOST_ANSWERS]
        answers = [gr.Textbox(text, visible=index < count) for index, text in enumerate(texts)]
        return [prompt, form, rubric, count, *answers, notice(f"from {call.time}: {call.verdict}")]

    def _call(
        self,
        kind: Kind,
        prompt: str,
        form: str,
        rubric: str | None,
        votes: float | None,
        temperature: float | None,
        head: str | None,
        count: int,
        *answers: str,
    ) -> Iterator[dict[Any, Any]]:
        """Ask the judge, and yield new values of the fields as they come.

        The browser sends nothing of a field in an accordion that was never opened.
        """
        import gradio as gr

        texts = {box: gr.Textbox("", visible=kind == "compare") for box in self._texts}
        yield {self._notice: notice("the judge is at work"), self._result: "", self._scores: "", **texts}
        try:
            question = read_question(kind, prompt, form, rubric or "", answers[:count])
            changes = {"votes": None if votes is None else int(votes), "temperature": temperature}
            used = {key: value for key, value in changes.items() if value is not None}
            yield from self._answer(question, used, (head or "").strip())
        except ReasonGenRMError as error:
            yield {self._notice: error_notice(error), **self._past_values()}
        except Exception as error:  # of a library: in words on the page, and with its place in the log
            traceback.print_exc()
            yield {self._notice: error_notice(error)}

    def _answer(self, question: Question, changes: dict[str, Any], head: str) -> Iterator[dict[Any, Any]]:
        """Yield the texts of both orders as they grow, then the result; then the head's scores; and keep the call."""
        from reasongenrm.app.results import order_text, scores_html

        slot = self._sources.slot
        judge, start, last_sent = slot.status.name, time.monotonic(), 0.0
        texts: dict[Any, Any] = {}
        with closing(slot.stream(lambda judge: ask(judge, question, changes))) as states:
            for state in states:
                if not isinstance(state, tuple):
                    result = state
                    continue
                texts = {
                    box: order_text(state, side)  # type: ignore[arg-type]
                    for box, side in zip(self._texts, SIDES, strict=True)
                }
                if time.monotonic() - last_sent >= STREAM_SECONDS:
                    last_sent = time.monotonic()
                    yield texts
        seconds = time.monotonic() - start
        yield texts | {
            self._notice: notice("done", "good"),
            self._result: self._html(question, result, seconds),
        }
        scores: Sequence[float] = ()
        try:
            if head:
                yield {self._notice: notice("the head is at work")}
                scores = self._heads.scores(head, question.prompt, question.answers)
                yield {self._notice: notice("done", "good"), self._scores: scores_html(scores, head)}
        finally:  # the judge's result is kept, whatever the head does
            self._history.add(
                make_call(question, result, judge=judge, seconds=seconds, head=head or None, scores=scores)
            )
        yield self._past_values()

    def _past_values(self) -> dict[Any, Any]:
        return dict(zip(self._past.outputs, self._past.values(), strict=True))

    def _html(self, question: Question, result: Any, seconds: float) -> str:
        from reasongenrm.app.results import comparison_html, ranking_html, ratings_html

        if question.kind == "compare":
            return comparison_html(result, question.rubric, seconds)
        return ranking_html(result, seconds) if question.kind == "rank" else ratings_html(result, seconds)
