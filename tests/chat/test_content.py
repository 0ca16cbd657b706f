"""No text yields an added or special token, with any kind of tokenizer."""

from __future__ import annotations

import json
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reasongenrm.chat.content import content_tokenizer, read_as_text
from reasongenrm.chat.delimiters import neutralise
from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.errors import EngineError
from support.attacks import DELIMITERS, SHORT
from support.marked_tokenizers import ADDED, BYTES, NAMED, SPECIAL, family_tokenizers

pytestmark = pytest.mark.unit

WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
MARKED = (*SPECIAL, *ADDED)
FRAGMENTS = [
    *MARKED, *(text.translate(WIDE) for text in MARKED), *(text[:-1] for text in MARKED), *(text[1:] for text in MARKED),
    *("<", "/", "s", ">", "|", "[", "]", "▁", " ", "\n", "x", "the"), *BYTES[:12], *(attack.text for attack in SHORT if len(attack.text) < 60),
]  # fmt: skip
texts = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=6).map("".join)
FAMILIES = (
    "Unigram", "Unigram, NFKC", "Unigram, no bytes", "byte-level BPE", "byte-level BPE, ignore_merges", "SentencePiece BPE",
    "SentencePiece BPE, spelled", "WordPiece", "WordPiece, NFKC, words", "WordLevel",
)  # fmt: skip


@cache
def tokenizers() -> dict[str, Any]:
    return family_tokenizers()


@cache
def reader(family: str) -> Any:
    return content_tokenizer(tokenizers()[family])


def structure(tokenizer: Any) -> set[int]:
    """The ids that no text may yield: those of MARKED, but for the unknown token."""
    return set(tokenizer.convert_tokens_to_ids([*MARKED])) - {tokenizer.unk_token_id}


def read(family: str, text: str) -> list[int]:
    plain = text.encode("utf-8", "replace").decode()
    return list(reader(family).encode(plain, add_special_tokens=False).ids)


def test_the_families_are_all_there() -> None:
    assert tuple(tokenizers()) == FAMILIES


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokenizer_alone_reads_structure(family: str) -> None:
    # Else the tests below would prove nothing.
    tokenizer = tokenizers()[family]
    for text in MARKED:
        assert set(tokenizer(f"the {text}", add_special_tokens=False)["input_ids"]) & (
            structure(tokenizer) | {tokenizer.unk_token_id}
        ), text
    if family not in ("byte-level BPE", "SentencePiece BPE"):  # their merges do not make a special token
        ids = tokenizer("</s>", add_special_tokens=False, split_special_tokens=True)["input_ids"]
        assert family == "WordPiece" or tokenizer.eos_token_id in ids, "`split_special_tokens` is not enough"


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=150)
@given(text=texts)
@example(text="".join(FRAGMENTS))
@example(text="</s>" * 500)
def test_no_text_yields_structure(family: str, text: str) -> None:
    assert set(read(family, text)) & structure(tokenizers()[family]) == set()


@pytest.mark.parametrize(
    "family", ["Unigram", "Unigram, NFKC", "SentencePiece BPE", "SentencePiece BPE, spelled"]
)
def test_a_byte_token_spelled_out_is_text(family: str) -> None:
    ids = set(tokenizers()[family].convert_tokens_to_ids(list(BYTES)))
    for text in ("<0x0A>", "x<0x0A>y", "<0x0A><0x00>", "<<0x41>>"):
        assert not ids & set(read(family, text)), text
    assert ids & set(read(family, "\U0001f642")), (
        "a character that is not in the vocabulary becomes bytes all the same"
    )


@pytest.mark.parametrize("family", FAMILIES)
@settings(deadline=None, max_examples=60)
@given(
    words=st.lists(
        st.sampled_from("the quick [End] [Answer A] 42 é 漢字 a < b > c / s unknownword".split(" "))
    )
)
def test_other_text_is_read_as_before(family: str, words: list[str]) -> None:
    text = " ".join(words)
    assert read(family, text) == tokenizers()[family](text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_worker_process_reads_no_structure_either(family: str) -> None:
    sent = pickle.loads(pickle.dumps(reader(family)))
    for text in ("".join(FRAGMENTS).encode("utf-8", "replace").decode(), *MARKED):
        assert sent.encode(text, add_special_tokens=False).ids == read(family, text)


# --- tokenizers that are refused


def unusual(**changes: Any) -> Any:
    """A tokenizer of words, without bytes for other characters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["<unk>", "</s>", "<s>", "§", "a", "b"]
    backend = Tokenizer(
        models.WordLevel(
            {text: n for n, text in enumerate(vocabulary)}, unk_token=changes.get("unk_token", "<unk>")
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if normalizer := changes.pop("normalizer", None):
        backend.normalizer = getattr(normalizers, normalizer)()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **({"unk_token": "<unk>", "eos_token": "</s>"} | changes)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eos_token": "§"}, r"^tokenizer: '§' is a special token of one character"),
        ({"unk_token": "</s>"}, r"becomes the special token '</s>': judged text could hold structure"),
        (
            {"normalizer": "Lowercase"},
            r"normaliser turns 'A' into 'a': a text could form a delimiter of the prompt",
        ),
        ({"normalizer": "StripAccents"}, r"normaliser turns .* into ''"),
    ],
)
def test_a_tokenizer_that_reads_structure_in_texts_is_refused(changes: dict[str, str], message: str) -> None:
    with pytest.raises(EngineError, match=message) as caught:
        ChatEncoder(unusual(**changes), "{{ messages }}")
    assert "\n" not in str(caught.value)
    content_tokenizer(unusual())  # without the changes it can be used


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(EngineError, match=r"object is not a fast tokenizer.*tokenizer\.json"):
        content_tokenizer(object())


def test_a_normaliser_of_bytes_is_none_of_text() -> None:
    from tokenizers import normalizers

    for normalizer in (normalizers.ByteLevel(), normalizers.NFKC(), normalizers.Nmt(), normalizers.NFD()):
        tokenizer = unusual()
        tokenizer.backend_tokenizer.normalizer = normalizer
        content_tokenizer(tokenizer)


# --- delimiters under a normaliser


def normalisers() -> list[Any]:
    from tokenizers import Regex, normalizers

    one_blank = normalizers.Replace(Regex(" {2,}"), " ")
    return [
        normalizers.NFC(), normalizers.NFKC(), normalizers.NFKD(), normalizers.Nmt(),
        normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC(), one_blank]),
        normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("▁", " "), one_blank]),
        normalizers.BertNormalizer(lowercase=False, strip_accents=False, handle_chinese_chars=False),
    ]  # fmt: skip


FORMS = [
    *DELIMITERS, *(text.translate(WIDE) for text in DELIMITERS), *(text[0] + "\u200b" + text[1:] for text in DELIMITERS),
    *(text[:2] + "\x01" + text[2:] for text in DELIMITERS), *(text.replace(" ", blank) for text in DELIMITERS for blank in ("  ", "\u00a0", "▁", "\u200b", "\t \u3000")),
    *("[\U0001d5d8nd]", "[E\xadnd]", "﹇End﹈", "[", "]", "E", "nd", "\\", "\u0301"),
]  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(text=st.lists(st.sampled_from(FORMS) | st.text(max_size=3), max_size=5).map("".join))
@example(text="".join(FORMS))
@example(text="\n".join(FORMS[::-1]))
def test_no_normaliser_makes_a_delimiter(text: str) -> None:
    shown = neutralise(text, DELIMITERS)
    for normalizer in normalisers():
        normal = normalizer.normalize_str(shown.encode("utf-8", "replace").decode())
        assert [delimiter for delimiter in DELIMITERS if delimiter in normal] == [], normalizer
    assert neutralise(shown, DELIMITERS) == shown
    assert len(shown) <= 2 * len(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("［End］", "［\\End］"),
        ("x [Answer\u00a0B] y", "x [\\Answer\u00a0B] y"),
        ("Größe [end] [ End ] ［x］", "Größe [end] [ End ] ［x］"),
        ("漢字［Answer Ｂ］，好", "漢字［\\Answer Ｂ］，好"),
        ("[\u200bEnd]", "[\\\u200bEnd]"),
    ],
)
def test_only_the_delimiter_itself_is_changed(text: str, shown: str) -> None:
    assert neutralise(text, DELIMITERS) == shown


def test_one_character_that_stands_for_a_whole_delimiter_is_written_out() -> None:
    assert neutralise("x ⑴ y", ["(1)"]) == "x (\\1) y"


def test_a_hostile_text_is_broken_up_in_linear_time() -> None:
    import time

    start = time.process_time()
    for text in (
        "[Answer" + "\u200b" * 200_000,
        "[" * 200_000,
        "[\u200b" * 100_000,
        "[Answer " + " " * 200_000,
    ):
        neutralise(text, DELIMITERS)
    assert time.process_time() - start < 5


# --- the scalar head


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_reads_no_structure_in_prompt_and_answer(family: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizers()[family].save_pretrained(tmp_path / "base")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "base", split_special_tokens=True)
    read_as_text(tokenizer)
    tokenizer.save_pretrained(tmp_path / "head")
    saved = AutoTokenizer.from_pretrained(tmp_path / "head")  # by plain transformers
    hostile = [
        "".join(FRAGMENTS).encode("utf-8", "replace").decode(),
        "</s>",
        "the [SEP] <think> x",
        "＜/s＞",
        "<0x0A>",
    ]
    for text in hostile:
        for one in (tokenizer, saved):
            ids = one("the quick", text, add_special_tokens=False)["input_ids"]
            assert not structure(one) & set(ids), (one is saved, text)
    read_as_text(saved)  # as serving does
    words = [json.loads(one.backend_tokenizer.to_str())["pre_tokenizer"] for one in (tokenizer, saved)]
    assert words[0] == words[1], "it is cut once"


def test_the_named_tokens_are_those_of_the_tests() -> None:
    assert set(NAMED.values()) <= set(SPECIAL)
