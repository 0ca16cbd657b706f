"""A head trained on people's majority, against two judges, on rows of PandaLM's test set.

    python bench/pandalm.py [FILE] [--train 350] [--steps 200] [--seeds 3]

FILE has rows of `instruction, input, response1, response2`, the labels of three `annotators` (1, 2, or 0 for alike) and the verdicts of
`judges`; ../shared/human/pandalm_annotated.jsonl has 500 of them. Whole instructions are held out, since many rows share one: about
`--train` rows are for training, the others are the test. A row whose majority is "alike", or that has none, is not used: the head gives
one of two answers. The heads are a tiny DistilBERT from random weights, whose vocabulary is that of the training rows, and the toy base,
which knows the words of the toy world only. Neither has read English before; the number says what 350 rows alone teach.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from machine import machine

from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.metrics.intervals import clustered_interval
from reasongenrm.records import Message, PreferencePair, content_id, unit_hash
from reasongenrm.report.tables import with_interval
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.scalar.tiny import build_tiny_distilbert
from reasongenrm.train.scalar import train_scalar

TOY_BASE = "data/toy-base"


class Row(NamedTuple):
    """A row with a majority.

    Attributes:
        group: of its instruction.
        pair: the answer that most people preferred, and the other.
        verdicts: judge -> whether it named that answer; a tie or an unreadable verdict is not right.
    """

    group: str
    pair: PreferencePair
    verdicts: dict[str, bool]


def read(path: Path) -> list[Row]:
    """Return the rows in which two of three people preferred the same answer."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        raw = json.loads(line)
        label, votes = Counter(raw["annotators"]).most_common(1)[0]
        if votes < 2 or label == 0:
            continue
        prompt = "\n\n".join(text for text in (raw["instruction"], raw["input"]) if text)
        answers = str(raw["response1"]), str(raw["response2"])  # some are true or false
        better, worse = answers if label == 1 else answers[::-1]
        pair = PreferencePair.make((Message(role="user", content=prompt),), better, worse, "pandalm")
        verdicts = {name: str(verdict) == str(label) for name, verdict in raw["judges"].items()}
        rows.append(Row(content_id(prompt), pair, verdicts))
    return rows


def split(rows: Sequence[Row], count: int) -> tuple[list[Row], list[Row]]:
    """Return about `count` rows to train on, and the others; the rows of an instruction stay together."""
    sizes = Counter(row.group for row in rows)
    train: set[str] = set()
    total = 0
    for group in sorted(sizes, key=lambda group: unit_hash("pandalm", group)):
        if total + sizes[group] <= count:
            train.add(group)
            total += sizes[group]
    return [row for row in rows if row.group in train], [row for row in rows if row.group not in train]


def cell(rows: Sequence[Row], credits: Sequence[float]) -> str:
    """Return an accuracy with its interval over instructions."""
    by_group: dict[str, list[float]] = {}
    for row, credit in zip(rows, credits, strict=True):
        by_group.setdefault(row.group, []).append(credit)
    groups = by_group.values()
    interval = clustered_interval([sum(group) for group in groups], [len(group) for group in groups], seed=0)
    return with_interval(fmean(credits), interval)


def head_credits(folder: Path, rows: Sequence[Row]) -> list[float]:
    """Return 1 for each row whose better answer has the higher score, 0.5 for equal scores."""
    model = ScalarRewardModel.from_pretrained(folder)
    histories = [row.pair.history for row in rows]
    better = model.score_batch(histories, [row.pair.chosen for row in rows])
    worse = model.score_batch(histories, [row.pair.rejected for row in rows])
    return [0.5 if a == b else float(a > b) for a, b in zip(better, worse, strict=True)]


def train(base: str, rows: Sequence[Row], out: Path, steps: int, seed: int) -> None:
    """Train a head; a tenth of the instructions stops it early."""
    args: dict[str, Any] = {"learning_rate": 5e-4, "per_device_train_batch_size": 16, "max_steps": steps}
    args |= {"save_steps": 10, "warmup_steps": 10}
    config = ScalarConfig(model=base, max_length=256, validation=0.1, patience=5, args=args)
    train_scalar([row.pair for row in rows], config, output_dir=out, seed=seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="?", default="../shared/human/pandalm_annotated.jsonl")
    parser.add_argument("--train", type=int, default=350)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    rows = read(Path(options.file))
    train_rows, test = split(rows, options.train)
    print(machine())
    groups = [len({row.group for row in part}) for part in (train_rows, test)]
    print(
        f"\n{len(train_rows)} rows of {groups[0]} instructions to train on, {len(test)} of {groups[1]} to test\n"
    )
    print("| model | agrees with the majority, % [95%] | seconds of training |\n|---|--:|--:|")
    longer = [float(len(row.pair.chosen) > len(row.pair.rejected)) for row in test]
    print(f"| the longer answer | {cell(test, longer)} | |")
    with tempfile.TemporaryDirectory() as location:
        tiny = Path(location, "distilbert")
        texts = (
            text
            for row in train_rows
            for text in (row.pair.history[0]["content"], row.pair.chosen, row.pair.rejected)
        )
        build_tiny_distilbert(tiny, texts, seed=0)
        for name, base in {"DistilBERT, 2 layers, random weights": str(tiny), "toy base": TOY_BASE}.items():
            for seed in range(options.seeds):
                out, began = Path(location, f"{name} {seed}"), time.perf_counter()
                train(base, train_rows, out, options.steps, seed)
                seconds = time.perf_counter() - began
                print(
                    f"| {name}, seed {seed} | {cell(test, head_credits(out, test))} | {seconds:.0f} |",
                    flush=True,
                )
    for judge in test[0].verdicts:
        print(f"| {judge} | {cell(test, [float(row.verdicts[judge]) for row in test])} | |")


if __name__ == "__main__":
    main()
