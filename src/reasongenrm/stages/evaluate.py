"""Stage 3: judge the benchmarks with the base and the trained judges, score them with the scalar head, and report."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

from reasongenrm.benchmarks.base import Benchmark, judge_result, scalar_result
from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.benchmarks.rewardbench import RewardBench, leaderboard_files
from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, placed_prompts, rating_prompt
from reasongenrm.config.evaluate import BenchmarkConfig
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import bar, say, stdout
from reasongenrm.engines.base import Engine
from reasongenrm.engines.loading import load_engine, open_server, server_encoder
from reasongenrm.errors import ConfigError
from reasongenrm.judge.ask import J, JudgeTask, P, VerdictTask, ask_all, read_all
from reasongenrm.judge.rate import RatingTask
from reasongenrm.metrics.diagnostics import diagnose
from reasongenrm.metrics.scores import BenchmarkScore
from reasongenrm.records import Drop, JudgePrompt, PairResult, PreferencePair, Row, Verdict
from reasongenrm.report.model_card import write_model_card
from reasongenrm.report.run_report import write_report
from reasongenrm.report.tables import score_table
from reasongenrm.run import Run
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.stages.fingerprints import evaluate_steps
from reasongenrm.stages.rating import UNREAD_RATING, check_rating, rating_counts, rating_result, uncalibrated
from reasongenrm.store import PartStore, read_jsonl, to_json, write_json, write_jsonl, write_text

BASE = "base"
SCALAR = "scalar"
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
    _check_models(recipe)
    check_rating(recipe)
    run = Run(recipe, "evaluate")
    with run.claim(evaluate_steps(recipe), redo):
        rows = {name: _read_rows(recipe, run, name) for name in recipe.evaluate.benchmarks}
        benchmarks: dict[str, dict[str, Any]] = {}
        scores: dict[str, dict[str, BenchmarkScore]] = {}
        with ExitStack() as stack:
            judges = load_judges(recipe, run, stack)
            for name, (good, unreadable) in rows.items():
                benchmarks[name], scores[name] = _evaluate_benchmark(recipe, run, judges, name, good)
                benchmarks[name]["unreadable_rows"] = unreadable
        write_json(run.path("scores.json"), {"run": recipe.name, "benchmarks": benchmarks})
        _report(recipe, run, scores)


def _check_models(recipe: Recipe) -> None:
    """Check that the trained models exist, and that the adapters were trained on this base.

    vLLM would serve an adapter of another base without an error.
    """
    folders = [recipe.folder / "judges" / name / "adapter" for name in recipe.judges]
    hints = dict.fromkeys(folders, "run 2_train.sh first")
    if recipe.scalar is not None:
        hints[recipe.folder / "scalar"] = "run 2_train.sh, or set scalar=null"
    for folder, hint in hints.items():
        if not folder.is_dir():
            raise ConfigError("directory not found", location=str(folder), hint=hint)
    trained, model = Run(recipe, "train").recorded_steps(), recipe.model
    for name in recipe.judges:
        if (step := trained.get(f"judges.{name}")) is None:
            continue  # the adapter was copied here, and its base is unknown
        path, revision = step.settings["model.path"], step.settings.get("model.revision")
        if (path, revision) != (model.path, model.revision):
            raise ConfigError(
                f"the adapter of judge {name} was trained on {path} ({revision or 'no revision'})",
                location="model",
                hint="evaluate with the same model.path and model.revision, or set name=… for a new run",
            )


def _benchmark(config: BenchmarkConfig) -> Benchmark:
    if not config.prior_sets:
        return BENCHMARKS[config.kind]
    return RewardBench(prior_sets=True, prior_path=config.prior_path or RewardBench().prior_path)


def benchmark_rows(recipe: Recipe, name: str) -> Iterator[Row | Drop]:
    """Yield the rows of a benchmark, at most `limit` of them."""
    config = recipe.evaluate.benchmarks[name]
    limit = min(filter(None, (recipe.limit, config.limit)), default=None)
    benchmark = _benchmark(config)
    return benchmark.rows(config.location, split=config.split, revision=config.revision, limit=limit)


def _read_rows(recipe: Recipe, run: Run, name: str) -> tuple[list[Row], int]:
    """Read a benchmark, write rows.jsonl and dropped.jsonl; return the rows, and the number of unreadable ones."""
    items = list(benchmark_rows(recipe, name))
    rows = [item for item in items if isinstance(item, Row)]
    drops = [item for item in items if isinstance(item, Drop)]
    write_jsonl(run.path("evaluate", name, "rows.jsonl"), (to_json(row) for row in rows))
    write_jsonl(run.path("evaluate", name, "dropped.jsonl"), (to_json(drop) for drop in drops))
    pairs = sum(len(row.places) for row in rows)
    say(f"{name}: {len(rows)} rows, {pairs} pairs, {len(drops)} unreadable")
    return rows, len(drops)


@dataclass(frozen=True)
class ServedJudge:
    """A model that judges.

    Attributes:
        name: the base, a trained judge, or one of `evaluate.others`.
        engine: starts its engine, or returns the running one.
        encoder: tokenizer and chat template; None for a server that takes messages.
        max_model_len: tokens of prompt and completion together.
        adapter: its LoRA folder, if it has one.
    """

    name: str
    engine: Callable[[], Engine]
    encoder: ChatEncoder | None
    max_model_len: int
    adapter: str | None = None


def load_judges(recipe: Recipe, run: Run, stack: ExitStack) -> list[ServedJudge]:
    """Return all models of a recipe but the scalar head: the base and the trained judges on one engine, and served ones.

    An engine starts when one of its models has something left to judge; the stack closes it.
    """
    adapters: dict[str, Path | None] = {BASE: None} if recipe.evaluate.base else {}
    adapters |= {name: run.path("judges", name, "adapter") for name in recipe.judges}
    tokenizer, grammar = load_tokenizer(recipe.model), PromptFile.load(recipe.prompts).verdict

    def shared(open_engine: Callable[[], Engine]) -> Callable[[], Engine]:
        return cache(lambda: stack.enter_context(closing(open_engine())))

    paths = [path for path in adapters.values() if path]
    engine = shared(
        partial(
            load_engine, recipe.model, recipe.engine, seed=recipe.seed, adapters=paths,
            server=recipe.evaluate.server, logs=run.path("servers"), on_event=say,
        )
    )  # fmt: skip
    judges = []
    for name, path in adapters.items():
        template = recipe.judges[name].template if path else recipe.student_template
        encoder: ChatEncoder | None = judge_encoder(recipe, template, tokenizer)
        limit = recipe.engine.max_model_len
        judges.append(ServedJudge(name, engine, encoder, limit, str(path) if path else None))
    for name, other in recipe.evaluate.others.items():
        key, limit = f"evaluate.others.{name}.server", other.max_model_len
        encoder = server_encoder(
            other.server, other.model, recipe.templates[other.template], grammar, key=key
        )
        state = run.path("evaluate", f"{name}.batches.jsonl")
        client = partial(open_server, other.server, max_model_len=limit, state=state, key=key, on_event=say)
        judges.append(ServedJudge(name, shared(client), encoder, limit))
    return judges


def _judge(recipe: Recipe, run: Run, judge: ServedJudge, name: str, rows: Sequence[Row]) -> Judged:
    """Have one model judge the pairs of a benchmark; write verdicts.jsonl."""
    pairs = [pair for row in rows for pair in row.pairs]
    prompts = benchmark_prompts(recipe, pairs)
    grammar = PromptFile.load(recipe.prompts).verdict
    task = VerdictTask(recipe.evaluate, judge.encoder, judge.max_model_len, grammar, seed=recipe.seed)
    folder = run.path("evaluate", name, judge.name)
    verdicts, cost = _ask(recipe, folder, judge, f"{name}: judging with {judge.name}", prompts, task)
    write_jsonl(folder / "verdicts.jsonl", map(to_json, verdicts))
    verdicts_by_pair: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        verdicts_by_pair[verdict.pair_id].append(verdict)
    return {pair.id: judge_result(pair.id, pair.source, verdicts_by_pair[pair.id]) for pair in pairs}, cost


def _rate(recipe: Recipe, run: Run, judge: ServedJudge, name: str, rows: Sequence[Row]) -> Judged:
    """Have one model rate every answer of a benchmark; write ratings.jsonl and rating_counts.json.

    Rows with the same answer to the same conversation share its rating.
    """
    wording = PromptFile.load(recipe.prompts)
    prompts_by_row = [[rating_prompt(row.history, answer, wording) for answer in row.answers] for row in rows]
    prompts = list({prompt.id: prompt for prompts in prompts_by_row for prompt in prompts}.values())
    task = RatingTask(recipe.evaluate, judge.encoder, judge.max_model_len, seed=recipe.seed)
    folder = run.path("evaluate", name, judge.name)
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
    recipe: Recipe, folder: Path, judge: ServedJudge, title: str, prompts: Sequence[P], task: JudgeTask[P, J]
) -> tuple[list[J], Cost]:
    """Return the judgements of all prompts and their cost; only completions that are not stored yet are requested."""
    store = PartStore(folder / "completions.jsonl")
    if not store.finished:
        engine = judge.engine()
        began = time.perf_counter()
        with bar(title, len(prompts) * recipe.evaluate.votes) as progress:
            ask_all(prompts, engine, task, store, adapter=judge.adapter, progress=progress)
        # Not in scores.json: it differs from run to run, and after a kill it counts only the last start.
        write_json(folder / "seconds.json", round(time.perf_counter() - began, 3))
    judgements = read_all(prompts, task, store)
    prompt_tokens = [row["prompt_tokens"] for row in read_jsonl(store.final)]
    tokens = sum(judgement.tokens for judgement in judgements)
    return judgements, {"requests": len(prompt_tokens), "prompt_tokens": sum(prompt_tokens), "tokens": tokens}


def benchmark_prompts(recipe: Recipe, pairs: Sequence[PreferencePair]) -> list[JudgePrompt]:
    """Return the judge prompts of all pairs, in their order."""
    wording, both_orders = PromptFile.load(recipe.prompts), recipe.evaluate.both_orders
    prompts = (placed_prompts(pair, wording, seed=recipe.seed, both_orders=both_orders) for pair in pairs)
    return list(chain.from_iterable(prompts))


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
    recipe: Recipe, run: Run, judges: Sequence[ServedJudge], name: str, rows: list[Row]
) -> tuple[dict[str, Any], dict[str, BenchmarkScore]]:
    """Evaluate every model on one benchmark; return its part of scores.json, and the score of each model."""
    config = recipe.evaluate.benchmarks[name]
    benchmark = _benchmark(config)
    rates = config.mode == "ratings"
    models: dict[str, dict[str, Any]] = {}
    scores: dict[str, BenchmarkScore] = {}

    def all_results() -> Iterator[tuple[str, Results, Cost | None]]:
        for judge in judges:
            yield judge.name, *(_rate if rates else _judge)(recipe, run, judge, name, rows)
        if recipe.scalar is not None:
            yield SCALAR, _scalar_results(run, name, rows), None

    for model, results, cost in all_results():
        folder = run.path("evaluate", name, model)
        pairs = (pair for row in rows for pair in row.pairs)
        write_jsonl(folder / "results.jsonl", (to_json(results[pair.id]) for pair in pairs))
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
