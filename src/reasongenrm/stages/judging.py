"""Stage 3's work on one benchmark: every model judges or scores its pairs, and what they said is kept."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reasongenrm.benchmarks.base import judge_result, scalar_result
from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, judge_prompt, place, swap
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import bar, say
from reasongenrm.engines.base import Engine
from reasongenrm.engines.loading import load_engine, open_server, server_encoder
from reasongenrm.judge.ask import JudgeTask, P, R, ask_all, read_all, sampling_settings
from reasongenrm.judge.verdicts import VerdictTask
from reasongenrm.records import JudgePrompt, PairResult, PreferencePair, Verdict
from reasongenrm.run import Run
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.store import PartStore, read_jsonl, to_json, write_json, write_jsonl

BASE = "base"
SCALAR = "scalar"


@dataclass(frozen=True, slots=True)
class ModelResults:
    """What one model said of a benchmark's pairs.

    Attributes:
        results: pair id -> result.
        cost: requests, prompt_tokens and tokens of a judge; None for a scalar head.
    """

    results: dict[str, PairResult]
    cost: dict[str, int] | None


def placed_prompts(recipe: Recipe, pairs: Sequence[PreferencePair]) -> list[JudgePrompt]:
    """Return the judge prompts of some pairs, those of one pair behind each other."""
    prompts = PromptFile.load(recipe.prompts)
    placed = []
    for pair in pairs:
        order = place(pair.id, recipe.seed)
        orders = (order, swap(order)) if recipe.evaluate.both_orders else (order,)
        placed += [judge_prompt(pair, o, prompts) for o in orders]
    return placed


class Judges:
    """All models of a recipe but the scalar head: the base and the trained judges on one engine, and those that others
    serve. An engine starts when one of its models has something left to judge.

    Attributes:
        names: the base first, then the trained judges, then the others.
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

    def engine(self, name: str) -> Engine:
        """Return a model's engine, which is started where it is not yet."""
        if name in self._recipe.evaluate.others:
            return self._other(name)[0]
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

    def _other(self, name: str) -> tuple[Engine, ChatEncoder | None]:
        if name not in self._others:
            config = self._recipe.evaluate.others[name]
            key, template = f"evaluate.others.{name}.server", self._recipe.templates[config.template]
            encoder = server_encoder(config.server, config.model, template, self._prompts.verdict, key=key)
            state = self._run.path("evaluate", f"{name}.batches.jsonl")
            engine = open_server(
                config.server, max_model_len=config.max_model_len, state=state, key=key, on_event=say
            )
            self._others[name] = engine, encoder
        return self._others[name]

    def adapter(self, name: str) -> str | None:
        """Return a model's LoRA folder."""
        path = self._adapters.get(name)
        return str(path) if path else None

    def encoder(self, name: str) -> ChatEncoder | None:
        """Return the encoder of a model's chat template; None for a server that is asked by messages alone."""
        recipe = self._recipe
        if name in recipe.evaluate.others:
            return self._other(name)[1]
        template = recipe.judges[name].template if self._adapters[name] else recipe.student_template
        return judge_encoder(recipe, template, self._tokenizer)

    def context(self, name: str) -> int:
        """Return how many tokens a model takes, prompt and completion together."""
        other = self._recipe.evaluate.others.get(name)
        return other.max_model_len if other else self._recipe.engine.max_model_len

    def close(self) -> None:
        """Stop the engines."""
        for engine in (self._engine, *(engine for engine, _ in self._others.values())):
            if engine is not None:
                engine.close()

    def judge(self, name: str, benchmark: str, pairs: Sequence[PreferencePair]) -> ModelResults:
        """Have one model judge a benchmark's pairs; what is done already is not asked again."""
        recipe = self._recipe
        asking = sampling_settings(recipe.evaluate, recipe.seed)
        asker = VerdictTask(asking, self.encoder(name), self.context(name), self._prompts.verdict)
        prompts = placed_prompts(recipe, pairs)
        store = self.ask(name, benchmark, "judging", prompts, asker)
        return judged_results(store.final.parent, pairs, prompts, store, asker)

    def ask(
        self, name: str, benchmark: str, doing: str, prompts: Sequence[P], questions: JudgeTask[P, R]
    ) -> PartStore:
        """Ask one model all of a benchmark's prompts, where it has not been asked yet; return its completions.

        Args:
            doing: what it does, for the progress bar.
        """
        folder = self._run.path("evaluate", benchmark, name)
        store = PartStore(folder / "completions.jsonl")
        if not store.finished:
            engine, adapter = self.engine(name), self.adapter(name)
            began = time.perf_counter()
            requests = len(prompts) * questions.asking.votes
            with bar(f"{benchmark}: {doing} with {name}", requests) as progress:
                ask_all(prompts, engine, questions, store, adapter=adapter, progress=progress)
            # Beside the scores, not in them: it differs from run to run, and counts the last start of a killed one.
            write_json(folder / "seconds.json", round(time.perf_counter() - began, 3))
        return store


def judged_results(
    folder: Path,
    pairs: Sequence[PreferencePair],
    prompts: Sequence[JudgePrompt],
    store: PartStore,
    asker: VerdictTask,
) -> ModelResults:
    """Read verdicts from completions, write verdicts.jsonl, and return one result per pair."""
    read = read_all(prompts, asker, store)
    write_jsonl(folder / "verdicts.jsonl", (to_json(verdict) for verdict in read))
    by_pair: dict[str, list[Verdict]] = {}
    for verdict in read:
        by_pair.setdefault(verdict.pair_id, []).append(verdict)
    results = {pair.id: judge_result(pair.id, pair.source, by_pair[pair.id]) for pair in pairs}
    asked = [row["prompt_tokens"] for row in read_jsonl(store.final)]
    cost = {
        "requests": len(asked),
        "prompt_tokens": sum(asked),
        "tokens": sum(verdict.tokens for verdict in read),
    }
    return ModelResults(results, cost)


def scored_results(run: Run, benchmark: str, pairs: Sequence[PreferencePair]) -> ModelResults:
    """Score both answers of every pair with the scalar head."""
    store = PartStore(run.path("evaluate", benchmark, SCALAR, "scores.jsonl"))
    if not store.finished:
        model = ScalarRewardModel.from_pretrained(run.path("scalar"))
        with bar(f"{benchmark}: scoring with the scalar head", len(pairs)) as progress:
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
    given = _scores(store.final)
    results = {pair.id: scalar_result(pair.id, pair.source, *given[pair.id]) for pair in pairs}
    return ModelResults(results, None)


def _scores(path: Path) -> dict[str, tuple[float, float]]:
    rows: Iterator[dict[str, Any]] = read_jsonl(path)
    return {row["id"]: (row["chosen"], row["rejected"]) for row in rows}
