"""Heads that tests train: pairs that are easy to tell apart, and the contract with nothing of this suite."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import reasongenrm
from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.records import PreferencePair
from reasongenrm.train.scalar import train_scalar

WORDS = [
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "is",
    "it",
    "you",
    "that",
    "he",
    "was",
    "for",
    "on",
    "are",
    "with",
]


ARGS = {"learning_rate": 1e-3, "max_steps": 40, "save_steps": 10, "disable_tqdm": True}


HERE = Path(__file__).parents[1]


SOURCE = Path(reasongenrm.__file__).parents[1]


# One thread: the model is tiny, and threads that wait for each other on a busy machine take most of the time.
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{SOURCE}{os.pathsep}{HERE}", "OMP_NUM_THREADS": "1"}


FOLDER = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "training_args.json"}


FOLDER |= {"loss.json", "loss.png", "README.md", "done.json", "dropped.jsonl"}
FOLDER |= {"vocab.txt", "special_tokens_map.json"}  # older tools read these


def sentence(source: random.Random, word: str) -> str:
    words = [source.choice(WORDS) for _ in range(12)]
    words.insert(source.randrange(12), word)
    return " ".join(words)


def easy_pairs(count: int, seed: int) -> list[PreferencePair]:
    """Pairs whose chosen answer holds `good` and whose rejected answer holds `bad`."""
    source = random.Random(seed)
    prompts = [({"role": "user", "content": sentence(source, "what")},) for _ in range(count)]
    return [
        PreferencePair.make(p, sentence(source, "good"), sentence(source, "bad"), "easy") for p in prompts
    ]


def train(
    base: Path, output: Path, pairs: list[PreferencePair] | None = None, **changes: Any
) -> dict[str, Any]:
    seed = changes.pop("seed", 1)
    config = ScalarConfig.model_validate({"model": str(base), "args": ARGS} | changes)
    return train_scalar(easy_pairs(150, 0) if pairs is None else pairs, config, output_dir=output, seed=seed)


def plain_score(folder: Path, prompt: str, response: str) -> float:
    """The contract, with nothing of this suite."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    tokens = tokenizer(prompt, response, return_tensors="pt", truncation=True)
    with torch.no_grad():
        return model(**tokens).logits.item()


def noisy(base: Path, output: Path) -> dict[str, Any]:
    """A training whose held-out loss soon gets worse: the labels are coins."""
    source = random.Random(4)
    pairs = [
        PreferencePair.make(p.history, *source.sample([p.chosen, p.rejected], 2), "noise")
        for p in easy_pairs(60, 2)
    ]
    args = ARGS | {"max_steps": 400, "save_steps": 5, "lr_scheduler_type": "constant"}
    return train(base, output, pairs, validation=0.3, patience=2, args=args)


def save_random_head(folder: Path, texts: list[str], seed: int = 3) -> Path:
    """Write an untrained head over a tiny DistilBERT, whose scores are far apart, and return its folder."""
    import torch
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertForSequenceClassification

    from reasongenrm.scalar.tiny import build_tiny_distilbert

    build_tiny_distilbert(folder, texts, seed)
    config = DistilBertConfig.from_pretrained(folder, num_labels=1, initializer_range=0.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        DistilBertForSequenceClassification(config).save_pretrained(folder)
    assert AutoTokenizer.from_pretrained(folder).pad_token
    return folder
