"""Tab Label: people label pairs without knowing the judge's verdict."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from reasongenrm.answers.label_files import LabelFiles, agreement_lines
from reasongenrm.answers.labels import LONGEST_NOTE, LabelSession
from reasongenrm.answers.verdicts import JudgeVerdict, swap
from reasongenrm.app.cards import answers_html, keys_html, lines_html, turns_html
from reasongenrm.app.desk import AnnotationTab, Updates
from reasongenrm.app.notices import notice, text_html
from reasongenrm.app.sources import AppSources

_KEYS = (
    ("a or 1", "A is better"),
    ("b or 2", "B is better"),
    ("t", "equally good"),
    ("s", "skips"),
    ("u", "undoes"),
)
_WORDS = {"A": "A is better", "B": "B is better", "tie": "equally good", None: "no verdict that can be read"}


def build_label(sources: AppSources) -> None:
    """Add the tab's parts to the open `gr.Tab`.

    Raises:
        ConfigError, DataError: the files of the labelling cannot be used.
    """
    import gradio as gr

    if sources.pairs is None or sources.labels is None:
        text = "Start the page with pairs to label: reasongenrm app --pairs pairs.jsonl --labels labels.jsonl"
        gr.HTML(notice(text))
        return
    verdicts = str(sources.verdicts) if sources.verdicts else None
    LabelTab(LabelFiles(str(sources.pairs), str(sources.labels), verdicts=verdicts), sources.annotator)


class LabelTab(AnnotationTab[LabelSession]):
    """A prompt with two answers as A and B, in an order that differs by pair and annotator; after a label, the verdict.

    Args:
        files: of the labelling.
        annotator: see `AnnotationTab`.
    """

    name = "label"

    def __init__(self, files: LabelFiles, annotator: str) -> None:
        self._files = files
        super().__init__(files, annotator)

    def build_item(self) -> list[Any]:
        """See `AnnotationTab`."""
        import gradio as gr

        self.progress = gr.HTML(elem_id="label-progress")
        self.last = gr.HTML(elem_id="label-last")
        gr.HTML(keys_html(_KEYS))
        self.prompt = gr.HTML(elem_id="label-prompt")
        self.answers = gr.HTML(elem_id="label-answers")
        self.note = gr.Textbox(
            label="Note (optional)", max_length=LONGEST_NOTE, elem_id="label-note", lines=1, max_lines=4
        )
        return [self.progress, self.last, self.prompt, self.answers, self.note]

    def build_bar(self) -> list[tuple[list[Any], Callable[..., Updates], list[Any]]]:
        """See `AnnotationTab`."""
        buttons = {
            winner: self.button(text, winner.lower(), variant="primary")
            for winner, text in (("A", "A is better"), ("tie", "Tie"), ("B", "B is better"))
        }
        inputs = [self.who, self.shown, self.note]
        return [([button.click], partial(self.label, winner), inputs) for winner, button in buttons.items()]

    def label(self, winner: str, who: str, shown: str, note: str) -> Updates:
        """Label the pair on the page."""
        return self.apply(who, lambda session: session.label(winner, note=note, pair=shown))

    def summary_lines(self) -> list[str]:
        """See `AnnotationTab`."""
        files = self._files
        return [*files.summary().split("; "), *agreement_lines(files.pairs, files.labels())]

    def view(self, session: LabelSession) -> Updates:
        """See `AnnotationTab`."""
        lines = [f"{session.annotator}: {session.progress.text('labelled')}"]
        shown = session.current
        if shown is None:
            lines.append("All pairs are labelled. Thank you; you may close this page.")
        return {
            self.progress: lines_html(lines),
            self.last: _last_html(session),
            self.prompt: turns_html(shown.pair.prompt, shown.pair.criteria) if shown else "",
            self.answers: answers_html(list(zip("AB", shown.answers, strict=True))) if shown else "",
            self.note: "",
        }


def _last_html(session: LabelSession) -> str:
    """Return the annotator's last label and the judges' verdicts on that pair, with the letters that the annotator saw."""
    if session.last is None:
        return ""
    shown, entry = session.last
    own = swap(entry.label, shown.swapped) if entry.label else None
    parts = [f"<p>The pair before: you said <b>{text_html(_WORDS[own])}</b>.</p>"]
    for name, verdict in shown.pair.verdicts.items():
        said = text_html(f"Verdict of {name}: {_verdict_text(verdict, shown.swapped)}")
        parts.append(f'<div class="verdict">{said}{_reason_html(verdict.reason(shown.swapped))}</div>')
    return f'<div class="last" role="status">{"".join(parts)}</div>'


def _verdict_text(verdict: JudgeVerdict, swapped: bool) -> str:
    winner = swap(verdict.winner, swapped) if verdict.winner else None
    if verdict.prob_a is None:
        return _WORDS[winner]
    return f"{_WORDS[winner]}, P(A) {1 - verdict.prob_a if swapped else verdict.prob_a:.2f}"


def _reason_html(reason: str) -> str:
    if not reason:
        return ""
    text = f'<div class="text" dir="auto">{text_html(reason)}</div>'
    return f"<details><summary>its reason</summary>{text}</details>"
