"""How a judge is asked for its verdict, and how its answers are read: by token ids, or by text alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from reasongenrm.engines.base import Request
from reasongenrm.judge.encoder import ChatEncoder
from reasongenrm.judge.grammar import DEFAULT, Grammar
from reasongenrm.judge.verdict import (
    VerdictTokens,
    read_completion,
    read_rescue,
    read_text,
    read_text_rescue,
    reason_ids,
)
from reasongenrm.judge.votes import combine_votes
from reasongenrm.recipe_evaluate import AskingConfig
from reasongenrm.records import Completion, JudgePrompt, Message, Verdict, content_id

RESCUE = "#rescue"
RESCUE_TOKENS = 16
"""Limit of a verdict that is asked for by text."""


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


class Asker:
    """Requests for the verdicts of one judge, and their reading.

    Args:
        asking: limits, votes and seeds.
        encoder: tokenizer and chat template of the judge; None for a server that is asked by messages alone.
        max_model_len: tokens of prompt and completion together.
        grammar: the verdict grammar, where there is no encoder to know it.

    Raises:
        ConfigError: the tokenizer does not tell the verdicts apart.
    """

    def __init__(
        self, asking: Asking, encoder: ChatEncoder | None, max_model_len: int, grammar: Grammar = DEFAULT
    ) -> None:
        self.asking, self.encoder, self.max_model_len = asking, encoder, max_model_len
        self.grammar = encoder.grammar if encoder else grammar
        self.tokens = VerdictTokens.of(encoder) if encoder else None

    def names(self, prompt: JudgePrompt) -> list[str]:
        """Return the ids of a prompt's requests, one per vote."""
        return [prompt.id, *(f"{prompt.id}#{vote}" for vote in range(2, self.asking.votes + 1))]

    def requests(self, prompts: Sequence[JudgePrompt]) -> Iterator[Request]:
        """Yield a request per vote, those of one prompt behind each other, so that its tokens are computed once.

        A long prompt leaves less room for the completion, at least one token; one that fills the context is refused
        by the engine and counted as an error.
        """
        for prompt in prompts:
            ids = tuple(self.encoder.encode(prompt.messages, generation=True)) if self.encoder else ()
            for name in self.names(prompt):
                yield self._request(name, prompt, ids)

    def _request(self, name: str, prompt: JudgePrompt, ids: tuple[int, ...]) -> Request:
        asking = self.asking
        seed = request_seed(asking.seed, name) if asking.temperature > 0 else None
        if self.encoder is None or self.tokens is None:
            return Request(
                name, (), asking.max_tokens, asking.temperature, seed=seed, messages=prompt.messages
            )
        return Request(
            name,
            ids,
            max_tokens=max(1, min(asking.max_tokens, self.max_model_len - len(ids))),
            temperature=asking.temperature,
            seed=seed,
            stop=(self.grammar.closing + self.encoder.end,),
            ignore_eos=True,
            watch=(self.tokens.a, self.tokens.b),
        )

    def owes_rescue(self, verdict: Verdict) -> bool:
        """Whether a verdict has to be asked for alone."""
        return self.asking.rescue and verdict.outcome in ("unparsed", "truncated")

    def rescue(self, prompt: JudgePrompt, completion: Completion) -> Request:
        """Return the request for the letter alone, behind the prompt and as much of the reason as fits."""
        name = completion.id + RESCUE
        if self.encoder is None or self.tokens is None:
            said = Message(role="assistant", content=completion.text or "…")
            turns = (*prompt.messages, said, Message(role="user", content=self._alone()))
            return Request(name, (), RESCUE_TOKENS, messages=turns)
        ids = self.encoder.encode(prompt.messages, generation=True)
        tail: list[int] = list(self.tokens.opening)
        if self.encoder.reasons_first:
            tail = [*self.tokens.header, *tail]
            room = max(0, self.max_model_len - 1 - len(ids) - len(tail))
            tail = reason_ids(completion, self.tokens)[:room] + tail
        letters = (self.tokens.a, self.tokens.b)
        return Request(name, (*ids, *tail), max_tokens=1, allowed=letters, watch=letters)

    def _alone(self) -> str:
        return f"Now give your verdict alone: {self.grammar.a} or {self.grammar.b}."

    def read(self, prompt: JudgePrompt, completion: Completion) -> Verdict:
        """Return the verdict of one completion; its id is the completion's."""
        if self.encoder is None or self.tokens is None:
            return read_text(prompt, completion, self.grammar)
        return read_completion(prompt, completion, self.encoder, self.tokens)

    def read_rescue(self, verdict: Verdict, completion: Completion) -> Verdict:
        """Return the verdict with what was asked for alone; as it was where that cannot be read either."""
        if self.tokens is None:
            return read_text_rescue(verdict, completion, self.grammar)
        return read_rescue(verdict, completion, self.tokens)

    def combine(self, prompt: JudgePrompt, votes: Sequence[Verdict]) -> Verdict:
        """Return the verdict of a prompt's votes."""
        return combine_votes(prompt, votes, self.asking.combine, self.asking.margin)
