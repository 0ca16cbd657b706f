"""Which steps need the pairs' reference points."""

from __future__ import annotations

from pathlib import Path

from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.errors import ConfigError
from reasongenrm.records import REFERENCE_POINTS
from reasongenrm.store import read_jsonl
from reasongenrm.train.tokens import is_on_policy


def points_use(recipe: Recipe, step: TrainStep) -> tuple[str, Path] | None:
    """Return the key of the recipe by which a step needs reference points, and the file that has them; None where it needs none."""
    pairs, train = recipe.folder / "pairs.jsonl", recipe.train
    if step.kind == "grpo":
        path = pairs if train.grpo.refresh else recipe.folder / "grpo.jsonl"
        return ("train.grpo.rewards.rationale", path) if train.grpo.rewards.rationale else None
    needed = train.round.rationale > 0 and is_on_policy(recipe, step)
    return ("train.round.rationale", pairs) if needed else None


def check_points(recipe: Recipe, step: TrainStep) -> None:
    """Check that a step that needs reference points has some.

    Raises:
        ConfigError: no row of its file has any.
    """
    use = points_use(recipe, step)
    if use and not any(row.get(REFERENCE_POINTS) for row in read_jsonl(use[1])):
        raise points_error(use[0], f"row of {use[1]}")


def points_error(key: str, place: str) -> ConfigError:
    """Return the error of a key that needs reference points, which no such place has."""
    return ConfigError(
        f"no {place} has reference points, so that there is nothing to compare reasons with",
        location=key,
        hint=f"give rows of data.sources the column {REFERENCE_POINTS} and run stage 1 with --redo pairs, or set 0",
    )
