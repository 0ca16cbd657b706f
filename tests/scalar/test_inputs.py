"""The files of a head's tokenizer: those that older tools read, equal to the one that this suite loads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.scalar.inputs import load_base_tokenizer, save_tokenizer

TOY_BASE = Path(__file__).parents[2] / "data" / "toy-base"
TEXTS = ("The good answer , twice !", "is it [SEP] or <|im_end|> ?", "unseen wörds 漢", "")


def saved(model: Path, folder: Path, limit: int = 64) -> tuple[Any, Any]:
    """Return a base's tokenizer, and what transformers load from the folder of a head."""
    from transformers import AutoTokenizer

    tokenizer = load_base_tokenizer(str(model), None, limit)
    folder.mkdir()
    save_tokenizer(tokenizer, folder)
    return tokenizer, AutoTokenizer.from_pretrained(folder)


def ids(tokenizer: Any) -> list[list[int]]:
    return [tokenizer(prompt, answer)["input_ids"] for prompt in TEXTS for answer in TEXTS]


@pytest.mark.engine
def test_a_word_piece_head_has_the_files_of_older_tools(base: Path, tmp_path: Path) -> None:
    from tokenizers import BertWordPieceTokenizer

    tokenizer, loaded = saved(base, tmp_path / "head")
    assert ids(loaded) == ids(tokenizer)
    special = json.loads((tmp_path / "head" / "special_tokens_map.json").read_text(encoding="utf-8"))
    assert special == tokenizer.special_tokens_map and special["eos_token"] == "[SEP]"
    old = BertWordPieceTokenizer(str(tmp_path / "head" / "vocab.txt"), lowercase=True)
    for prompt, answer in (("the good answer", "is it he ?"), ("What", "UNSEEN zebra, wörd")):
        assert old.encode(prompt, answer).ids == tokenizer(prompt, answer)["input_ids"]


@pytest.mark.engine
def test_a_bert_class_is_loaded_as_before(base: Path, tmp_path: Path) -> None:
    """Its class rebuilds a tokenizer from parts: the new files must not become one of them."""
    from transformers import BertConfig, BertTokenizer

    first = tmp_path / "first"
    saved(base, first)
    BertTokenizer.from_pretrained(first).save_pretrained(tmp_path / "bert")
    BertConfig(vocab_size=2048).save_pretrained(tmp_path / "bert")
    tokenizer, loaded = saved(tmp_path / "bert", tmp_path / "head")
    assert type(loaded).__name__ == "BertTokenizer" and ids(loaded) == ids(tokenizer)
    assert loaded.model_max_length == 64


@pytest.mark.engine
def test_a_byte_level_head_has_vocabulary_and_merges(tmp_path: Path) -> None:
    tokenizer, loaded = saved(TOY_BASE, tmp_path / "head")
    assert ids(loaded) == ids(tokenizer)
    vocabulary = json.loads((tmp_path / "head" / "vocab.json").read_text(encoding="utf-8"))
    known = tokenizer.get_vocab()
    assert vocabulary and all(known[token] == number for token, number in vocabulary.items())
    assert (tmp_path / "head" / "merges.txt").read_text(encoding="utf-8").startswith("#version")


@pytest.mark.engine
def test_a_unigram_head_has_no_file_that_an_older_tool_would_misread(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import DistilBertConfig, PreTrainedTokenizerFast

    pieces = [("<pad>", 0.0), ("<unk>", -1.0), ("</s>", -1.0), *((letter, -2.0) for letter in "▁abcdet")]
    backend = Tokenizer(models.Unigram(pieces, unk_id=1))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path / "base")
    DistilBertConfig(vocab_size=len(pieces)).save_pretrained(tmp_path / "base")
    tokenizer, loaded = saved(tmp_path / "base", tmp_path / "head")
    assert ids(loaded) == ids(tokenizer)
    names = {file.name for file in (tmp_path / "head").iterdir()}
    assert names == {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
