"""Ask an engine to judge prompts, keep its completions, and turn them into verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from reasongenrm.engines.base import Engine
from reasongenrm.engines.resume import complete_missing
from reasongenrm.judge.asking import RESCUE, Asker
from reasongenrm.records import Completion, JudgePrompt, Verdict, completion_from_json
from reasongenrm.store import PartStore


def judge(
    prompts: Sequence[JudgePrompt],
    engine: Engine,
    asker: Asker,
    store: PartStore,
    *,
    adapter: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> list[Verdict]:
    """Judge every prompt and return one verdict each, in the order of the prompts.

    All prompts go to the engine; completions that cannot be read are then asked once for the verdict alone.
    Completions are kept in the store, so a killed run goes on where it stopped.

    Args:
        prompts: what to judge; ids are distinct.
        engine: the engine that holds the base model.
        asker: how it is asked.
        store: of completions.
        adapter: the trained LoRA folder, None for the untouched base.
        progress: called with the number of requests just done.
    """
    if not store.finished:
        complete_missing(engine, asker.requests(prompts), store, adapter=adapter, progress=progress)
        owed = [(p, c) for p, c, verdict in _read(prompts, store, asker) if asker.owes_rescue(verdict)]
        complete_missing(engine, (asker.rescue(p, c) for p, c in owed), store, adapter=adapter)
        asked = [name for prompt in prompts for name in asker.names(prompt)]
        store.finish(asked + [completion.id + RESCUE for _, completion in owed])
    return verdicts(prompts, store, asker)


def _read(
    prompts: Sequence[JudgePrompt], store: PartStore, asker: Asker
) -> Iterator[tuple[JudgePrompt, Completion, Verdict]]:
    for prompt in prompts:
        for name in asker.names(prompt):
            completion = completion_from_json(store[name])
            yield prompt, completion, asker.read(prompt, completion)


def verdicts(prompts: Sequence[JudgePrompt], store: PartStore, asker: Asker) -> list[Verdict]:
    """Read the verdicts from stored completions; nothing is asked again."""
    votes: dict[str, list[Verdict]] = {}
    for prompt, completion, verdict in _read(prompts, store, asker):
        rescue = completion.id + RESCUE
        if rescue in store:
            verdict = asker.read_rescue(verdict, completion_from_json(store[rescue]))
        votes.setdefault(prompt.id, []).append(verdict)
    return [asker.combine(prompt, votes[prompt.id]) for prompt in prompts]


@dataclass(frozen=True, slots=True)
class Answered:
    """What came of one prompt.

    Attributes:
        verdict: of all its votes.
        prompt_tokens: tokens read for it.
        error: what went wrong, if the engine failed.
    """

    verdict: Verdict
    prompt_tokens: int
    error: str | None


def judge_now(
    prompts: Sequence[JudgePrompt], engine: Engine, asker: Asker, *, adapter: str | None = None
) -> list[Answered]:
    """Judge every prompt, keeping nothing; return what came of each, in their order.

    All requests go to the engine at once, and then all rescues.
    """
    of = {name: prompt for prompt in prompts for name in asker.names(prompt)}
    found = {c.id: c for c in engine.complete(asker.requests(prompts), adapter=adapter)}
    votes = {name: asker.read(prompt, found[name]) for name, prompt in of.items()}
    rescues = [asker.rescue(of[name], found[name]) for name in of if asker.owes_rescue(votes[name])]
    for completion in engine.complete(rescues, adapter=adapter) if rescues else ():
        name = completion.id.removesuffix(RESCUE)
        votes[name] = asker.read_rescue(votes[name], completion)
        found[completion.id] = completion

    def answered(prompt: JudgePrompt) -> Answered:
        names = asker.names(prompt)
        both = [c for name in names for c in (found[name], found.get(name + RESCUE)) if c]
        error = next((found[name].error for name in names if found[name].error), None)
        verdict = asker.combine(prompt, [votes[name] for name in names])
        return Answered(verdict, sum(completion.prompt_tokens for completion in both), error)

    return [answered(prompt) for prompt in prompts]
