"""Second step of stage 1: every teacher's reasons are sampled, then scored under the student."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.engines import ModelConfig, check_model
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import bar, say
from reasongenrm.engines.anthropic import AnthropicEngine
from reasongenrm.engines.base import Engine
from reasongenrm.engines.openai import OpenAIEngine
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import DataError
from reasongenrm.reasons.sample import sample_reasons, teacher_encoder
from reasongenrm.reasons.score import Scorer, score_reasons
from reasongenrm.reasons.score_transformers import Student
from reasongenrm.reasons.select import unfit
from reasongenrm.records import Drop, JudgePrompt, PreferencePair, Reason
from reasongenrm.run import Run
from reasongenrm.store import PartStore, read_jsonl

Work = tuple[PreferencePair, JudgePrompt]


def read_work(run: Run) -> Iterator[Work]:
    """Yield every judge prompt with its pair, as the first step has written them."""
    prompts = map(_prompt, read_jsonl(run.path("prompts.jsonl")))
    prompt = next(prompts, None)
    for row in read_jsonl(run.path("pairs.jsonl")):
        pair = PreferencePair(**(row | {"history": tuple(row["history"])}))
        while prompt is not None and prompt.pair_id == pair.id:
            yield pair, prompt
            prompt = next(prompts, None)
    assert prompt is None, "prompts.jsonl and pairs.jsonl are of different runs"


def _prompt(row: dict[str, object]) -> JudgePrompt:
    return JudgePrompt(**(row | {"messages": tuple(row["messages"])}))  # type: ignore[arg-type]


def reasons_file(run: Run, teacher: str) -> Path:
    """Return where a teacher's reasons are."""
    return run.path("reasons", f"{teacher}.jsonl")


def check_teachers(recipe: Recipe) -> None:
    """Fail before any work: a local model that is no folder, or a key that is not in the environment.

    Raises:
        EngineError: names the recipe key.
    """
    for name, teacher in recipe.teachers.items():
        if teacher.model is not None:
            check_model(teacher.model.path, key=f"teachers.{name}.model.path")
        if teacher.server is not None:
            _served(recipe, name, Path()).close()


def _served(recipe: Recipe, name: str, folder: Path) -> OpenAIEngine | AnthropicEngine:
    """Return the client of a teacher that is served elsewhere."""
    server = recipe.teachers[name].server
    assert server is not None
    key, context = f"teachers.{name}.server", recipe.engine.max_model_len
    if server.kind == "openai":
        return OpenAIEngine(server, max_model_len=context, key=key, on_event=say)
    state = folder / f"{name}.batches.jsonl"
    return AnthropicEngine(server, max_model_len=context, state=state, key=key, on_event=say)


class _Engines:
    """The one in-process engine at a time: teachers of the same model share it, one after the other."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._model: ModelConfig | None = None
        self._engine: VLLMEngine | None = None

    def of(self, model: ModelConfig) -> VLLMEngine:
        if self._engine is None or model != self._model:
            self.close()
            self._engine = VLLMEngine(model, self._recipe.engine, seed=self._recipe.seed)
            self._model = model
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None


def sample_all(recipe: Recipe, run: Run, prompts: PromptFile, count: int) -> None:
    """Sample the reasons of every teacher that has not finished.

    Args:
        count: number of judge prompts.

    Raises:
        EngineError: a model cannot be loaded, or a server cannot be used; what is done is kept.
    """
    engines = _Engines(recipe)
    # Teachers of one model stand side by side, so that it is loaded once.
    for name in sorted(recipe.teachers, key=lambda n: str(recipe.teachers[n].model)):
        teacher = recipe.teachers[name]
        store = PartStore(reasons_file(run, name))
        if store.finished:
            continue
        engine: Engine
        if teacher.server is not None:
            engine = _served(recipe, name, run.path("reasons"))
        else:
            engine = engines.of(teacher.model or recipe.model)
        with bar(f"reasons of {name}", count * teacher.samples) as progress:
            sample_reasons(
                lambda: read_work(run), engine, teacher_encoder(recipe, name), prompts, teacher,
                name=name, seed=recipe.seed, store=store, progress=progress,
            )  # fmt: skip
        if teacher.server is not None:
            engine.close()
    engines.close()


def read_reasons(recipe: Recipe, run: Run) -> Iterator[tuple[JudgePrompt, list[Reason]]]:
    """Yield every judge prompt with the reasons of all teachers."""
    streams = {
        name: (Reason(**row) for row in read_jsonl(reasons_file(run, name))) for name in recipe.teachers
    }
    for _, prompt in read_work(run):
        reasons = [
            reason
            for name, stream in streams.items()
            for reason in islice(stream, recipe.teachers[name].samples)
        ]
        assert all(reason.prompt_id == prompt.id for reason in reasons), "reasons of another run"
        yield prompt, reasons


def sort_out(
    recipe: Recipe, run: Run, prompts: PromptFile, on_drop: Callable[[Drop], None] = lambda drop: None
) -> Iterator[tuple[JudgePrompt, list[Reason]]]:
    """Yield every judge prompt with its reasons worth scoring; hand a Drop for each other one to `on_drop`."""
    for prompt, reasons in read_reasons(recipe, run):
        fit = []
        for reason in reasons:
            drop = unfit(reason, prompt, prompts, recipe.select.giveaway_words)
            if drop:
                on_drop(drop)
            else:
                fit.append(reason)
        yield prompt, fit


def score_all(recipe: Recipe, run: Run, prompts: PromptFile, encoder: ChatEncoder) -> None:
    """Score every reason worth it under the student into `scored.jsonl`.

    Raises:
        EngineError: the student cannot be loaded.
        DataError: no reason is worth scoring.
    """
    store = PartStore(run.path("scored.jsonl"))
    if store.finished:
        return
    total = sum(len(fit) for _, fit in sort_out(recipe, run, prompts))
    if not total:
        first: list[Drop] = []
        next(filter(lambda _: first, sort_out(recipe, run, prompts, first.append)), None)
        raise DataError(
            f"no reason is worth scoring; the first one: {first[0].reason}: {first[0].detail}",
            location="teachers",
            hint="see the files in reasons/",
        )
    engine: VLLMEngine | None = None

    def load() -> Scorer:
        nonlocal engine
        if recipe.select.scorer == "transformers":
            return Student(recipe.model, encoder)
        engine = VLLMEngine(recipe.model, recipe.engine, seed=recipe.seed)
        from reasongenrm.reasons.score_vllm import VLLMStudent

        return VLLMStudent(engine, encoder)

    with bar("scoring", total) as progress:
        score_reasons(
            sort_out(recipe, run, prompts), load, store,
            batch_tokens=recipe.select.batch_tokens, progress=progress,
        )  # fmt: skip
    if engine is not None:
        engine.close()
