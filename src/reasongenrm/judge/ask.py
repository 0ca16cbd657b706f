"""Ask a judge: requests, rescues and verdicts; several votes as one verdict, both orders as one comparison."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from statistics import fmean
from typing import ClassVar, Generic, TypeVar

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import DEFAULT_GRAMMAR, Grammar
from reasongenrm.chat.verdict import (
    VerdictTokens,
    read_completion,
    read_rescue,
    read_text,
    reason_ids,
    winner_by_share,
)
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.base import Engine, Request, complete_missing, request_seed
from reasongenrm.errors import ConfigError
from reasongenrm.judge.turns import JudgingEngine, Turns
from reasongenrm.records import (
    Comparison,
    Completion,
    JudgePrompt,
    ListPrompt,
    ListVerdict,
    Message,
    Rating,
    RatingPrompt,
    Verdict,
    Winner,
)
from reasongenrm.scalar.meta import MetaScores
from reasongenrm.store import PartStore, completion_from_json

RESCUE = "#rescue"

RESCUE_TOKENS = 16
"""Token limit of a rescue by text."""

RESCUE_PROMPT = "Now write the closing verdict alone, in the form that was asked for."
"""User turn of a rescue by text. It holds no verdict, so that an answer which repeats it has none."""

WINDOW = 32
"""Prompts whose votes are scored together."""

_POINTS = {"A": 1.0, "tie": 0.5, "B": 0.0}

P = TypeVar("P", bound=JudgePrompt | RatingPrompt | ListPrompt)
J = TypeVar("J", bound=Verdict | Rating | ListVerdict)


class JudgeTask(ABC, Generic[P, J]):
    """Requests of one kind to one judge, and how its completions are read.

    Args:
        config: limits, votes, and how votes are combined.
        encoder: tokenizer and chat template of the judge; None for a server that takes messages.
        max_model_len: tokens of prompt and completion together.
        seed: of the run; every sampled request derives its own seed from it.

    Raises:
        ConfigError: see `VerdictTokens.from_encoder`.
    """

    name: ClassVar[str]
    rescue_prompt = RESCUE_PROMPT

    def __init__(
        self, config: JudgingConfig, encoder: ChatEncoder | None, max_model_len: int, *, seed: int
    ) -> None:
        self.config, self.seed, self.encoder, self.max_model_len = config, seed, encoder, max_model_len
        self.verdict_tokens = self.find_tokens(encoder) if encoder else None
        self.forced_choice = self.forced_choice_request(encoder) if encoder else None
        self.turns: Turns | None = None
        if encoder and self.verdict_tokens and self.forced_choice:
            self.turns = Turns(
                encoder, self.verdict_tokens, self.forced_choice, max_model_len, seed, self.name
            )
        # One object for all calls: workers are sent it once.
        self._both_turns = partial(JudgingEngine, turns=(self.turns,)) if self.turns else None

    def engine(self, engine: Engine) -> Engine:
        """Return an engine that completes `requests`."""
        return engine.wrapped(self._both_turns) if self._both_turns else engine

    def request_ids(self, prompt: P) -> list[str]:
        """Return the ids of a prompt's requests, one per vote."""
        return [prompt.id, *(f"{prompt.id}#{vote}" for vote in range(2, self.config.votes + 1))]

    def requests(self, prompts: Sequence[P]) -> Iterator[Request]:
        """Yield one request per vote; the votes of a prompt follow each other, so that its prefix is computed once.

        With token ids it is the request for the reason: complete it by `self.engine(…)`. The engine refuses a prompt that
        fills the context; that is counted as an error.
        """
        limit, temperature = self.config.max_tokens, self.config.temperature
        for prompt in prompts:
            if self.turns is None:
                request = Request(prompt.id, (), limit, temperature, messages=prompt.messages)
            else:
                ids = tuple(self.turns.encoder.encode(prompt.messages, generation=True))
                request = self.turns.reason(prompt.id, ids, limit, temperature)
            for request_id in self.request_ids(prompt):
                seed = request_seed(self.seed, request_id) if temperature > 0 else None
                yield replace(request, id=request_id, seed=seed)

    def needs_rescue(self, judgement: J) -> bool:
        """Whether a vote could not be read, and rescues are enabled."""
        return self.config.rescue and judgement.outcome in ("unparsed", "truncated")

    def rescue(self, prompt: P, completion: Completion) -> Request:
        """Return the request for the verdict alone, after the prompt and as much of the reason as fits."""
        request_id = completion.id + RESCUE
        encoder, tokens, choice = self.encoder, self.verdict_tokens, self.forced_choice
        if encoder is None or tokens is None or choice is None:
            answer = Message(role="assistant", content=completion.text or "…")
            turns = (*prompt.messages, answer, Message(role="user", content=self.rescue_prompt))
            return Request(request_id, (), RESCUE_TOKENS, messages=turns)
        ids = encoder.encode(prompt.messages, generation=True)
        tail = list(choice.prompt_ids)
        if encoder.reasons_first:
            tail = [*tokens.header, *tail]
            room = max(0, self.max_model_len - choice.max_tokens - len(ids) - len(tail))
            tail = reason_ids(completion, tokens)[:room] + tail
        ids += tail
        limit = max(1, min(choice.max_tokens, self.max_model_len - len(ids)))
        return replace(choice, id=request_id, prompt_ids=tuple(ids), max_tokens=limit)

    def find_tokens(self, encoder: ChatEncoder) -> VerdictTokens:
        """Return the token ids of a verdict; its header is that of every kind of judgement."""
        return VerdictTokens.from_encoder(encoder)

    @abstractmethod
    def forced_choice_request(self, encoder: ChatEncoder) -> Request:
        """Return a rescue without prompt and reason: the ids that every verdict (or rating) begins with, and the only
        ids that may follow."""

    @abstractmethod
    def read(self, prompt: P, completion: Completion) -> J:
        """Read one completion; the judgement's id is the completion's."""

    @abstractmethod
    def read_rescue(self, prompt: P, first: J, completion: Completion) -> J:
        """Return `first` with the verdict of its rescue; unchanged where that cannot be read either."""

    @abstractmethod
    def combine(self, prompt: P, votes: Sequence[J]) -> J:
        """Combine the votes on a prompt."""

    def combine_all(self, votes: Iterable[tuple[P, Sequence[J]]]) -> Iterator[J]:
        """Combine the votes on each of several prompts."""
        return (self.combine(prompt, some) for prompt, some in votes)


V = TypeVar("V", Verdict, ListVerdict)


def without_winner(prompt_id: str, read: Sequence[V], votes: Sequence[V]) -> V:
    """Return the first vote that was read, or the first one, with the costs and the letters of all votes on a prompt."""
    return replace(
        (read or votes)[0],
        id=prompt_id,
        tokens=sum(vote.tokens for vote in votes),
        rescued=any(vote.rescued for vote in votes),
        votes=tuple(vote.winner for vote in votes) if len(votes) > 1 else (),
    )


def meta_folder(config: JudgingConfig) -> str:
    """Return the folder of the head that scores votes.

    Raises:
        ConfigError: none is named.
    """
    if config.meta is None:
        problem = "no head is named that scores votes"
        raise ConfigError(problem, location="judging.meta", hint="give its folder, such as runs/<run>/meta")
    return config.meta


class VerdictTask(JudgeTask[JudgePrompt, Verdict]):
    """Verdicts on pairs of answers: requests, and how completions are read.

    Args:
        config, encoder, max_model_len, seed: see `JudgeTask`.
        grammar: the verdict grammar of a judge without an encoder.
        scores: store for the scores of votes, where `config.combine` is `meta`; None: they are not kept.

    Raises:
        ConfigError: `config.combine` is `meta`, and `config.meta` names no head.
    """

    name = "verdict"

    def __init__(
        self,
        config: JudgingConfig,
        encoder: ChatEncoder | None,
        max_model_len: int,
        grammar: Grammar = DEFAULT_GRAMMAR,
        *,
        seed: int,
        scores: PartStore | None = None,
    ) -> None:
        super().__init__(config, encoder, max_model_len, seed=seed)
        self.grammar = encoder.grammar if encoder else grammar
        self.meta = (
            MetaScores(meta_folder(config), self.grammar, scores) if config.combine == "meta" else None
        )

    def forced_choice_request(self, encoder: ChatEncoder) -> Request:
        """Return the request that holds the verdict's opening, and allows A or B."""
        tokens = VerdictTokens.from_encoder(encoder)
        letters = tokens.letters
        return Request("", tokens.opening, max_tokens=1, allowed=letters, logprob_token_ids=letters)

    def read(self, prompt: JudgePrompt, completion: Completion) -> Verdict:
        """Read the verdict of one completion; its id is the completion's."""
        if self.encoder is None or self.verdict_tokens is None:
            return read_text(prompt, completion, self.grammar)
        return read_completion(prompt, completion, self.encoder, self.verdict_tokens)

    def read_rescue(self, prompt: JudgePrompt, first: Verdict, completion: Completion) -> Verdict:
        """Return `first` with the verdict of its rescue; unchanged where that cannot be read either."""
        return read_rescue(first, completion, self.grammar, self.verdict_tokens)

    def combine(self, prompt: JudgePrompt, votes: Sequence[Verdict]) -> Verdict:
        """Return one verdict for all votes on a prompt.

        Votes that cannot be read do not count; if none can be read, the verdict is the first vote's. `mean` takes the
        mean P(A) of the votes, in which a vote without log-probabilities counts as 1 for A and 0 for B. `majority`
        takes the letter that most votes name. `meta` takes the mean of the better half of the votes (see `MetaScores`). An
        exactly even result is a tie, and so is one that is nearer to 0.5 than the margin (for `majority`, the share of A).
        """
        return next(self.combine_all([(prompt, votes)]))

    def combine_all(self, votes: Iterable[tuple[JudgePrompt, Sequence[Verdict]]]) -> Iterator[Verdict]:
        """Combine the votes on each of several prompts; see `combine`."""
        source = iter(votes)
        while window := list(islice(source, WINDOW)):
            counted = self.meta.better_halves(window) if self.meta else [some for _, some in window]
            for (prompt, some), half in zip(window, counted, strict=True):
                yield self._combined(prompt, some, half)

    def _combined(self, prompt: JudgePrompt, votes: Sequence[Verdict], counted: Sequence[Verdict]) -> Verdict:
        read = [vote for vote in counted if vote.winner is not None]
        total = without_winner(prompt.id, read, votes)
        if not read:
            return total
        points = [_POINTS[str(vote.winner)] for vote in read]
        probability = None
        if len(read) > 1 or read[0].prob_a is not None:
            probability = fmean(
                p if v.prob_a is None else v.prob_a for v, p in zip(read, points, strict=True)
            )
        margin = self.config.margin
        if len(read) == 1 and (probability is None or abs(probability - 0.5) >= margin):
            winner = read[0].winner
        elif probability is None or self.config.combine == "majority":
            winner = winner_by_share(fmean(points), margin)
        else:
            winner = winner_by_share(probability, margin)
        return replace(
            total,
            winner=winner,
            prob_a=probability,
            outcome="tie" if winner == "tie" else "ok",
            reason=next((vote for vote in read if vote.winner == winner), read[0]).reason,
        )


def ask_all(
    prompts: Sequence[P],
    engine: Engine,
    task: JudgeTask[P, J],
    store: PartStore,
    *,
    adapter: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Send all requests to the engine, then a rescue for each completion that cannot be read.

    Completions are kept in the store, so that a killed run continues where it stopped.

    Args:
        prompts: their ids are distinct.
        engine: the engine that holds the base model.
        task: the requests, and how completions are read.
        store: of completions; read them with `read_all`.
        adapter: the trained LoRA folder, None for the untouched base.
        progress: called with the number of requests just done.
    """
    if store.finished:
        return
    requests = task.requests(prompts)
    complete_missing(task.engine(engine), requests, store, adapter=adapter, progress=progress)
    prompt_by_request_id = {name: prompt for prompt in prompts for name in task.request_ids(prompt)}
    # Only ids are kept in memory: all completions of a benchmark would be too many.
    unread = [
        request_id
        for request_id, prompt in prompt_by_request_id.items()
        if task.needs_rescue(task.read(prompt, _stored(store, request_id)))
    ]
    rescues = (task.rescue(prompt_by_request_id[name], _stored(store, name)) for name in unread)
    complete_missing(engine, rescues, store, adapter=adapter)
    store.finish([*prompt_by_request_id, *(name + RESCUE for name in unread)])


def _stored(store: PartStore, request_id: str) -> Completion:
    return completion_from_json(store[request_id])


def read_votes(prompt: P, task: JudgeTask[P, J], store: PartStore) -> list[J]:
    """Read the votes on a prompt from stored completions."""

    votes = []
    for request_id in task.request_ids(prompt):
        vote, rescue = task.read(prompt, _stored(store, request_id)), request_id + RESCUE
        votes.append(task.read_rescue(prompt, vote, _stored(store, rescue)) if rescue in store else vote)
    return votes


def read_all(prompts: Sequence[P], task: JudgeTask[P, J], store: PartStore) -> list[J]:
    """Read one judgement per prompt from stored completions, in the order of the prompts; send no request."""
    return list(task.combine_all((prompt, read_votes(prompt, task, store)) for prompt in prompts))


def compare_orders(
    comparison_id: str, results: Sequence[tuple[Verdict, Sequence[Completion]]], *, margin: float
) -> Comparison:
    """Combine the verdicts on both orders of two answers.

    In order AB the first answer is shown as A. An order that cannot be read does not count. If all orders that were
    read have a P(A), the mean probability decides (see `winner_by_share`); otherwise the letters do, and two that
    disagree are a tie.

    Args:
        comparison_id: id of the comparison.
        results: per order, one or more, the verdict and the completions it was read from.
        margin: in P(A), from 0 to 0.5.
    """
    verdicts = [verdict for verdict, _ in results]
    completions = [completion for _, read_from in results for completion in read_from]
    read = [verdict for verdict in verdicts if verdict.winner is not None]
    probability: float | None = None
    winner: Winner | None = None
    outcome = verdicts[0].outcome
    if read:
        points = [_first_wins(_POINTS[str(verdict.winner)], verdict) for verdict in read]
        known = [_first_wins(v.prob_a, v) for v in read if v.prob_a is not None]
        probability = fmean(known) if len(known) == len(read) else None
        if probability is None or len(read) == 1:
            winner = winner_by_share(fmean(points))
        else:
            winner = winner_by_share(probability, margin)
        outcome = "tie" if winner == "tie" else "ok"
    by_order = {verdict.order: verdict for verdict in sorted(verdicts, key=lambda verdict: verdict.order)}
    callers = by_order.get("AB")
    return Comparison(
        comparison_id,
        winner,
        probability,
        # A reason in order BA calls the caller's first answer B: it is shown only under its label.
        callers.reason if callers and (callers.winner is not None or not read) else None,
        outcome,
        tuple(verdicts),
        prompt_tokens=sum(completion.prompt_tokens for completion in completions),
        tokens=sum(verdict.tokens for verdict in verdicts),
        error=next((c.error for c in completions if c.error), None) if outcome == "error" else None,
        reasons={order: verdict.reason for order, verdict in by_order.items()},
    )


def _first_wins(share_of_a: float, verdict: Verdict) -> float:
    """Return P(the first answer is better) from P(A) in the verdict's order."""
    return share_of_a if verdict.order == "AB" else 1 - share_of_a


def preference(comparison: Comparison) -> float | None:
    """Return P(the first answer is better): P(A), or else 1, 0.5 or 0 by the winner; None if nothing can be read."""
    if comparison.winner is None:
        return None
    return _POINTS[comparison.winner] if comparison.prob_a is None else comparison.prob_a
