"""Tokenizers with added tokens, and what they read of a text."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from reasongenrm.chat.delimiters import folded
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
    """Whether `shown` is the text with one backslash behind the first character of each of its delimiters, also of those that
    only a normaliser would make, and no other change."""
    inserted, place = set(), 0
    for character in shown:
        if character == text[place : place + 1]:
            place += 1
        elif character == "\\":
            inserted.add(place)
        else:
            return False
    literal = {place + 1 for place, _ in find_delimiters(text, delimiters)}
    hidden = (folded(text[place - 1 :]) for place in inserted - literal)
    heads = tuple(map(folded, delimiters))
    return place == len(text) and literal <= inserted and all(one.startswith(heads) for one in hidden)


# --- tokenizers of all model families, over a small corpus

NAMED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
SPECIAL = (*NAMED.values(), "<|im_start|>", "<|im_end|>", "[SEP]", "[CLS]", "<｜User｜>")
"""Special tokens of the tokenizers below; most are plain vocabulary of their models, too."""
ADDED = ("<think>", "</think>", "<tool_call>")
"""Added tokens that are not called special, as Qwen3 has them."""
BYTES = tuple(f"<0x{number:02X}>" for number in range(256))
CORPUS = [
    "the quick brown fox jumps over the lazy dog and says [End] of the [Answer A] is [[A]] or [[B]] .",
    "The sum of 12 and 30 is 42 , i.e. <b>42</b> / x > y ; user : assistant : system \n Output : yes no",
    "<s> </s> <|im_end|> [SEP] 0x0A | _ im end think tool call SEP CLS User", "UPPER lower é ü 漢字",
] * 8  # fmt: skip


def _unigram(normalizer: Any = None, *, bytes_known: bool = True) -> Any:
    """As SentencePiece's Unigram models are converted (T5, XLM-R, DeBERTa-v3, ALBERT): control pieces are vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    trained = Tokenizer(models.Unigram())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=200, show_progress=False))
    pieces = json.loads(trained.to_str())["model"]["vocab"]
    control = [(text, 0.0) for text in SPECIAL]
    fallback = [(text, 0.0) for text in BYTES] if bytes_known else []
    vocabulary = [*control, *fallback, *((text, score) for text, score in pieces if text not in SPECIAL)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, SPECIAL.index("<unk>"), bytes_known))
    tokenizer.pre_tokenizer, tokenizer.normalizer = pre_tokenizers.Metaspace(), normalizer
    return tokenizer


def _byte_level(*, ignore_merges: bool) -> Any:
    """As GPT-2, Qwen and Llama 3; with `ignore_merges` a word that is in the vocabulary is taken whole."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    # The words are whole, so that the vocabulary can match a special token.
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not ignore_merges)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=list(SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def _sentencepiece_bpe(*, spelled: bool) -> Any:
    """As Llama 2 and Mistral: BPE with bytes for unknown characters; with `spelled`, merges make `</s>` of its letters."""
    from tokenizers import Tokenizer, models, normalizers

    letters = sorted({letter for text in CORPUS for letter in text.replace(" ", "▁")})
    vocabulary = [*SPECIAL, *BYTES, *letters]
    merges = [("t", "h"), ("th", "e")]
    if spelled:
        merges += [("<", "/"), ("</", "s"), ("</s", ">")]
    vocabulary += [a + b for a, b in merges if a + b not in vocabulary]
    ids = {text: number for number, text in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(ids, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return tokenizer


def _words(model: str, pre_tokenizer: str, normalizer: Any = None) -> Any:
    """As BERT (WordPiece), and plain vocabularies of words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = sorted(
        {word for text in CORPUS for word in text.split()} | {letter for text in CORPUS for letter in text}
    )
    vocabulary = [*SPECIAL, *(word for word in words if word not in SPECIAL)]
    if model == "WordPiece":
        vocabulary += [f"##{word}" for word in words]
    ids = {text: number for number, text in enumerate(vocabulary)}
    tokenizer = Tokenizer(getattr(models, model)(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.normalizer = getattr(pre_tokenizers, pre_tokenizer)(), normalizer
    return tokenizer


def family_tokenizers() -> dict[str, Any]:
    """Return one Hugging Face tokenizer per kind of model, all with the same special and added tokens."""
    from tokenizers import AddedToken, normalizers
    from transformers import PreTrainedTokenizerFast

    rules = normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()])
    backends = {
        "Unigram": _unigram(),
        "Unigram, NFKC": _unigram(rules),
        "Unigram, no bytes": _unigram(rules, bytes_known=False),
        "byte-level BPE": _byte_level(ignore_merges=False),
        "byte-level BPE, ignore_merges": _byte_level(ignore_merges=True),
        "SentencePiece BPE": _sentencepiece_bpe(spelled=False),
        "SentencePiece BPE, spelled": _sentencepiece_bpe(spelled=True),
        "WordPiece": _words("WordPiece", "BertPreTokenizer"),
        "WordPiece, NFKC, words": _words("WordPiece", "WhitespaceSplit", normalizers.NFKC()),
        "WordLevel": _words("WordLevel", "WhitespaceSplit"),
    }
    tokenizers = {}
    for name, backend in backends.items():
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, **NAMED, clean_up_tokenization_spaces=False
        )
        tokenizer.add_tokens(
            [AddedToken(text, special=True, normalized=False) for text in SPECIAL], special_tokens=True
        )
        # Normalised, as T5's are: a full-width form of such a token is the token.
        tokenizer.add_tokens([AddedToken(text, special=False, normalized=True) for text in ADDED])
        tokenizers[name] = tokenizer
    return tokenizers
