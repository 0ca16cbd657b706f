"""Stage 1: turn preference pairs into judge prompts, reasons and training records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reasongenrm.chat.encoder import judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.engines import check_model
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import say
from reasongenrm.data.ranked import agreement
from reasongenrm.reasons.records import write_general
from reasongenrm.reasons.select import compile_formula
from reasongenrm.records import REFERENCE_POINTS
from reasongenrm.report.data_page import write_report
from reasongenrm.run import Run
from reasongenrm.stages.fingerprints import prepare_steps
from reasongenrm.stages.lists import reason_lists, write_list_records
from reasongenrm.stages.pairs import compare_new_benchmarks, write_pairs
from reasongenrm.stages.pointwise import check_pointwise, write_rating_records
from reasongenrm.stages.reasons import check_teachers, sample_all, score_all, write_records
from reasongenrm.store import check_end_mark, read_json, write_end_mark, write_json
from reasongenrm.train.points import points_error, points_use
from reasongenrm.train.process import check_training

PAIR_FILES = ("pairs.jsonl", "prompts.jsonl")
"""Files that are read again at every start; one that was cut or changed is refused."""


def prepare(recipe: Recipe, redo: Sequence[str] = ()) -> None:
    """Run stage 1 in the recipe's run folder.

    Args:
        recipe: the resolved recipe.
        redo: words that name steps to do again.

    Raises:
        ConfigError, DataError, EngineError: an error in the recipe, the data or an engine.
    """
    check_models(recipe)
    check_settings(recipe)
    run = Run(recipe, "prepare")
    with run.claim(prepare_steps(recipe), redo):
        report_file, pairs_file = run.path("data_report.json"), run.path("pairs_report.json")
        if pairs_file.exists():
            for name in PAIR_FILES:
                check_end_mark(run.path(name))
            compare_new_benchmarks(recipe, run, pairs_file)
        if report_file.exists():
            say(f"{run.folder}: already prepared")
            return
        check_training(recipe)
        if not pairs_file.exists():
            report = write_pairs(recipe, run)
            for name in PAIR_FILES:
                write_end_mark(run.path(name))
            write_json(pairs_file, report)
        report = read_json(pairs_file)
        del report["compared"]
        prompt_count = sum(report["total"]["judge_prompts"][letter] for letter in "AB")
        say(f"{report['total']['kept']} pairs, {prompt_count} judge prompts")
        if REFERENCE_POINTS not in report["total"]:
            _check_points(recipe)
        report |= _records(recipe, run, prompt_count)
        ranked = [source.path for source in recipe.data.sources if source.kind == "ranked"]
        if agreements := {path: value for path in ranked if (value := agreement(path)) is not None}:
            report["agreement"] = agreements
        write_report(report, report_file, run.path("data_report.html"))
        say(f"stage 1 done: {run.path('data_report.html')}")


def check_models(recipe: Recipe) -> None:
    """Check the folders of the student and of the teachers, and the API keys.

    Raises:
        EngineError: one is missing.
    """
    check_model(recipe.model.path, key="model.path")
    if recipe.needs_reasons():
        check_teachers(recipe)


def check_settings(recipe: Recipe) -> None:
    """Check the formula of the selection, and the wording for ratings.

    Raises:
        ConfigError: one cannot be used.
    """
    compile_formula(recipe.select.formula)
    check_pointwise(recipe)


def _check_points(recipe: Recipe) -> None:
    """Name the keys that need reference points, which no pair has.

    Raises:
        ConfigError: one of them is of this stage.
    """
    if recipe.select.rationale and recipe.needs_reasons():
        raise points_error("select.rationale", "pair")
    uses = (points_use(recipe, step) for step in recipe.trained.values())
    for key in dict.fromkeys(use[0] for use in uses if use):
        say(f"no pair has {REFERENCE_POINTS}: stage 2 needs some, as {key} is set")


def _records(recipe: Recipe, run: Run, prompt_count: int) -> dict[str, Any]:
    """Sample, score and select; return the sections `reasons`, `records` and `general` of the report."""
    tokenizer = load_tokenizer(recipe.model)
    prompt_file = PromptFile.load(recipe.prompts)
    encoder = judge_encoder(recipe, recipe.student_template, tokenizer)
    if recipe.needs_reasons():
        sample_all(recipe, run, prompt_file, prompt_count)
        score_all(recipe, run, prompt_file, encoder, prompt_count)
        reason_lists(recipe, run, prompt_file)
    sections = write_records(recipe, run, prompt_file, encoder)
    if recipe.needs_reasons():
        reasons = sections["reasons"]
        say(f"{reasons['sampled']} reasons sampled, {reasons['kept']} kept; dropped: {reasons['dropped']}")
    records = sections["records"]
    records |= write_list_records(recipe, run, prompt_file) | write_rating_records(recipe, run, prompt_file)
    if recipe.records.general:
        general = write_general(recipe, run, encoder, records.get("sft", prompt_count))
        records["general"] = general["records"]
        sections["general"] = general
    say("records: " + ", ".join(f"{count} {name}" for name, count in records.items()))
    return sections
