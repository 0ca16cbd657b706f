"""Encode conversations as token ids; contents are tokenised apart from the chat template's structure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2

from reasongenrm.chat.content import content_tokenizer
from reasongenrm.chat.grammar import DEFAULT_GRAMMAR, Grammar
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.checkpoints import check_base, check_template, load_checkpoint
from reasongenrm.config.engines import ModelConfig, check_model
from reasongenrm.config.recipe import LISTWISE, VERDICT_ONLY, Recipe, Template
from reasongenrm.errors import ConfigError, EngineError, first_line
from reasongenrm.records import Message
from reasongenrm.rows.turns import replace_surrogates

TEMPLATE_HINT = "use configs/prompts/reason.jinja or a similar template"


class ChatEncoder:
    """Token ids for conversations, contents tokenised apart from the template's structure.

    Args:
        tokenizer: a Hugging Face fast tokenizer.
        template: the Jinja2 chat template; its generation prompt is the header of the judge's first turn
            (`reason` for a reasoning judge, `assistant` for a verdict-only one). A teacher's own template
            is enough if only `encode` is used.
        grammar: the verdict grammar.

    Attributes:
        one_turn: whether reason and verdict are one turn (`OwnTemplateEncoder`); a verdict then counts where it closes it.

    Raises:
        EngineError: a text could spell structure with this tokenizer, see `content_tokenizer`.
    """

    one_turn = False

    def __init__(self, tokenizer: Any, template: str, grammar: Grammar = DEFAULT_GRAMMAR) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.grammar = grammar
        self._content_tokenizer = content_tokenizer(tokenizer)
        self._structure_cache: dict[str, list[int]] = {}

    def _structure_texts(self, messages: Sequence[Message], generation: bool) -> list[str]:
        """Return the template's own texts before, between and after the contents of a conversation.

        The template is rendered with a placeholder per content, and split at the placeholders.
        """
        with_placeholders = [{"role": m["role"], "content": f"\x00{i}\x00"} for i, m in enumerate(messages)]
        try:
            text = self.tokenizer.apply_chat_template(
                with_placeholders,
                chat_template=self.template,
                tokenize=False,
                add_generation_prompt=generation,
            )
        except jinja2.TemplateError as error:
            problem = f"rendering failed: {first_line(error)}"
            raise ConfigError(problem, location="chat template", hint=TEMPLATE_HINT) from None
        parts = re.split("\x00(\\d+)\x00", text)
        if parts[1::2] != [str(i) for i in range(len(messages))]:
            problem = "it does not write every turn's content exactly once and in order"
            raise ConfigError(problem, location="chat template", hint=TEMPLATE_HINT)
        return parts[::2]

    @cached_property
    def _judge_structure(self) -> list[str]:
        """The template's texts around a user turn, a reason and a verdict."""
        roles = ("user", "reason", "assistant")
        return self._structure_texts([Message(role=role, content="") for role in roles], False)

    @property
    def reason_verdict_separator(self) -> str:
        """Text between a reason and its verdict.

        Raises:
            ConfigError: the template writes no text there.
        """
        separator = self._judge_structure[2]
        if not separator.strip():
            problem = "it writes no text between a reason and its verdict"
            raise ConfigError(problem, location="chat template", hint=TEMPLATE_HINT)
        return separator

    @cached_property
    def end_marker(self) -> str:
        """The end-of-turn marker, which follows a verdict.

        Raises:
            ConfigError: the marker is not a special token.
        """
        marker = self._judge_structure[3].rstrip("\n")
        ids = self.structure(marker)
        if len(ids) != 1 or ids[0] in self.content(marker):
            raise ConfigError(
                f"{marker!r}, which ends a verdict, is not a special token of this tokenizer: any text could end a turn",
                location="chat template",
                hint="use the markers of the model's own chat template",
            )
        return marker

    @cached_property
    def reasons_first(self) -> bool:
        """Whether the judge's first turn is a reason rather than the verdict."""
        header = self._structure_texts([Message(role="user", content="")], True)[1]
        verdict_header = self.reason_verdict_separator.removeprefix(self.end_marker).lstrip("\n")
        return not header.endswith(verdict_header)

    def structure(self, text: str) -> list[int]:
        """Return the ids of a text of the template, in which special tokens are recognised."""
        if text not in self._structure_cache:
            self._structure_cache[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return self._structure_cache[text]

    def content(self, text: str) -> list[int]:
        """Return the ids of text that must not become structure: an added token in it is ordinary characters."""
        return list(self._content_tokenizer.encode(replace_surrogates(text), add_special_tokens=False).ids)

    def encode(self, messages: Sequence[Message], *, generation: bool) -> list[int]:
        """Return the ids of a conversation; with `generation`, up to and including the header the judge answers to."""
        first, *others = self._structure_texts(messages, generation)
        ids = list(self.structure(first))
        for message, structure in zip(messages, others, strict=True):
            ids += self.content(message["content"])
            ids += self.structure(structure)
        return ids

    def structure_length(self, messages: Sequence[Message]) -> int:
        """Return how many tokens `encode` adds to those of the contents, with the header the judge answers to."""
        return sum(len(self.structure(text)) for text in self._structure_texts(messages, True))

    def completion(self, reason: str, response: str) -> list[int]:
        """Return the ids that the judge writes: reason, header, verdict and end marker; only the last two under a
        verdict-only template."""
        ids = (
            self.content(reason) + self.structure(self.reason_verdict_separator) if self.reasons_first else []
        )
        return ids + self.content(response) + self.structure(self.end_marker)

    def record(self, prompt: Sequence[Message], reason: str, response: str) -> tuple[list[int], list[int]]:
        """Return the ids of a training record: prompt and completion.

        Under a reasoning template a record without a reason (general chat) answers at once, after the header of the
        answer; under a verdict-only template a reason is left out.
        """
        if not self.reasons_first or reason:
            return self.encode(prompt, generation=True), self.completion(reason, response)
        turns: list[Message] = [*prompt, {"role": "assistant", "content": ""}]
        after = self.structure(self._structure_texts(turns, False)[-1])
        answer = self.content(response) + self.structure(self.end_marker)
        return self.encode(turns, generation=False)[: -len(after)], answer


ADAPTER_PROMPTS = "judge.yaml"
"""Prompt file beside an adapter: a trained judge is prompted in the wording of its training."""


def load_tokenizer(model: ModelConfig, *, key: str = "model.path") -> Any:
    """Return a model's fast tokenizer.

    Raises:
        EngineError: the tokenizer cannot be found or loaded.
    """
    check_model(model.path, key=key)
    permission = key.removesuffix("path") + "trust_remote_code"
    try:
        return load_checkpoint(
            "AutoTokenizer", model.path, revision=model.revision, trust_remote_code=model.trust_remote_code,
            permission=permission, use_fast=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        problem = f"cannot load the tokenizer of {model.path}: {first_line(error)}"
        hint = "check the path, the revision, and that tokenizer.json is there"
        raise EngineError(problem, location=key, hint=hint) from None


def template_text(path: str, *, key: str) -> str:
    """Return a chat template file's text.

    Raises:
        ConfigError: the file is missing.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        problem = f"chat template not found: {path}"
        raise ConfigError(problem, location=key, hint="see configs/prompts/") from None


def judge_encoder(recipe: Recipe, template: Template, tokenizer: Any) -> ChatEncoder:
    """Return the encoder of one judge template.

    Raises:
        ConfigError: the recipe's chat template file is missing.
    """
    text = template_text(recipe.templates[template], key=f"templates.{template}")
    return ChatEncoder(tokenizer, text, template_wording(PromptFile.load(recipe.prompts), template).verdict)


def check_judge(recipe: Recipe, name: str) -> None:
    """Check that a trained judge fits the recipe's base and chat template.

    Args:
        recipe: the resolved recipe.
        name: of a model in `recipe.trained`, which has its weights.

    Raises:
        EngineError: it was trained on another base, or in another template.
    """
    template = recipe.judges[recipe.trained[name].judge].template
    check_template(
        recipe.weights(name), template_text(recipe.templates[template], key=f"templates.{template}")
    )
    _, adapter = recipe.serving(name)
    if adapter is not None:
        check_base(adapter, recipe.model.path)


def template_wording(prompts: PromptFile, template: Template) -> PromptFile:
    """Return the wording for a judge of one template.

    Raises:
        ConfigError: the template is for lists, and the prompt file has no key `listwise`.
    """
    worded = prompts.for_direct() if template in VERDICT_ONLY else prompts
    return worded.for_lists() if template in LISTWISE else worded
