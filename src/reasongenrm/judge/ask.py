"""Requests to a judge: one per vote, and a rescue request that allows only the verdict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.verdict import VerdictTokens, reason_ids
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.base import Engine, Request, complete_missing, request_seed
from reasongenrm.records import Completion, Message
from reasongenrm.store import PartStore, completion_from_json

RESCUE = "#rescue"


RESCUE_TOKENS = 16
"""Limit of what is asked for alone by text."""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How the judge is asked.

    Attributes:
        max_tokens: limit per completion.
        temperature: 0 is greedy.
        rescue: ask a completion that cannot be read for the verdict alone.
        seed: of the run; each request gets its own seed from it.
        votes: completions per prompt; more than one want a temperature above 0.
        combine: `mean` takes the mean P(A) of the votes, `majority` counts their letters.
        margin: a verdict whose P(A) is less than this from 0.5 is a tie.
    """

    max_tokens: int
    temperature: float
    rescue: bool
    seed: int
    votes: int = 1
    combine: Literal["mean", "majority"] = "mean"
    margin: float = 0.0


def sampling_settings(config: JudgingConfig, seed: int) -> SamplingSettings:
    """Return the recipe's section as the asker takes it."""
    return SamplingSettings(
        config.max_tokens,
        config.temperature,
        config.rescue,
        seed,
        config.votes,
        config.combine,
        config.margin,
    )


class Prompt(Protocol):
    """What a judge is asked."""

    @property
    def id(self) -> str: ...
    @property
    def messages(self) -> tuple[Message, ...]: ...


class Reading(Protocol):
    """What is read from a completion."""

    @property
    def outcome(self) -> str: ...


P = TypeVar("P", bound=Prompt)


R = TypeVar("R", bound=Reading)


@dataclass(frozen=True, slots=True)
class ForcedChoice:
    """How the thing asked for is spelled when it is asked for alone: `opening`, then what the judge adds.

    Attributes:
        opening: ids that it begins with, whatever it says.
        allowed: ids that the judge may add.
        longest: how many of them at most.
        header: ids between a reason and its verdict.
        stop: texts that end it.
        watch: ids whose log-probabilities are wanted.
    """

    opening: tuple[int, ...]
    allowed: tuple[int, ...]
    longest: int
    header: tuple[int, ...]
    stop: tuple[str, ...] = ()
    logprob_token_ids: tuple[int, ...] = ()


class JudgeTask(ABC, Generic[P, R]):
    """Requests of one kind to one judge, and the reading of what it says.

    Args:
        asking: limits, votes and seeds.
        encoder: tokenizer and chat template of the judge; None for a server that is asked by messages alone.
        tokens: how its verdicts are spelled; None without an encoder.
        alone: how what is asked for alone is spelled; None without an encoder.
        max_model_len: tokens of prompt and completion together.
    """

    closing: str
    """Text that ends what is asked for."""
    rescue_prompt: str
    """The turn that asks for it alone, by text."""

    def __init__(
        self,
        asking: SamplingSettings,
        encoder: ChatEncoder | None,
        tokens: VerdictTokens | None,
        alone: ForcedChoice | None,
        max_model_len: int,
    ) -> None:
        self.asking, self.encoder, self.max_model_len = asking, encoder, max_model_len
        self.verdict_tokens, self.alone = tokens, alone

    def names(self, prompt: P) -> list[str]:
        """Return the ids of a prompt's requests, one per vote."""
        return [prompt.id, *(f"{prompt.id}#{vote}" for vote in range(2, self.asking.votes + 1))]

    def requests(self, prompts: Sequence[P]) -> Iterator[Request]:
        """Yield a request per vote, those of one prompt behind each other, so that its tokens are computed once.

        A long prompt leaves less room for the completion, at least one token; one that fills the context is refused
        by the engine and counted as an error.
        """
        for prompt in prompts:
            ids = tuple(self.encoder.encode(prompt.messages, generation=True)) if self.encoder else ()
            for name in self.names(prompt):
                yield self._request(name, prompt, ids)

    def _request(self, name: str, prompt: P, ids: tuple[int, ...]) -> Request:
        asking = self.asking
        seed = request_seed(asking.seed, name) if asking.temperature > 0 else None
        if self.encoder is None or self.alone is None:
            return Request(
                name, (), asking.max_tokens, asking.temperature, seed=seed, messages=prompt.messages
            )
        return Request(
            name,
            ids,
            max_tokens=max(1, min(asking.max_tokens, self.max_model_len - len(ids))),
            temperature=asking.temperature,
            seed=seed,
            stop=(self.closing + self.encoder.end,),
            ignore_eos=True,
            logprob_token_ids=self.alone.logprob_token_ids,
        )

    def needs_rescue(self, reading: R) -> bool:
        """Whether what was asked for has to be asked for alone."""
        return self.asking.rescue and reading.outcome in ("unparsed", "truncated")

    def rescue(self, prompt: P, completion: Completion) -> Request:
        """Return the request for it alone, behind the prompt and as much of the reason as fits."""
        name = completion.id + RESCUE
        if self.encoder is None or self.alone is None or self.verdict_tokens is None:
            said = Message(role="assistant", content=completion.text or "…")
            turns = (*prompt.messages, said, Message(role="user", content=self.rescue_prompt))
            return Request(name, (), RESCUE_TOKENS, messages=turns)
        alone = self.alone
        ids = self.encoder.encode(prompt.messages, generation=True)
        tail: list[int] = list(alone.opening)
        if self.encoder.reasons_first:
            tail = [*alone.header, *tail]
            room = max(0, self.max_model_len - alone.longest - len(ids) - len(tail))
            tail = reason_ids(completion, self.verdict_tokens)[:room] + tail
        ids += tail
        longest = max(1, min(alone.longest, self.max_model_len - len(ids)))
        return Request(
            name,
            tuple(ids),
            max_tokens=longest,
            allowed=alone.allowed,
            stop=alone.stop,
            logprob_token_ids=alone.logprob_token_ids,
        )

    @abstractmethod
    def read(self, prompt: P, completion: Completion) -> R:
        """Return what one completion says; its id is the completion's."""

    @abstractmethod
    def read_rescue(self, first: R, completion: Completion) -> R:
        """Return it with what was asked for alone; as it was where that cannot be read either."""

    @abstractmethod
    def combine(self, prompt: P, votes: Sequence[R]) -> R:
        """Return what a prompt's votes say together."""


def ask_all(
    prompts: Sequence[P],
    engine: Engine,
    questions: JudgeTask[P, R],
    store: PartStore,
    *,
    adapter: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Ask what every prompt needs; completions are kept in the store, so a killed run goes on where it stopped.

    All prompts go to the engine; completions that cannot be read are then asked once for the answer alone.

    Args:
        prompts: what to ask; ids are distinct.
        engine: the engine that holds the base model.
        questions: how it is asked.
        store: of completions; read them with `read_all`.
        adapter: the trained LoRA folder, None for the untouched base.
        progress: called with the number of requests just done.
    """
    if store.finished:
        return
    complete_missing(engine, questions.requests(prompts), store, adapter=adapter, progress=progress)
    of = {name: prompt for prompt in prompts for name in questions.names(prompt)}
    # The ids alone are held: all completions of a benchmark would be too many.
    owed = [
        name
        for name, prompt in of.items()
        if questions.needs_rescue(questions.read(prompt, _kept(store, name)))
    ]
    rescues = (questions.rescue(of[name], _kept(store, name)) for name in owed)
    complete_missing(engine, rescues, store, adapter=adapter)
    store.finish([*of, *(name + RESCUE for name in owed)])


def _kept(store: PartStore, name: str) -> Completion:
    return completion_from_json(store[name])


def read_all(prompts: Sequence[P], questions: JudgeTask[P, R], store: PartStore) -> list[R]:
    """Read from stored completions what was said to each prompt, in their order; nothing is asked again."""

    def votes(prompt: P) -> Iterator[R]:
        for name in questions.names(prompt):
            reading = questions.read(prompt, _kept(store, name))
            rescue = name + RESCUE
            yield questions.read_rescue(reading, _kept(store, rescue)) if rescue in store else reading

    return [questions.combine(prompt, list(votes(prompt))) for prompt in prompts]


@dataclass(frozen=True, slots=True)
class TaskResult(Generic[R]):
    """What came of one prompt.

    Attributes:
        reading: of all its votes.
        prompt_tokens: tokens read for it.
        error: what went wrong, if the engine failed.
    """

    reading: R
    prompt_tokens: int
    error: str | None


def ask_now(
    prompts: Sequence[P], engine: Engine, questions: JudgeTask[P, R], *, adapter: str | None = None
) -> list[TaskResult[R]]:
    """Ask what every prompt needs, keeping nothing; return what came of each, in their order.

    All requests go to the engine at once, and then all rescues. A prompt that stands there twice is asked once.
    """
    distinct = {prompt.id: prompt for prompt in prompts}
    of = {name: prompt for prompt in distinct.values() for name in questions.names(prompt)}
    found = {c.id: c for c in engine.complete(questions.requests([*distinct.values()]), adapter=adapter)}
    votes = {name: questions.read(prompt, found[name]) for name, prompt in of.items()}
    rescues = [questions.rescue(of[name], found[name]) for name in of if questions.needs_rescue(votes[name])]
    for completion in engine.complete(rescues, adapter=adapter) if rescues else ():
        name = completion.id.removesuffix(RESCUE)
        votes[name] = questions.read_rescue(votes[name], completion)
        found[completion.id] = completion
    told = {name: _answered(prompt, questions, found, votes) for name, prompt in distinct.items()}
    return [told[prompt.id] for prompt in prompts]


def _answered(
    prompt: P, questions: JudgeTask[P, R], found: Mapping[str, Completion], votes: Mapping[str, R]
) -> TaskResult[R]:
    names = questions.names(prompt)
    both = [c for name in names for c in (found[name], found.get(name + RESCUE)) if c]
    error = next((found[name].error for name in names if found[name].error), None)
    reading = questions.combine(prompt, [votes[name] for name in names])
    return TaskResult(reading, sum(completion.prompt_tokens for completion in both), error)
