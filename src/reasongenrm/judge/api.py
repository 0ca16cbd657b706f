"""`Judge`, the Python API: compare two answers, rank several, rate one; on any engine.

judge = Judge.from_pretrained("Qwen/Qwen2.5-7B-Instruct", adapter="runs/mine/judges/reasongenrm/adapter")
judge.compare("What is 2 + 2?", "4", "5").winner  # "A"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal, Self, TypeVar

from reasongenrm.chat.encoder import (
    ADAPTER_PROMPTS,
    ChatEncoder,
    check_judge,
    judge_encoder,
    load_tokenizer,
    template_wording,
)
from reasongenrm.chat.own_template import base_encoder, file_or_own_encoder
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.checkpoints import check_base, check_template
from reasongenrm.config.engines import AnthropicConfig, EngineConfig, ModelConfig, OpenAIConfig
from reasongenrm.config.evaluate import JudgingConfig, OtherJudge
from reasongenrm.config.loading import load_recipe, section
from reasongenrm.config.recipe import TEMPLATES, Recipe, Template
from reasongenrm.config.rubric import Rubric
from reasongenrm.console import say
from reasongenrm.engines.base import Engine
from reasongenrm.engines.loading import load_engine, open_server, server_encoder
from reasongenrm.errors import ConfigError
from reasongenrm.judge.ask import VerdictTask, preference
from reasongenrm.judge.batches import Batch, ListInput, list_batch, rating_batch
from reasongenrm.judge.comparisons import ComparisonBatch
from reasongenrm.judge.criteria import rating_score
from reasongenrm.judge.inputs import (
    ComparisonInput,
    PlacedRow,
    PromptInput,
    RatingInput,
    with_rubric,
)
from reasongenrm.judge.listwise import ListTask
from reasongenrm.judge.memory import ask_in_memory
from reasongenrm.judge.rate import RatingTask
from reasongenrm.judge.tournament import Method, Ranking, rank
from reasongenrm.records import (
    Comparison,
    JudgePrompt,
    ListPrompt,
    ListVerdict,
    Rating,
    RatingPrompt,
    Verdict,
)

WINDOW = 1024
"""Comparisons that are sent to the engine together."""

T = TypeVar("T")
R = TypeVar("R")

DEFAULT_PROMPTS = "configs/prompts/judge.yaml"


@dataclass(frozen=True, slots=True)
class Best:
    """The best of several answers.

    Attributes:
        index: its index among the answers.
        answer: its text.
        ranking: the knockout that decided it.
    """

    index: int
    answer: str
    ranking: Ranking


class Judge:
    """A pairwise judge on an engine. As a context manager, it stops the engine on exit.

    Args:
        engine: the engine that holds the base model.
        encoder: tokenizer and chat template of the judge; None for a server that takes messages.
        prompt_file: the wording; a verdict-only judge gets its section `direct`.
        config: orders, sampling and votes.
        seed: of placement and sampling.
        adapter: LoRA folder of the trained judge; None for the base model.
    """

    def __init__(
        self,
        engine: Engine,
        encoder: ChatEncoder | None,
        prompt_file: PromptFile,
        config: JudgingConfig,
        *,
        seed: int = 17,
        adapter: str | Path | None = None,
    ) -> None:
        if encoder and not encoder.reasons_first:
            prompt_file = prompt_file.for_direct()
        self.engine, self.encoder, self.prompt_file, self.config = engine, encoder, prompt_file, config
        self.seed, self.adapter = seed, str(adapter) if adapter else None
        self.task = VerdictTask(config, encoder, engine.max_model_len, prompt_file.verdict, seed=seed)
        self.rating_task = RatingTask(config, encoder, engine.max_model_len, seed=seed)
        self._list_task: ListTask | None = None

    @classmethod
    def from_recipe(
        cls, recipe: Recipe | str | Path, judge: str | None = None, *, overrides: Sequence[str] = ()
    ) -> Judge:
        """Load a judge that a recipe has trained, with the settings of the recipe's `evaluate`.

        Args:
            recipe: the recipe, or its file; the judge is loaded from its run folder.
            judge: the judge's name in the recipe, with the step of its training as in `reasongenrm@grpo`, or `base` or
                `base-direct` (the untrained base in its own chat template, with and without reasons); the recipe's first
                judge by default.
            overrides: `key=value` as on the command line, for a file.

        Raises:
            ConfigError: the judge does not exist, or is not trained yet.
            EngineError: it cannot be served.
        """
        if not isinstance(recipe, Recipe):
            recipe = load_recipe(str(recipe), list(overrides))
        name = judge or next(iter(recipe.trained))
        tokenizer, model, adapter = load_tokenizer(recipe.model), recipe.model, None
        if name in ("base", "base-direct"):
            encoder = base_encoder(recipe, tokenizer, reasons=name == "base")
        else:
            if name not in recipe.trained:
                hint = f"use base, base-direct or one of: {', '.join(recipe.trained)}"
                raise ConfigError(f"unknown judge {name!r}", location="judges", hint=hint)
            model, adapter = recipe.serving(name)
            if not recipe.weights(name).is_dir():
                problem = f"the judge {name!r} is not trained yet"
                raise ConfigError(problem, location=str(recipe.weights(name)), hint="run 2_train.sh first")
            check_judge(recipe, name)
            template = recipe.judges[recipe.trained[name].judge].template
            encoder = judge_encoder(recipe, template, tokenizer)
        prompt_file, config, seed = PromptFile.load(recipe.prompts), recipe.judging, recipe.seed
        if name in recipe.trained:
            prompt_file = template_wording(prompt_file, recipe.judges[recipe.trained[name].judge].template)
        adapters = [adapter] if adapter else []
        engine = load_engine(model, recipe.engine, seed=seed, adapters=adapters, on_event=say)
        return cls(engine, encoder, prompt_file, config, seed=seed, adapter=adapter)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Mapping[str, Any] | ModelConfig,
        *,
        adapter: str | Path | None = None,
        template: Template | None = None,
        reasons: bool = True,
        prompts: str | Path | None = None,
        engine: EngineConfig | Mapping[str, Any] | None = None,
        judging: JudgingConfig | Mapping[str, Any] | None = None,
        seed: int = 17,
    ) -> Judge:
        """Load a model, with or without an adapter, as a judge on vLLM.

        Args:
            model: hub id or folder, or the recipe's section `model` (path, revision, dtype, trust_remote_code).
            adapter: LoRA folder.
            template: a shipped chat template to use; by default the adapter's, else the model's own.
            reasons: whether the judge writes a reason before its verdict, under the model's own template.
            prompts: prompt file; by default the adapter's, or that of a merged judge, or configs/prompts/judge.yaml if it has
                none.
            engine: the recipe's section `engine`.
            judging: the keys of `JudgingConfig`.
            seed: of placement and sampling.

        Raises:
            ConfigError: a file is missing, a key is unknown, or the model has no chat template.
            EngineError: the model cannot be served, or the adapter is of another base or template.
        """
        base = ModelConfig(path=model) if isinstance(model, str) else section(ModelConfig, model, "model")
        serving = section(EngineConfig, engine or {}, "engine")
        folder = Path(adapter) if adapter else None
        if folder and not (folder / "adapter_config.json").is_file():
            hint = "give the folder that peft saved"
            raise ConfigError("adapter_config.json not found", location=str(folder), hint=hint)
        template_file = TEMPLATES[template] if template else None
        if folder and not template and (folder / "chat_template.jinja").is_file():
            template_file = str(folder / "chat_template.jinja")
        wording = (folder or Path(base.path)) / ADAPTER_PROMPTS
        if not prompts and wording.is_file():
            prompts = wording
        prompt_file = PromptFile.load(prompts or DEFAULT_PROMPTS)
        encoder = file_or_own_encoder(
            base, template_file, prompt_file.verdict, reasons=reasons, key="template"
        )
        if folder:
            check_base(folder, base.path)
            check_template(folder, encoder.template)
        config = section(JudgingConfig, judging or {}, "judging")
        adapters = [folder] if folder else []
        running = load_engine(base, serving, seed=seed, adapters=adapters, on_event=say)
        return cls(running, encoder, prompt_file, config, seed=seed, adapter=folder)

    @classmethod
    def from_server(
        cls,
        server: OpenAIConfig | AnthropicConfig | Mapping[str, Any],
        *,
        model: str | Mapping[str, Any] | ModelConfig | None = None,
        template: Literal["own"] | Template = "own",
        reasons: bool = True,
        prompts: str | Path = DEFAULT_PROMPTS,
        judging: JudgingConfig | Mapping[str, Any] | None = None,
        max_model_len: int = 8192,
        state: str | Path | None = None,
        seed: int = 17,
    ) -> Judge:
        """Use a judge that is served elsewhere.

        Args:
            server: `{kind: openai, urls: …, model: …}` or `{kind: anthropic, model: …}`: the keys of `OpenAIConfig`
                or `AnthropicConfig`.
            model: the model whose tokenizer a server of the completions API uses; not needed by the others, which take
                messages and return no P(A).
            template: the chat template of such a server; `own` is that of its tokenizer.
            reasons: whether the judge writes a reason before its verdict; see `OtherJudge`.
            prompts: prompt file.
            judging: the keys of `JudgingConfig`.
            max_model_len: tokens of prompt and completion together, of the server.
            state: file that records Anthropic's batches, so that a restarted process finds them; a temporary file by
                default.
            seed: of placement and sampling.

        Raises:
            ConfigError: a key is unknown, or a server of the completions API has no model.
            EngineError: the API key is missing.
        """
        keys: dict[str, Any] = {"server": server, "template": template, "reasons": reasons}
        keys["max_model_len"] = max_model_len
        if model:
            keys["model"] = {"path": model} if isinstance(model, str) else model
        checked = section(OtherJudge, keys, "")
        config = section(JudgingConfig, judging or {}, "judging")
        prompt_file, key = PromptFile.load(prompts), "server"
        file = None if checked.template == "own" else TEMPLATES[checked.template]
        encoder = server_encoder(
            checked.server, checked.model, file, prompt_file.verdict, reasons=reasons, key=key
        )
        if not reasons:
            prompt_file = prompt_file.for_direct()
        batches = Path(state) if state else Path(mkdtemp(prefix="reasongenrm-")) / "batches.jsonl"
        engine = open_server(checked.server, max_model_len=checked.max_model_len, state=batches, key=key)
        return cls(engine, encoder, prompt_file, config, seed=seed)

    @classmethod
    def from_other(
        cls,
        other: OtherJudge,
        *,
        prompts: str | Path = DEFAULT_PROMPTS,
        judging: JudgingConfig | None = None,
        state: Path | None = None,
        seed: int = 17,
    ) -> Judge:
        """Use a judge of a recipe's `evaluate.others`; see `from_server`."""
        return cls.from_server(
            other.server, model=other.model, template=other.template, reasons=other.reasons, prompts=prompts,
            judging=judging, max_model_len=other.max_model_len, state=state, seed=seed,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine."""
        self.engine.close()

    def compare(self, prompt: PromptInput, a: str, b: str, *, rubric: Rubric | None = None) -> Comparison:
        """Compare two answers to one prompt; with a rubric the result is a `RubricComparison`.

        Raises:
            ConfigError: a rubric, and the prompt file does not show criteria.
            DataError: the prompt or an answer is not a text, or the turns do not end in the user's.
        """
        return next(self.compare_many([with_rubric((prompt, a, b), rubric)]))

    def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
        """Yield a comparison for each (prompt, first answer, second answer) or (…, rubric), in their order.

        With a rubric the answers are compared by each criterion alone, in place of criteria before the prompt. Rows are read
        from the iterable 1,024 at a time; all their requests go to the engine at once. A row that occurs several times
        among them is judged once.

        Raises:
            ConfigError, DataError: see `compare`; the message counts rows from 0.
        """
        return self._judged(rows, self.comparisons)

    def _judged(
        self, rows: Iterable[T], batch_of: Callable[[Iterable[tuple[int, T]]], Batch[Any, Any, R]]
    ) -> Iterator[R]:
        numbered = enumerate(rows)
        while window := list(islice(numbered, WINDOW)):
            batch = batch_of(window)
            yield from batch.records(
                ask_in_memory(batch.prompts, self.engine, batch.task, adapter=self.adapter)
            )

    def comparisons(
        self, rows: Iterable[tuple[int, ComparisonInput]]
    ) -> Batch[JudgePrompt, Verdict, Comparison]:
        """Return the prompts of numbered rows, and how their verdicts become comparisons.

        Raises:
            ConfigError, DataError: see `compare`.
        """
        batch = self.comparison_batch(rows)
        return Batch(batch.prompts, self.task, batch.comparisons)

    def comparison_batch(self, rows: Iterable[tuple[int, ComparisonInput]]) -> ComparisonBatch:
        """Return the prompts of numbered rows, with this judge's wording and orders.

        Raises:
            ConfigError, DataError: see `compare`.
        """
        return ComparisonBatch(rows, self.prompt_file, self.config, seed=self.seed)

    def rank(
        self,
        prompt: PromptInput,
        answers: Sequence[str],
        *,
        method: Method = "round_robin",
        rubric: Rubric | None = None,
    ) -> Ranking:
        """Rank several answers to one prompt by comparing them, by a rubric if one is given; see `tournament.rank`.

        Raises:
            ConfigError: no answers, an unknown method, or see `compare`.
            DataError: see `compare`.
        """

        def compare(games: Sequence[tuple[int, int]]) -> list[Comparison]:
            rows = [PlacedRow(with_rubric((prompt, answers[i], answers[j]), rubric)) for i, j in games]
            return list(self.compare_many(rows))

        return rank(len(answers), compare, method=method, seed=self.seed)

    def best_of_n(self, prompt: PromptInput, answers: Sequence[str], *, rubric: Rubric | None = None) -> Best:
        """Return the best of several answers to one prompt: the winner of a knockout of n - 1 comparisons.

        Raises:
            ConfigError: no answers, or see `compare`.
            DataError: see `compare`.
        """
        ranking = self.rank(prompt, answers, method="knockout", rubric=rubric)
        return Best(ranking.order[0], answers[ranking.order[0]], ranking)

    def choose_many(self, rows: Iterable[ListInput]) -> Iterator[ListVerdict]:
        """Yield which of two to eight answers is best for each (prompt, answers), judged in one prompt, and a
        `RubricListVerdict` for each (prompt, answers, rubric), judged in one prompt per criterion.

        Raises:
            ConfigError: too few or too many answers, the prompt file has no template `listwise`; or a rubric, and the template
                does not show criteria.
            DataError: see `compare`; the message counts rows from 0.
        """
        return self._judged(rows, self.choices)

    def choices(self, rows: Iterable[tuple[int, ListInput]]) -> Batch[ListPrompt, ListVerdict, ListVerdict]:
        """Return the prompts of numbered rows for `choose_many`, and its errors."""
        return list_batch(rows, self.prompt_file, self.list_task(), seed=self.seed)

    def list_task(self) -> ListTask:
        """Return the task of `choose_many`.

        Raises:
            ConfigError: see `ListTask`.
        """
        if self._list_task is None:
            length = self.engine.max_model_len
            self._list_task = ListTask(self.config, self.encoder, length, self.prompt_file, seed=self.seed)
        return self._list_task

    def score(
        self, prompt: PromptInput, answer: str, reference: str | None = None, *, rubric: Rubric | None = None
    ) -> float | None:
        """Return the quality of an answer in [0, 1], or None if nothing can be read.

        With a reference it is P(the answer is better than the reference), or 1, 0.5 or 0 without log-probabilities.
        Without one it is the answer's rating of 1 to 10, rescaled to [0, 1], or the weighted score by the rubric (see
        `rate_many`).

        Raises:
            ConfigError: no reference, and the prompt file has no template `rating`; or see `compare`.
            DataError: see `compare`.
        """
        if reference is not None:
            return preference(self.compare(prompt, answer, reference, rubric=rubric))
        return rating_score(next(self.rate_many([with_rubric((prompt, answer), rubric)])))

    def rate_many(self, rows: Iterable[RatingInput]) -> Iterator[Rating]:
        """Yield a rating of 1 to 10 for each (prompt, answer), and a `RubricRating` for each (prompt, answer, rubric).

        Each answer is judged alone, and by each criterion of its rubric alone. See `compare_many`.

        Raises:
            ConfigError: the prompt file has no template `rating`; or a rubric, and the template does not show criteria.
            DataError: see `compare`; the message counts rows from 0.
        """
        return self._judged(rows, self.ratings)

    def ratings(self, rows: Iterable[tuple[int, RatingInput]]) -> Batch[RatingPrompt, Rating, Rating]:
        """Return the prompts of numbered rows for `rate_many`, and its errors."""
        return rating_batch(rows, self.prompt_file, self.rating_task)
