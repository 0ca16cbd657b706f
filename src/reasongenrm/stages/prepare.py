"""Stage 1: preference pairs become judge prompts, reasons and training records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reasongenrm.chat.encoder import judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.engines import check_model
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import say
from reasongenrm.data.agreement import agreement
from reasongenrm.reasons.select import formula
from reasongenrm.report.data_page import write_report
from reasongenrm.run import Run, file_hash
from reasongenrm.stages.pairs import write_pairs
from reasongenrm.stages.reasons import check_teachers, sample_all, score_all
from reasongenrm.stages.selection import write_direct, write_general, write_reasoned
from reasongenrm.store import write_json
from reasongenrm.train.sft import check_training

FREE = {"selector", "formula", "threshold"}
"""Keys of `select` that only choose among scored reasons: changing them, or `records`, samples nothing."""


WHERE = {"urls", "url", "api_key_env", "max_concurrent", "timeout", "max_retries", "batch", "poll_seconds"}
"""Keys of a teacher's server that say where and how it is asked: a run may go on with other servers."""


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return what this stage's costly files depend on."""
    keys = {"seed", "limit", "model", "engine", "prompts", "templates", "data", "teachers", "select"}
    teachers = {name: {"server": WHERE} for name, teacher in recipe.teachers.items() if teacher.server}
    return {
        **recipe.model_dump(mode="json", include=keys, exclude={"select": FREE, "teachers": teachers}),
        "judges": sorted({judge.template for judge in recipe.judges.values()}),
        "files": {path: file_hash(path) for path in _inputs(recipe)},
    }


def _inputs(recipe: Recipe) -> list[str]:
    paths = [recipe.prompts, *recipe.templates.values(), recipe.model.path]
    paths += [source.path for source in recipe.data.sources]
    paths += [teacher.model.path for teacher in recipe.teachers.values() if teacher.model]
    if recipe.data.decontaminate:
        paths += [config.location for config in recipe.evaluate.benchmarks.values()]
        paths += [*(file.path for file in recipe.data.decontaminate.against)]
    return paths


def _choices(recipe: Recipe) -> dict[str, Any]:
    """What the free step depends on."""
    return {
        "select": recipe.select.model_dump(mode="json", include=FREE),
        "records": recipe.records.model_dump(mode="json"),
        "files": {general.path: file_hash(general.path) for general in recipe.records.general},
    }


def prepare(recipe: Recipe) -> None:
    """Run stage 1 in the recipe's run folder.

    Raises:
        ConfigError, DataError, EngineError: what the user can mend.
    """
    check_model(recipe.model.path, key="model.path")
    if recipe.needs_reasons():
        check_teachers(recipe)
    check_training(recipe)
    formula(recipe.select.formula)
    run = Run(recipe, "prepare")
    with run.claim(settings(recipe)):
        report_file = run.path("data_report.json")
        if _chosen(report_file) == _choices(recipe):
            say(f"{run.folder}: already prepared")
            return
        report_file.unlink(missing_ok=True)  # of other choices; it is written last
        pairs_file = run.path("pairs_report.json")
        if not pairs_file.exists():
            write_json(pairs_file, write_pairs(recipe, run))
        report = json.loads(pairs_file.read_text(encoding="utf-8"))
        placed = report["total"]["judge_prompts"]["A"] + report["total"]["judge_prompts"]["B"]
        say(f"{report['total']['kept']} pairs, {placed} judge prompts")
        report |= _records(recipe, run, placed)
        report |= _agreement(recipe)
        report["choices"] = _choices(recipe)
        write_report(report, report_file, run.path("data_report.html"))
        say(f"stage 1 done: {run.path('data_report.html')}")


def _chosen(report_file: Path) -> Any:
    """What the finished run's records were chosen by, or None."""
    if not report_file.exists():
        return None
    return json.loads(report_file.read_text(encoding="utf-8"))["choices"]


def _records(recipe: Recipe, run: Run, placed: int) -> dict[str, Any]:
    """Sample, score and select; return the report's sections `reasons` and `records`."""
    tokenizer = load_tokenizer(recipe.model)
    sections: dict[str, Any] = {"records": {}}
    prompts = PromptFile.load(recipe.prompts)
    encoder = judge_encoder(recipe, recipe.student_template, tokenizer)
    if recipe.needs_reasons():
        sample_all(recipe, run, prompts, placed)
        score_all(recipe, run, prompts, encoder)
        sections = write_reasoned(recipe, run, prompts, encoder)
        told = sections["reasons"]
        say(f"{told['sampled']} reasons sampled, {told['kept']} kept; dropped: {told['dropped']}")
    records = sections["records"]
    records["genrm"] = write_direct(run, prompts.verdict)
    if recipe.records.general:
        counts = write_general(recipe, run, encoder, records.get("sft", placed))
        records["general"] = counts["taken"]
        sections["general"] = counts
    say("records: " + ", ".join(f"{count} {name}" for name, count in records.items()))
    return sections


def _agreement(recipe: Recipe) -> dict[str, Any]:
    """How far the annotators of ranked sources agree, where there are several."""
    found = {source.path: agreement(source.path) for source in recipe.data.sources if source.kind == "ranked"}
    told = {path: value for path, value in found.items() if value is not None}
    return {"agreement": told} if told else {}
