"""Stage 3: the benchmarks, judged by the base and the trained judges, and scored by the scalar head."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasongenrm.benchmarks.base import Benchmark
from reasongenrm.benchmarks.leaderboard import leaderboard_files
from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.benchmarks.rewardbench import RewardBench
from reasongenrm.config.evaluate import BenchmarkConfig
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import say
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.metrics.diagnostics import diagnose
from reasongenrm.metrics.scores import BenchmarkScore
from reasongenrm.records import Drop, Row
from reasongenrm.report.model_card import write_model_card
from reasongenrm.report.run_report import write_report
from reasongenrm.report.tables import Entry, markdown_table, rich_table
from reasongenrm.run import Run, file_hash
from reasongenrm.stages.judging import SCALAR, Judges, ModelResults, scored_results
from reasongenrm.stages.rating import check_rating, rated_results, uncalibrated
from reasongenrm.store import to_json, write_json, write_jsonl, write_text

LEADERBOARDS = ("rewardbench", "rewardbench2")
"""The kinds whose results allenai's leaderboards take."""


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return what this stage's files depend on."""
    keys = ("seed", "limit", "model", "engine", "prompts", "templates", "judges", "evaluate", "scalar")
    files: list[Path | str] = [
        recipe.folder / "judges" / name / "adapter" / "adapter_model.safetensors" for name in recipe.judges
    ]
    files += [recipe.folder / "scalar" / "model.safetensors", recipe.prompts, *recipe.templates.values()]
    files += [recipe.model.path, *(config.location for config in recipe.evaluate.benchmarks.values())]
    return {
        **recipe.model_dump(mode="json", include=set(keys)),
        "files": {str(path): file_hash(path) for path in files},
    }


def evaluate(recipe: Recipe) -> None:
    """Run stage 3 in the recipe's run folder, and print the tables.

    Raises:
        ConfigError, DataError, EngineError: what the user can mend.
    """
    for name in recipe.judges:
        if not (recipe.folder / "judges" / name / "adapter").is_dir():
            raise ConfigError(
                f"no adapter of {name!r}",
                location=str(recipe.folder / "judges" / name),
                hint="run 2_train.sh first",
            )
    _check_base(recipe)
    check_rating(recipe)
    if recipe.scalar is not None and not (recipe.folder / "scalar").is_dir():
        raise ConfigError(
            "no scalar head",
            location=str(recipe.folder / "scalar"),
            hint="run 2_train.sh, or set scalar=null",
        )
    run = Run(recipe, "evaluate")
    with run.claim(settings(recipe)):
        given = {name: _rows(recipe, run, name) for name in recipe.evaluate.benchmarks}
        judges = Judges(recipe, run)
        told = {name: _evaluated(recipe, run, judges, name, *rows) for name, rows in given.items()}
        judges.close()
        _report(recipe, run, told)


def _check_base(recipe: Recipe) -> None:
    """Refuse adapters of another base: vLLM would serve them on this one without a word."""
    manifest = recipe.folder / "manifest" / "train.json"
    if not manifest.exists():  # an adapter brought here by hand: nobody knows its base
        return
    trained, given = json.loads(manifest.read_text(encoding="utf-8"))["settings"]["model"], recipe.model
    if (trained["path"], trained["revision"]) != (given.path, given.revision):
        raise ConfigError(
            f"the adapters were trained on {trained['path']} ({trained['revision'] or 'no revision'})",
            location="model",
            hint="evaluate with the same model.path and model.revision, or train under another name",
        )


def _benchmark(config: BenchmarkConfig) -> Benchmark:
    if not config.prior_sets:
        return BENCHMARKS[config.kind]
    return RewardBench(prior_sets=True, prior_path=config.prior_path or RewardBench().prior_path)


def benchmark_rows(recipe: Recipe, name: str) -> Iterator[Row | Drop]:
    """Yield a benchmark's rows, at most `limit` of them."""
    config = recipe.evaluate.benchmarks[name]
    limits = [limit for limit in (recipe.limit, config.limit) if limit is not None]
    benchmark = _benchmark(config)
    return benchmark.rows(
        config.location, split=config.split, revision=config.revision, limit=min(limits, default=None)
    )


def _rows(recipe: Recipe, run: Run, name: str) -> tuple[list[Row], int]:
    """Read a benchmark, write rows.jsonl and dropped.jsonl; return the rows, and how many could not be read."""
    items = list(benchmark_rows(recipe, name))
    rows = [item for item in items if isinstance(item, Row)]
    drops = [item for item in items if isinstance(item, Drop)]
    if not rows:
        key = f"evaluate.benchmarks.{name}"
        raise DataError(
            "no benchmark row can be read", location=key, hint="see docs/benchmarks.md for its columns"
        )
    write_jsonl(run.path("evaluate", name, "rows.jsonl"), (to_json(row) for row in rows))
    write_jsonl(run.path("evaluate", name, "dropped.jsonl"), (to_json(drop) for drop in drops))
    pairs = sum(len(row.places) for row in rows)
    say(f"{name}: {len(rows)} rows, {pairs} pairs, {len(drops)} unreadable")
    return rows, len(drops)


def _evaluated(
    recipe: Recipe, run: Run, judges: Judges, name: str, rows: list[Row], unreadable: int
) -> dict[str, Any]:
    """Have every model judge one benchmark; return its part of scores.json."""
    config = recipe.evaluate.benchmarks[name]
    benchmark = _benchmark(config)
    pairs = [pair for row in rows for pair in row.pairs]
    rates = config.mode == "ratings"

    def told(model: str, judged: ModelResults) -> dict[str, Any]:
        results = judged.results
        folder = run.path("evaluate", name, model)
        write_jsonl(folder / "results.jsonl", (to_json(results[pair.id]) for pair in pairs))
        score = benchmark.score(rows, results, seed=recipe.seed)
        if config.kind in LEADERBOARDS and not score.toy:
            kind = "Seq. Classifier" if model == SCALAR else "Generative RM"
            files = leaderboard_files(score, f"{recipe.name}/{model}", model_type=kind)
            for part, content in files.items():
                write_json(folder / "leaderboard" / f"{part}.json", content)
        diagnostics = diagnose(rows, results)
        if rates and model != SCALAR:
            diagnostics = uncalibrated(diagnostics)
        return {"score": score, "diagnostics": diagnostics, "cost": judged.cost}

    def asked(model: str) -> ModelResults:
        if rates:
            return rated_results(recipe, run, judges, model, name, rows)
        return judges.judge(model, name, pairs)

    models = {model: told(model, asked(model)) for model in judges.names}
    if recipe.scalar is not None:
        models[SCALAR] = told(SCALAR, scored_results(run, name, pairs))
    return {
        "kind": config.kind,
        "mode": config.mode,
        "name": benchmark.name,
        "path": config.location,
        "rows": len(rows),
        "unreadable_rows": unreadable,
        "models": models,
    }


def _report(recipe: Recipe, run: Run, told: dict[str, dict[str, Any]]) -> None:
    """Write scores.json, table.md, the report and the model cards, and print the tables."""
    tables: list[tuple[str, list[Entry]]] = []
    for name, benchmark in told.items():
        scores: dict[str, BenchmarkScore] = {m: found["score"] for m, found in benchmark["models"].items()}
        tables.append((name, [(model, score, {}) for model, score in scores.items()]))
    write_json(run.path("scores.json"), {"run": recipe.name, "benchmarks": _plain(told)})
    text = "\n".join(f"## {name}\n\n{markdown_table(entries)}" for name, entries in tables)
    write_text(run.path("table.md"), text)
    page = write_report(run.folder)
    for name in recipe.judges:
        write_model_card(run.folder, name)
    from rich.console import Console

    for _, entries in tables:
        Console(width=160).print(rich_table(entries))
    say(f"stage 3 done: {page}")


def _plain(told: dict[str, dict[str, Any]]) -> dict[str, Any]:
    def model(found: dict[str, Any]) -> dict[str, Any]:
        score, diagnostics = asdict(found["score"]), asdict(found["diagnostics"])
        return found | {"score": score, "diagnostics": diagnostics}

    return {
        name: benchmark | {"models": {m: model(found) for m, found in benchmark["models"].items()}}
        for name, benchmark in told.items()
    }
