"""`--dry-run`: the input of a stage, the steps to do again, and an estimate of memory and hours, without starting it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from reasongenrm.chat.prompts import PromptFile, placed_prompts
from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.console import show
from reasongenrm.data.sources import load_sources
from reasongenrm.doctor.chain import Input, assumed_inputs
from reasongenrm.doctor.checks import check_machine
from reasongenrm.doctor.estimate import Work
from reasongenrm.doctor.workload import evaluate_works, prepare_works, show_chain_estimate, show_estimate
from reasongenrm.errors import DataError, ReasonGenRMError
from reasongenrm.records import Drop, PreferencePair
from reasongenrm.rows.turns import BadRow, read_prompt
from reasongenrm.run import Run
from reasongenrm.stages import evaluate, prepare, train
from reasongenrm.stages.fingerprints import evaluate_steps, prepare_steps, train_steps
from reasongenrm.store import read_jsonl
from reasongenrm.train.launch import NoGPUError, check_processes
from reasongenrm.train.process import check_training
from reasongenrm.train.tokens import input_files, is_on_policy, record_files

EXAMPLES = 2
STEPS = {"prepare": prepare_steps, "train": train_steps, "evaluate": evaluate_steps}


def preview(recipe: Recipe, stage: str, redo: Sequence[str] = ()) -> None:
    """Print the resolved recipe, row counts, two rendered prompts, the steps to do again and an estimate of a stage; write
    nothing.

    Args:
        stage: `prepare`, `train` or `evaluate`.
        redo: words that name steps to do again.

    Raises:
        ConfigError, DataError, EngineError: as the stage before its work; a model or a file that does not exist yet, and a
            machine that cannot run the stage, are a line.
    """
    redone = Run(recipe, stage).steps_to_redo(STEPS[stage](recipe), redo)
    show(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    _show_error(lambda: check_machine(recipe, stage))
    inputs: dict[str, Input] = {}
    works: list[Work] = []
    if stage == "train":
        _check_training(recipe, redone)
        inputs = _preview_records(recipe)
    elif stage == "prepare":
        _show_error(lambda: prepare.check_models(recipe))
        prepare.check_settings(recipe)
        if not (recipe.folder / "data_report.json").exists():
            check_training(recipe)
        works = prepare_works(
            recipe, *_preview_pairs(recipe, load_sources(recipe.data.sources, recipe.limit))
        )
    else:
        _show_error(lambda: evaluate.check_models(recipe))
        evaluate.check_settings(recipe)
        works = evaluate_works(recipe, *_preview_pairs(recipe, _benchmark_pairs(recipe)))
    if redone:
        show("--- to do again, after the files before were moved to replaced/")
    for name, paths in redone.items():
        files = ", ".join(str(path.relative_to(recipe.folder)) for path in paths)
        show(f"{name}: {files or 'no files yet'}")
    if stage == "train":
        show_chain_estimate(recipe, inputs)
    else:
        show_estimate(recipe, works)


def _show_error(check: Callable[[], object]) -> None:
    """Print the error of a check that may pass elsewhere or later."""
    try:
        check()
    except ReasonGenRMError as error:
        show(f"not ready: {error}")


def _check_training(recipe: Recipe, redone: Collection[str]) -> None:
    """Make the checks of stage 2 that come before its work, on the files that exist.

    Args:
        redone: names of the steps to do again.

    Raises:
        ConfigError, DataError: the stage would raise it, too.
    """
    try:
        launch = train.check_settings(recipe)
    except NoGPUError as error:
        show(f"not ready: {error}")
    else:
        for name in recipe.trained:
            judge = recipe.folder / "judges" / name
            if f"judges.{name}" not in redone and not judge.exists():
                check_processes(judge.with_name(f"{name}.partial"), launch, name)
    for step in recipe.trained.values():
        if all(path.exists() for path in input_files(recipe, step)):
            train.check_records(recipe, step, redone)
    train.check_wording(recipe)


def _benchmark_pairs(recipe: Recipe) -> Iterator[PreferencePair | Drop]:
    for name in recipe.evaluate.benchmarks:
        for row in evaluate.benchmark_rows(recipe, name):
            yield from [row] if isinstance(row, Drop) else row.pairs


def _preview_pairs(recipe: Recipe, pairs: Iterable[PreferencePair | Drop]) -> Input:
    prompt_file = PromptFile.load(recipe.prompts)
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    rows = characters = 0
    for pair in pairs:
        if isinstance(pair, Drop):
            counts[f"dropped: {pair.reason}"] += 1
            continue
        counts[f"source {pair.source}"] += 1
        rows += 1
        history = sum(len(turn["content"]) for turn in pair.history)
        characters += history + len(pair.chosen) + len(pair.rejected)
        if len(examples) < EXAMPLES:
            [prompt] = placed_prompts(pair, prompt_file, seed=recipe.seed, both_orders=False)
            examples[f"{prompt.id} (the better answer is {prompt.winner})"] = prompt.messages[-1]["content"]
    _print(counts, examples)
    return Input(rows, characters)


def _preview_records(recipe: Recipe) -> dict[str, Input]:
    """Print the records and prompts of stage 1 that exist already, and return the size of each training step's input."""
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    characters: Counter[str] = Counter()
    files = {model: _size_files(recipe, step) for model, step in recipe.trained.items()}
    read = dict.fromkeys(path for paths in files.values() for path in paths)
    for path in dict.fromkeys([*read, *train.missing_inputs(recipe)]):
        if not path.exists():
            show(f"{path}: not found; run 1_prepare.sh first")
    for path in filter(Path.exists, read):
        for number, row in enumerate(read_jsonl(path), 1):
            counts[path.name] += 1
            characters[path.name] += _characters(row)
            if len(examples) < EXAMPLES and "messages" not in row:
                location = f"{path}:{number}"
                try:
                    turns = read_prompt(row.get("prompt"), "prompt")
                except BadRow as error:
                    hint = "see sft.jsonl for the columns"
                    raise DataError(error.detail, location=location, hint=hint) from None
                examples[row.get("id") or location] = turns[-1]["content"]
    _print(counts, examples)
    inputs = assumed_inputs(recipe)
    missing = [name for name, paths in files.items() if not all(path.exists() for path in paths)]
    for name in missing:
        show(
            f"{name}: assumed {inputs[name].rows:,} rows of {inputs[name].characters / max(1, inputs[name].rows):,.0f} characters"
        )
    return inputs | {
        name: Input(sum(counts[path.name] for path in paths), sum(characters[path.name] for path in paths))
        for name, paths in files.items()
        if name not in missing
    }


def _size_files(recipe: Recipe, step: TrainStep) -> list[Path]:
    """Return the files that give the size of a step's input: its records, or the judge prompts that it samples on."""
    if is_on_policy(recipe, step):
        return [recipe.folder / "prompts.jsonl"]
    files = record_files(recipe, step)
    return [path for path in files if path.name != "general.jsonl" or step.kind == "sft"]


def _characters(row: Mapping[str, Any]) -> int:
    """Return the characters of a record or of a prompt; of one that cannot be read, those of the parts that can.

    A row of `dpo.jsonl` is two sequences, each with the prompt.
    """

    def turns(key: str) -> int:
        value = row.get(key)
        messages = value if isinstance(value, list) else [{"content": value}]
        texts = [turn.get("content") for turn in messages if isinstance(turn, dict)]
        return sum(len(text) for text in texts if isinstance(text, str))

    sequences = 2 if "rejected" in row else 1
    return sequences * turns("prompt") + sum(
        map(turns, ("messages", "reason", "response", "chosen", "rejected"))
    )


def _print(counts: Counter[str], examples: Mapping[str, str]) -> None:
    show(f"rows: {counts.total()}")
    for name, count in sorted(counts.items()):
        show(f"  {name}: {count}")
    for prompt, text in examples.items():
        show(f"--- prompt {prompt}\n{text}")
