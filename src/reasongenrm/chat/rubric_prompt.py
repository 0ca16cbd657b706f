"""The wording for a judge that scores one reply by a rubric: a part that all replies share, and the reply as data.

The first part is the system turn, so that servers keep it in their prompt caches; the second is the user turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from reasongenrm.chat.delimiters import check_delimiters, neutralise, open_template, template_delimiters
from reasongenrm.errors import ConfigError
from reasongenrm.records import Conversation, Message

RUBRIC, REPLY = "rubric", "reply"
"""Blocks of the template."""

REPLY_TEXTS = ("context", "message", "response")
"""Variables of the block `reply`, all of them data."""


@dataclass(frozen=True)
class RubricPrompt:
    """A wording, as in configs/distil/prompt.jinja.

    Attributes:
        template: a Jinja2 template with two blocks. `rubric` gets `criteria` (each with `key`, `name`, `text`, `scale` and
            `levels`) and `form`, the form of the answer; `reply` gets `context`, `message` and `response`.
        delimiters: its variable of this name: literal strings that separate judged text from the rest; broken up inside it.
    """

    template: jinja2.Template
    delimiters: tuple[str, ...]

    @classmethod
    def load(cls, path: str | Path) -> RubricPrompt:
        """Read and check a wording.

        Raises:
            ConfigError: the file is missing or not a template, has no such block or delimiters, does not show a text, or
                lets a judged text complete a delimiter.
        """
        example = "configs/distil/prompt.jinja"
        with open_template(path, example=example, key="the key prompt of the judge") as template:
            for name in (RUBRIC, REPLY):
                if name not in template.blocks:
                    problem = f"the template has no block {name!r}"
                    raise ConfigError(problem, location=str(path), hint=f"compare with {example}")
            sample = {name: name for name in (*REPLY_TEXTS, "form")} | {"criteria": [_SAMPLE]}
            prompt = cls(template, template_delimiters(template, sample, str(path)))
            prompt._check(str(path))
        return prompt

    def _check(self, location: str) -> None:
        """Check that every text is shown, and that none completes a delimiter."""
        shown = self._block(RUBRIC, criteria=[_SAMPLE], form="\x00form\x00")
        texts = [_SAMPLE["key"], _SAMPLE["text"], "\x00form\x00"]
        missing = [text.strip("\x00") for text in texts if text not in shown]
        marks = {name: f"\x00{name}\x00" for name in REPLY_TEXTS}
        shown = self._block(REPLY, **marks)
        missing += [name for name, mark in marks.items() if mark not in shown]
        if missing:
            problem = f"the template does not show {', '.join(missing)}"
            raise ConfigError(problem, location=location, hint="add it to the block rubric or reply")

        def render(text: str) -> str:
            return self._block(REPLY, **dict.fromkeys(REPLY_TEXTS, text))

        check_delimiters(self.delimiters, render, location)

    def _block(self, name: str, **values: Any) -> str:
        context = self.template.new_context(values)
        return "".join(self.template.blocks[name](context)).strip()

    def rubric_turn(self, criteria: Sequence[Mapping[str, Any]], form: str) -> Message:
        """Return the system turn: the same for all replies."""
        return Message(role="system", content=self._block(RUBRIC, criteria=criteria, form=form))

    def reply_turn(self, conversation: Conversation) -> Message:
        """Return the user turn: a conversation between delimiters, which are broken up inside it."""
        texts = {name: neutralise(getattr(conversation, name), self.delimiters) for name in REPLY_TEXTS}
        return Message(role="user", content=self._block(REPLY, **texts))


_SAMPLE: dict[str, Any] = {
    "key": "\x00key\x00",
    "name": "\x00name\x00",
    "text": "\x00text\x00",
    "scale": (1, 2),
    "levels": {1: "low", 2: "high"},
}
