"""Leave one prompt out: a head per prompt, trained on all other prompts, scores the answers to it.

With a handful of prompts, a held-out share has one or two of them, and its accuracy an interval from 0 to 1. Here every pair is
measured by a head that has not seen its prompt (M. Stone, Journal of the Royal Statistical Society B 36, 1974).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from reasongenrm.config.scalar import ScalarConfig, ScalarRecipe
from reasongenrm.console import say
from reasongenrm.errors import ConfigError
from reasongenrm.records import Drop, PreferencePair, content_id
from reasongenrm.report.tables import one_line
from reasongenrm.run import Run, file_hash
from reasongenrm.scalar.inputs import prompt_text
from reasongenrm.scalar.metrics import AnswerScore
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.stages.scalar_answers import (
    EvaluationAnswer,
    answers_of_pairs,
    load,
    scored_answers,
)
from reasongenrm.store import PartStore, to_json
from reasongenrm.train.scalar import check_config, train_scalar

MOST_PROMPTS = 100
"""One head is trained per prompt; of more prompts, a held-out share says enough."""


def leave_one_out(recipe: ScalarRecipe, run: Run) -> tuple[list[AnswerScore], dict[str, Any], list[Drop]]:
    """Return the scores of all ranked answers of the sources, each by a head that did not see its prompt.

    Scores are kept in the run folder as they come, and a killed training resumes; a head is removed when it has scored its
    prompt. `validation` and `patience` of the recipe do not count: each head trains for all its steps.

    Returns:
        The scores, facts for the report, and the rows that cannot be used.

    Raises:
        ConfigError: fewer than two prompts, more than `MOST_PROMPTS`, or a setting of the training is not valid.
        DataError, EngineError: a source or a base that the user has to change.
    """
    check_config(recipe.scalar)
    pairs, drops = load(recipe)
    by_prompt: dict[str, list[EvaluationAnswer]] = {prompt: [] for prompt in check_prompts(pairs)}
    for answer in answers_of_pairs(recipe, pairs):
        by_prompt[content_id(answer.history)].append(answer)
    config = recipe.scalar.model_copy(update={"validation": 0.0, "patience": None})
    folder, store = _work(recipe, run, pairs, config)
    for number, (prompt, answers) in enumerate(by_prompt.items(), 1):
        if prompt in store:
            continue
        say(
            f"head {number} of {len(by_prompt)}: trained without {one_line(prompt_text(answers[0].history), 60)!r}"
        )
        others = [pair for pair in pairs if content_id(pair.history) != prompt]
        train_scalar(others, config, output_dir=folder / prompt, seed=recipe.seed)
        head = ScalarRewardModel.from_pretrained(folder / prompt)
        scores = scored_answers(head, answers, recipe.evaluate.batch_size)
        store.append([{"id": prompt, "scores": [to_json(score) for score in scores]}])
        shutil.rmtree(folder / prompt)
    store.finish(by_prompt)
    shutil.rmtree(folder, ignore_errors=True)
    rows = [msgspec.convert(score, AnswerScore) for prompt in by_prompt for score in store[prompt]["scores"]]
    facts = {
        "base": Path(recipe.scalar.model).name,
        "heads": f"{len(by_prompt)}, each trained without the prompt whose answers it scores",
        "scores": "of different heads, so they compare within a prompt only",
    }
    return rows, facts, drops


def check_prompts(pairs: Sequence[PreferencePair]) -> list[str]:
    """Return the ids of the prompts.

    Raises:
        ConfigError: leaving one out says nothing, or takes too long.
    """
    prompts = list(dict.fromkeys(content_id(pair.history) for pair in pairs))
    if len(prompts) < 2:
        problem, hint = "no prompt is left to train on", "give answers to two prompts or more"
    elif len(prompts) > MOST_PROMPTS:
        problem = f"{len(prompts)} prompts: one head is trained for each, of {MOST_PROMPTS} at most"
        hint = "set scalar.validation and evaluate.held_out instead, or a limit"
    else:
        return prompts
    raise ConfigError(problem, location="evaluate.leave_one_out", hint=hint)


def _work(
    recipe: ScalarRecipe, run: Run, pairs: Sequence[PreferencePair], config: ScalarConfig
) -> tuple[Path, PartStore]:
    """Return the folder of the heads in work, and the scores so far; other pairs or settings have others."""
    rows = [[pair.id, pair.distance] for pair in pairs]
    values = config.model_dump(mode="json"), file_hash(config.model), recipe.seed
    name = f"leave-one-out-{content_id(rows, values)[:8]}"
    folder = run.path("evaluation", name)
    return folder, PartStore(folder.with_name(name + ".jsonl"))
