"""The judge as a library: compare two answers, rank several, score one; over any engine.

judge = Judge.from_pretrained("Qwen/Qwen2.5-7B-Instruct", adapter="runs/mine/judges/reasongenrm/adapter")
judge.compare("What is 2 + 2?", "4", "5").winner  # "A"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal, Self

from reasongenrm.chat.encoder import PROMPTS, ChatEncoder, judge_encoder, load_tokenizer, template_text
from reasongenrm.chat.prompts import PromptFile, judge_prompt, place, swap
from reasongenrm.config.engines import AnthropicConfig, EngineConfig, ModelConfig, OpenAIConfig
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.config.loading import load_recipe, section
from reasongenrm.config.recipe import TEMPLATES, Recipe, Template
from reasongenrm.engines.base import Engine
from reasongenrm.engines.loading import load_engine, open_server, server_encoder
from reasongenrm.errors import ConfigError
from reasongenrm.judge.ask import ask_now, sampling_settings
from reasongenrm.judge.inputs import Prompt, validated_answer, validated_pair
from reasongenrm.judge.rate import HIGHEST, LOWEST, RatingTask
from reasongenrm.judge.tournament import Ranking, rank
from reasongenrm.judge.verdicts import VerdictTask, compare_orders, preference
from reasongenrm.records import Comparison, JudgePrompt, PreferencePair, Rating, Verdict

WINDOW = 1024
"""Comparisons that go to the engine together."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best of several answers.

    Attributes:
        index: its place among the answers given.
        answer: its text.
        ranking: how it was found.
    """

    index: int
    answer: str
    ranking: Ranking


class Judge:
    """A pairwise judge on some engine. A context manager: leaving it stops the engine.

    Args:
        engine: holds the base model.
        asker: how it is asked.
        prompts: its wording.
        adapter: LoRA folder of the trained judge; None for the base as it is.
        both_orders: judge each pair of answers in both orders, else in one order that depends on the pair and the
            seed alone.
        seed: of that placement.
    """

    def __init__(
        self,
        engine: Engine,
        asker: VerdictTask,
        prompts: PromptFile,
        *,
        adapter: str | None = None,
        both_orders: bool = True,
        seed: int = 17,
    ) -> None:
        self.engine, self.asker, self.prompts = engine, asker, prompts
        self.adapter, self.both_orders, self.seed = adapter, both_orders, seed

    @classmethod
    def from_recipe(
        cls, recipe: Recipe | str | Path, judge: str | None = None, *, overrides: Sequence[str] = ()
    ) -> Judge:
        """Load a judge that a recipe has trained, asked as the recipe's `evaluate` says.

        Args:
            recipe: the recipe, or its file; the judge is taken from its run folder.
            judge: the judge's name in the recipe, or `base`; the recipe's first judge when not given.
            overrides: `key=value` as on the command line, for a file.

        Raises:
            ConfigError: no such judge, or it is not trained yet.
            EngineError: it cannot be served.
        """
        if not isinstance(recipe, Recipe):
            recipe = load_recipe(str(recipe), list(overrides))
        name = judge or next(iter(recipe.judges))
        adapter = recipe.folder / "judges" / name / "adapter"
        if name != "base" and name not in recipe.judges:
            raise ConfigError(
                f"no judge {name!r}",
                location="judges",
                hint=f"take base or one of: {', '.join(recipe.judges)}",
            )
        if name != "base" and not adapter.is_dir():
            raise ConfigError(f"no adapter of {name!r}", location=str(adapter), hint="run 2_train.sh first")
        template = recipe.student_template if name == "base" else recipe.judges[name].template
        encoder = judge_encoder(recipe, template, load_tokenizer(recipe.model))
        path = None if name == "base" else adapter
        engine = load_engine(
            recipe.model,
            recipe.engine,
            seed=recipe.seed,
            adapters=[path] if path else [],
            server=recipe.evaluate.server,
        )
        return cls._on(engine, encoder, PromptFile.load(recipe.prompts), recipe.evaluate, path, recipe.seed)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Mapping[str, Any] | ModelConfig,
        *,
        adapter: str | Path | None = None,
        template: Template | None = None,
        prompts: str | Path | None = None,
        engine: EngineConfig | Mapping[str, Any] | None = None,
        asking: JudgingConfig | Mapping[str, Any] | None = None,
        seed: int = 17,
    ) -> Judge:
        """Load a model, with or without an adapter, as a judge on vLLM in this process.

        Args:
            model: hub id or folder, or the recipe's section `model` (path, revision, dtype, trust_remote_code).
            adapter: LoRA folder.
            template: the shipped chat template to use; else the adapter's own, and `reason` where there is none.
            prompts: prompt file; else the adapter's own, and configs/prompts/judge.yaml where there is none.
            engine: the recipe's section `engine`.
            asking: how the judge is asked: the keys of `AskingConfig`.
            seed: of placement and sampling.

        Raises:
            ConfigError: a file is missing, or an unknown key.
            EngineError: the model cannot be served.
        """
        base = ModelConfig(path=model) if isinstance(model, str) else section(ModelConfig, model, "model")
        serving = section(EngineConfig, engine or {}, "engine")
        folder = Path(adapter) if adapter else None
        if folder and not (folder / "adapter_config.json").is_file():
            raise ConfigError(
                "no adapter is there", location=str(folder), hint="give the folder that peft saved"
            )
        own = [folder / "chat_template.jinja", folder / PROMPTS] if folder else [Path("-"), Path("-")]
        file = TEMPLATES[template] if template else str(own[0]) if own[0].is_file() else TEMPLATES["reason"]
        wording = prompts or (own[1] if own[1].is_file() else "configs/prompts/judge.yaml")
        texts = PromptFile.load(wording)
        encoder = ChatEncoder(load_tokenizer(base), template_text(file, key="template"), texts.verdict)
        how = section(JudgingConfig, asking or {}, "asking")
        adapters = [folder] if folder else []
        running = load_engine(base, serving, seed=seed, adapters=adapters, server=how.server)
        return cls._on(running, encoder, texts, how, folder, seed)

    @classmethod
    def from_server(
        cls,
        server: OpenAIConfig | AnthropicConfig | Mapping[str, Any],
        *,
        model: str | Mapping[str, Any] | ModelConfig | None = None,
        template: Template = "reason",
        prompts: str | Path = "configs/prompts/judge.yaml",
        asking: JudgingConfig | Mapping[str, Any] | None = None,
        max_model_len: int = 8192,
        state: str | Path | None = None,
        seed: int = 17,
    ) -> Judge:
        """Use a judge that somebody else serves.

        Args:
            server: `{kind: openai, urls: …, model: …}` or `{kind: anthropic, model: …}`: the keys of `OpenAIConfig`
                and `AnthropicConfig`.
            model: whose tokenizer a server of the completions API is asked with; not used by the others, which are
                asked by messages and give no P(A).
            template: the chat template for it.
            prompts: prompt file.
            asking: how the judge is asked: the keys of `AskingConfig`.
            max_model_len: tokens of prompt and completion together, of the server.
            state: where Anthropic's batches are noted, so that a killed process finds them again; a temporary file
                when not given.
            seed: of placement and sampling.

        Raises:
            ConfigError: an unknown key, or a completions server without a model.
            EngineError: the key is missing.
        """
        kinds: dict[object, type[AnthropicConfig | OpenAIConfig]]
        kinds = {"openai": OpenAIConfig, "anthropic": AnthropicConfig}
        kind = server.get("kind") if isinstance(server, Mapping) else server.kind
        if kind not in kinds:
            raise ConfigError(
                f"unknown kind {kind!r}", location="server.kind", hint="take openai or anthropic"
            )
        texts = PromptFile.load(prompts)
        base = ModelConfig(path=model) if isinstance(model, str) else model
        checked = section(kinds[kind], server, "server")
        tokenizer_model = section(ModelConfig, base, "model") if base else None
        encoder = server_encoder(checked, tokenizer_model, TEMPLATES[template], texts.verdict, key="server")
        batches = Path(state) if state else Path(mkdtemp(prefix="reasongenrm-")) / "batches.jsonl"
        engine = open_server(checked, max_model_len=max_model_len, state=batches, key="server")
        how = section(JudgingConfig, asking or {}, "asking")
        return cls._on(engine, encoder, texts, how, None, seed)

    @classmethod
    def _on(
        cls,
        engine: Engine,
        encoder: ChatEncoder | None,
        prompts: PromptFile,
        config: JudgingConfig,
        adapter: Path | None,
        seed: int,
    ) -> Judge:
        asking = sampling_settings(config, seed)
        asker = VerdictTask(asking, encoder, engine.max_model_len, prompts.verdict)
        path = str(adapter) if adapter else None
        return cls(engine, asker, prompts, adapter=path, both_orders=config.both_orders, seed=seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the engine."""
        self.engine.close()

    def compare(self, prompt: Prompt, a: str, b: str) -> Comparison:
        """Compare two answers to one prompt.

        Raises:
            DataError: the prompt or an answer is no text, or the turns do not end in the user's.
        """
        return next(self.compare_many([(prompt, a, b)]))

    def compare_many(self, rows: Iterable[tuple[Prompt, str, str]]) -> Iterator[Comparison]:
        """Yield a comparison for each (prompt, first answer, second answer), in their order.

        Rows are taken from the iterable 1,024 at a time; all requests of those go to the engine at once. A row that
        stands several times among them is judged once.

        Raises:
            DataError: see `compare`; the message counts rows from 0.
        """
        numbered = enumerate(rows)
        while window := list(islice(numbered, WINDOW)):
            pairs = [validated_pair(number, *row) for number, row in window]
            found = self._compared({pair.id: pair for pair in pairs})
            yield from (found[pair.id] for pair in pairs)

    def _compared(self, pairs: Mapping[str, PreferencePair]) -> dict[str, Comparison]:
        prompts: list[JudgePrompt] = []
        for pair in pairs.values():
            order = place(pair.id, self.seed)
            orders = (order, swap(order)) if self.both_orders else (order,)
            prompts += [judge_prompt(pair, o, self.prompts) for o in orders]
        answered = ask_now(prompts, self.engine, self.asker, adapter=self.adapter)
        verdicts: dict[str, list[Verdict]] = {}
        errors: dict[str, str | None] = {}
        asked: dict[str, int] = {}
        for prompt, told in zip(prompts, answered, strict=True):
            verdicts.setdefault(prompt.pair_id, []).append(told.reading)
            errors[prompt.pair_id] = errors.get(prompt.pair_id) or told.error
            asked[prompt.pair_id] = asked.get(prompt.pair_id, 0) + told.prompt_tokens
        margin = self.asker.asking.margin
        return {
            name: compare_orders(name, verdicts[name], margin=margin, prompt_tokens=asked[name], error=errors[name])
            for name in pairs
        }  # fmt: skip

    def rank(
        self,
        prompt: Prompt,
        answers: Sequence[str],
        *,
        method: Literal["round_robin", "knockout", "swiss"] = "round_robin",
        rating: Literal["bradley_terry", "elo"] = "bradley_terry",
        rounds: int | None = None,
    ) -> Ranking:
        """Rank several answers to one prompt by comparing them; see `judge.ranking.rank`.

        Raises:
            ConfigError: no answers.
            DataError: see `compare`.
        """

        def compare(games: Sequence[tuple[int, int]]) -> list[Comparison]:
            return list(self.compare_many([(prompt, answers[i], answers[j]) for i, j in games]))

        return rank(len(answers), compare, method=method, rating=rating, rounds=rounds, seed=self.seed)

    def best_of_n(self, prompt: Prompt, answers: Sequence[str]) -> Best:
        """Return the best of several answers to one prompt, found by a knockout of n - 1 comparisons.

        Raises:
            ConfigError: no answers.
            DataError: see `compare`.
        """
        ranking = self.rank(prompt, answers, method="knockout")
        return Best(ranking.order[0], answers[ranking.order[0]], ranking)

    def score(self, prompt: Prompt, answer: str, reference: str | None = None) -> float | None:
        """Return how good an answer is, in [0, 1], or None when the judge said nothing that can be read.

        With a reference it is P(the answer is better than the reference); without log-probabilities 1, 0.5 or 0.
        Alone it is the answer's rating of 1 to 10, as 0 to 1 (see `rate_many`).

        Raises:
            ConfigError: no reference, and the prompt file has no wording to rate an answer alone.
            DataError: see `compare`.
        """
        if reference is not None:
            return preference(self.compare(prompt, answer, reference))
        rating = next(self.rate_many([(prompt, answer)])).rating
        return None if rating is None else (rating - LOWEST) / (HIGHEST - LOWEST)

    def rate_many(self, rows: Iterable[tuple[Prompt, str]]) -> Iterator[Rating]:
        """Yield a rating of 1 to 10 for each (prompt, answer), each answer judged alone, in their order.

        Rows are taken from the iterable 1,024 at a time; all requests of those go to the engine at once. A row that
        stands several times among them is judged once.

        Raises:
            ConfigError: the prompt file has no wording to rate an answer alone.
            DataError: see `compare`; the message counts rows from 0.
        """
        rater = RatingTask(self.asker.asking, self.asker.encoder, self.asker.max_model_len)
        numbered = enumerate(rows)
        while window := list(islice(numbered, WINDOW)):
            prompts = [
                validated_answer(number, prompt, answer, self.prompts) for number, (prompt, answer) in window
            ]
            answered = ask_now(prompts, self.engine, rater, adapter=self.adapter)
            yield from (told.reading for told in answered)
