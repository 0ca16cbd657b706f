"""Ask an engine to judge prompts, and turn its completions into verdicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from reasongenrm.engines.base import Engine, Request
from reasongenrm.engines.resume import complete_missing
from reasongenrm.judge.prompts import ChatEncoder
from reasongenrm.judge.verdict import VerdictTokens, read_completion, read_rescue, reason_ids
from reasongenrm.records import Completion, JudgePrompt, Verdict, completion_from_json, content_id
from reasongenrm.store import PartStore

RESCUE = "#rescue"


@dataclass(frozen=True, slots=True)
class Asking:
    """How the judge is asked.

    Attributes:
        max_tokens: limit per completion.
        temperature: 0 is greedy.
        rescue: ask a completion that cannot be read for the verdict alone.
        seed: of the run; each prompt gets its own seed from it.
    """

    max_tokens: int
    temperature: float
    rescue: bool
    seed: int


def request_seed(seed: int, name: str) -> int:
    """Return the sampling seed of one request, a function of the run's seed and the request's id."""
    return int(content_id("sample", seed, name), 16) % 2**31


def judge_requests(
    prompts: Sequence[JudgePrompt],
    encoder: ChatEncoder,
    tokens: VerdictTokens,
    asking: Asking,
    max_model_len: int,
) -> Iterator[Request]:
    """Yield one request per prompt. A long prompt leaves less room for the completion, at least one token; one that
    fills the context is refused by the engine and counted as an error."""
    for prompt in prompts:
        ids = encoder.encode(prompt.messages, generation=True)
        yield Request(
            prompt.id,
            tuple(ids),
            max_tokens=max(1, min(asking.max_tokens, max_model_len - len(ids))),
            temperature=asking.temperature,
            seed=request_seed(asking.seed, prompt.id) if asking.temperature > 0 else None,
            stop=(encoder.grammar.closing + encoder.end,),
            ignore_eos=True,
            watch=(tokens.a, tokens.b),
        )


def _rescue_requests(
    owed: Sequence[tuple[JudgePrompt, Completion]],
    encoder: ChatEncoder,
    tokens: VerdictTokens,
    max_model_len: int,
) -> Iterator[Request]:
    """Ask for the letter alone, behind the prompt and as much of the reason as fits."""
    for prompt, completion in owed:
        ids = encoder.encode(prompt.messages, generation=True)
        tail: list[int] = list(tokens.opening)
        if encoder.reasons_first:
            tail = [*tokens.header, *tail]
            room = max(0, max_model_len - 1 - len(ids) - len(tail))
            tail = reason_ids(completion, tokens)[:room] + tail
        letters = (tokens.a, tokens.b)
        yield Request(prompt.id + RESCUE, (*ids, *tail), max_tokens=1, allowed=letters, watch=letters)


def judge(
    prompts: Sequence[JudgePrompt],
    engine: Engine,
    encoder: ChatEncoder,
    asking: Asking,
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
        encoder: tokenizer and chat template of the judge.
        asking: limits and seeds.
        store: of completions.
        adapter: the trained LoRA folder, None for the untouched base.
        progress: called with the number of prompts just done.
    """
    tokens = VerdictTokens.of(encoder)
    if not store.finished:
        requests = judge_requests(prompts, encoder, tokens, asking, engine.max_model_len)
        complete_missing(engine, requests, store, adapter=adapter, progress=progress)
        owed = [(p, c) for p, c, v in _read(prompts, store, encoder, tokens) if _owes_rescue(v, asking)]
        complete_missing(
            engine, _rescue_requests(owed, encoder, tokens, engine.max_model_len), store, adapter=adapter
        )
        store.finish([p.id for p in prompts] + [p.id + RESCUE for p, _ in owed])
    return verdicts(prompts, store, encoder)


def _owes_rescue(verdict: Verdict, asking: Asking) -> bool:
    return asking.rescue and verdict.outcome in ("unparsed", "truncated")


def _read(
    prompts: Sequence[JudgePrompt], store: PartStore, encoder: ChatEncoder, tokens: VerdictTokens
) -> Iterator[tuple[JudgePrompt, Completion, Verdict]]:
    for prompt in prompts:
        completion = completion_from_json(store[prompt.id])
        yield prompt, completion, read_completion(prompt, completion, encoder, tokens)


def verdicts(prompts: Sequence[JudgePrompt], store: PartStore, encoder: ChatEncoder) -> list[Verdict]:
    """Read the verdicts from stored completions; nothing is asked again."""
    tokens = VerdictTokens.of(encoder)
    found = []
    for prompt, _, verdict in _read(prompts, store, encoder, tokens):
        rescue = prompt.id + RESCUE
        if rescue in store:
            verdict = read_rescue(verdict, completion_from_json(store[rescue]), tokens)
        found.append(verdict)
    return found
