"""The request for matches: people's points and a judge's sentences, all of them data, as one user turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from reasongenrm.chat.delimiters import check_delimiters, neutralise, open_template, template_delimiters
from reasongenrm.errors import ConfigError
from reasongenrm.records import Message

EXAMPLE = "configs/rubric/matching.jinja"


@dataclass(frozen=True)
class MatchingPrompt:
    """A wording, as in configs/rubric/matching.jinja.

    Attributes:
        template: a Jinja2 template that gets `points` and `sentences` (lists of texts), and `response_a` and `response_b`, the
            numbers that the points give to the judge's answers A and B.
        delimiters: its variable of this name: literal strings that separate the texts from the rest; broken up inside them.
    """

    template: jinja2.Template
    delimiters: tuple[str, ...]

    @classmethod
    def load(cls, path: str | Path) -> MatchingPrompt:
        """Read and check a wording.

        Raises:
            ConfigError: the file is missing or not a template, has no delimiters, does not show a text, or lets a text complete
                a delimiter.
        """
        with open_template(path, example=EXAMPLE, key="--prompt") as template:
            sample = {"points": ["x"], "sentences": ["x"], "response_a": 1, "response_b": 2}
            prompt = cls(template, template_delimiters(template, sample, str(path)))
            marks = ["\x00point\x00", "\x00sentence\x00"]
            shown = prompt._render([marks[0]], [marks[1]], 7, 8)
            missing = [mark.strip("\x00") for mark in (*marks, "7", "8") if mark not in shown]
            if missing:
                problem = f"the template does not show {', '.join(missing)}"
                raise ConfigError(problem, location=str(path), hint=f"see {EXAMPLE}")
            check_delimiters(prompt.delimiters, lambda text: prompt._render([text], [text], 1, 2), str(path))
        return prompt

    def _render(
        self, points: Sequence[str], sentences: Sequence[str], response_a: int, response_b: int
    ) -> str:
        return self.template.render(
            points=points, sentences=sentences, response_a=response_a, response_b=response_b
        ).strip()

    def messages(
        self, points: Sequence[str], sentences: Sequence[str], *, a_is_first: bool
    ) -> tuple[Message, ...]:
        """Return the user turn.

        Args:
            points: of people, on one line each.
            sentences: of the reason.
            a_is_first: whether the judge's answer A is the points' Response 1.
        """

        def shown(texts: Sequence[str]) -> list[str]:
            return [neutralise(" ".join(text.split()), self.delimiters) for text in texts]

        numbers = (1, 2) if a_is_first else (2, 1)
        return ({"role": "user", "content": self._render(shown(points), shown(sentences), *numbers)},)
