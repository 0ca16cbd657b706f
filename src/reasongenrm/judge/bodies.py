"""What clients of `judge.http` send, and how much of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from reasongenrm.data.turns import BadRow, read_prompt
from reasongenrm.errors import DataError, ReasonGenRMError
from reasongenrm.judge.given import Prompt
from reasongenrm.judge.rewards import Schedule, responses
from reasongenrm.records import Message


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may hold; more is answered by 413.

    Attributes:
        body: bytes.
        text: characters of a prompt's turn or an answer.
        turns: messages of a prompt.
        answers: answers to one prompt: of /rank, /best_of_n, and in /get_reward of a group.
        queries: samples of /get_reward.
    """

    body: int = 32 * 2**20
    text: int = 200_000
    turns: int = 512
    answers: int = 64
    queries: int = 8192


DEFAULT_LIMITS = Limits()

Text = Annotated[str, AfterValidator(lambda text: text.encode("utf-8", "replace").decode("utf-8"))]
"""JSON can hold half of a surrogate pair, which no answer could be written with: it is a question mark."""


class Turn(BaseModel):
    """One message of a prompt."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: Text


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid")
    prompt: Text | None = None
    messages: list[Turn] | None = None

    @model_validator(mode="after")
    def _one(self) -> _Asked:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self

    def question(self, limits: Limits) -> Prompt:
        """Return what is answered."""
        turns = [turn.content for turn in self.messages or ()]
        at_most("messages", len(turns), limits.turns)
        all_short("prompt", [self.prompt or "", *turns], limits)
        if self.messages is None:
            return _judged(self.prompt or "", "prompt")
        return _judged([Message(role=t.role, content=t.content) for t in self.messages], "messages")


class CompareRequest(_Asked):
    """Two answers."""

    a: Text
    b: Text


class ScoreRequest(_Asked):
    """An answer and one to compare it with."""

    answer: Text
    reference: Text


class BestRequest(_Asked):
    """Several answers."""

    answers: list[Text] = Field(min_length=1)


class RankRequest(BestRequest):
    """Several answers, and the tournament."""

    method: Literal["round_robin", "knockout", "swiss"] = "round_robin"


class RewardRequest(BaseModel):
    """OpenRLHF's body: prompts with the responses behind them, the prompts, and reference answers."""

    model_config = ConfigDict(extra="forbid")
    query: list[Text]  # of several servers, OpenRLHF sends some an empty list
    prompts: list[Text]
    labels: list[Text | None] | None = None

    @model_validator(mode="after")
    def _as_many(self) -> RewardRequest:
        if any(len(given) != len(self.query) for given in (self.prompts, self.labels) if given is not None):
            raise ValueError("query, prompts and labels must be of one length")
        return self

    def schedule(self, limits: Limits, ends: tuple[str, ...]) -> Schedule:
        """Return what is to be compared."""
        at_most("query", len(self.query), limits.queries)
        all_short("query", self.query, limits)
        labels = [
            label or None for label in self.labels or [None] * len(self.query)
        ]  # without a label_key it is ""
        all_short("labels", [label or "" for label in labels], limits)
        alone = Counter(p for p, label in zip(self.prompts, labels, strict=True) if label is None)
        at_most("samples of one prompt", max(alone.values(), default=0), limits.answers)
        if self.query and max(alone.values(), default=0) < 2 and not any(labels):
            raise DataError(
                "there is nothing to compare a sample with",
                where="query",
                mend="OpenRLHF posts each sample alone: give reference answers by its label_key",
            )
        prompts = [_judged(prompt, f"prompts[{number}]") for number, prompt in enumerate(self.prompts)]
        return Schedule.of(prompts, responses(self.query, self.prompts, ends), labels)


def _judged(prompt: Prompt, name: str) -> Prompt:
    """Refuse here what would spoil the batch it goes into."""
    try:
        return read_prompt(prompt, name)
    except BadRow as bad:
        raise DataError(bad.reason.replace("_", " "), where=name, mend=bad.detail) from None


class TooLarge(ReasonGenRMError):
    """A request holds more than it may; answered by 413."""


def at_most(what: str, number: int, most: int) -> None:
    """Raise TooLarge for more than `most` of something."""
    if number > most:
        raise TooLarge(f"{number} {what}", mend=f"at most {most} are taken")


def all_short(what: str, texts: Iterable[str], limits: Limits) -> None:
    """Raise TooLarge for a text that is longer than it may be."""
    longest = max(map(len, texts), default=0)
    if longest > limits.text:
        raise TooLarge(f"{what} has {longest} characters", mend=f"at most {limits.text} are taken")
