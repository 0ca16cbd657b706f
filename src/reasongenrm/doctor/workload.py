"""The work of a stage, from its row counts; and the estimate that `--dry-run` prints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from reasongenrm.config.recipe import VERDICT_ONLY, Recipe
from reasongenrm.console import show
from reasongenrm.doctor.chain import Input, chain_table, chain_works
from reasongenrm.doctor.estimate import (
    CHARACTERS_PER_TOKEN,
    VERDICT_TOKENS,
    Work,
    estimate_table,
    reason_tokens,
)
from reasongenrm.doctor.geometry import Geometry, read_geometry
from reasongenrm.doctor.machine import NAMED_CARDS, card_of, read_machine
from reasongenrm.errors import ReasonGenRMError
from reasongenrm.metrics.flops import CARDS, Card
from reasongenrm.report.tables import TextTable

WORDING_TOKENS = 150
"""Tokens of a judge prompt besides the conversation and the two answers (assumed; configs/prompts/judge.yaml)."""

NODE_GIB = 79
"""Memory of the smallest GPU of which nodes of eight are estimated."""


def prepare_works(recipe: Recipe, pairs: int, characters: int) -> list[Work]:
    """Return the work of stage 1: sampling by every teacher in this process or on a server, and scoring.

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
        Work(f"sampling by {name}", "served" if teacher.server else "sampling", prompts, length, teacher.samples,
             reason_tokens(teacher.max_tokens))
        for name, teacher in recipe.teachers.items()
        if teacher.server or teacher.model is None
    ]  # fmt: skip
    samples = sum(teacher.samples for teacher in recipe.teachers.values())
    tokens = sum(teacher.samples * reason_tokens(teacher.max_tokens) for teacher in recipe.teachers.values())
    return [*works, Work("scoring", "scoring", prompts, length, samples, tokens / samples + VERDICT_TOKENS)]


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
             VERDICT_TOKENS + (template not in VERDICT_ONLY) * reason_tokens(recipe.evaluate.max_tokens))
        for name, template in templates.items()
    ]  # fmt: skip


def estimated_cards() -> list[tuple[Card, int]]:
    """Return the data sheets of the visible GPUs, with how many there are.

    Where none is visible: one of each named GPU, and eight of those that are built into nodes of eight.
    """
    gpus = read_machine().usable
    cards = [card for gpu in gpus if (card := card_of(gpu))]
    if cards:
        return [(card, len(list(same))) for card, same in groupby(cards)]
    named = [card for name in NAMED_CARDS for card in CARDS if card.name == name]
    return [(card, count) for card in named for count in (1, 8) if count == 1 or card.memory_gib >= NODE_GIB]


def show_estimate(recipe: Recipe, works: Sequence[Work]) -> None:
    """Print memory and hours of stage 1 or 3; one line that says why, where the model's sizes are unknown."""
    _show(recipe, lambda geometry, cards: estimate_table(recipe, geometry, works, cards))


def show_chain_estimate(recipe: Recipe, inputs: Mapping[str, Input]) -> None:
    """Print memory and hours of the training steps; one line that says why, where the model's sizes are unknown."""
    _show(recipe, lambda geometry, cards: chain_table(recipe, geometry, chain_works(recipe, inputs), cards))


def _show(recipe: Recipe, table: Callable[[Geometry, list[tuple[Card, int]]], TextTable]) -> None:
    try:
        geometry = read_geometry(recipe.model)
    except ReasonGenRMError as error:
        show(f"--- estimate\nnone: {error}")
        return
    show(f"--- estimate\n{geometry.describe()}")
    show(table(geometry, estimated_cards()).markdown().rstrip())
