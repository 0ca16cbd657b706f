"""`--dry-run` of `scalar train` and `scalar evaluate`: settings, counts, inputs and steps; nothing is trained, scored or written."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import yaml

from reasongenrm.answers.generate import preview
from reasongenrm.config.scalar import ScalarRecipe
from reasongenrm.console import show
from reasongenrm.data.split import split_pairs
from reasongenrm.records import Drop, Message, PreferencePair, content_id
from reasongenrm.run import Run
from reasongenrm.scalar.inputs import encode, load_base_tokenizer
from reasongenrm.stages.leave_one_out import check_prompts
from reasongenrm.stages.scalar import check_trained
from reasongenrm.stages.scalar_answers import (
    TRAIN,
    generated_file,
    held_out_answers,
    load,
    read_evaluation_answers,
    training_steps,
)
from reasongenrm.train.head import trainer_arguments
from reasongenrm.train.scalar import check_config

Input = tuple[Sequence[Message], str]
"""A context and an answer to it."""


def preview_training(recipe: ScalarRecipe, redo: Sequence[str] = ()) -> None:
    """Print the resolved recipe, the counts of rows and pairs, two inputs and the number of steps.

    Args:
        recipe: the resolved recipe.
        redo: words that name steps to do again.

    Raises:
        ConfigError, DataError, EngineError: as the training, as far as it does not need the model.
    """
    check_config(recipe.scalar)
    moved = Run(recipe, TRAIN).steps_to_redo(training_steps(recipe), redo)
    _show_recipe(recipe)
    pairs, drops = load(recipe)
    trained, held_out = split_pairs(pairs, recipe.scalar.validation, recipe.seed)
    _show_rows(recipe, pairs, drops)
    show(f"trained on: {_size(trained)}; held out: {_size(held_out)}")
    show(f"optimizer steps: {_steps(recipe, len(trained))}")
    _show_inputs(recipe, [(pairs[0].history, text) for text in (pairs[0].chosen, pairs[0].rejected)])
    for name, paths in moved.items():
        files = ", ".join(str(path.relative_to(recipe.folder)) for path in paths)
        show(f"to do again: {name}: {files or 'no files yet'}")


def preview_evaluation(recipe: ScalarRecipe) -> None:
    """Print the resolved recipe, the answers to score or to generate, two inputs and the number of steps.

    Raises:
        ConfigError, DataError, EngineError: as the evaluation, as far as it needs neither a head nor a model.
    """
    config = recipe.evaluate
    check_trained(recipe)
    _show_recipe(recipe)
    if config.leave_one_out:
        pairs, drops = load(recipe)
        prompts = check_prompts(pairs)
        _show_rows(recipe, pairs, drops)
        fewest = len(pairs) - max(Counter(content_id(pair.history) for pair in pairs).values())
        show(f"heads to train: {len(prompts)}, optimizer steps of each: {_steps(recipe, fewest)}")
        _show_inputs(recipe, [(pairs[0].history, text) for text in (pairs[0].chosen, pairs[0].rejected)])
        return
    inputs: list[Input] = []
    if config.scores_held_out:
        answers, _ = held_out_answers(recipe)
        show(f"held-out answers: {len(answers)}")
        inputs += [(one.history, one.answer) for one in answers]
    if config.answers is not None:
        answers, drops = read_evaluation_answers(config.answers)
        show(f"{config.answers}: {len(answers)} answers")
        _show_drops(drops)
        inputs += [(one.history, one.answer) for one in answers]
    if inputs:
        show(f"forward passes: {math.ceil(len(inputs) / config.batch_size)}")
        _show_inputs(recipe, inputs[:2])
    if config.generate is not None:
        preview(config.generate, generated_file(recipe, config.generate))


def _show_recipe(recipe: ScalarRecipe) -> None:
    show(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _show_rows(recipe: ScalarRecipe, pairs: Sequence[PreferencePair], drops: Sequence[Drop]) -> None:
    for source in (source for source in recipe.sources if source.kind == "ranked"):
        show(f"{source.path}: {len(read_evaluation_answers(source.path)[0])} ranked answers")
    show(f"pairs: {_size(pairs)}")
    for name, count in sorted(Counter(pair.source for pair in pairs).items()):
        show(f"  source {name}: {count}")
    _show_drops(drops)


def _show_drops(drops: Sequence[Drop]) -> None:
    for reason, count in sorted(Counter(drop.reason for drop in drops).items()):
        show(f"  dropped: {reason}: {count}")


def _size(pairs: Sequence[PreferencePair]) -> str:
    return f"{len(pairs)} pairs of {len({content_id(pair.history) for pair in pairs})} prompts"


def _steps(recipe: ScalarRecipe, pairs: int) -> str:
    """Return the number of optimizer steps on one device, and what it follows from."""
    arguments = trainer_arguments(recipe.scalar)
    batch = arguments["per_device_train_batch_size"] * arguments.get("gradient_accumulation_steps", 1)
    per_epoch = math.ceil(pairs / batch)
    steps = arguments.get("max_steps", -1)
    if steps <= 0:
        steps = math.ceil(per_epoch * arguments.get("num_train_epochs", 3))
    return f"{steps} of {batch} pairs, {steps / per_epoch:.1f} epochs of {pairs} pairs"


def _show_inputs(recipe: ScalarRecipe, inputs: Sequence[Input]) -> None:
    """Print inputs as the head reads them, cut to its limit."""
    config = recipe.scalar
    tokenizer = load_base_tokenizer(config.model, config.revision, config.max_length)
    for context, answer in inputs:
        ids = encode(tokenizer, context, answer, config.max_length)["input_ids"]
        whole = len(encode(tokenizer, context, answer, None)["input_ids"])
        cut = f", cut from {whole}" if whole > len(ids) else ""
        show(f"--- input of {len(ids)} tokens{cut}\n{tokenizer.decode(ids)}")
