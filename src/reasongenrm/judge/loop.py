"""Ask an engine everything some prompts need, keep its completions or not, and read what they say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

from reasongenrm.engines.base import Engine
from reasongenrm.engines.resume import complete_missing
from reasongenrm.judge.asking import RESCUE, P, Questions, R
from reasongenrm.records import Completion
from reasongenrm.records_json import completion_from_json
from reasongenrm.store import PartStore


def ask_all(
    prompts: Sequence[P],
    engine: Engine,
    questions: Questions[P, R],
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
        if questions.owes_rescue(questions.read(prompt, _kept(store, name)))
    ]
    rescues = (questions.rescue(of[name], _kept(store, name)) for name in owed)
    complete_missing(engine, rescues, store, adapter=adapter)
    store.finish([*of, *(name + RESCUE for name in owed)])


def _kept(store: PartStore, name: str) -> Completion:
    return completion_from_json(store[name])


def read_all(prompts: Sequence[P], questions: Questions[P, R], store: PartStore) -> list[R]:
    """Read from stored completions what was said to each prompt, in their order; nothing is asked again."""

    def votes(prompt: P) -> Iterator[R]:
        for name in questions.names(prompt):
            reading = questions.read(prompt, _kept(store, name))
            rescue = name + RESCUE
            yield questions.read_rescue(reading, _kept(store, rescue)) if rescue in store else reading

    return [questions.combine(prompt, list(votes(prompt))) for prompt in prompts]


@dataclass(frozen=True, slots=True)
class Answered(Generic[R]):
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
    prompts: Sequence[P], engine: Engine, questions: Questions[P, R], *, adapter: str | None = None
) -> list[Answered[R]]:
    """Ask what every prompt needs, keeping nothing; return what came of each, in their order.

    All requests go to the engine at once, and then all rescues. A prompt that stands there twice is asked once.
    """
    distinct = {prompt.id: prompt for prompt in prompts}
    of = {name: prompt for prompt in distinct.values() for name in questions.names(prompt)}
    found = {c.id: c for c in engine.complete(questions.requests([*distinct.values()]), adapter=adapter)}
    votes = {name: questions.read(prompt, found[name]) for name, prompt in of.items()}
    rescues = [questions.rescue(of[name], found[name]) for name in of if questions.owes_rescue(votes[name])]
    for completion in engine.complete(rescues, adapter=adapter) if rescues else ():
        name = completion.id.removesuffix(RESCUE)
        votes[name] = questions.read_rescue(votes[name], completion)
        found[completion.id] = completion
    told = {name: _answered(prompt, questions, found, votes) for name, prompt in distinct.items()}
    return [told[prompt.id] for prompt in prompts]


def _answered(
    prompt: P, questions: Questions[P, R], found: Mapping[str, Completion], votes: Mapping[str, R]
) -> Answered[R]:
    names = questions.names(prompt)
    both = [c for name in names for c in (found[name], found.get(name + RESCUE)) if c]
    error = next((found[name].error for name in names if found[name].error), None)
    reading = questions.combine(prompt, [votes[name] for name in names])
    return Answered(reading, sum(completion.prompt_tokens for completion in both), error)
