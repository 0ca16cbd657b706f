"""Stage 1: turn preference pairs into judge prompts, reasons and training records."""

from __future__ import annotations

import json
from typing import Any

from reasongenrm.chat.encoder import judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.engines import check_model
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import say
from reasongenrm.data.ranked import agreement
from reasongenrm.reasons.records import write_general
from reasongenrm.reasons.select import compile_formula
from reasongenrm.report.data_page import write_report
from reasongenrm.run import Run, file_hash
from reasongenrm.stages.pairs import write_pairs
from reasongenrm.stages.reasons import check_teachers, sample_all, score_all, write_records
from reasongenrm.store import write_json
from reasongenrm.train.sft import check_training

CHOICE_KEYS = {"selector", "formula", "threshold"}
"""Keys of `select` that only choose among scored reasons: a change, as one of `records`, samples no reason again."""

SERVER_KEYS = ("kind", "model", "api")
"""Keys of a teacher's server that change its reasons: a run may continue with other servers of the same model."""


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that change pairs, reasons or scores."""
    keys = {"seed", "limit", "model", "engine", "prompts", "templates", "data", "teachers", "select"}
    values = recipe.model_dump(mode="json", include=keys, exclude={"select": CHOICE_KEYS})
    for teacher in values["teachers"].values():
        if server := teacher["server"]:
            teacher["server"] = {key: server[key] for key in SERVER_KEYS if key in server}
    return values | {
        "judges": sorted({judge.template for judge in recipe.judges.values()}),
        "files": {path: file_hash(path) for path in _input_paths(recipe)},
    }


def _input_paths(recipe: Recipe) -> list[str]:
    paths = [recipe.prompts, *recipe.templates.values(), recipe.model.path]
    paths += [source.path for source in recipe.data.sources]
    paths += [teacher.model.path for teacher in recipe.teachers.values() if teacher.model]
    if recipe.data.decontaminate:
        paths += [config.location for config in recipe.evaluate.benchmarks.values()]
        paths += [file.path for file in recipe.data.decontaminate.against]
    return paths


def _choices(recipe: Recipe) -> dict[str, Any]:
    """Return the settings of selection and records, which cost no sampling."""
    return {
        "select": recipe.select.model_dump(mode="json", include=CHOICE_KEYS),
        "records": recipe.records.model_dump(mode="json"),
        "files": {general.path: file_hash(general.path) for general in recipe.records.general},
    }


def prepare(recipe: Recipe) -> None:
    """Run stage 1 in the recipe's run folder.

    Raises:
        ConfigError, DataError, EngineError: an error in the recipe, the data or an engine.
    """
    check_model(recipe.model.path, key="model.path")
    if recipe.needs_reasons():
        check_teachers(recipe)
    check_training(recipe)
    compile_formula(recipe.select.formula)
    run = Run(recipe, "prepare")
    with run.claim(settings(recipe)):
        report_file = run.path("data_report.json")
        if report_file.exists():
            if json.loads(report_file.read_text(encoding="utf-8"))["choices"] == _choices(recipe):
                say(f"{run.folder}: already prepared")
                return
            report_file.unlink()  # of other choices; the new report is written last
        pairs_file = run.path("pairs_report.json")
        if not pairs_file.exists():
            write_json(pairs_file, write_pairs(recipe, run))
        report = json.loads(pairs_file.read_text(encoding="utf-8"))
        prompt_count = sum(report["total"]["judge_prompts"][letter] for letter in "AB")
        say(f"{report['total']['kept']} pairs, {prompt_count} judge prompts")
        report |= _records(recipe, run, prompt_count)
        ranked = [source.path for source in recipe.data.sources if source.kind == "ranked"]
        if agreements := {path: value for path in ranked if (value := agreement(path)) is not None}:
            report["agreement"] = agreements
        report["choices"] = _choices(recipe)
        write_report(report, report_file, run.path("data_report.html"))
        say(f"stage 1 done: {run.path('data_report.html')}")


def _records(recipe: Recipe, run: Run, prompt_count: int) -> dict[str, Any]:
    """Sample, score and select; return the sections `reasons`, `records` and `general` of the report."""
    tokenizer = load_tokenizer(recipe.model)
    prompt_file = PromptFile.load(recipe.prompts)
    encoder = judge_encoder(recipe, recipe.student_template, tokenizer)
    if recipe.needs_reasons():
        sample_all(recipe, run, prompt_file, prompt_count)
        score_all(recipe, run, prompt_file, encoder, prompt_count)
    sections = write_records(recipe, run, prompt_file, encoder)
    if recipe.needs_reasons():
        reasons = sections["reasons"]
        say(f"{reasons['sampled']} reasons sampled, {reasons['kept']} kept; dropped: {reasons['dropped']}")
    records = sections["records"]
    if recipe.records.general:
        general = write_general(recipe, run, encoder, records.get("sft", prompt_count))
        records["general"] = general["records"]
        sections["general"] = general
    say("records: " + ", ".join(f"{count} {name}" for name, count in records.items()))
    return sections
