"""Tab Rank: people rank the answers to a prompt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from reasongenrm.answers.rank import RankingFiles
from reasongenrm.answers.session import RankingSession
from reasongenrm.answers.terminal import parse_ranking
from reasongenrm.app.cards import answers_html, keys_html, lines_html, turns_html
from reasongenrm.app.desk import AnnotationTab, Updates
from reasongenrm.app.notices import notice
from reasongenrm.app.sources import AppSources

_KEYS = (
    ("1…9", "pick answers, the best first"),
    ("=", "ties the next answer with the last"),
    ("Backspace", "takes the last pick back"),
    ("Enter", "submits"),
    ("s", "skips"),
    ("u", "undoes"),
)


def build_rank(sources: AppSources) -> None:
    """Add the tab's parts to the open `gr.Tab`.

    Raises:
        ConfigError, DataError: the files of the ranking cannot be used.
    """
    import gradio as gr

    if sources.answers is None or sources.ranks is None:
        text = "Start the page with answers to rank: reasongenrm app --answers answers.jsonl --out ranked.csv"
        gr.HTML(notice(text))
        return
    RankTab(RankingFiles(str(sources.answers), str(sources.ranks)), sources.annotator)


class RankTab(AnnotationTab[RankingSession]):
    """Prompt, shuffled answers without their model, and the order in the words of the terminal: `3 1=2 4`.

    Args:
        files: of the ranking.
        annotator: see `AnnotationTab`.
    """

    name = "rank"

    def __init__(self, files: RankingFiles, annotator: str) -> None:
        self._files = files
        super().__init__(files, annotator)

    def build_item(self) -> list[Any]:
        """See `AnnotationTab`."""
        import gradio as gr

        self.progress = gr.HTML(elem_id="rank-progress")
        gr.HTML(keys_html(_KEYS))
        self.prompt = gr.HTML(elem_id="rank-prompt")
        self.answers = gr.HTML(elem_id="rank-answers")
        self.order = gr.Textbox(
            label="Order, the best first",
            placeholder="for example 3 1=2 4",
            elem_id="rank-order",
            scale=3,
            render=False,
        )
        return [self.progress, self.prompt, self.answers, self.order]

    def build_bar(self) -> list[tuple[list[Any], Callable[..., Updates], list[Any]]]:
        """See `AnnotationTab`."""
        self.order.render()
        self.button("= tie next", "tie").click(None, js="() => reasongenrmTie()")
        submit = self.button("Submit", variant="primary")
        return [([submit.click, self.order.submit], self.rank, [self.who, self.shown, self.order])]

    def rank(self, who: str, shown: str, order: str) -> Updates:
        """Rank the answers on the page."""
        return self.apply(who, lambda session: session.rank(parse_ranking(order), prompt=shown))

    def summary_lines(self) -> list[str]:
        """See `AnnotationTab`."""
        return self._files.summary().split("; ")

    def view(self, session: RankingSession) -> Updates:
        """See `AnnotationTab`."""
        lines = [f"{session.annotator}: {session.progress.text('ranked')}"]
        prompt = session.current
        if prompt is None:
            lines.append("All prompts are ranked. Thank you; you may close this page.")
        answers = prompt.answers if prompt else ()
        cards = [(_card_head(number), answer.text) for number, answer in enumerate(answers, 1)]
        return {
            self.progress: lines_html(lines),
            self.prompt: turns_html(prompt.history) if prompt else "",
            self.answers: answers_html(cards) + '<p class="picked" role="status"></p>',
            self.order: "",
        }


def _card_head(number: int) -> str:
    """Return the button that picks an answer, and the place of its rank."""
    button = f'<button type="button" class="pick" aria-label="pick answer {number}">{number}</button>'
    return f'{button}<span class="place"></span>'
