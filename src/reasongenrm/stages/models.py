"""`reasongenrm evaluate --model`: the benchmarks of stage 3 with models that no recipe has trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from functools import cache, partial
from pathlib import Path

from reasongenrm.benchmarks.leaderboard import Entry
from reasongenrm.chat.encoder import ADAPTER_PROMPTS, ChatEncoder
from reasongenrm.chat.own_template import file_or_own_encoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.checkpoints import check_base
from reasongenrm.config.engines import check_model
from reasongenrm.config.models import ModelsRecipe
from reasongenrm.config.recipe import TEMPLATES
from reasongenrm.console import say
from reasongenrm.engines.base import Engine
from reasongenrm.engines.loading import load_engine
from reasongenrm.errors import ConfigError
from reasongenrm.report.run_report import write_report
from reasongenrm.run import Run
from reasongenrm.scalar.model import local_head
from reasongenrm.stages.evaluate import judge_benchmarks, show_tables
from reasongenrm.stages.fingerprints import models_steps
from reasongenrm.stages.fourway import check_fourway
from reasongenrm.stages.judges import SCALAR, Models, ServedJudge, other_judges
from reasongenrm.stages.rating import check_rating


def evaluate_models(recipe: ModelsRecipe, redo: Sequence[str] = ()) -> None:
    """Judge the benchmarks in the recipe's run folder, and print the tables; a killed command continues.

    Args:
        recipe: models, benchmarks and judging.
        redo: words that name steps to do again.

    Raises:
        ConfigError, DataError, EngineError: a setting, an input file or a model that the user has to change.
    """
    _check(recipe)
    check_rating(recipe)
    check_fourway(recipe)
    head = local_head(recipe.scalar) if recipe.scalar else None
    run = Run(recipe, "evaluate")
    with run.claim(models_steps(recipe, head), redo):
        models = Models(partial(load_models, recipe, run), head, partial(leaderboard_entry, recipe))
        scores = judge_benchmarks(recipe, run, models)
        page = write_report(run.folder)
        show_tables(scores)
        say(f"report: {page}")


def _check(recipe: ModelsRecipe) -> None:
    if recipe.model is not None:
        check_model(recipe.model.path, key="--model")
    if recipe.adapter is None or recipe.model is None:
        return
    check_model(recipe.adapter, key="--adapter", file="adapter_config.json")
    if not Path(recipe.adapter).is_dir():
        raise ConfigError(
            f"directory not found: {recipe.adapter}", location="--adapter", hint="download it first"
        )
    check_base(recipe.adapter, recipe.model.path)  # it is asked in its own template


def load_models(recipe: ModelsRecipe, run: Run, stack: ExitStack) -> list[ServedJudge]:
    """Return all models but the scalar head: the model and its adapter on one engine, and those on servers."""
    wording = PromptFile.load(recipe.prompts)

    @cache
    def engine() -> Engine:
        assert recipe.model is not None
        adapters = [Path(recipe.adapter)] if recipe.adapter else []
        started = load_engine(
            recipe.model, recipe.engine, seed=recipe.seed, adapters=adapters, task="judging",
            logs=run.path("logs"), on_event=say,
        )  # fmt: skip
        return stack.enter_context(closing(started))

    judges = [
        ServedJudge(name, lambda _: engine(), encoder, own, recipe.engine.max_model_len, adapter)
        for name, encoder, own, adapter in _local_models(recipe, wording)
    ]
    return [*judges, *other_judges(recipe.evaluate, TEMPLATES, wording, stack)]


def _local_models(
    recipe: ModelsRecipe, wording: PromptFile
) -> Iterator[tuple[str, ChatEncoder, PromptFile, str | None]]:
    """Yield name, encoder, wording and adapter of the models on vLLM."""
    if recipe.model is None:
        return
    prompts = Path(recipe.model.path) / ADAPTER_PROMPTS  # of a judge that was merged into its base
    own = PromptFile.load(prompts) if prompts.is_file() else wording
    for name, reasons in zip(recipe.base_names or (), (True, False), strict=False):
        encoder = file_or_own_encoder(recipe.model, None, own.verdict, reasons=reasons, key="--model")
        yield name, encoder, own if reasons else own.for_direct(), None
    if recipe.adapter is not None and recipe.adapter_name is not None:
        folder = Path(recipe.adapter)
        template, prompts = folder / "chat_template.jinja", folder / ADAPTER_PROMPTS
        own = PromptFile.load(prompts) if prompts.is_file() else wording
        file = str(template) if template.is_file() else None
        encoder = file_or_own_encoder(recipe.model, file, own.verdict, reasons=True, key="--adapter")
        yield recipe.adapter_name, encoder, own if encoder.reasons_first else own.for_direct(), recipe.adapter


def leaderboard_entry(recipe: ModelsRecipe, name: str) -> Entry:
    """Return what allenai's leaderboard shows of a model."""
    if name == SCALAR:
        return Entry(recipe.scalar or name, "Seq. Classifier")
    if name in recipe.evaluate.others:
        return Entry(recipe.evaluate.others[name].server.model)
    path = recipe.adapter if name == recipe.adapter_name else recipe.model and recipe.model.path
    return Entry(path or name, chat_template="tokenizer")
