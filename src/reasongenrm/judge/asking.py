"""How a judge is asked, whatever it is asked for: its requests, and the one that asks for the answer alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from reasongenrm.engines.base import Request
from reasongenrm.judge.encoder import ChatEncoder
from reasongenrm.judge.verdict import VerdictTokens, reason_ids
from reasongenrm.recipe_evaluate import AskingConfig
from reasongenrm.records import Completion, Message, content_id

RESCUE = "#rescue"
RESCUE_TOKENS = 16
"""Limit of what is asked for alone by text."""


@dataclass(frozen=True, slots=True)
class Asking:
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


def ask_as(config: AskingConfig, seed: int) -> Asking:
    """Return the recipe's section as the asker takes it."""
    return Asking(
        config.max_tokens,
        config.temperature,
        config.rescue,
        seed,
        config.votes,
        config.combine,
        config.margin,
    )


def request_seed(seed: int, name: str) -> int:
    """Return the sampling seed of one request, a function of the run's seed and the request's id."""
    return int(content_id("sample", seed, name), 16) % 2**31


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
class Alone:
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
    watch: tuple[int, ...] = ()


class Questions(ABC, Generic[P, R]):
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
    plea: str
    """The turn that asks for it alone, by text."""

    def __init__(
        self,
        asking: Asking,
        encoder: ChatEncoder | None,
        tokens: VerdictTokens | None,
        alone: Alone | None,
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
            watch=self.alone.watch,
        )

    def owes_rescue(self, reading: R) -> bool:
        """Whether what was asked for has to be asked for alone."""
        return self.asking.rescue and reading.outcome in ("unparsed", "truncated")

    def rescue(self, prompt: P, completion: Completion) -> Request:
        """Return the request for it alone, behind the prompt and as much of the reason as fits."""
        name = completion.id + RESCUE
        if self.encoder is None or self.alone is None or self.verdict_tokens is None:
            said = Message(role="assistant", content=completion.text or "…")
            turns = (*prompt.messages, said, Message(role="user", content=self.plea))
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
            watch=alone.watch,
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
