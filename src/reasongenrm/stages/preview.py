"""`--dry-run`: what a stage would work on, without starting it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

import yaml

from reasongenrm.chat.prompts import PromptFile, judge_prompt, place
from reasongenrm.config.recipe import Recipe
from reasongenrm.records import Drop, JudgePrompt, PreferencePair
from reasongenrm.stages.evaluate import benchmark_rows
from reasongenrm.stages.pairs import load_sources
from reasongenrm.store import read_jsonl
from reasongenrm.train.sft import record_files

SHOWN = 2


def preview(recipe: Recipe, stage: str) -> None:
    """Print the resolved recipe, row counts and two rendered prompts of a stage; write nothing.

    Args:
        recipe: the resolved recipe.
        stage: `prepare`, `train` or `evaluate`.
    """
    print(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    if stage == "train":
        _records(recipe)
    else:
        _rows(
            recipe,
            load_sources(recipe.data.sources, recipe.limit) if stage == "prepare" else _benchmarks(recipe),
        )


def _benchmarks(recipe: Recipe) -> Iterator[PreferencePair | Drop]:
    """Yield the pairs of all benchmarks."""
    for name in recipe.evaluate.benchmarks:
        for row in benchmark_rows(recipe, name):
            yield from [row] if isinstance(row, Drop) else row.pairs


def _rows(recipe: Recipe, rows: Iterable[PreferencePair | Drop]) -> None:
    prompts = PromptFile.load(recipe.prompts)
    counts: Counter[str] = Counter()
    shown: list[JudgePrompt] = []
    for row in rows:
        counts[f"dropped: {row.reason}" if isinstance(row, Drop) else f"source {row.source}"] += 1
        if isinstance(row, PreferencePair) and len(shown) < SHOWN:
            shown.append(judge_prompt(row, place(row.id, recipe.seed), prompts))
    _print_counts(counts)
    for prompt in shown:
        print(f"--- prompt {prompt.id} (the better answer stands as {prompt.winner})")
        print(prompt.messages[-1]["content"])


def _records(recipe: Recipe) -> None:
    """Stage 2 works on the files of stage 1, where they are there already."""
    counts: Counter[str] = Counter()
    shown: dict[str, str] = {}
    for path in dict.fromkeys(file for name in recipe.judges for file in record_files(recipe, name)):
        if not path.exists():
            print(f"{path}: not there yet; run 1_prepare.sh first")
            continue
        for row in read_jsonl(path):
            counts[path.name] += 1
            if len(shown) < SHOWN:
                shown[row["id"]] = row["prompt"][-1]["content"]
    _print_counts(counts)
    for name, text in shown.items():
        print(f"--- prompt {name}\n{text}")


def _print_counts(counts: Counter[str]) -> None:
    print(f"rows: {counts.total()}")
    for name, count in sorted(counts.items()):
        print(f"  {name}: {count}")
