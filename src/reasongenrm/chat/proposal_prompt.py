"""The request for criteria: pairs of answers with the better one named, all of them data, as one user turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from reasongenrm.chat.delimiters import check_delimiters, neutralise, open_template, template_delimiters
from reasongenrm.chat.prompts import conversation_text
from reasongenrm.errors import ConfigError
from reasongenrm.records import Message, PreferencePair, split_criteria, unit_hash

PAIR_TEXTS = ("conversation", "answer_a", "answer_b")


@dataclass(frozen=True)
class ProposalPrompt:
    """A wording, as in configs/rubric/proposals.jinja.

    Attributes:
        template: a Jinja2 template that gets `pairs` (each with `conversation`, `answer_a`, `answer_b` and `winner`) and `most`,
            the highest number of criteria.
        delimiters: its variable of this name: literal strings that separate judged text from the rest; broken up inside it.
    """

    template: jinja2.Template
    delimiters: tuple[str, ...]

    @classmethod
    def load(cls, path: str | Path) -> ProposalPrompt:
        """Read and check a wording.

        Raises:
            ConfigError: the file is missing or not a template, has no delimiters, does not show a text, or lets a judged text
                complete a delimiter.
        """
        with open_template(
            path, example="configs/rubric/proposals.jinja", key="proposals.prompt"
        ) as template:
            sample = {"pairs": [dict.fromkeys((*PAIR_TEXTS, "winner"), "x")], "most": 1}
            prompt = cls(template, template_delimiters(template, sample, str(path)))
            prompt._check(str(path))
        return prompt

    def _check(self, location: str) -> None:
        """Check that every text is shown, and that none completes a delimiter."""
        marks = {name: f"\x00{name}\x00" for name in (*PAIR_TEXTS, "winner")}
        shown = self._render([marks], most=1)
        if missing := [name for name, mark in marks.items() if mark not in shown]:
            problem = f"the template does not show {', '.join(missing)}"
            raise ConfigError(problem, location=location, hint="add it to the loop over pairs")

        def render(text: str) -> str:
            return self._render([dict.fromkeys(PAIR_TEXTS, text) | {"winner": "A"}], most=1)

        check_delimiters(self.delimiters, render, location)

    def _render(self, pairs: Sequence[dict[str, Any]], *, most: int) -> str:
        return self.template.render(pairs=pairs, most=most).strip()

    def messages(self, pairs: Sequence[PreferencePair], *, most: int, seed: int) -> tuple[Message, ...]:
        """Return the user turn; which answer of a pair is A follows from its id and the seed.

        Args:
            pairs: at least one.
            most: the highest number of criteria.
            seed: of the order.
        """
        return ({"role": "user", "content": self._render([self._shown(p, seed) for p in pairs], most=most)},)

    def _shown(self, pair: PreferencePair, seed: int) -> dict[str, str]:
        first = unit_hash("proposal", seed, pair.id) < 0.5
        sides = (pair.chosen, pair.rejected) if first else (pair.rejected, pair.chosen)
        answer_a, answer_b = (neutralise(text, self.delimiters) for text in sides)
        conversation = conversation_text(split_criteria(pair.history)[1], self.delimiters)
        return {
            "conversation": conversation,
            "answer_a": answer_a,
            "answer_b": answer_b,
            "winner": "A" if first else "B",
        }
