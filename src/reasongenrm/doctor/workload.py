"""The work of a stage, from its row counts; and the estimate that `--dry-run` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from reasongenrm.config.recipe import VERDICT_ONLY, Recipe
from reasongenrm.console import show
from reasongenrm.doctor.estimate import CHARACTERS_PER_TOKEN, REASON_TOKENS, Work, estimate_table
from reasongenrm.doctor.geometry import read_geometry
from reasongenrm.doctor.machine import NAMED_CARDS, card_of, read_machine
from reasongenrm.metrics.flops import CARDS, Card
from reasongenrm.errors import ReasonGenRMError

WORDING_TOKENS = 150
"""Tokens of a judge prompt besides the conversation and the two answers (assumed; configs/prompts/judge.yaml)."""

VERDICT_TOKENS = 8
"""Tokens of a verdict, with its header."""


def prepare_works(recipe: Recipe, pairs: int, characters: int) -> list[Work]:
    """Return the work of stage 1: sampling by every teacher in this process, and scoring.

    Args:
        recipe: the resolved recipe.
        pairs: number of pairs, before any is dropped.
        characters: of all pairs, history and both answers.
    """
    if not recipe.needs_reasons() or not pairs:
        return []
    prompts = pairs * (1 + recipe.data.both_orders)
    length = characters / pairs / CHARACTERS_PER_TOKEN + WORDING_TOKENS
    works = [
        Work(f"sampling by {name}", "sampling", prompts, length, teacher.samples,
             min(REASON_TOKENS, teacher.max_tokens))
        for name, teacher in recipe.teachers.items()
        if teacher.server is None and teacher.model is None
    ]  # fmt: skip
    samples = sum(teacher.samples for teacher in recipe.teachers.values())
    tokens = min(REASON_TOKENS, max(teacher.max_tokens for teacher in recipe.teachers.values()))
    return [*works, Work("scoring", "scoring", prompts, length, samples, tokens + VERDICT_TOKENS)]


def train_works(recipe: Recipe, records: Mapping[str, tuple[int, int]]) -> list[Work]:
    """Return the work of stage 2, one training per judge with records.

    Args:
        recipe: the resolved recipe.
        records: per judge, the number of its records, and of their characters.
    """
    works = []
    for name, (count, characters) in records.items():
        if not count:
            continue
        args = recipe.train.args | recipe.judges[name].args
        length = characters / count / CHARACTERS_PER_TOKEN
        seen = count * float(args.get("num_train_epochs", 3))
        if recipe.train.tokens:
            seen = recipe.train.tokens / length
        elif int(args.get("max_steps", -1)) > 0:
            seen = int(args["max_steps"]) * recipe.train.batch
        works.append(Work(f"training {name}", "training", round(seen), length))
    return works


def evaluate_works(recipe: Recipe, pairs: int, characters: int) -> list[Work]:
    """Return the work of stage 3, one judging per model in this process; arguments as in `prepare_works`."""
    if not pairs:
        return []
    prompts = pairs * (1 + recipe.evaluate.both_orders)
    length = characters / pairs / CHARACTERS_PER_TOKEN + WORDING_TOKENS
    templates = {"base": "own", "base-direct": "direct"} if recipe.evaluate.base else {}
    templates |= {name: recipe.judges[step.judge].template for name, step in recipe.trained.items()}
    return [
        Work(f"judging with {name}", "sampling", prompts, length, recipe.evaluate.votes,
             VERDICT_TOKENS + (template not in VERDICT_ONLY) * min(REASON_TOKENS, recipe.evaluate.max_tokens))
        for name, template in templates.items()
    ]  # fmt: skip


def estimated_cards() -> list[tuple[Card, int]]:
    """Return the data sheets of the visible GPUs, with how many there are; of named ones where there is none."""
    gpus = read_machine().usable
    cards = [card for gpu in gpus if (card := card_of(gpu))]
    if not cards:
        return [(card, 1) for name in NAMED_CARDS for card in CARDS if card.name == name]
    return [(card, len(list(same))) for card, same in groupby(cards)]


def show_estimate(recipe: Recipe, stage: str, works: Sequence[Work]) -> None:
    """Print memory and hours of a stage; one line that says why, where the model's sizes are unknown."""
    try:
        geometry = read_geometry(recipe.model)
    except ReasonGenRMError as error:
        show(f"--- estimate\nnone: {error}")
        return
    show(f"--- estimate\n{geometry.describe()}")
    table = estimate_table(recipe, stage, geometry, works, estimated_cards())
    show(table.markdown().rstrip())
