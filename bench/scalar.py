"""Speed of the scalar head: `score_batch` against one call of `score` per answer.

    python bench/scalar.py [FOLDER] [--pairs 256] [--repeats 3]

FOLDER has a trained head (`make demo` writes one to runs/demo/scalar). The demo's head is so small that most of the time
is call overhead, so a DistilBERT of the published size (66 million untrained weights, as fast as trained ones) is
measured too. Answers have 3 to 200 words, log-uniformly drawn, so that many are short. The two methods run in turn; the
table has medians, without the first round.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import time
from pathlib import Path

from machine import machine

from reasongenrm.demo.world import NOUNS
from reasongenrm.scalar.model import ScalarRewardModel


def published_size(folder: Path, location: Path) -> Path:
    """Write an untrained head of DistilBERT's published size with a folder's tokenizer; return its folder."""
    import torch
    from transformers import AutoTokenizer, DistilBertConfig, DistilBertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = DistilBertConfig(vocab_size=30522, num_labels=1, pad_token_id=tokenizer.pad_token_id)
    DistilBertForSequenceClassification(config).save_pretrained(location)
    tokenizer.save_pretrained(location)
    return location


def mixed(count: int) -> tuple[list[str], list[str]]:
    """Return prompts and answers of many lengths."""
    draw = random.Random(3)

    def text(most: int) -> str:
        words = round(math.exp(draw.uniform(math.log(3), math.log(most))))
        return " ".join(draw.choice(NOUNS) for _ in range(words))

    return [text(20) for _ in range(count)], [text(200) for _ in range(count)]


def measure(model: ScalarRewardModel, pairs: int, repeats: int) -> tuple[float, float, float]:
    """Return the median seconds one by one and batched, and the largest difference of a score."""
    prompts, answers = mixed(pairs)
    single, batched, apart = [], [], 0.0
    for number in range(repeats + 1):
        began = time.perf_counter()
        one_by_one = [model.score(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
        middle = time.perf_counter()
        together = model.score_batch(prompts, answers)
        ended = time.perf_counter()
        apart = max(apart, max(abs(a - b) for a, b in zip(one_by_one, together, strict=True)))
        if number:
            single.append(middle - began)
            batched.append(ended - middle)
    return statistics.median(single), statistics.median(batched), apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", default="runs/demo/scalar")
    parser.add_argument("--pairs", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    print(machine())
    print(f"\n{options.pairs} answers of 3 to 200 words\n")
    print("| head | one by one, s | batched, s | ratio | largest difference |\n|---|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as location:
        heads = {
            "FOLDER": Path(options.folder),
            "DistilBERT's size": published_size(options.folder, Path(location)),
        }
        for name, folder in heads.items():
            single, batched, apart = measure(
                ScalarRewardModel.from_pretrained(folder), options.pairs, options.repeats
            )
            print(f"| {name} | {single:.2f} | {batched:.2f} | {single / batched:.2f}x | {apart:.0e} |")


if __name__ == "__main__":
    main()
