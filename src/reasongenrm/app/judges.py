"""Judges that a page can load: the trained judges and the base of every run, and models on servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasongenrm.errors import ReasonGenRMError

if TYPE_CHECKING:
    from reasongenrm.config.evaluate import OtherJudge
    from reasongenrm.config.recipe import Recipe
    from reasongenrm.judge.api import Judge

BASES = ("base", "base-direct")


@dataclass(frozen=True, slots=True)
class JudgeChoice:
    """A judge that can be loaded.

    Attributes:
        name: `<run>/<judge>`, or the model's name on a server.
        start: starts it.
    """

    name: str
    start: Callable[[], Judge]


def recipe_judge(recipe: Recipe, judge: str | None) -> JudgeChoice:
    """Return a judge of a recipe, by default its first."""

    def start() -> Judge:
        from reasongenrm.judge.api import Judge

        return Judge.from_recipe(recipe, judge)

    return JudgeChoice(f"{recipe.name}/{judge or next(iter(recipe.trained))}", start)


def run_judges(runs: Path) -> tuple[dict[str, JudgeChoice], list[ReasonGenRMError]]:
    """Return the judges of all runs by name, and the errors of recipes that cannot be read.

    A run has a `recipe.yaml`, which stage 2 writes. Its judges are those that are trained, its base, and the served ones
    of `evaluate.others`.

    Args:
        runs: folder of the run folders.
    """
    from reasongenrm.config.loading import load_recipe

    choices: dict[str, JudgeChoice] = {}
    errors: list[ReasonGenRMError] = []
    for file in sorted(runs.glob("*/recipe.yaml")):
        try:
            recipe = load_recipe(file)
        except ReasonGenRMError as error:
            errors.append(error)
            continue
        choices |= {choice.name: choice for choice in _judges_of_run(recipe, file.parent)}
    return choices, errors


def _judges_of_run(recipe: Recipe, folder: Path) -> Iterator[JudgeChoice]:
    kind = "adapter" if recipe.train.parameters == "lora" else "model"
    in_place = recipe.folder.resolve() == folder.resolve()
    for name in recipe.trained:
        weights = folder / "judges" / name / kind
        if not weights.is_dir():
            continue
        if in_place:
            yield recipe_judge(recipe, name)
        else:  # the run was made from another current directory
            yield JudgeChoice(f"{folder.name}/{name}", partial(_moved_judge, recipe, weights))
    for name in BASES:
        yield JudgeChoice(f"{folder.name}/{name}", recipe_judge(recipe, name).start)
    for name, other in recipe.evaluate.others.items():
        yield JudgeChoice(f"{folder.name}/{name}", partial(_served_judge, recipe, other))


def _moved_judge(recipe: Recipe, weights: Path) -> Judge:
    """Return a trained judge whose run folder is not where its recipe says."""
    from reasongenrm.judge.api import Judge

    lora = recipe.train.parameters == "lora"
    return Judge.from_pretrained(
        recipe.model if lora else recipe.model.model_copy(update={"path": str(weights), "revision": None}),
        adapter=weights if lora else None,
        engine=recipe.engine,
        judging=recipe.judging,
        seed=recipe.seed,
    )


def _served_judge(recipe: Recipe, other: OtherJudge) -> Judge:
    from reasongenrm.judge.api import Judge

    return Judge.from_other(other, prompts=recipe.prompts, judging=recipe.judging, seed=recipe.seed)


def server_judge(
    server: Mapping[str, Any], judging: Mapping[str, Any], *, tokenizer: str | None, reasons: bool
) -> JudgeChoice:
    """Return a judge on a server.

    Args:
        server: the keys of `OpenAIConfig` or `AnthropicConfig`.
        judging: the keys of `JudgingConfig`.
        tokenizer: folder or hub id of the model, for a server of the completions API.
        reasons: whether the judge writes a reason before its verdict.
    """

    def start() -> Judge:
        from reasongenrm.judge.api import Judge

        return Judge.from_server(server, judging=judging, model=tokenizer or None, reasons=reasons)

    return JudgeChoice(str(server["model"]), start)


def with_judging(judge: Judge, changes: Mapping[str, Any]) -> Judge:
    """Return a judge on the same engine with other settings of judging.

    Args:
        judge: the judge; returned as it is where nothing changes.
        changes: keys of `JudgingConfig`, such as `votes`.

    Raises:
        ConfigError: the settings do not fit together.
    """
    from reasongenrm.config.evaluate import JudgingConfig
    from reasongenrm.config.loading import validate
    from reasongenrm.judge.api import Judge

    own = {key: getattr(judge.config, key) for key in JudgingConfig.model_fields}
    new = {**own, **changes}
    if new == own:
        return judge
    config = validate(JudgingConfig, new, "", "change the settings of judging")
    return Judge(
        judge.engine, judge.encoder, judge.prompt_file, config, seed=judge.seed, adapter=judge.adapter
    )


def head_folders(runs: Path) -> list[str]:
    """Return the folders of the trained heads of all runs."""
    return sorted(str(file.parent) for file in runs.glob("*/scalar/config.json"))
