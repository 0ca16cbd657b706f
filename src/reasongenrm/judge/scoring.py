"""Score conversations by a rubric: a server answers for all criteria in JSON, our own judge rates one criterion at a time."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Protocol

import msgspec

from reasongenrm.chat.encoder import template_wording
from reasongenrm.chat.prompts import PromptFile, rating_prompt
from reasongenrm.chat.rubric_prompt import RubricPrompt
from reasongenrm.config.distil import DistilRecipe
from reasongenrm.console import bar, say
from reasongenrm.engines.base import Request, complete_missing, request_seed
from reasongenrm.engines.loading import open_server
from reasongenrm.judge.api import Judge
from reasongenrm.judge.costs import Estimate, cost_of, estimate, price_share
from reasongenrm.judge.criteria import rating_text, score_of_rating
from reasongenrm.judge.rubric import (
    USAGE,
    Sample,
    SampleOutcome,
    answer_schema,
    read_sample,
    rubric_turn,
    usage_of,
)
from reasongenrm.records import Completion, Conversation, Message, Rating, with_criteria
from reasongenrm.store import PartStore, completion_from_json, completion_to_json, to_json

CONTEXT = 1_000_000
"""Tokens of prompt and completion together: servers that take messages know their own limit."""

BLOCK = 64
"""Conversations that our own judge rates together, and again after a kill."""

KEY = "judge.server"


class Scoring(Protocol):
    """The work of a judge on conversations.

    Attributes:
        ids: of the rows of the store, in its final order: all completions, or ratings, that are needed.
    """

    ids: list[str]

    def estimate(self, done: Container[str]) -> Estimate:
        """Estimate what the rows that are not `done` will take."""
        ...

    def example(self) -> dict[str, str]:
        """Return what the judge is sent for the first conversation, of which there must be one: title -> text."""
        ...

    def complete_missing(self, store: PartStore) -> None:
        """Add the rows that are not in the store."""
        ...

    def samples(self, store: PartStore, conversation: Conversation) -> list[Sample]:
        """Return the samples of a conversation, from the rows of the store."""
        ...

    def cost(self, store: PartStore) -> float | None:
        """Return what all rows have cost, in the currency of the prices; None without prices."""
        ...


def scoring(recipe: DistilRecipe, conversations: Sequence[Conversation]) -> Scoring:
    """Return the work of the recipe's judge.

    Raises:
        ConfigError: the prompt file cannot be used.
    """
    return (ServerScoring if recipe.judge.server is not None else OwnScoring)(recipe, conversations)


class ServerScoring(Scoring):
    """Scores by a server: one request per sample, `<conversation>.<sample number>`.

    Args:
        recipe: the judge.
        conversations: with unique ids.

    Raises:
        ConfigError: the prompt file cannot be used.
    """

    def __init__(self, recipe: DistilRecipe, conversations: Sequence[Conversation]) -> None:
        self._recipe, self._conversations = recipe, conversations
        self._prompt = RubricPrompt.load(recipe.judge.prompt)
        self._rubric_turn = rubric_turn(recipe.judge.rubric, self._prompt)
        self._schema = answer_schema(recipe.judge.rubric)
        self.ids = [name for one in conversations for name in self._names(one)]

    def _names(self, conversation: Conversation) -> list[str]:
        return [f"{conversation.id}.{number}" for number in range(self._recipe.judge.samples)]

    def _turns(self, conversation: Conversation) -> tuple[Message, ...]:
        return self._rubric_turn, self._prompt.reply_turn(conversation)

    def requests(self) -> Iterator[Request]:
        """Yield the requests of all samples, in the order of `ids`."""
        judge = self._recipe.judge
        for conversation in self._conversations:
            turns = self._turns(conversation)
            for name in self._names(conversation):
                yield Request(
                    name,
                    (),
                    max_tokens=judge.max_tokens,
                    temperature=judge.temperature,
                    seed=request_seed(self._recipe.seed, name),
                    messages=turns,
                    schema=self._schema,
                    cache_system=True,
                )

    def estimate(self, done: Container[str]) -> Estimate:
        """Estimate tokens from the lengths of the prompts, and costs from the prices."""
        missing = (request.messages for request in self.requests() if request.id not in done)
        return estimate(self._recipe.judge, missing)

    def example(self) -> dict[str, str]:
        """Return the turns and the schema."""
        rubric, reply = self._turns(self._conversations[0])
        schema = json.dumps(self._schema, ensure_ascii=False)
        return {"system turn": rubric["content"], "user turn": reply["content"], "schema": schema}

    def complete_missing(self, store: PartStore) -> None:
        """Ask the server for the completions that are missing; each is stored with the share of the price that it cost."""
        server, share = self._recipe.judge.server, price_share(self._recipe.judge)
        assert server is not None

        def row(completion: Completion) -> dict[str, object]:
            return completion_to_json(completion) | {"price_share": share}

        state = store.final.with_name("batches.jsonl")
        engine = open_server(server, max_model_len=CONTEXT, state=state, key=KEY, on_event=say)
        with closing(engine), bar("judging", len(self.ids)) as progress:
            complete_missing(engine, self.requests(), store, progress=progress, convert=row)

    def samples(self, store: PartStore, conversation: Conversation) -> list[Sample]:
        """Read the completions of a conversation."""
        rubric = self._recipe.judge.rubric
        return [read_sample(completion_from_json(store[name]), rubric) for name in self._names(conversation)]

    def cost(self, store: PartStore) -> float | None:
        """Return the costs by the tokens that the server has counted."""
        prices = self._recipe.judge.prices
        if prices is None:
            return None
        rows = (store[name] for name in self.ids)
        return sum(cost_of(usage_of(completion_from_json(row)), prices, row["price_share"]) for row in rows)


class OwnScoring(Scoring):
    """Scores by a judge that this suite has trained: one rating per criterion, `<conversation>.<criterion number>`.

    Args:
        recipe: the judge.
        conversations: with unique ids.
    """

    def __init__(self, recipe: DistilRecipe, conversations: Sequence[Conversation]) -> None:
        self._recipe, self._conversations = recipe, conversations
        self._criteria = recipe.judge.rubric.criteria
        self.ids = [name for one in conversations for name in self._names(one)]

    def _names(self, conversation: Conversation) -> list[str]:
        return [f"{conversation.id}.{number}" for number in range(len(self._criteria))]

    def estimate(self, done: Container[str]) -> Estimate:
        """Return the number of ratings, and tokens by the lengths of the conversations."""
        turns = (
            [
                *with_criteria(one.history, rating_text(criterion)),
                Message(role="assistant", content=one.response),
            ]
            for one in self._conversations
            for name, criterion in zip(self._names(one), self._criteria, strict=True)
            if name not in done
            for _ in range(self._recipe.judge.samples)
        )
        return estimate(self._recipe.judge, turns)

    def example(self) -> dict[str, str]:
        """Return the prompt for each criterion, in the wording of the judge's own recipe.

        Raises:
            ConfigError: the recipe or its wording cannot be used, or the wording does not show criteria.
        """
        wording, first = self._wording(), self._conversations[0]
        return {
            f"prompt for {criterion.name}": rating_prompt(history, first.response, wording).messages[-1][
                "content"
            ]
            for criterion in self._criteria
            for history in [with_criteria(first.history, rating_text(criterion))]
        }

    def _wording(self) -> PromptFile:
        own = self._recipe.judge.judge
        assert own is not None
        trained, name = own.load()
        wording = PromptFile.load(trained.prompts)
        if name in trained.trained:
            return template_wording(wording, trained.judges[trained.trained[name].judge].template)
        return wording.for_direct() if name == "base-direct" else wording

    def complete_missing(self, store: PartStore) -> None:
        """Rate block by block: a block with a missing rating is rated as a whole, so that batches are as without a kill.

        Raises:
            ConfigError: see `example`; or the judge is not trained yet.
            EngineError: it cannot be served.
        """
        judge = self._recipe.judge
        own = judge.judge
        assert own is not None
        self.example()  # a wording without criteria is an error before the engine starts
        settings = [f"evaluate.{key}={value}" for key, value in (
            ("votes", judge.samples), ("temperature", judge.temperature), ("max_tokens", judge.max_tokens)
        )]  # fmt: skip
        with (
            Judge.from_recipe(own.recipe, own.name, overrides=[*own.overrides, *settings]) as rater,
            bar("judging", len(self.ids)) as progress,
        ):
            for start in range(0, len(self._conversations), BLOCK):
                block = self._conversations[start : start + BLOCK]
                names = [name for one in block for name in self._names(one)]
                if any(name not in store for name in names):
                    rows = [
                        (with_criteria(one.history, rating_text(criterion)), one.response)
                        for one in block
                        for criterion in self._criteria
                    ]
                    ratings = zip(names, rater.rate_many(rows), strict=True)
                    store.append(to_json(rating) | {"id": name} for name, rating in ratings)
                progress(len(names))

    def samples(self, store: PartStore, conversation: Conversation) -> list[Sample]:
        """Return one sample per vote; a vote without a rating by every criterion has no scores."""
        ratings = [msgspec.convert(store[name], Rating) for name in self._names(conversation)]
        usage = dict.fromkeys(USAGE, 0) | {
            "input": sum(rating.prompt_tokens for rating in ratings),
            "output": sum(rating.tokens for rating in ratings),
        }
        samples = [self._sample(ratings, vote) for vote in range(self._recipe.judge.samples)]
        return [replace(samples[0], usage=usage), *samples[1:]]

    def _sample(self, ratings: Sequence[Rating], vote: int) -> Sample:
        scores: dict[str, float] = {}
        for criterion, rating in zip(self._criteria, ratings, strict=True):
            value = rating.votes[vote] if rating.votes else rating.rating
            if value is None:
                outcome: SampleOutcome = "unreadable"
                if rating.outcome in ("truncated", "error"):
                    outcome = rating.outcome
                problem = rating.error or f"no rating by {criterion.name}: {rating.outcome}"
                return Sample(outcome, problem=problem)
            scores[criterion.name] = score_of_rating(criterion, value)
        texts = [f"{c.name}: {rating.reason}" for c, rating in zip(self._criteria, ratings, strict=True)]
        return Sample("ok", scores, "\n".join(texts))

    def cost(self, store: PartStore) -> float | None:
        """Return None: it has no prices."""
        return None
