"""The models of stage 3: the base and the trained judges on vLLM, and judges on servers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from reasongenrm.benchmarks.leaderboard import Entry
from reasongenrm.chat.encoder import ChatEncoder, judge_encoder, load_tokenizer, template_wording
from reasongenrm.chat.own_template import base_encoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import EvaluateConfig
from reasongenrm.config.recipe import Recipe, Template
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
    """

    name: str
    engine: Callable[[Path], Engine]
    encoder: ChatEncoder | None
    wording: PromptFile
    max_model_len: int
    adapter: str | None = None


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
    """Return all models of a recipe but the scalar head: the base and the trained judges on one engine, and served ones.

    The base is asked in its own chat template (see `base_encoder`), once with reasons and once for its verdict alone.
    An engine starts when one of its models has something left to judge; the stack closes it.
    """
    adapters = {name: run.path("judges", name, "adapter") for name in recipe.trained}
    templates = {name: recipe.judges[step.judge].template for name, step in recipe.trained.items()}
    tokenizer, wording = load_tokenizer(recipe.model), PromptFile.load(recipe.prompts)

    @cache
    def engine() -> Engine:
        started = load_engine(
            recipe.model, recipe.engine, seed=recipe.seed, adapters=[*adapters.values()],
            task="judging", logs=run.path("logs"), on_event=say,
        )  # fmt: skip
        return stack.enter_context(closing(started))

    encoders: dict[str, ChatEncoder] = {}
    if recipe.evaluate.base:
        encoders = {
            BASE: base_encoder(recipe, tokenizer),
            BASE_DIRECT: base_encoder(recipe, tokenizer, reasons=False),
        }
    encoders |= {name: judge_encoder(recipe, template, tokenizer) for name, template in templates.items()}
    judges = []
    for name, encoder in encoders.items():
        own, adapter = wording if encoder.reasons_first else wording.for_direct(), adapters.get(name)
        if name in templates:
            own = template_wording(wording, templates[name])
        limit, folder = recipe.engine.max_model_len, str(adapter) if adapter else None
        judges.append(ServedJudge(name, lambda _: engine(), encoder, own, limit, folder))
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
