"""What a scalar reward model reads: the prompt's tokens and the response's, appended to one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple

from reasongenrm.errors import EngineError
from reasongenrm.records import Message
from reasongenrm.scalar import MAX_LENGTH, encode

Part = Literal["query", "response", "special"]
"""Where a token comes from: prompt (omega), response (omega-hat), or the tokenizer's pair template."""

_PARTS: dict[int | None, Part] = {0: "query", 1: "response", None: "special"}
"""What `BatchEncoding.sequence_ids` says -> the part."""


@dataclass(frozen=True)
class Token:
    """One token of the appended sequence.

    Attributes:
        position: in the sequence, from 0.
        text: as the vocabulary spells it.
        id: in the vocabulary.
        part: what it belongs to.
    """

    position: int
    text: str
    id: int
    part: Part


class Run(NamedTuple):
    """Neighbouring tokens of one part.

    Attributes:
        part: what they belong to.
        first, last: their positions, both included.
        text: the tokens, a space between them.
    """

    part: Part
    first: int
    last: int
    text: str


@dataclass(frozen=True)
class ShownSequence:
    """The sequence [omega; omega-hat] of one pair.

    Attributes:
        tokens: all of them, in the order in which the model reads them.
        cut: tokens of prompt and response that were too many, and are not among them.
    """

    tokens: tuple[Token, ...]
    cut: int

    @property
    def query(self) -> list[str]:
        """The prompt's tokens, omega."""
        return [token.text for token in self.tokens if token.part == "query"]

    @property
    def response(self) -> list[str]:
        """The response's tokens, omega-hat."""
        return [token.text for token in self.tokens if token.part == "response"]

    @property
    def runs(self) -> list[Run]:
        """The sequence with neighbours of one part put together."""
        runs = []
        for part, group in groupby(self.tokens, key=lambda token: token.part):
            tokens = list(group)
            text = " ".join(token.text for token in tokens)
            runs.append(Run(part, tokens[0].position, tokens[-1].position, text))
        return runs


def show_sequence(
    tokenizer: Any, prompt: str | Sequence[Message], response: str, max_length: int = MAX_LENGTH
) -> ShownSequence:
    """Return the tokens of a prompt and a response exactly as the model is fed them, each with its part.

    Args:
        tokenizer: a trained head's (`ScalarRewardModel.tokenizer`).
        max_length: tokens to keep, special tokens included, as in `scalar.encode`.

    Raises:
        EngineError: a tokenizer in Python, which does not say where its tokens come from.
    """
    if not tokenizer.is_fast:
        raise EngineError("the tokenizer does not tell prompt from response", mend="use a fast tokenizer")
    encoded: Any = encode(tokenizer, prompt, response, max_length)
    whole = encode(tokenizer, prompt, response, None)
    ids = encoded["input_ids"]
    texts = tokenizer.convert_ids_to_tokens(ids)
    parts = [_PARTS[number] for number in encoded.sequence_ids()]
    rows = enumerate(zip(texts, ids, parts, strict=True))
    tokens = tuple(Token(position, text, number, part) for position, (text, number, part) in rows)
    return ShownSequence(tokens, len(whole["input_ids"]) - len(ids))
