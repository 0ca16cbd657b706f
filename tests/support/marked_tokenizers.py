"""Tokenizers with added tokens, and what they read of a text."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from support.attacks import LATER, MARKERS, UNDOCUMENTED


def tokenizer_view(text: str) -> str:
    """What the tokenizer reads of a text: lone surrogates as question marks, composed characters."""
    return unicodedata.normalize("NFC", "".join("?" if "\ud800" <= c <= "\udfff" else c for c in text))


def with_added_tokens(bpe: str, specials: Sequence[str], plain: Sequence[str] = ()) -> Any:
    """A tokenizer with added tokens: `specials` are marked as special, `plain` are not."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(bpe),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=[s for s in specials if s not in ("<|im_end|>", "<|endoftext|>")],
        clean_up_tokenization_spaces=False,
    )
    fast.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    return fast


KNOWN = tuple(m for family in (MARKERS | LATER | UNDOCUMENTED).values() for m in family)
"""The markers of all families."""


# --- delimiters


def find_delimiters(text: str, delimiters: Sequence[str]) -> list[tuple[int, str]]:
    """Every delimiter in a text, overlapping ones too, and where it starts."""
    either = re.compile(f"(?=({'|'.join(map(re.escape, delimiters))}))")
    return [(m.start(), m[1]) for m in either.finditer(text)]


def is_broken_up(shown: str, text: str, delimiters: Sequence[str]) -> bool:
    """Whether `shown` is the text with one backslash behind the first character of each of its delimiters, and no
    other change."""
    places = [place + 1 for place, _ in find_delimiters(text, delimiters)]
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, None], strict=True)]
    return shown == "\\".join(pieces)
