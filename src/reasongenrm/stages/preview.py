"""`--dry-run`: the input of a stage, without starting it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import yaml

from reasongenrm.chat.prompts import PromptFile, placed_prompts
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import show
from reasongenrm.data.sources import load_sources
from reasongenrm.errors import DataError
from reasongenrm.records import Drop, PreferencePair
from reasongenrm.rows.turns import BadRow, read_prompt
from reasongenrm.stages.evaluate import benchmark_rows
from reasongenrm.store import read_jsonl
from reasongenrm.train.tokens import record_files

EXAMPLES = 2


def preview(recipe: Recipe, stage: str) -> None:
    """Print the resolved recipe, row counts and two rendered prompts of a stage; write nothing.

    Args:
        stage: `prepare`, `train` or `evaluate`.
    """
    show(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    if stage == "train":
        _preview_records(recipe)
    elif stage == "prepare":
        _preview_pairs(recipe, load_sources(recipe.data.sources, recipe.limit))
    else:
        _preview_pairs(recipe, _benchmark_pairs(recipe))


def _benchmark_pairs(recipe: Recipe) -> Iterator[PreferencePair | Drop]:
    for name in recipe.evaluate.benchmarks:
        for row in benchmark_rows(recipe, name):
            yield from [row] if isinstance(row, Drop) else row.pairs


def _preview_pairs(recipe: Recipe, pairs: Iterable[PreferencePair | Drop]) -> None:
    prompt_file = PromptFile.load(recipe.prompts)
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for pair in pairs:
        counts[f"dropped: {pair.reason}" if isinstance(pair, Drop) else f"source {pair.source}"] += 1
        if isinstance(pair, PreferencePair) and len(examples) < EXAMPLES:
            [prompt] = placed_prompts(pair, prompt_file, seed=recipe.seed, both_orders=False)
            examples[f"{prompt.id} (the better answer is {prompt.winner})"] = prompt.messages[-1]["content"]
    _print(counts, examples)


def _preview_records(recipe: Recipe) -> None:
    """Print the records of stage 1 that exist already."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for path in dict.fromkeys(file for name in recipe.judges for file in record_files(recipe, name)):
        if not path.exists():
            show(f"{path}: not found; run 1_prepare.sh first")
            continue
        for number, row in enumerate(read_jsonl(path), 1):
            counts[path.name] += 1
            if len(examples) < EXAMPLES:
                location = f"{path}:{number}"
                try:
                    turns = read_prompt(row.get("prompt"), "prompt")
                except BadRow as error:
                    hint = "see sft.jsonl for the columns"
                    raise DataError(error.detail, location=location, hint=hint) from None
                examples[row.get("id") or location] = turns[-1]["content"]
    _print(counts, examples)


def _print(counts: Counter[str], examples: Mapping[str, str]) -> None:
    show(f"rows: {counts.total()}")
    for name, count in sorted(counts.items()):
        show(f"  {name}: {count}")
    for prompt, text in examples.items():
        show(f"--- prompt {prompt}\n{text}")
