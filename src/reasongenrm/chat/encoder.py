"""Turn a conversation into token ids; contents are tokenised apart from the chat template's structure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from reasongenrm.chat.grammar import DEFAULT, Grammar
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.engines import ModelConfig, check_model
from reasongenrm.config.recipe import Recipe
from reasongenrm.errors import ConfigError, EngineError, first_line
from reasongenrm.records import Message


@dataclass(frozen=True, slots=True)
class _Slots:
    """A chat template cut at its contents: `structure[0] content[0] structure[1] content[1] … structure[-1]`."""

    structure: tuple[str, ...]
    contents: tuple[str, ...]


class ChatEncoder:
    """Token ids for conversations, contents tokenised apart from the template's structure.

    Args:
        tokenizer: a Hugging Face fast tokenizer.
        template: the Jinja2 chat template; its generation prompt is the header of the judge's first turn
            (`reason` for a reasoning judge, `assistant` for a verdict-only one). A teacher's own template
            does too, as long as only `encode` is used.
        grammar: how the judge writes its verdict.
    """

    def __init__(self, tokenizer: Any, template: str, grammar: Grammar = DEFAULT) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.grammar = grammar
        self._structure_cache: dict[str, list[int]] = {}

    def _cut(self, messages: Sequence[Message], generation: bool) -> _Slots:
        """Render with a placeholder per content, then cut the text at the placeholders."""
        marked = [{"role": m["role"], "content": f"\x00{i}\x00"} for i, m in enumerate(messages)]
        hint = "use configs/prompts/reason.jinja or one like it"
        try:
            text = self.tokenizer.apply_chat_template(
                marked, chat_template=self.template, tokenize=False, add_generation_prompt=generation
            )
        except jinja2.TemplateError as error:
            problem = f"it does not work: {first_line(error)}"
            raise ConfigError(problem, location="chat template", hint=hint) from None
        structure = re.split("\x00(\\d+)\x00", text)
        if structure[1::2] != [str(i) for i in range(len(messages))]:
            problem = "it does not write every turn's content exactly once and in order"
            raise ConfigError(problem, location="chat template", hint=hint)
        return _Slots(tuple(structure[::2]), tuple(m["content"] for m in messages))

    @cached_property
    def _ends(self) -> tuple[str, str]:
        """What follows a reason, and what follows a verdict."""
        turns: list[Message] = [{"role": role, "content": ""} for role in ("user", "reason", "assistant")]
        structure = self._cut(turns, False).structure
        return structure[2], structure[3]

    @property
    def between(self) -> str:
        """What stands between a reason and its verdict.

        Raises:
            ConfigError: nothing does.
        """
        between = self._ends[0]
        if not between.strip():
            problem = "nothing stands between a reason and its verdict"
            raise ConfigError(
                problem, location="chat template", hint="use configs/prompts/reason.jinja or one like it"
            )
        return between

    @cached_property
    def end(self) -> str:
        """The end-of-turn marker: what follows a verdict."""
        marker = self._ends[1].rstrip("\n")
        ids = self.structure(marker)
        if len(ids) != 1 or ids[0] in self.content(marker):
            raise ConfigError(
                f"{marker!r}, which ends a verdict, is no special token of this tokenizer: any text could end a turn",
                location="chat template",
                hint="use the markers of the model's own chat template",
            )
        return marker

    @cached_property
    def reasons_first(self) -> bool:
        """Whether the judge's first turn is a reason rather than the verdict."""
        header = self._cut([{"role": "user", "content": ""}], True).structure[1]
        return not header.endswith(self.between.removeprefix(self.end).lstrip("\n"))

    def structure(self, text: str) -> list[int]:
        """Return the ids of a piece of the template, special tokens read as such."""
        if text not in self._structure_cache:
            self._structure_cache[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._structure_cache[text]

    @cached_property
    def _speller(self) -> Any:
        """The tokenizer, but that it knows no added token in a text: neither special ones, nor those that models such
        as Qwen3 add as ordinary ones (`<think>`, `<tool_call>`), which `split_special_tokens` would leave whole."""
        from tokenizers import Tokenizer

        described = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for token in described["added_tokens"]:
            token["special"] = True
        speller = Tokenizer.from_str(json.dumps(described))
        speller.no_truncation()
        speller.no_padding()
        speller.encode_special_tokens = True
        return speller

    def content(self, text: str) -> list[int]:
        """Return the ids of text that must not become structure (added tokens are spelled out)."""
        clean = text.encode("utf-8", "replace").decode("utf-8")
        return list(self._speller.encode(clean, add_special_tokens=False).ids)

    def encode(self, messages: Sequence[Message], *, generation: bool) -> list[int]:
        """Return the ids of a conversation; with `generation`, up to and including the header the judge answers to."""
        slots = self._cut(messages, generation)
        ids = list(self.structure(slots.structure[0]))
        for content, structure in zip(slots.contents, slots.structure[1:], strict=True):
            ids += self.content(content)
            ids += self.structure(structure)
        return ids

    def frame(self, messages: Sequence[Message]) -> int:
        """Return how many tokens `encode` adds to those of the contents, up to the header the judge answers to."""
        return sum(len(self.structure(part)) for part in self._cut(messages, True).structure)

    def completion(self, reason: str, response: str) -> list[int]:
        """Return the ids that the judge writes: reason, header, verdict and end marker; a verdict-only template
        has the last two alone."""
        ids = self.content(reason) + self.structure(self.between) if self.reasons_first else []
        return ids + self.content(response) + self.structure(self.end)

    def record(self, prompt: Sequence[Message], reason: str, response: str) -> tuple[list[int], list[int]]:
        """Return the ids of a training record: what is read, and what is written.

        Under a reasoning template a record without a reason (general chat) answers at once, behind the header of the
        answer; under a verdict-only template a reason is left out.
        """
        if not self.reasons_first or reason:
            return self.encode(prompt, generation=True), self.completion(reason, response)
        turns: list[Message] = [*prompt, {"role": "assistant", "content": ""}]
        after = self.structure(self._cut(turns, False).structure[-1])
        return self.encode(turns, generation=False)[: -len(after)], self.content(response) + self.structure(
            self.end
        )


PROMPTS = "judge.yaml"
"""The judge's wording, beside its adapter: a trained judge is asked as it was taught."""


def load_tokenizer(model: ModelConfig, *, key: str = "model.path") -> Any:
    """Return a model's fast tokenizer.

    Raises:
        EngineError: it cannot be found or loaded.
    """
    from transformers import AutoTokenizer

    check_model(model.path, key=key)
    try:
        return AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code, use_fast=True
        )
    except (OSError, ValueError) as error:
        raise EngineError(
            f"cannot load the tokenizer of {model.path}: {first_line(error)}", location=key
        ) from None


def template_text(path: str, *, key: str) -> str:
    """Return a chat template file's text.

    Raises:
        ConfigError: the file is missing.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        raise ConfigError(
            f"chat template {path} not found", location=key, hint="see configs/prompts/"
        ) from None


def judge_encoder(recipe: Recipe, template: str, tokenizer: Any) -> ChatEncoder:
    """Return the encoder of one judge template (`reason` or `direct`).

    Raises:
        ConfigError: the recipe names no chat template file for it.
    """
    files: dict[str, str] = {str(kind): path for kind, path in recipe.templates.items()}
    if template not in files:
        raise ConfigError(f"no chat template for {template!r}", location="templates", hint="name its file")
    text = template_text(files[template], key=f"templates.{template}")
    return ChatEncoder(tokenizer, text, PromptFile.load(recipe.prompts).verdict)
