"""Tokenise text that must stay text, with any tokenizer.

A tokenizer has two ways to read structure in a text: it recognises its added tokens before anything else, and its model may
hold the same strings as plain vocabulary (Unigram models of SentencePiece do: `</s>` and the byte token `<0x0A>` are
pieces that any text can spell). Recognition is switched off; a string of the vocabulary is cut behind its first character
before the model sees it, which changes no other text. A tokenizer that still reads structure in a text is refused.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from reasongenrm.chat.delimiters import folded
from reasongenrm.errors import EngineError

LOCATION = "tokenizer"

_WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
"""ASCII -> full-width characters, which NFKC turns back."""

_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")

_RARE = ("\U0010fffd", "\ue000", "\x00", "☃", "é", "漢", "\U0001f642", "\u200b", "x\ufffdy")
"""Characters that a vocabulary may lack."""

_NORMALIZED = (range(0x3400), range(0xF900, 0x10000), range(0x1D400, 0x1D800), range(0x1F100, 0x1F200))
"""Where Unicode has the characters that decompose (UnicodeData.txt), and those of Latin scripts."""


def content_tokenizer(tokenizer: Any) -> Any:
    """Return a `tokenizers.Tokenizer` that reads text only: no text yields an added or special token.

    Args:
        tokenizer: a Hugging Face fast tokenizer; it is not changed.

    Raises:
        EngineError: it is not a fast tokenizer, a text can spell one of its special tokens, or its normaliser changes more
            than `delimiters.py` knows, so that a text could form a delimiter.
    """
    from tokenizers import Tokenizer

    description = _description(tokenizer)
    structure = structural_tokens(tokenizer, description)
    # Nothing to recognise: neither special tokens nor others, such as Qwen3's `<think>`. (`encode_special_tokens` has the
    # same effect, but a pickle loses it.)
    description["added_tokens"] = []
    if pattern := vocabulary_pattern(description, structure):
        description["pre_tokenizer"] = _with_cut(description["pre_tokenizer"], pattern)
    reader = Tokenizer.from_str(json.dumps(description))
    reader.no_truncation()
    reader.no_padding()
    _check_reading(
        lambda texts: [one.ids for one in reader.encode_batch(texts, add_special_tokens=False)], structure
    )
    if reader.normalizer is not None:
        _check_normalizer(reader.normalizer.normalize_str)
    return reader


def read_as_text(tokenizer: Any) -> None:
    """Change a Hugging Face fast tokenizer so that it reads no structure in the texts that it is called with.

    Its own special tokens around texts stay. For the scalar head, which is called without a chat template; saved with the
    tokenizer as far as `tokenizer.json` can hold it.

    Raises:
        EngineError: it is not a fast tokenizer, or a text can spell one of its special tokens.
    """
    from tokenizers import AddedToken, Regex, pre_tokenizers

    description = _description(tokenizer)
    structure = structural_tokens(tokenizer, description)
    plain = [token["content"] for token in description["added_tokens"] if not token["special"]]
    if plain:
        tokenizer.add_tokens([AddedToken(text, special=True) for text in plain], special_tokens=True)
    tokenizer.split_special_tokens = True
    backend = tokenizer.backend_tokenizer
    pattern = vocabulary_pattern(description, structure)
    if pattern and json.dumps(pattern) not in json.dumps(
        description["pre_tokenizer"]
    ):  # else it was saved so
        cut = pre_tokenizers.Split(Regex(pattern), "isolated")
        usual = backend.pre_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence([usual, cut]) if usual else cut
    _check_reading(lambda texts: tokenizer(texts, add_special_tokens=False)["input_ids"], structure)


def _description(tokenizer: Any) -> dict[str, Any]:
    backend: Any = getattr(tokenizer, "backend_tokenizer", None)
    if not hasattr(backend, "to_str"):
        raise EngineError(
            f"{type(tokenizer).__name__} is not a fast tokenizer: judged text cannot be kept apart from structure",
            location=LOCATION,
            hint="give a model with a tokenizer.json",
        )
    description: dict[str, Any] = json.loads(backend.to_str())
    return description


def structural_tokens(tokenizer: Any, description: Mapping[str, Any]) -> dict[int, str]:
    """Return the tokens that no text may yield, by id: added and special ones, but for the unknown token.

    Added blanks (Gemma's runs of line breaks) and characters are text unless they are special. Unknown characters become the unknown token; where
    it is also the end of a text, it counts.
    """
    tokens = {
        token["id"]: token["content"]
        for token in description["added_tokens"]
        if token["special"] or len(token["content"].strip()) > 1
    }
    named = [text for text in tokenizer.special_tokens_map.values() if isinstance(text, str)]
    tokens |= {tokenizer.convert_tokens_to_ids(text): text for text in named}
    if named.count(tokenizer.unk_token) == 1:
        tokens.pop(tokenizer.unk_token_id, None)
    return tokens


def vocabulary_pattern(description: Mapping[str, Any], structure: Mapping[int, str]) -> str:
    """Return a pattern of the first characters of the strings that the model could read as structure; empty without any.

    Raises:
        EngineError: such a string is one character, which cannot be cut.
    """
    model = description["model"]
    vocabulary: dict[str, int] = (
        model["vocab"]
        if isinstance(model["vocab"], dict)
        else {text: number for number, (text, _) in enumerate(model["vocab"])}  # Unigram
    )
    spelled = {text for text, number in vocabulary.items() if number in structure and text}
    byte_tokens = "<0x0A>" in vocabulary
    if model["type"] == "BPE" and not model.get("ignore_merges"):
        # It spells what its merges join, and single characters.
        merges = (pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"])
        spelled &= {*map("".join, merges), *(text for text in spelled if len(text) == 1)}
        byte_tokens = False
    if "BertPreTokenizer" in json.dumps(description["pre_tokenizer"]):  # punctuation is a word of its own
        spelled = {text for text in spelled if len(text) == 1 or not _PUNCTUATION.search(text)}
        byte_tokens = False
    if short := [text for text in spelled if len(text) == 1]:
        raise EngineError(
            f"{short[0]!r} is a special token of one character: any text that has it would hold structure",
            location=LOCATION,
            hint="use a model whose special tokens are longer",
        )
    rests: dict[str, list[str]] = defaultdict(list)  # by first character, so that most text is passed over
    for text in sorted(spelled):
        rests[text[0]].append(re.escape(text[1:]))
    if byte_tokens:
        rests["<"].append("0x[0-9A-Fa-f]{2}>")
    return "|".join(f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in sorted(rests.items()))


def _with_cut(pre_tokenizer: dict[str, Any] | None, pattern: str) -> dict[str, Any]:
    """Return a pre-tokenizer, as in tokenizer.json, that makes a word of its own of every match, after the given one."""
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return {"type": "Sequence", "pretokenizers": [pre_tokenizer, cut]} if pre_tokenizer else cut


def _check_reading(
    read: Callable[[list[str]], Sequence[Sequence[int]]], structure: Mapping[int, str]
) -> None:
    """Read texts that spell every structural token, and rare characters.

    Raises:
        EngineError: one of them yields structure.
    """
    forms = [(text, f"x{text}y", f" {text} ", text * 2, text.translate(_WIDE)) for text in structure.values()]
    texts = [*(text for form in forms for text in form), *_RARE]
    for text, ids in zip(texts, read(texts), strict=True):
        for token in ids:
            if token in structure:
                raise EngineError(
                    f"the text {text!r} becomes the special token {structure[token]!r}: judged text could hold structure",
                    location=LOCATION,
                    hint="use another model, or its tokenizer.json of a newer transformers version",
                )


def _check_normalizer(normalize: Callable[[str], str]) -> None:
    """Check that a normaliser makes no more of a character than `delimiters.py` expects.

    Raises:
        EngineError: it does, as lower-casing ones do.
    """
    for code in chain(*_NORMALIZED):
        character = chr(code)
        normal = normalize(character)
        if normal == character:
            continue
        before, after = folded(character), folded(normal)
        if (before and not after) or (after != before and any(one.isascii() for one in normal)):
            raise EngineError(
                f"the tokenizer's normaliser turns {character!r} into {normal!r}: a text could form a delimiter of the prompt",
                location=LOCATION,
                hint="use a model whose tokenizer keeps case and accents",
            )
