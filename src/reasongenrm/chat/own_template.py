"""A model in its own chat template, as it is asked when it was not trained here.

With a reason, reason and verdict are one turn of the assistant, and a verdict counts where it closes the turn. Without one,
the verdict is all of the turn. A model whose own template has a reason turn, such as a judge that was merged into its base,
keeps both turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer, template_text
from reasongenrm.chat.grammar import DEFAULT_GRAMMAR, Grammar
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.engines import ModelConfig
from reasongenrm.config.recipe import Recipe, Template
from reasongenrm.errors import ConfigError
from reasongenrm.records import Message

BEFORE_VERDICT = "\n\n"
"""Text between a reason that ended without a verdict and the verdict that is then requested in the same turn."""


class OwnTemplateEncoder(ChatEncoder):
    """Encoder for a chat template with a user's and an assistant's turn.

    Args:
        tokenizer, template, grammar: see `ChatEncoder`.
        reasons: whether the model writes a reason before its verdict, in the same turn.
    """

    def __init__(self, tokenizer: Any, template: str, grammar: Grammar, *, reasons: bool) -> None:
        super().__init__(tokenizer, template, grammar)
        self.one_turn = reasons

    @cached_property
    def _turns(self) -> list[str]:
        """The template's texts around a user turn and the assistant's answer."""
        roles = ("user", "assistant")
        return self._structure_texts([Message(role=role, content="") for role in roles], False)

    @cached_property
    def _judge_structure(self) -> list[str]:
        """The template's texts around a user turn, a reason and a verdict; these two are one turn."""
        before, between, after = self._turns
        return [before, between, BEFORE_VERDICT, after]

    @property
    def reason_verdict_separator(self) -> str:
        """Text between a reason and a verdict that is requested in the same turn."""
        return BEFORE_VERDICT

    @property
    def reasons_first(self) -> bool:
        """Whether the model writes a reason before its verdict."""
        return self.one_turn

    def encode(self, messages: Sequence[Message], *, generation: bool) -> list[int]:
        """Return the ids of a conversation; see `ChatEncoder.encode`.

        A verdict alone has the place of an answer in a finished conversation: a generation prompt may open a block for
        thoughts, in which a verdict would be none.
        """
        if not generation or self.one_turn:
            return super().encode(messages, generation=generation)
        turns: list[Message] = [*messages, {"role": "assistant", "content": ""}]
        after = self.structure(self._structure_texts(turns, False)[-1])
        return super().encode(turns, generation=False)[: -len(after)]


def own_encoder(
    tokenizer: Any, grammar: Grammar = DEFAULT_GRAMMAR, *, reasons: bool = True
) -> ChatEncoder | None:
    """Return the encoder for a model in the chat template of its tokenizer; None if it has none.

    Args:
        tokenizer: the model's.
        grammar: the verdict grammar.
        reasons: whether the model is to write a reason before its verdict.

    Raises:
        ConfigError: no special token ends an answer under the template.
    """
    if not tokenizer.chat_template:
        return None
    template: str = tokenizer.get_chat_template()
    judge = ChatEncoder(tokenizer, template, grammar)
    if reasons and _has_reason_turn(judge):
        return judge
    encoder = OwnTemplateEncoder(tokenizer, template, grammar, reasons=reasons)
    _ = encoder.end_marker  # checks that answers end in a special token
    return encoder


def file_or_own_encoder(
    model: ModelConfig, template: str | None, grammar: Grammar, *, reasons: bool, key: str
) -> ChatEncoder:
    """Return the encoder of a model under the template of a file, or else under its own.

    Args:
        model: for the tokenizer.
        template: a chat template file; None: that of the tokenizer.
        grammar: the verdict grammar.
        reasons: whether it is to write a reason before its verdict, under its own template.
        key: where the template is set, named in errors.

    Raises:
        ConfigError: the file is missing, or the tokenizer has no chat template.
        EngineError: the tokenizer cannot be loaded.
    """
    tokenizer = load_tokenizer(model)
    if template is not None:
        return ChatEncoder(tokenizer, template_text(template, key=key), grammar)
    encoder = own_encoder(tokenizer, grammar, reasons=reasons)
    if encoder is None:
        hint = "use an instruction-tuned model, or set the template: reason, think or direct"
        raise ConfigError(f"{model.path} has no chat template", location=key, hint=hint)
    return encoder


def base_encoder(recipe: Recipe, tokenizer: Any, *, reasons: bool = True) -> ChatEncoder:
    """Return the encoder for the untrained base of a recipe: its own chat template.

    A base without one has seen no template, and gets that of the judges.

    Raises:
        ConfigError: see `own_encoder`.
    """
    encoder = own_encoder(tokenizer, PromptFile.load(recipe.prompts).verdict, reasons=reasons)
    if encoder is not None:
        return encoder
    return judge_encoder(recipe, base_template(recipe, reasons), tokenizer)


def base_template(recipe: Recipe, reasons: bool) -> Template:
    """Return the judges' template for a base that has none of its own."""
    if not reasons:
        return "direct"
    return "think" if recipe.student_template == "think" else "reason"


def _has_reason_turn(encoder: ChatEncoder) -> bool:
    try:
        return encoder.reasons_first
    except ConfigError:  # the template has no turn for a reason
        return False
