"""Stage 3: judge the benchmarks with the base and the trained judges, score them with the scalar head, and report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasongenrm.benchmarks.base import Benchmark, judge_result, scalar_result
from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.benchmarks.rewardbench import RewardBench, leaderboard_files
from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, placed_prompts
from reasongenrm.config.evaluate import BenchmarkConfig
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import bar, say, stdout
from reasongenrm.engines.base import Engine
from reasongenrm.engines.loading import load_engine, open_server, server_encoder
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.ask import J, JudgeTask, P, ask_all, read_all
from reasongenrm.judge.rate import RatingTask
from reasongenrm.judge.verdicts import VerdictTask
from reasongenrm.metrics.diagnostics import diagnose
from reasongenrm.metrics.scores import BenchmarkScore
from reasongenrm.records import Drop, JudgePrompt, PairResult, PreferencePair, Row, Verdict
from reasongenrm.report.model_card import write_model_card
from reasongenrm.report.run_report import write_report
from reasongenrm.report.tables import score_table
from reasongenrm.run import Run, file_hash
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.stages.rating import check_rating, rating_prompts, uncalibrated, write_ratings
from reasongenrm.store import PartStore, read_jsonl, to_json, write_json, write_jsonl, write_text

BASE = "base"
SCALAR = "scalar"
Results = dict[str, PairResult]
"""The results of one model on a benchmark, by pair id."""
Cost = dict[str, int]
"""Number of requests, prompt_tokens and tokens of a judge."""

LEADERBOARDS = ("rewardbench", "rewardbench2")
"""The kinds of benchmarks that have a leaderboard of allenai."""


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings and input files that this stage's files depend on."""
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
        ConfigError, DataError, EngineError: a setting, an input file or a model that the user has to change.
    """
    _check_models(recipe)
    if any(config.mode == "ratings" for config in recipe.evaluate.benchmarks.values()):
        check_rating(recipe)
    run = Run(recipe, "evaluate")
    with run.claim(settings(recipe)):
        rows = {name: _read_rows(recipe, run, name) for name in recipe.evaluate.benchmarks}
        judges = Judges(recipe, run)
        benchmarks: dict[str, dict[str, Any]] = {}
        scores: dict[str, dict[str, BenchmarkScore]] = {}
        for name, (good, unreadable) in rows.items():
            benchmarks[name], scores[name] = _evaluate_benchmark(recipe, run, judges, name, good)
            benchmarks[name]["unreadable_rows"] = unreadable
        judges.close()
        write_json(run.path("scores.json"), {"run": recipe.name, "benchmarks": benchmarks})
        _report(recipe, run, scores)


def _check_models(recipe: Recipe) -> None:
    """Check that the trained models exist, and that the adapters were trained on this base.

    vLLM would serve an adapter of another base without an error.
    """
    folders = [recipe.folder / "judges" / name / "adapter" for name in recipe.judges]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError("directory not found", location=str(folder), hint="run 2_train.sh first")
    scalar = recipe.folder / "scalar"
    if recipe.scalar is not None and not scalar.is_dir():
        raise ConfigError(
            "directory not found", location=str(scalar), hint="run 2_train.sh, or set scalar=null"
        )
    manifest = recipe.folder / "manifest" / "train.json"
    if not manifest.exists():  # the adapters were copied here, and their base is unknown
        return
    base, model = json.loads(manifest.read_text(encoding="utf-8"))["settings"]["model"], recipe.model
    if (base["path"], base["revision"]) != (model.path, model.revision):
        raise ConfigError(
            f"the adapters were trained on {base['path']} ({base['revision'] or 'no revision'})",
            location="model",
            hint="evaluate with the same model.path and model.revision, or train under another name",
        )


def _benchmark(config: BenchmarkConfig) -> Benchmark:
    if not config.prior_sets:
        return BENCHMARKS[config.kind]
    return RewardBench(prior_sets=True, prior_path=config.prior_path or RewardBench().prior_path)


def benchmark_rows(recipe: Recipe, name: str) -> Iterator[Row | Drop]:
    """Yield the rows of a benchmark, at most `limit` of them."""
    config = recipe.evaluate.benchmarks[name]
    limits = [limit for limit in (recipe.limit, config.limit) if limit is not None]
    benchmark = _benchmark(config)
    return benchmark.rows(
        config.location, split=config.split, revision=config.revision, limit=min(limits, default=None)
    )


def _read_rows(recipe: Recipe, run: Run, name: str) -> tuple[list[Row], int]:
    """Read a benchmark, write rows.jsonl and dropped.jsonl; return the rows, and the number of unreadable ones."""
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


class Judges:
    """All models of a recipe but the scalar head: the base and the trained judges on one engine, and served models.

    An engine starts when one of its models has something left to judge.

    Attributes:
        names: the base, the trained judges, then the judges of `evaluate.others`.
    """

    def __init__(self, recipe: Recipe, run: Run) -> None:
        self._recipe, self._run = recipe, run
        trained = {name: run.path("judges", name, "adapter") for name in recipe.judges}
        self._adapters: dict[str, Path | None] = ({BASE: None} if recipe.evaluate.base else {}) | trained
        self.names = [*self._adapters, *recipe.evaluate.others]
        self._tokenizer: Any = load_tokenizer(recipe.model)
        self._prompts = PromptFile.load(recipe.prompts)
        self._engine: Engine | None = None
        self._others: dict[str, tuple[Engine, ChatEncoder | None]] = {}

    def judge(self, model: str, benchmark: str, rows: Sequence[Row]) -> tuple[Results, Cost]:
        """Have one model judge the pairs of a benchmark; write verdicts.jsonl."""
        pairs = [pair for row in rows for pair in row.pairs]
        task = VerdictTask(
            self._recipe.evaluate,
            self._encoder(model),
            self._max_model_len(model),
            self._prompts.verdict,
            seed=self._recipe.seed,
        )
        prompts = benchmark_prompts(self._recipe, pairs)
        store = self._ask(model, benchmark, "judging", prompts, task)
        verdicts = read_all(prompts, task, store)
        write_jsonl(store.final.parent / "verdicts.jsonl", (to_json(verdict) for verdict in verdicts))
        verdicts_by_pair: dict[str, list[Verdict]] = {}
        for verdict in verdicts:
            verdicts_by_pair.setdefault(verdict.pair_id, []).append(verdict)
        results = {pair.id: judge_result(pair.id, pair.source, verdicts_by_pair[pair.id]) for pair in pairs}
        return results, _cost(store, sum(verdict.tokens for verdict in verdicts))

    def rate(self, model: str, benchmark: str, rows: Sequence[Row]) -> tuple[Results, Cost]:
        """Have one model rate every answer of a benchmark; write ratings.jsonl and rating_counts.json.

        Rows with the same answer to the same conversation share its rating.
        """
        prompts_by_row = [rating_prompts(row, self._prompts) for row in rows]
        prompts = list({prompt.id: prompt for prompts in prompts_by_row for prompt in prompts}.values())
        task = RatingTask(
            self._recipe.evaluate, self._encoder(model), self._max_model_len(model), seed=self._recipe.seed
        )
        store = self._ask(model, benchmark, "rating", prompts, task)
        ratings = {rating.id: rating for rating in read_all(prompts, task, store)}
        ratings_by_row = [[ratings[prompt.id] for prompt in prompts] for prompts in prompts_by_row]
        kind = self._recipe.evaluate.benchmarks[benchmark].kind
        results = write_ratings(
            store.final.parent, f"{benchmark}: rated by {model}", kind, rows, ratings_by_row
        )
        return results, _cost(store, sum(rating.tokens for rating in ratings.values()))

    def close(self) -> None:
        """Stop the engines."""
        for engine in (self._engine, *(engine for engine, _ in self._others.values())):
            if engine is not None:
                engine.close()

    def _ask(
        self, model: str, benchmark: str, action: str, prompts: Sequence[P], task: JudgeTask[P, J]
    ) -> PartStore:
        """Return the completions of all prompts; only those that are not stored yet are requested.

        Args:
            action: for the progress bar.
        """
        folder = self._run.path("evaluate", benchmark, model)
        store = PartStore(folder / "completions.jsonl")
        if not store.finished:
            engine, adapter = self._engine_of(model), self._adapters.get(model)
            began = time.perf_counter()
            requests = len(prompts) * self._recipe.evaluate.votes
            with bar(f"{benchmark}: {action} with {model}", requests) as progress:
                ask_all(
                    prompts, engine, task, store, adapter=str(adapter) if adapter else None, progress=progress
                )
            # Not in scores.json: it differs from run to run, and after a kill it counts only the last start.
            write_json(folder / "seconds.json", round(time.perf_counter() - began, 3))
        return store

    def _engine_of(self, model: str) -> Engine:
        if model in self._recipe.evaluate.others:
            return self._other(model)[0]
        if self._engine is None:
            recipe = self._recipe
            self._engine = load_engine(
                recipe.model,
                recipe.engine,
                seed=recipe.seed,
                adapters=[path for path in self._adapters.values() if path],
                server=recipe.evaluate.server,
                logs=self._run.path("servers"),
                on_event=say,
            )
        return self._engine

    def _other(self, model: str) -> tuple[Engine, ChatEncoder | None]:
        if model not in self._others:
            config = self._recipe.evaluate.others[model]
            key, template = f"evaluate.others.{model}.server", self._recipe.templates[config.template]
            encoder = server_encoder(config.server, config.model, template, self._prompts.verdict, key=key)
            state = self._run.path("evaluate", f"{model}.batches.jsonl")
            engine = open_server(
                config.server, max_model_len=config.max_model_len, state=state, key=key, on_event=say
            )
            self._others[model] = engine, encoder
        return self._others[model]

    def _encoder(self, model: str) -> ChatEncoder | None:
        """Return the encoder of a model's chat template; None for a server that takes messages."""
        recipe = self._recipe
        if model in recipe.evaluate.others:
            return self._other(model)[1]
        template = recipe.judges[model].template if self._adapters[model] else recipe.student_template
        return judge_encoder(recipe, template, self._tokenizer)

    def _max_model_len(self, model: str) -> int:
        other = self._recipe.evaluate.others.get(model)
        return other.max_model_len if other else self._recipe.engine.max_model_len


def benchmark_prompts(recipe: Recipe, pairs: Sequence[PreferencePair]) -> list[JudgePrompt]:
    """Return the judge prompts of all pairs, in their order."""
    wording, both_orders = PromptFile.load(recipe.prompts), recipe.evaluate.both_orders
    return [
        prompt
        for pair in pairs
        for prompt in placed_prompts(pair, wording, seed=recipe.seed, both_orders=both_orders)
    ]


def _cost(store: PartStore, tokens: int) -> Cost:
    prompt_tokens = [row["prompt_tokens"] for row in read_jsonl(store.final)]
    return {"requests": len(prompt_tokens), "prompt_tokens": sum(prompt_tokens), "tokens": tokens}


def _scalar_results(run: Run, benchmark: str, rows: Sequence[Row]) -> Results:
    """Score both answers of every pair with the scalar head; write scores.jsonl."""
    pairs = [pair for row in rows for pair in row.pairs]
    store = PartStore(run.path("evaluate", benchmark, SCALAR, "scores.jsonl"))
    if not store.finished:
        model = ScalarRewardModel.from_pretrained(run.path("scalar"))
        with bar(f"{benchmark}: scoring with the scalar head", len(pairs)) as progress:
            for start in range(0, len(pairs), 256):
                batch = pairs[start : start + 256]
                if any(pair.id not in store for pair in batch):
                    histories = [pair.history for pair in batch]
                    chosen = model.score_batch(histories, [pair.chosen for pair in batch])
                    rejected = model.score_batch(histories, [pair.rejected for pair in batch])
                    store.append(
                        {"id": pair.id, "chosen": c, "rejected": r}
                        for pair, c, r in zip(batch, chosen, rejected, strict=True)
                    )
                progress(len(batch))
        store.finish(pair.id for pair in pairs)
    scores = {row["id"]: (row["chosen"], row["rejected"]) for row in read_jsonl(store.final)}
    return {pair.id: scalar_result(pair.id, pair.source, *scores[pair.id]) for pair in pairs}


def _evaluate_benchmark(
    recipe: Recipe, run: Run, judges: Judges, name: str, rows: list[Row]
) -> tuple[dict[str, Any], dict[str, BenchmarkScore]]:
    """Evaluate every model on one benchmark; return its part of scores.json, and the score of each model."""
    config = recipe.evaluate.benchmarks[name]
    benchmark = _benchmark(config)
    rates = config.mode == "ratings"
    models: dict[str, dict[str, Any]] = {}
    scores: dict[str, BenchmarkScore] = {}
    for model in [*judges.names, *([SCALAR] if recipe.scalar is not None else [])]:
        cost: Cost | None = None
        if model == SCALAR:
            results = _scalar_results(run, name, rows)
        else:
            results, cost = (judges.rate if rates else judges.judge)(model, name, rows)
        folder = run.path("evaluate", name, model)
        write_jsonl(
            folder / "results.jsonl", (to_json(results[pair.id]) for row in rows for pair in row.pairs)
        )
        scores[model] = benchmark.score(rows, results, seed=recipe.seed)
        if config.kind in LEADERBOARDS and not scores[model].toy:
            kind = "Seq. Classifier" if model == SCALAR else "Generative RM"
            files = leaderboard_files(scores[model], f"{recipe.name}/{model}", model_type=kind)
            for part, content in files.items():
                write_json(folder / "leaderboard" / f"{part}.json", content)
        diagnostics = diagnose(rows, results)
        if rates and model != SCALAR:
            diagnostics = uncalibrated(diagnostics)
        models[model] = {
            "score": asdict(scores[model]),
            "diagnostics": asdict(diagnostics),
            "cost": cost,
        }
    part_of_scores = {
        "kind": config.kind,
        "mode": config.mode,
        "name": benchmark.name,
        "path": config.location,
        "rows": len(rows),
        "models": models,
    }
    return part_of_scores, scores


def _report(recipe: Recipe, run: Run, scores: dict[str, dict[str, BenchmarkScore]]) -> None:
    """Write table.md, the report and the model cards, and print the tables."""
    from rich.console import Console

    tables = {benchmark: score_table(models) for benchmark, models in scores.items()}
    text = "\n".join(f"## {benchmark}\n\n{table.markdown()}" for benchmark, table in tables.items())
    write_text(run.path("table.md"), text)
    page = write_report(run.folder)
    for name in recipe.judges:
        write_model_card(run.folder, name)
    for table in tables.values():
        Console(file=stdout(), width=160).print(table.rich())
    say(f"stage 3 done: {page}")
