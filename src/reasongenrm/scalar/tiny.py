"""A tiny untrained DistilBERT with a vocabulary of given texts: a base for heads that train in seconds, without a model hub."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY_SIZE = 2048


def build_tiny_distilbert(out_dir: Path, texts: Iterable[str], seed: int) -> None:
    """Write a tokenizer of the texts' words and a random DistilBERT (64 wide, 2 layers, 2 heads).

    The tokenizer is WordPiece, lower-case, with the pair template `[CLS] a [SEP] b [SEP]`. The same texts and
    seed give the same bytes, under the same library versions.

    Args:
        out_dir: folder for config.json, model.safetensors and the tokenizer files; created if it does not exist.
        texts: source of the vocabulary.
        seed: of the weights.
    """
    import torch
    from transformers import DistilBertConfig, DistilBertModel

    tokenizer = word_tokenizer(texts)
    config = DistilBertConfig(
        vocab_size=len(tokenizer),
        dim=64,
        hidden_dim=128,
        n_layers=2,
        n_heads=2,
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):  # keeps the caller's random state
        torch.manual_seed(seed)
        model = DistilBertModel(config)
    out_dir.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out_dir)
    tokenizer.save_pretrained(out_dir)


def word_tokenizer(texts: Iterable[str]) -> Any:
    """Return a fast tokenizer; its vocabulary is all characters of the texts and of ASCII, then the commonest words.

    The vocabulary is counted here because `tokenizers.trainers.WordPieceTrainer` breaks ties by hash order:
    two processes give two vocabularies (measured with tokenizers 0.23.3).
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text)))
    ascii_characters = {chr(code).lower() for code in range(33, 127)}  # for any English text
    characters = sorted(ascii_characters.union(*words))
    pieces = SPECIAL_TOKENS + characters + [f"##{character}" for character in characters]
    frequent = sorted((word for word in words if len(word) > 1), key=lambda word: (-words[word], word))
    pieces += frequent[: max(0, VOCABULARY_SIZE - len(pieces))]

    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, pieces.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=512,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
