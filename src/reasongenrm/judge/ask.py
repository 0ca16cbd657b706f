"""Requests to a judge: one per vote, and a rescue request that allows only the verdict."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Generic, TypeVar

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.verdict import VerdictTokens, reason_ids
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.base import Engine, Request, complete_missing, request_seed
from reasongenrm.records import Completion, JudgePrompt, Message, Rating, RatingPrompt, Verdict
from reasongenrm.store import PartStore, completion_from_json

RESCUE = "#rescue"

RESCUE_TOKENS = 16
"""Token limit of a rescue by text."""


P = TypeVar("P", bound=JudgePrompt | RatingPrompt)
J = TypeVar("J", bound=Verdict | Rating)


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

    closing: str
    """Text that ends a verdict (or a rating)."""
    rescue_prompt: str
    """User turn of a rescue by text."""

    def __init__(
        self, config: JudgingConfig, encoder: ChatEncoder | None, max_model_len: int, *, seed: int
    ) -> None:
        self.config, self.seed, self.encoder, self.max_model_len = config, seed, encoder, max_model_len
        self.verdict_tokens = VerdictTokens.from_encoder(encoder) if encoder else None
        self.forced_choice = self.forced_choice_request(encoder) if encoder else None

    def request_ids(self, prompt: P) -> list[str]:
        """Return the ids of a prompt's requests, one per vote."""
        return [prompt.id, *(f"{prompt.id}#{vote}" for vote in range(2, self.config.votes + 1))]

    def requests(self, prompts: Sequence[P]) -> Iterator[Request]:
        """Yield one request per vote; the votes of a prompt follow each other, so that its prefix is computed once.

        A long prompt leaves less room for the completion, at least one token. The engine refuses a prompt that fills
        the context; that is counted as an error.
        """
        limit, temperature = self.config.max_tokens, self.config.temperature
        for prompt in prompts:
            if self.encoder is None or self.forced_choice is None:
                request = Request(prompt.id, (), limit, temperature, messages=prompt.messages)
            else:
                prompt_ids = tuple(self.encoder.encode(prompt.messages, generation=True))
                request = Request(
                    prompt.id,
                    prompt_ids,
                    max_tokens=max(1, min(limit, self.max_model_len - len(prompt_ids))),
                    temperature=temperature,
                    stop=(self.closing + self.encoder.end_marker,),
                    ignore_eos=True,
                    logprob_token_ids=self.forced_choice.logprob_token_ids,
                )
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

    @abstractmethod
    def forced_choice_request(self, encoder: ChatEncoder) -> Request:
        """Return a rescue without prompt and reason: the ids that every verdict (or rating) begins with, and the only
        ids that may follow."""

    @abstractmethod
    def read(self, prompt: P, completion: Completion) -> J:
        """Read one completion; the judgement's id is the completion's."""

    @abstractmethod
    def read_rescue(self, first: J, completion: Completion) -> J:
        """Return `first` with the verdict of its rescue; unchanged where that cannot be read either."""

    @abstractmethod
    def combine(self, prompt: P, votes: Sequence[J]) -> J:
        """Combine the votes on a prompt."""


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
    complete_missing(engine, task.requests(prompts), store, adapter=adapter, progress=progress)
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


def read_all(prompts: Sequence[P], task: JudgeTask[P, J], store: PartStore) -> list[J]:
    """Read one judgement per prompt from stored completions, in the order of the prompts; send no request."""

    def votes(prompt: P) -> Iterator[J]:
        for request_id in task.request_ids(prompt):
            vote, rescue = task.read(prompt, _stored(store, request_id)), request_id + RESCUE
            yield task.read_rescue(vote, _stored(store, rescue)) if rescue in store else vote

    return [task.combine(prompt, list(votes(prompt))) for prompt in prompts]


def ask_in_memory(
    prompts: Sequence[P], engine: Engine, task: JudgeTask[P, J], *, adapter: str | None = None
) -> list[tuple[J, list[Completion]]]:
    """Send all requests to the engine, then all rescues; store nothing.

    A prompt that occurs twice is asked once.

    Returns:
        Per prompt the judgement of all its votes, and the completions of its votes and rescues.
    """
    distinct = {prompt.id: prompt for prompt in prompts}
    prompt_by_request_id = {name: prompt for prompt in distinct.values() for name in task.request_ids(prompt)}
    completions = {c.id: c for c in engine.complete(task.requests([*distinct.values()]), adapter=adapter)}
    votes = {name: task.read(prompt, completions[name]) for name, prompt in prompt_by_request_id.items()}
    rescues = [
        task.rescue(prompt, completions[name])
        for name, prompt in prompt_by_request_id.items()
        if task.needs_rescue(votes[name])
    ]
    for completion in engine.complete(rescues, adapter=adapter) if rescues else ():
        name = completion.id.removesuffix(RESCUE)
        votes[name] = task.read_rescue(votes[name], completion)
        completions[completion.id] = completion

    def result(prompt: P) -> tuple[J, list[Completion]]:
        names = task.request_ids(prompt)
        read_from = [completions.get(name + suffix) for name in names for suffix in ("", RESCUE)]
        return task.combine(prompt, [votes[name] for name in names]), [c for c in read_from if c]

    results = {name: result(prompt) for name, prompt in distinct.items()}
    return [results[prompt.id] for prompt in prompts]
