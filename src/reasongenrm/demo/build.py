"""Files of the toy world: preference pairs, ranked answers, general data, a benchmark, and a tiny DistilBERT."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from reasongenrm.console import show
from reasongenrm.demo.corpus import check
from reasongenrm.demo.world import FAMILIES, distinct, draw_task, ranked_answers, toy_pairs
from reasongenrm.errors import ConfigError
from reasongenrm.records import REFERENCE_POINTS, PreferencePair
from reasongenrm.scalar.tiny import build_tiny_distilbert
from reasongenrm.store import write_jsonl

CHECKS = 0.4
"""Share of the rows of general data that ask whether a reply is right; the others ask the question."""
RANKED_PROMPTS = 10
"""Prompts with ranked answers, per family."""


def skywork_row(pair: PreferencePair) -> dict[str, object]:
    """Return a pair in the columns of Skywork-Reward-Preference-80K, and with its reference points, if it has some."""
    history = [dict(turn) for turn in pair.history]
    row: dict[str, object] = {
        "chosen": [*history, {"role": "assistant", "content": pair.chosen}],
        "rejected": [*history, {"role": "assistant", "content": pair.rejected}],
        "source": pair.source,
    }
    return row | ({REFERENCE_POINTS: list(pair.reference_points)} if pair.reference_points else {})


def rewardbench_row(number: int, pair: PreferencePair) -> dict[str, object]:
    """Return a pair in RewardBench's columns."""
    return {
        "id": number,
        "subset": pair.source,
        "prompt": pair.history[-1]["content"],
        "chosen": pair.chosen,
        "rejected": pair.rejected,
    }


def toy_general(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Yield distinct rows of general data, without a verdict: `prompt`, `reason`, `response` and `source` (the family).

    The questions are of the `pretrain` split, so the toy base knows every word; new to it is the order question,
    reason, answer.

    Args:
        count: number of rows, the families in turn. Beyond about 20,000 the smallest family has no more distinct rows.
        seed: of the random draw.
    """
    rng = random.Random(f"general {seed}")

    def draw(family: str) -> dict[str, str]:
        task = draw_task(rng, "pretrain", family)
        if rng.random() < CHECKS:
            prompt, work, verdict = check(rng, task)
            return {"prompt": prompt, "reason": f"{work} .", "response": verdict, "source": family}
        return {"prompt": task.question, "reason": task.work, "response": task.good, "source": family}

    return distinct(draw, lambda row: row["prompt"], count)


def toy_ranked(per_family: int, seed: int) -> Iterator[dict[str, str | int]]:
    """Yield the rows of ranked answers, in the columns that `reasongenrm answers rank` writes.

    The questions are of the `pretrain` split, so that no preference pair and no benchmark row has them.

    Args:
        per_family: number of prompts per family, with three answers each.
        seed: of the random draw.
    """
    rng = random.Random(f"ranked {seed}")
    tasks = distinct(
        partial(draw_task, rng, "pretrain"), lambda task: task.question, per_family * len(FAMILIES)
    )
    for task in tasks:
        answers = ranked_answers(rng, task)
        rng.shuffle(answers)
        for answer, rank in answers:
            row: dict[str, str | int] = {"prompt": task.question, "answer": answer, "rank": rank}
            yield row | {"annotator": "toy world", "model": "toy world"}


def build(out: str, *, pairs: int, rows: int, seed: int) -> None:
    """Write the files of the toy world, the same bytes for the same arguments.

    They are `train.jsonl`, `ranked.jsonl`, `general.jsonl`, `rewardbench.jsonl` and `distilbert/`.

    Args:
        out: folder.
        pairs: training pairs per family (questions of the `train` split), and rows of general data.
        rows: benchmark rows per family (questions of the `test` split).
        seed: of the random draw.
    """
    if min(pairs, rows) < 1:
        raise ConfigError(f"{min(pairs, rows)} pairs or rows", location="toy build", hint="give at least 1")
    folder = Path(out)
    train = list(toy_pairs("train", pairs, seed))
    test = list(toy_pairs("test", rows, seed))
    write_jsonl(folder / "train.jsonl", map(skywork_row, train))
    ranked = write_jsonl(folder / "ranked.jsonl", toy_ranked(RANKED_PROMPTS, seed))
    write_jsonl(folder / "general.jsonl", toy_general(pairs, seed))
    write_jsonl(folder / "rewardbench.jsonl", (rewardbench_row(n, pair) for n, pair in enumerate(test)))
    if not (folder / "distilbert" / "model.safetensors").exists():
        texts = (text for pair in train for text in (pair.history[-1]["content"], pair.chosen, pair.rejected))
        build_tiny_distilbert(folder / "distilbert", texts, seed)
    show(
        f"{folder}: {len(train)} toy pairs, {ranked} ranked answers, {len(test)} toy benchmark rows, general data, "
        "a tiny untrained DistilBERT"
    )
