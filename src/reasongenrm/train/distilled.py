"""Train a head that repeats a judge's scores: judged conversations -> rows or pairs -> the trainer of the objective."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

from reasongenrm.config.distil import DistilRecipe
from reasongenrm.config.scalar import ScalarConfig
from reasongenrm.console import say
from reasongenrm.data.split import conversation_key, split_conversations
from reasongenrm.errors import DataError
from reasongenrm.records import Conversation, Judgment, PreferencePair
from reasongenrm.run import Run
from reasongenrm.train.scalar import check_config, train_scalar
from reasongenrm.train.scores import JudgedReply, check_scores_config, train_scores


def check_distilled(recipe: DistilRecipe) -> None:
    """Check the names of the trainer's and peft's keys of a recipe; loads no model.

    Raises:
        ConfigError: names the key, and the closest valid one.
    """
    if recipe.objective == "pairs":
        check_config(_pairs_config(recipe), "head")
    else:
        check_scores_config(recipe.head)


def _pairs_config(recipe: DistilRecipe) -> ScalarConfig:
    return ScalarConfig.model_validate(recipe.head.model_dump() | {"validation": recipe.split.validation})


def train_distilled(
    recipe: DistilRecipe, run: Run, conversations: Sequence[Conversation], judgments: Iterable[Judgment]
) -> dict[str, Any]:
    """Train a head into `runs/<name>/scalar` on the judgments of the training part, and print a line about it.

    Called again it returns at once, or resumes a killed training. The held-out test part is not read.

    Args:
        recipe: the resolved recipe.
        run: the run folder, claimed.
        conversations: all checked rows.
        judgments: of these rows; one without a score is not used.

    Returns:
        The report of `train_scores`, or with the objective `pairs` of `train_scalar`, with `unscored`: training rows and validation
        rows without a score.

    Raises:
        ConfigError, DataError, EngineError: see `train_scores` and `train_scalar`; too few conversations, or no pair with the gap.
    """
    split = split_conversations(conversations, recipe.split.validation, recipe.split.test, recipe.seed)
    by_id = {judgment.id: judgment for judgment in judgments}
    train, validation = (judged_replies(part, by_id) for part in (split.train, split.validation))
    unscored = len(split.train) + len(split.validation) - len(train) - len(validation)
    folder = run.path("scalar")
    if recipe.objective == "pairs":
        pairs, held_out = (score_pairs(part, recipe.gap) for part in (train, validation))
        if not pairs:
            raise DataError(
                f"no message has two replies whose scores differ by {recipe.gap}",
                location="gap",
                hint="give several replies to each message, set a smaller gap, or another objective",
            )
        if recipe.split.validation and not held_out:
            hint = "raise it, or set 0 and no head.patience"
            raise DataError("no held-out message has such replies", location="split.validation", hint=hint)
        config = _pairs_config(recipe)
        report = train_scalar(
            pairs, config, output_dir=folder, seed=recipe.seed, key="head", held_out=held_out
        )
        size = f"{report['trained']} pairs of {len(train)} replies"
    else:
        report = train_scores(train, validation, recipe, output_dir=folder)
        size = f"{report['rows']} replies"
    report = report | {"unscored": unscored}
    say(_line(recipe, report, size))
    return report


def judged_replies(rows: Iterable[Conversation], judgments: dict[str, Judgment]) -> list[JudgedReply]:
    """Return the rows that have a judgment with a score, in their order."""
    pairs = ((row, judgments.get(row.id)) for row in rows)
    return [JudgedReply(row, one) for row, one in pairs if one is not None and one.score is not None]


def score_pairs(replies: Sequence[JudgedReply], gap: float) -> list[PreferencePair]:
    """Return the pairs of replies to one message in one context whose scores differ by `gap` or more, the better one first."""
    groups: dict[str, list[JudgedReply]] = {}
    for reply in replies:
        groups.setdefault(conversation_key(reply.conversation), []).append(reply)
    pairs = []
    for group in groups.values():
        for one, other in combinations(group, 2):
            better, worse = (one, other) if one.score >= other.score else (other, one)
            if better.score - worse.score >= gap - 1e-9:  # 0.3 - 0.2 is a little below 0.1
                texts = better.conversation.response, worse.conversation.response
                pairs.append(PreferencePair.make(better.conversation.history, *texts, "judge"))
    return pairs


def _line(recipe: DistilRecipe, report: dict[str, Any], size: str) -> str:
    line = f"head: {recipe.objective}, {report['steps']} steps on {size}"
    if report["unscored"]:
        line += f", {report['unscored']} without a score left out"
    line += (
        f", {report['truncated']} cut to {recipe.head.max_length} tokens, final loss {report['final_loss']}"
    )
    if validation := report["validation"]:
        line += f"; held-out loss {validation['loss']:.4f}"
    return line
