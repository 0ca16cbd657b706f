"""Stage 3: judge the benchmarks with the base and the trained judges, score them with the scalar head, and report."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from reasongenrm.benchmarks.base import judge_result, scalar_result
from reasongenrm.benchmarks.leaderboard import json_text, leaderboard_files
from reasongenrm.benchmarks.protocols import protocol_scores
from reasongenrm.benchmarks.registry import configured_benchmark
from reasongenrm.benchmarks.rewardbench2 import TIES
from reasongenrm.chat.encoder import check_judge
from reasongenrm.chat.lists import list_prompt
from reasongenrm.chat.prompts import PromptFile, placed_prompts, rating_prompt
from reasongenrm.config.evaluate import EvaluateConfig, EvaluationSettings
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import bar, say, stdout
from reasongenrm.errors import ConfigError
from reasongenrm.judge.ask import J, JudgeTask, P, VerdictTask, ask_all, read_all
from reasongenrm.judge.listwise import ListTask
from reasongenrm.judge.rate import RatingTask
from reasongenrm.metrics.diagnostics import diagnose
from reasongenrm.metrics.scores import BenchmarkScore
from reasongenrm.records import Drop, JudgePrompt, PairResult, PreferencePair, Row, Verdict
from reasongenrm.report.model_card import write_model_card
from reasongenrm.report.run_files import read_run
from reasongenrm.report.run_report import write_report
from reasongenrm.report.tables import score_table
from reasongenrm.report.training_steps import read_steps, training_alarms
from reasongenrm.run import Run, file_hash
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.stages.fingerprints import evaluate_steps
from reasongenrm.stages.fourway import check_fourway, list_results
from reasongenrm.stages.judges import SCALAR, Models, ServedJudge, leaderboard_entry, load_judges
from reasongenrm.stages.pointwise import check_pointwise
from reasongenrm.stages.rating import UNREAD_RATING, check_rating, rating_counts, rating_result, uncalibrated
from reasongenrm.store import PartStore, read_jsonl, to_json, write_json, write_jsonl, write_text

Results = dict[str, PairResult]
"""The results of one model on a benchmark, by pair id."""
Cost = dict[str, int]
"""Number of requests, prompt_tokens and tokens of a judge."""
Judged = tuple[Results, Cost]

LEADERBOARDS = ("rewardbench", "rewardbench2")
"""The kinds of benchmarks that have a leaderboard of allenai."""


def evaluate(recipe: Recipe, redo: Sequence[str] = ()) -> None:
    """Run stage 3 in the recipe's run folder, and print the tables.

    Args:
        recipe: the resolved recipe.
        redo: words that name steps to do again.

    Raises:
        ConfigError, DataError, EngineError: a setting, an input file or a model that the user has to change.
    """
    check_models(recipe)
    check_settings(recipe)
    run = Run(recipe, "evaluate")
    head = run.path("scalar") if recipe.scalar is not None else None
    with run.claim(evaluate_steps(recipe), redo):
        models = Models(partial(load_judges, recipe, run), head, partial(leaderboard_entry, recipe))
        scores = judge_benchmarks(recipe, run, models)
        page = write_report(run.folder)
        for name in recipe.trained:
            write_model_card(run.folder, name)
        show_tables(scores)
        for alarm in training_alarms(read_run(run.folder), read_steps(run.folder, [*recipe.judges])):
            say(f"alarm: {alarm}")
        say(f"stage 3 done: {page}")


def judge_benchmarks(
    settings: EvaluationSettings, run: Run, models: Models
) -> dict[str, dict[str, BenchmarkScore]]:
    """Judge all benchmarks with all models, and write the results, scores.json and table.md; return the scores of each model
    per benchmark."""
    rows = {name: _read_rows(settings, run, name) for name in settings.evaluate.benchmarks}
    benchmarks: dict[str, dict[str, Any]] = {}
    scores: dict[str, dict[str, BenchmarkScore]] = {}
    with ExitStack() as stack:
        judges = models.load(stack)
        for judge in judges:
            if judge.own_engine:  # which starts once for all benchmarks; below, all its completions are there
                for name, (good, _) in rows.items():
                    _judging(settings, name, judge)(settings, run, judge, name, good)
        for name, (good, unreadable) in rows.items():
            benchmarks[name], scores[name] = _evaluate_benchmark(settings, run, models, judges, name, good)
            benchmarks[name]["unreadable_rows"] = unreadable
    write_json(run.path("scores.json"), {"run": settings.name, "benchmarks": benchmarks})
    tables = {benchmark: score_table(one) for benchmark, one in scores.items()}
    text = "\n".join(f"## {benchmark}\n\n{table.markdown()}" for benchmark, table in tables.items())
    write_text(run.path("table.md"), text)
    return scores


def show_tables(scores: Mapping[str, dict[str, BenchmarkScore]]) -> None:
    """Print the table of every benchmark."""
    from rich.console import Console

    for models in scores.values():
        Console(file=stdout(), width=160).print(score_table(models).rich())


def check_settings(recipe: Recipe) -> None:
    """Check that the prompt file has the wordings that judges and benchmarks need.

    Raises:
        ConfigError: it lacks a key.
    """
    check_rating(recipe)
    check_pointwise(recipe)
    check_fourway(recipe)


def check_models(recipe: Recipe) -> None:
    """Check that the trained models exist, and that they were trained from this base.

    vLLM would serve an adapter of another base without an error.
    """
    folders = [recipe.weights(name) for name in recipe.trained]
    hints = dict.fromkeys(folders, "run 2_train.sh first")
    if recipe.scalar is not None:
        hints[recipe.folder / "scalar"] = "run 2_train.sh, or set scalar=null"
    if recipe.judging.combine == "meta" and recipe.judging.meta is not None:
        hints[Path(recipe.judging.meta)] = "run 2_train.sh, or set evaluate.combine=mean"
    for folder, hint in hints.items():
        if not folder.is_dir():
            raise ConfigError("directory not found", location=str(folder), hint=hint)
    trained, model = Run(recipe, "train").recorded_steps(), recipe.model
    for name in recipe.trained:
        if (step := trained.get(f"judges.{name}")) is None:
            continue  # the adapter was copied here, and its base is unknown
        path, revision = step.settings["model.path"], step.settings.get("model.revision")
        if (path, revision) != (model.path, model.revision):
            raise ConfigError(
                f"judge {name} was trained from {path} ({revision or 'no revision'})",
                location="model",
                hint="evaluate with the same model.path and model.revision, or set name=… for a new run",
            )
    for name in recipe.trained:
        check_judge(recipe, name)


def benchmark_rows(recipe: EvaluationSettings, name: str) -> Iterator[Row | Drop]:
    """Yield the rows of a benchmark, at most `limit` of them."""
    config = recipe.evaluate.benchmarks[name]
    limit = min(filter(None, (recipe.limit, config.limit)), default=None)
    benchmark = configured_benchmark(config)
    return benchmark.rows(config.location, split=config.split, revision=config.revision, limit=limit)


def _read_rows(recipe: EvaluationSettings, run: Run, name: str) -> tuple[list[Row], int]:
    """Read a benchmark, write rows.jsonl and dropped.jsonl; return the rows, and the number of unreadable ones."""
    items = list(benchmark_rows(recipe, name))
    rows = [item for item in items if isinstance(item, Row)]
    drops = [item for item in items if isinstance(item, Drop)]
    write_jsonl(run.path("evaluate", name, "rows.jsonl"), (to_json(row) for row in rows))
    write_jsonl(run.path("evaluate", name, "dropped.jsonl"), (to_json(drop) for drop in drops))
    pairs = sum(len(row.places) for row in rows)
    say(f"{name}: {len(rows)} rows, {pairs} pairs, {len(drops)} unreadable")
    return rows, len(drops)


def _judge(
    recipe: EvaluationSettings, run: Run, judge: ServedJudge, name: str, rows: Sequence[Row]
) -> Judged:
    """Have one model judge the pairs of a benchmark; write verdicts.jsonl."""
    pairs = [pair for row in rows for pair in row.pairs]
    prompts = benchmark_prompts(recipe, pairs, judge.wording)
    grammar = judge.wording.verdict
    judging, folder = recipe.judging, run.path("evaluate", name, judge.name)
    scores = _meta_store(judging, folder)
    task = VerdictTask(judging, judge.encoder, judge.max_model_len, grammar, seed=recipe.seed, scores=scores)
    verdicts, cost = _ask(recipe, folder, judge, f"{name}: judging with {judge.name}", prompts, task)
    if task.meta is not None:
        task.meta.finish()
    write_jsonl(folder / "verdicts.jsonl", map(to_json, verdicts))
    verdicts_by_pair: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        verdicts_by_pair[verdict.pair_id].append(verdict)
    return {pair.id: judge_result(pair.id, pair.source, verdicts_by_pair[pair.id]) for pair in pairs}, cost


def _meta_store(judging: EvaluateConfig, folder: Path) -> PartStore | None:
    """Return the store of the votes' scores by the judge of judges; a head of other weights has another file."""
    if judging.combine != "meta" or judging.meta is None:
        return None
    return PartStore(folder / f"meta_scores-{file_hash(judging.meta)}.jsonl")


def _choose(
    recipe: EvaluationSettings, run: Run, judge: ServedJudge, name: str, rows: Sequence[Row]
) -> Judged:
    """Have one model name the best answer of every row in one prompt, and rate the answers of Ties; write
    list_verdicts.jsonl, and the files of the ratings in the folder `ties`."""
    listed = [row for row in rows if row.subset != TIES]
    wording, folder = judge.wording, run.path("evaluate", name, judge.name)
    prompts = [
        list_prompt(row.history, row.answers, wording, seed=recipe.seed, list_id=row.id) for row in listed
    ]
    task = ListTask(recipe.evaluate, judge.encoder, judge.max_model_len, wording, seed=recipe.seed)
    verdicts, cost = _ask(recipe, folder, judge, f"{name}: choosing with {judge.name}", prompts, task)
    write_jsonl(folder / "list_verdicts.jsonl", map(to_json, verdicts))
    results: Results = {}
    for row, verdict in zip(listed, verdicts, strict=True):
        results |= list_results(row, verdict)
    ties = [row for row in rows if row.subset == TIES]
    if ties:
        rated, more = _rate(recipe, run, judge, name, ties, folder=folder / "ties")
        results, cost = results | rated, {key: cost[key] + more[key] for key in cost}
    return results, cost


def _rate(
    recipe: EvaluationSettings,
    run: Run,
    judge: ServedJudge,
    name: str,
    rows: Sequence[Row],
    folder: Path | None = None,
) -> Judged:
    """Have one model rate every answer of a benchmark; write ratings.jsonl and rating_counts.json.

    Rows with the same answer to the same conversation share its rating.

    Args:
        folder: of its files; by default the model's.
    """
    prompts_by_row = [
        [rating_prompt(row.history, answer, judge.wording) for answer in row.answers] for row in rows
    ]
    prompts = list({prompt.id: prompt for prompts in prompts_by_row for prompt in prompts}.values())
    task = RatingTask(recipe.evaluate, judge.encoder, judge.max_model_len, seed=recipe.seed)
    folder = folder or run.path("evaluate", name, judge.name)
    ratings, cost = _ask(recipe, folder, judge, f"{name}: rating with {judge.name}", prompts, task)
    rating_by_id = {rating.id: rating for rating in ratings}
    unread = UNREAD_RATING.get(recipe.evaluate.benchmarks[name].kind)
    lines: list[dict[str, Any]] = []
    results: Results = {}
    for row, row_prompts in zip(rows, prompts_by_row, strict=True):
        answers = [rating_by_id[prompt.id] for prompt in row_prompts]
        for place, rating in enumerate(answers):
            lines.append({"row": row.id, "answer": place, "right": place < row.right} | to_json(rating))
        for pair, (right, wrong) in zip(row.pairs, row.places, strict=True):
            results[pair.id] = rating_result(pair, answers[right], answers[wrong], unread=unread)
    counts = rating_counts([rating_by_id[prompt.id] for prompt in chain.from_iterable(prompts_by_row)])
    write_jsonl(folder / "ratings.jsonl", lines)
    write_json(folder / "rating_counts.json", counts)
    say(f"{name}: rated by {judge.name}: " + ", ".join(f"{count} {key}" for key, count in counts.items()))
    return results, cost


def _ask(
    recipe: EvaluationSettings,
    folder: Path,
    judge: ServedJudge,
    title: str,
    prompts: Sequence[P],
    task: JudgeTask[P, J],
) -> tuple[list[J], Cost]:
    """Return the judgements of all prompts and their cost; only completions that are not stored yet are requested."""
    store = PartStore(folder / "completions.jsonl")
    if not store.finished:
        engine = judge.engine(folder)
        began = time.perf_counter()
        with bar(title, len(prompts) * recipe.evaluate.votes) as progress:
            ask_all(prompts, engine, task, store, adapter=judge.adapter, progress=progress)
        # Not in scores.json: it differs from run to run, and after a kill it counts only the last start.
        write_json(folder / "seconds.json", round(time.perf_counter() - began, 3))
    judgements = read_all(prompts, task, store)
    prompt_tokens = [row["prompt_tokens"] for row in read_jsonl(store.final)]
    tokens = sum(judgement.tokens for judgement in judgements)
    return judgements, {"requests": len(prompt_tokens), "prompt_tokens": sum(prompt_tokens), "tokens": tokens}


def benchmark_prompts(
    recipe: EvaluationSettings, pairs: Sequence[PreferencePair], wording: PromptFile | None = None
) -> list[JudgePrompt]:
    """Return the judge prompts of all pairs, in their order; the wording is by default that of judges with reasons."""
    wording = wording or PromptFile.load(recipe.prompts)
    both_orders = recipe.evaluate.both_orders
    prompts = (placed_prompts(pair, wording, seed=recipe.seed, both_orders=both_orders) for pair in pairs)
    return list(chain.from_iterable(prompts))


def _scalar_results(run: Run, head: Path, benchmark: str, rows: Sequence[Row]) -> Results:
    """Score both answers of every pair with the scalar head; write scores.jsonl."""
    pairs = [pair for row in rows for pair in row.pairs]
    store = PartStore(run.path("evaluate", benchmark, SCALAR, "scores.jsonl"))
    if not store.finished:
        model = ScalarRewardModel.from_pretrained(head)
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


def _judging(recipe: EvaluationSettings, name: str, judge: ServedJudge) -> Callable[..., Judged]:
    """Return the function that has a model judge a benchmark: in the benchmark's mode, unless the model can only rate."""
    modes: dict[str, Callable[..., Judged]] = {"pairs": _judge, "ratings": _rate, "fourway": _choose}
    return _rate if judge.rates else modes[recipe.evaluate.benchmarks[name].mode]


def _evaluate_benchmark(
    recipe: EvaluationSettings,
    run: Run,
    all_models: Models,
    judges: Sequence[ServedJudge],
    name: str,
    rows: list[Row],
) -> tuple[dict[str, Any], dict[str, BenchmarkScore]]:
    """Evaluate every model on one benchmark; return its part of scores.json, and the score of each model."""
    config = recipe.evaluate.benchmarks[name]
    benchmark = configured_benchmark(config)
    models: dict[str, dict[str, Any]] = {}
    scores: dict[str, BenchmarkScore] = {}
    raters = {judge.name for judge in judges if judge.rates}

    def all_results() -> Iterator[tuple[str, Results, Cost | None]]:
        for judge in judges:
            yield judge.name, *_judging(recipe, name, judge)(recipe, run, judge, name, rows)
        if all_models.head is not None:
            yield SCALAR, _scalar_results(run, all_models.head, name, rows), None

    for model, results, cost in all_results():
        folder = run.path("evaluate", name, model)
        pairs = (pair for row in rows for pair in row.pairs)
        write_jsonl(folder / "results.jsonl", (to_json(results[pair.id]) for pair in pairs))
        scored = benchmark.score_details(rows, results, seed=recipe.seed)
        scores[model] = scored.score
        if config.kind in LEADERBOARDS and not scored.score.toy:
            files = leaderboard_files(scored, rows, results, all_models.entry(model))
            for path, content in files.items():
                write_text(folder / "leaderboard" / path, json_text(content))
        diagnostics = diagnose(rows, results)
        if (config.mode != "pairs" and model != SCALAR) or model in raters:
            diagnostics = uncalibrated(diagnostics)
        models[model] = {
            "score": asdict(scores[model]),
            "protocols": {
                name: one and asdict(one)
                for name, one in protocol_scores(benchmark, rows, results, seed=recipe.seed).items()
            },
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
