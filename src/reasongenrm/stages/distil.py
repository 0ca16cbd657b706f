"""`reasongenrm distil`: conversations -> judgments -> a head that repeats them -> its agreement with the judge.

The order of work; each step is a stage of its own in the run folder, so that it is resumed, and done again, alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import yaml

from reasongenrm.config.distil import DistilRecipe
from reasongenrm.config.loading import overridden, read_yaml
from reasongenrm.console import say, show
from reasongenrm.data.split import split_conversations
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.conversations import (
    FOLDER,
    JUDGMENTS,
    SUMMARY,
    UNSCORED,
    judge_conversations,
    judging_settings,
    preview_judging,
)
from reasongenrm.records import Conversation, Judgment
from reasongenrm.rows.conversations import ConversationTable, read_conversations
from reasongenrm.run import Run
from reasongenrm.stages.fingerprints import hashed, settings
from reasongenrm.steps import Step, named_steps, with_later
from reasongenrm.store import check_end_mark, read_jsonl, to_json, write_end_mark, write_jsonl

CONVERSATIONS, DROPPED = "conversations.jsonl", "dropped.jsonl"
"""Files in the run folder; those of the judge are named in `judge/conversations.py`."""

METRICS = "evaluation/metrics.json"
"""File that the evaluation writes last."""

JUDGE, TRAIN, EVALUATE = "distil-judge", "distil-train", "distil-evaluate"
"""The stages; each has a manifest."""


def load_distil_recipe(path: str | Path, overrides: Sequence[str] = ()) -> DistilRecipe:
    """Read a recipe, whose key `judge` may be the path of a YAML file, and apply `key=value` overrides to both.

    Raises:
        ConfigError: see `config.loading.load_config`.
    """
    path = Path(path)
    raw = read_yaml(path, "recipe", "see configs/distil/ for an example")
    others = []
    for assignment in overrides:  # `judge=FILE` names another file, to whose keys the other overrides apply
        key, _, value = assignment.partition("=")
        if key == "judge" and not value.lstrip().startswith("{"):
            raw["judge"] = value
        else:
            others.append(assignment)
    hint = "correct the recipe"
    if isinstance(raw.get("judge"), str):
        hint = f"correct the recipe or {raw['judge']}"
        raw["judge"] = read_yaml(Path(raw["judge"]), "judge", "give the path of a judge in the key judge")
    return overridden(DistilRecipe, raw, others, f"{path}: ", hint)


def validate(path: str) -> None:
    """Print every problem of a file of conversations, and a summary.

    Raises:
        DataError: the file cannot be read, or a row has a problem.
    """
    table = read_conversations(path)
    for problem in table.problems:
        show(f"{problem.location}: {problem.detail}")
    for line in table.lines():
        show(line)
    if table.problems:
        count = len(table.drops)
        hint = "correct or remove them; distil run leaves them out, and lists them in dropped.jsonl"
        raise DataError(f"{count} row{'s' * (count > 1)} cannot be used", location=path, hint=hint)


def stage_steps(recipe: DistilRecipe, stage: str) -> dict[str, Step]:
    """Return the steps of a stage, with the hashes of the files that they read now.

    Raises:
        ConfigError: the prompt file of the judge cannot be used.
    """
    values = recipe.model_dump(mode="json")
    written = [recipe.folder / CONVERSATIONS, recipe.folder / JUDGMENTS]
    if stage == JUDGE:
        rows = Step(settings({}, [recipe.conversations]), (CONVERSATIONS, DROPPED), marker=CONVERSATIONS)
        outputs = (FOLDER, JUDGMENTS, UNSCORED, SUMMARY)
        steps = {
            "conversations": rows,
            "judge": Step(judging_settings(recipe), outputs, after=("conversations",)),
        }
    elif stage == TRAIN:
        keys = ("seed", "split", "objective", "huber", "levels", "gap", "head")
        own = settings({key: values[key] for key in keys}, [recipe.head.model, *written])
        steps = {"scalar": Step(own, ("scalar", "scalar.partial"), after=("judge",))}
    else:
        files = [*written, recipe.folder / "scalar" / "done.json", *filter(None, [recipe.people])]
        own = settings({"seed": recipe.seed}, files)
        steps = {"evaluation": Step(own, ("evaluation",), after=("scalar",), marker=METRICS)}
    return hashed(steps, recipe.folder)


def judge(recipe: DistilRecipe, redo: Sequence[str] = ()) -> None:
    """Check the conversations, and judge those that are not judged yet.

    Raises:
        ConfigError, DataError, EngineError: a setting, an input file or a server that the user has to change.
    """
    run = Run(recipe, JUDGE)
    with run.claim(stage_steps(recipe, JUDGE), redo):
        if not run.path(CONVERSATIONS).exists():
            table = read_conversations(recipe.conversations)
            write_jsonl(run.path(DROPPED), map(to_json, table.drops))
            _check_usable(recipe, table)
            write_jsonl(run.path(CONVERSATIONS), map(to_json, table.conversations))
            write_end_mark(run.path(CONVERSATIONS))
            for line in table.lines():
                say(line)
        judge_conversations(recipe, run, _conversations(run))


def train(recipe: DistilRecipe, redo: Sequence[str] = ()) -> None:
    """Train the head on the judgments.

    Raises:
        ConfigError, DataError, EngineError: a setting, a file of the run or a base that the user has to change.
    """
    from reasongenrm.train.distilled import check_distilled, train_distilled

    check_distilled(recipe)
    run = Run(recipe, TRAIN)
    _check_written(run, JUDGMENTS, "distil judge")
    with run.claim(stage_steps(recipe, TRAIN), redo):
        train_distilled(recipe, run, _conversations(run), _judgments(run))


def evaluate(recipe: DistilRecipe, redo: Sequence[str] = ()) -> None:
    """Measure how the head agrees with the judge on the conversations that were held out.

    Raises:
        ConfigError, DataError, EngineError: a setting, or a file of the run that the user has to change.
    """
    from reasongenrm.scalar.distilled import evaluate_distilled

    run = Run(recipe, EVALUATE)
    _check_written(run, "scalar", "distil train")
    # With another split or other judgments, the conversations held out now may have been trained on.
    Run(recipe, TRAIN).check(stage_steps(recipe, TRAIN))
    with run.claim(stage_steps(recipe, EVALUATE), redo):
        if run.path(METRICS).exists():
            say(f"already evaluated: {run.path('evaluation', 'report.html')}")
        else:
            evaluate_distilled(recipe, run)


STAGES = {JUDGE: judge, TRAIN: train, EVALUATE: evaluate}


def run_all(recipe: DistilRecipe, redo: Sequence[str] = ()) -> None:
    """Validate, judge, train and evaluate: the same command resumes after a kill, and does nothing twice.

    Args:
        redo: words that name steps of any stage; the steps that read their results are done again, too.

    Raises:
        ConfigError, DataError, EngineError: see the single stages.
    """
    from reasongenrm.train.distilled import check_distilled

    again = _redone(recipe, redo)
    check_distilled(recipe)  # before the judge is paid, and so is the split
    if rows := read_conversations(recipe.conversations).conversations:
        split_conversations(rows, recipe.split.validation, recipe.split.test, recipe.seed)
    for stage, work in STAGES.items():
        work(recipe, [name for name in stage_steps(recipe, stage) if name in again])
    say(f"done: {recipe.folder}")


def preview(recipe: DistilRecipe, stages: Iterable[str], redo: Sequence[str] = ()) -> None:
    """Print the resolved recipe, the counts of the rows, the steps to do again and an estimate of the judge's costs; write
    nothing.

    Raises:
        ConfigError, DataError: a setting or an input file that the user has to change.
    """
    again = _redone(recipe, redo)
    show(yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
    table = read_conversations(recipe.conversations)
    for line in table.lines():
        show(line)
    _check_usable(recipe, table)
    for stage in stages:
        steps = stage_steps(recipe, stage)
        moved = Run(recipe, stage).steps_to_redo(steps, [name for name in steps if name in again])
        for name, paths in moved.items():
            files = ", ".join(str(path.relative_to(recipe.folder)) for path in paths)
            show(f"to do again: {name}: {files or 'no files yet'}")
    preview_judging(recipe, table.conversations)


def _redone(recipe: DistilRecipe, redo: Sequence[str]) -> set[str]:
    """Return the steps of all stages that words of `--redo` name, and those that read their results."""
    steps = {name: step for stage in STAGES for name, step in stage_steps(recipe, stage).items()}
    return with_later(named_steps(redo, steps), steps)


def _check_usable(recipe: DistilRecipe, table: ConversationTable) -> None:
    """Raise a DataError where no row is left."""
    if not table.conversations:
        hint = f"reasongenrm distil validate {recipe.conversations} shows every problem"
        raise DataError(f"none of {table.rows} rows can be used", location=recipe.conversations, hint=hint)


def _check_written(run: Run, name: str, verb: str) -> None:
    """Raise a ConfigError where an earlier stage has not written its result."""
    if not run.path(name).exists():
        raise ConfigError("not found", location=str(run.path(name)), hint=f"run reasongenrm {verb} first")


def _conversations(run: Run) -> list[Conversation]:
    path = run.path(CONVERSATIONS)
    check_end_mark(path)
    return [msgspec.convert(row, Conversation) for row in read_jsonl(path)]


def _judgments(run: Run) -> list[Judgment]:
    return [msgspec.convert(row, Judgment) for row in read_jsonl(run.path(JUDGMENTS))]
