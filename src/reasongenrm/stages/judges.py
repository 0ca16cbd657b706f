"""The models of stage 3: the base and the trained judges on vLLM, and judges on servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reasongenrm.benchmarks.leaderboard import Entry
from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer, template_wording
from reasongenrm.chat.own_template import base_encoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.engines import ModelConfig
from reasongenrm.config.evaluate import EvaluateConfig
from reasongenrm.config.recipe import POINTWISE, Recipe, Template
from reasongenrm.console import say
from reasongenrm.engines.base import Engine
from reasongenrm.engines.loading import load_engine, open_server, server_encoder
from reasongenrm.run import Run

BASE, BASE_DIRECT = "base", "base-direct"
SCALAR = "scalar"

BATCHES = "batches.jsonl"
"""File in the folder of a judge's results with the batches that Anthropic has of them."""


@dataclass(frozen=True)
class ServedJudge:
    """A model that judges.

    Attributes:
        name: the base, a trained judge, or one of `evaluate.others`.
        engine: starts its engine, or returns the running one; the argument is the folder of the benchmark's results, in
            which a server of batches keeps their state.
        encoder: tokenizer and chat template; None for a server that takes messages.
        wording: of its prompts.
        max_model_len: tokens of prompt and completion together.
        adapter: its LoRA folder, if it has one.
        own_engine: whether it is a whole model, on an engine of its own.
        rates: whether it rates answers, whatever the mode of a benchmark.
    """

    name: str
    engine: Callable[[Path], Engine]
    encoder: ChatEncoder | None
    wording: PromptFile
    max_model_len: int
    adapter: str | None = None
    own_engine: bool = False
    rates: bool = False


class EngineSlot:
    """The vLLM engine that runs: it is closed before that of another model starts.

    Args:
        start: starts a model's engine.
    """

    def __init__(self, start: Callable[[ModelConfig], Engine]) -> None:
        self._start = start
        self._engine: Engine | None = None
        self._path = ""

    def engine(self, model: ModelConfig) -> Engine:
        """Return a model's engine."""
        if self._engine is None or self._path != model.path:
            self.close()
            self._engine, self._path = self._start(model), model.path
        return self._engine

    def close(self) -> None:
        """Close the engine, if there is one."""
        engine, self._engine = self._engine, None
        if engine:
            engine.close()


@dataclass(frozen=True)
class Models:
    """All models of an evaluation.

    Attributes:
        load: returns the judges; an engine that one of them starts is closed by the stack.
        head: folder of the scalar head; None without one.
        entry: returns what allenai's leaderboard shows of a model, by its name.
    """

    load: Callable[[ExitStack], list[ServedJudge]]
    head: Path | None
    entry: Callable[[str], Entry]


def load_judges(recipe: Recipe, run: Run, stack: ExitStack) -> list[ServedJudge]:
    """Return all models of a recipe but the scalar head: the base and its adapters on one engine, whole models on an engine
    each, and served ones.

    The base is asked in its own chat template (see `base_encoder`), once with reasons and once for its verdict alone.
    An engine starts when one of its models has something left to judge; the next one or the stack closes it.
    """
    serving = {name: recipe.serving(name) for name in recipe.trained}
    templates = {name: recipe.judges[step.judge].template for name, step in recipe.trained.items()}
    tokenizer, wording = load_tokenizer(recipe.model), PromptFile.load(recipe.prompts)

    def start(model: ModelConfig) -> Engine:
        adapters = [adapter for _, adapter in serving.values() if adapter is not None]
        return load_engine(
            model, recipe.engine, seed=recipe.seed, adapters=adapters, task="judging", logs=run.path("logs"), on_event=say
        )  # fmt: skip

    slot = EngineSlot(start)
    stack.callback(slot.close)

    encoders: dict[str, ChatEncoder] = {}
    if recipe.evaluate.base:
        encoders = {
            BASE: base_encoder(recipe, tokenizer),
            BASE_DIRECT: base_encoder(recipe, tokenizer, reasons=False),
        }
    encoders |= {name: judge_encoder(recipe, template, tokenizer) for name, template in templates.items()}
    judges = []
    for name, encoder in encoders.items():
        own = wording if encoder.reasons_first else wording.for_direct()
        if name in templates:
            own = template_wording(wording, templates[name])
        model, adapter = serving.get(name, (recipe.model, None))

        def engine(folder: Path, model: ModelConfig = model) -> Engine:
            return slot.engine(model)

        limit, folder = recipe.engine.max_model_len, str(adapter) if adapter else None
        own_engine, rates = model != recipe.model, templates.get(name) == POINTWISE
        judges.append(ServedJudge(name, engine, encoder, own, limit, folder, own_engine, rates))
    return [*judges, *other_judges(recipe.evaluate, recipe.templates, wording, stack)]


def other_judges(
    config: EvaluateConfig, templates: Mapping[Template, str], wording: PromptFile, stack: ExitStack
) -> list[ServedJudge]:
    """Return the judges of `evaluate.others`; the stack closes their connections."""
    judges = []
    for name, other in config.others.items():
        key, limit = f"evaluate.others.{name}.server", other.max_model_len
        template = None if other.template == "own" else templates[other.template]
        served_encoder = server_encoder(
            other.server, other.model, template, wording.verdict, reasons=other.reasons, key=key
        )
        reasons = served_encoder.reasons_first if served_encoder else other.reasons
        own = wording if reasons else wording.for_direct()
        client = partial(open_server, other.server, max_model_len=limit, key=key, on_event=say)

        def connect(folder: Path, client: Callable[..., Engine] = client) -> Engine:
            return stack.enter_context(closing(client(state=folder / BATCHES)))

        judges.append(ServedJudge(name, connect, served_encoder, own, limit))
    return judges


def leaderboard_entry(recipe: Recipe, model: str) -> Entry:
    """Return what allenai's leaderboard shows of a model: the base by its own name, a trained one as `<run>/<model>`."""
    name = f"{recipe.name}/{model}"
    if model == SCALAR:
        return Entry(name, "Seq. Classifier")
    if model in recipe.trained:
        return Entry(name, chat_template=recipe.judges[recipe.trained[model].judge].template)
    if model in recipe.evaluate.others:
        other = recipe.evaluate.others[model]
        served = other.model.path if other.model else getattr(other.server, "model", name)
        template = "tokenizer" if other.template == "own" else other.template
        return Entry(served, chat_template=template if other.model else None)
    return Entry(recipe.model.path, chat_template="tokenizer")
