"""Stage 3: the benchmark, judged by the base and the trained judges, and scored by the scalar head."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reasongenrm.benchmarks.rewardbench import judge_result, load_benchmark, scalar_result, score
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.judge import Asking, judge, verdicts
from reasongenrm.judge.prompts import ChatEncoder, PromptFile, judge_prompt, place, swapped
from reasongenrm.recipe import Recipe
from reasongenrm.records import Drop, JudgePrompt, PairResult, PreferencePair, Verdict, to_json
from reasongenrm.report.scores import BenchmarkScore
from reasongenrm.report.tables import markdown_table, rich_table
from reasongenrm.run import Run, file_hash
from reasongenrm.scalar import ScalarRewardModel
from reasongenrm.stages.loading import judge_encoder, load_engine, load_tokenizer
from reasongenrm.stages.progress import bar, say
from reasongenrm.store import PartStore, write_json, write_jsonl, write_text

BASE = "base"
SCALAR = "scalar"


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return what this stage's files depend on."""
    keys = ("seed", "limit", "model", "engine", "prompts", "templates", "judges", "evaluate", "scalar")
    adapters: list[Path | str] = [
        recipe.folder / "judges" / name / "adapter" / "adapter_model.safetensors" for name in recipe.judges
    ]
    return {
        **recipe.model_dump(mode="json", include=set(keys)),
        "files": {
            str(path): file_hash(path)
            for path in (*adapters, recipe.folder / "scalar" / "model.safetensors", recipe.prompts, recipe.evaluate.path,
                         *recipe.templates.values(), recipe.model.path)
        },
    }  # fmt: skip


def evaluate(recipe: Recipe) -> None:
    """Run stage 3 in the recipe's run folder, and print the table.

    Raises:
        ConfigError, DataError, EngineError: what the user can mend.
    """
    for name in recipe.judges:
        if not (recipe.folder / "judges" / name / "adapter").is_dir():
            raise ConfigError(
                f"no adapter of {name!r}",
                where=str(recipe.folder / "judges" / name),
                mend="run 2_train.sh first",
            )
    _check_base(recipe)
    if recipe.scalar is not None and not (recipe.folder / "scalar").is_dir():
        raise ConfigError(
            "no scalar head", where=str(recipe.folder / "scalar"), mend="run 2_train.sh, or set scalar=null"
        )
    run = Run(recipe, "evaluate")
    with run.claim(settings(recipe)):
        pairs, drops = _rows(recipe)
        write_jsonl(run.path("evaluate", "dropped.jsonl"), (to_json(drop) for drop in drops))
        say(f"{len(pairs)} benchmark rows, {len(drops)} unreadable")
        results = dict(_judged(recipe, run, pairs))
        if recipe.scalar is not None:
            results[SCALAR] = _scored(run, pairs)
        report(recipe, run, results, len(drops))


def _check_base(recipe: Recipe) -> None:
    """Refuse adapters of another base: vLLM would serve them on this one without a word."""
    manifest = recipe.folder / "manifest" / "train.json"
    if not manifest.exists():  # an adapter brought here by hand: nobody knows its base
        return
    trained, given = json.loads(manifest.read_text(encoding="utf-8"))["settings"]["model"], recipe.model
    if (trained["path"], trained["revision"]) != (given.path, given.revision):
        raise ConfigError(
            f"the adapters were trained on {trained['path']} ({trained['revision'] or 'no revision'})",
            where="model",
            mend="evaluate with the same model.path and model.revision, or train under another name",
        )


def benchmark_rows(recipe: Recipe) -> Iterator[PreferencePair | Drop]:
    """Yield the benchmark's rows, at most `limit` of them."""
    config = recipe.evaluate
    return load_benchmark(config.path, split=config.split, revision=config.revision, limit=recipe.limit)


def _rows(recipe: Recipe) -> tuple[list[PreferencePair], list[Drop]]:
    rows = list(benchmark_rows(recipe))
    pairs = [row for row in rows if isinstance(row, PreferencePair)]
    drops = [row for row in rows if isinstance(row, Drop)]
    if not pairs:
        raise DataError(
            "no benchmark row can be read", where=recipe.evaluate.path, mend="see its columns in the README"
        )
    return pairs, drops


def _prompts(recipe: Recipe, pairs: list[PreferencePair]) -> list[JudgePrompt]:
    prompts = PromptFile.load(recipe.prompts)
    placed = []
    for pair in pairs:
        order = place(pair.id, recipe.seed)
        orders = (order, swapped(order)) if recipe.evaluate.both_orders else (order,)
        placed += [judge_prompt(pair, o, prompts) for o in orders]
    return placed


def _lora_rank(adapters: list[Path]) -> int:
    return max(
        json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))["r"] for path in adapters
    )


class _LazyEngine:
    """The engine, started when the first model has something left to judge."""

    def __init__(self, recipe: Recipe, adapters: list[Path]) -> None:
        self._recipe, self._adapters = recipe, adapters
        self._engine: VLLMEngine | None = None

    def get(self) -> VLLMEngine:
        if self._engine is None:
            rank = _lora_rank(self._adapters)
            self._engine = load_engine(
                self._recipe.model, self._recipe.engine, seed=self._recipe.seed, max_lora_rank=rank
            )
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


def _judged(recipe: Recipe, run: Run, pairs: list[PreferencePair]) -> Iterator[tuple[str, list[PairResult]]]:
    """Yield the results of the base and of every judge."""
    prompts = _prompts(recipe, pairs)
    config = recipe.evaluate
    asking = Asking(config.max_tokens, config.temperature, config.rescue, recipe.seed)
    tokenizer = load_tokenizer(recipe.model)
    adapters = {name: run.path("judges", name, "adapter") for name in recipe.judges}
    engine = _LazyEngine(recipe, list(adapters.values()))
    models: dict[str, Path | None] = ({BASE: None} if config.base else {}) | adapters
    for name, adapter in models.items():
        template = recipe.judges[name].template if adapter else recipe.student_template
        encoder = judge_encoder(recipe, template, tokenizer)
        store = PartStore(run.path("evaluate", name, "completions.jsonl"))
        if not store.finished:
            with bar(f"judging with {name}", len(prompts)) as progress:
                judge(
                    prompts, engine.get(), encoder, asking, store,
                    adapter=str(adapter) if adapter else None, progress=progress,
                )  # fmt: skip
        yield name, judged_results(run, name, pairs, prompts, store, encoder)
    engine.close()


def judged_results(
    run: Run,
    name: str,
    pairs: list[PreferencePair],
    prompts: list[JudgePrompt],
    store: PartStore,
    encoder: ChatEncoder,
) -> list[PairResult]:
    """Read verdicts from completions, write verdicts.jsonl, and return one result per row."""
    read = verdicts(prompts, store, encoder)
    write_jsonl(run.path("evaluate", name, "verdicts.jsonl"), (to_json(verdict) for verdict in read))
    by_pair: dict[str, list[Verdict]] = {}
    for verdict in read:
        by_pair.setdefault(verdict.pair_id, []).append(verdict)
    return [judge_result(pair.id, pair.source, by_pair[pair.id]) for pair in pairs]


def _scored(run: Run, pairs: list[PreferencePair]) -> list[PairResult]:
    """Score both answers of every row with the scalar head."""
    store = PartStore(run.path("evaluate", SCALAR, "scores.jsonl"))
    if not store.finished:
        model = ScalarRewardModel.from_pretrained(run.path("scalar"))
        with bar("scoring with the scalar head", len(pairs)) as progress:
            for start in range(0, len(pairs), 256):
                rows = pairs[start : start + 256]
                if any(row.id not in store for row in rows):
                    histories = [row.history for row in rows]
                    chosen = model.score_batch(histories, [row.chosen for row in rows])
                    rejected = model.score_batch(histories, [row.rejected for row in rows])
                    store.append(
                        {"id": row.id, "chosen": c, "rejected": r}
                        for row, c, r in zip(rows, chosen, rejected, strict=True)
                    )
                progress(len(rows))
        store.finish(pair.id for pair in pairs)
    found = ((pair, store[pair.id]) for pair in pairs)
    return [scalar_result(pair.id, pair.source, row["chosen"], row["rejected"]) for pair, row in found]


def report(recipe: Recipe, run: Run, results: dict[str, list[PairResult]], unreadable: int) -> None:
    """Write results.jsonl, scores.json and table.md, and print the table."""
    entries: list[tuple[str, BenchmarkScore, dict[str, str]]] = []
    for name, rows in results.items():
        write_jsonl(run.path("evaluate", name, "results.jsonl"), (to_json(row) for row in rows))
        entries.append((name, score(rows, seed=recipe.seed), {}))
    write_json(
        run.path("scores.json"),
        {"unreadable_rows": unreadable, "models": {name: asdict(result) for name, result, _ in entries}},
    )
    write_text(run.path("table.md"), markdown_table(entries))
    from rich.console import Console

    Console(width=160).print(rich_table(entries))
    say(f"stage 3 done: {run.path('table.md')}")
