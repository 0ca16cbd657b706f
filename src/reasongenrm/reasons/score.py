"""Score reasons under the student: log p(R | U) and log p(A | U, R), the input of the selectors.

This module forms batches and stores their scores; `student.py` holds the scorers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import LETTERS
from reasongenrm.chat.verdict import VerdictTokens
from reasongenrm.records import JudgePrompt, Reason, ScoredReason
from reasongenrm.store import PartStore, to_json

CHUNK = 256
"""Prompts that are tokenized together. No batch crosses chunks, so a resumed run skips the completed ones."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What the judge would have to write after a prompt: a reason, the header, and the right verdict.

    Attributes:
        reason: the reason.
        ids: token ids of reason, header and verdict, up to the last one that is scored.
        reason_tokens: number of reason tokens, which come first.
        verdict_tokens: number of verdict tokens that are scored, which come last.
    """

    reason: Reason
    ids: tuple[int, ...]
    reason_tokens: int
    verdict_tokens: int

    @property
    def scored_positions(self) -> list[int]:
        """Positions in `ids` of the tokens to score: the reason's, then the verdict's."""
        verdict_start = len(self.ids) - self.verdict_tokens
        return [*range(self.reason_tokens), *range(verdict_start, len(self.ids))]


@dataclass(frozen=True, slots=True)
class EncodedGroup:
    """The token ids of one prompt and its reasons.

    Attributes:
        prompt: the judge prompt.
        prompt_ids: its token ids, up to and including the header of the judge's turn.
        continuations: its reasons.
    """

    prompt: JudgePrompt
    prompt_ids: tuple[int, ...]
    continuations: tuple[Continuation, ...]


Scorer = Callable[[Sequence[EncodedGroup]], list[ScoredReason]]
"""Mean log-probabilities of one batch under the student, in its order: a function of the batch alone."""

BatchScorer = Callable[[Iterable[list[EncodedGroup]]], Iterator[list[ScoredReason]]]
"""Yields the scores of each batch, the batches in any order; loads the student when the first batch comes."""


def encode_group(
    encoder: ChatEncoder, prompt: JudgePrompt, reasons: Sequence[Reason], letter: VerdictTokens | None = None
) -> EncodedGroup:
    """Return the token ids of a prompt and of what the judge would have to write for each reason.

    With `letter`, the tokens of the two verdicts, only the one in which they differ is scored.
    """
    header = encoder.structure(encoder.reason_verdict_separator)
    if letter is None:
        verdict = encoder.content(encoder.grammar.text(prompt.winner))
        scored = len(verdict)
    else:
        verdict, scored = [*letter.opening, letter.letters[LETTERS.index(prompt.winner)]], 1
    continuations = []
    for reason in reasons:
        ids = encoder.content(reason.text)
        continuations.append(Continuation(reason, (*ids, *header, *verdict), len(ids), scored))
    return EncodedGroup(prompt, tuple(encoder.encode(prompt.messages, generation=True)), tuple(continuations))


def scored_reason(prompt: JudgePrompt, continuation: Continuation, logprobs: Sequence[float]) -> ScoredReason:
    """Average the log-probabilities (nats) of the scored tokens over the reason, and over the verdict."""
    reason, tokens = continuation.reason, continuation.reason_tokens
    assert reason.verdict is not None, "a reason without a verdict is not scored"
    return ScoredReason(
        id=reason.id,
        prompt_id=reason.prompt_id,
        text=reason.text,
        verdict=reason.verdict,
        winner=prompt.winner,
        reason_logprob=round(sum(logprobs[:tokens]) / tokens, 6),
        verdict_logprob=round(sum(logprobs[tokens:]) / continuation.verdict_tokens, 6),
        tokens=tokens,
        teacher=reason.teacher,
        mode=reason.mode,
    )


def group_batches(groups: Iterable[EncodedGroup], batch_tokens: int) -> Iterator[list[EncodedGroup]]:
    """Fill batches of at most `batch_tokens` tokens in the given order, each prompt counted once.

    A larger group is split into several, which repeat its prompt; a reason that is too long by itself is a batch.
    """
    batch: list[EncodedGroup] = []
    room = batch_tokens
    for group in groups:
        for part in _split_group(group, batch_tokens):
            tokens = len(part.prompt_ids) + sum(len(c.ids) for c in part.continuations)
            if batch and tokens > room:
                yield batch
                batch, room = [], batch_tokens
            batch.append(part)
            room -= tokens
    if batch:
        yield batch


def _split_group(group: EncodedGroup, batch_tokens: int) -> Iterator[EncodedGroup]:
    part: list[Continuation] = []
    room = batch_tokens - len(group.prompt_ids)
    for continuation in group.continuations:
        if part and len(continuation.ids) > room:
            yield replace(group, continuations=tuple(part))
            part, room = [], batch_tokens - len(group.prompt_ids)
        part.append(continuation)
        room -= len(continuation.ids)
    if part:
        yield replace(group, continuations=tuple(part))


def score_reasons(
    prompts: Iterable[tuple[JudgePrompt, Sequence[Reason]]],
    score_batches: BatchScorer,
    encoder: ChatEncoder,
    store: PartStore,
    *,
    batch_tokens: int,
    letter_only: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Score every reason into the store (rows are `ScoredReason`), in the order of the prompts and their reasons.

    The prompts are read as a stream, `CHUNK` at a time. Batches depend on prompts, reasons and `batch_tokens` alone, so a
    resumed run forms the same ones; a batch that was interrupted while it was written is scored again. In a store that was
    reopened, batches hold only reasons that it did not have before.

    Args:
        prompts: each prompt with its reasons that are worth scoring: complete, not empty, with a verdict; maybe none.
        score_batches: scores the batches that are left.
        encoder: tokenizer and chat template of the reasoning judge.
        store: of scored reasons.
        batch_tokens: tokens per batch, each prompt counted once.
        letter_only: score only the verdict's letter.
        progress: called with the number of reasons just done.

    Raises:
        ConfigError: `letter_only`, and the two verdicts do not differ in exactly one token.
    """
    if store.finished:
        return
    letter = VerdictTokens.from_encoder(encoder) if letter_only else None
    order: list[str] = []
    earlier = store.earlier or ()

    def missing_batches() -> Iterator[list[EncodedGroup]]:
        stream = iter(prompts)
        while chunk := list(islice(stream, CHUNK)):
            ids = [reason.id for _, reasons in chunk for reason in reasons]
            order.extend(ids)
            if all(row in store for row in ids):
                progress(len(ids))
                continue
            new = [(prompt, [one for one in reasons if one.id not in earlier]) for prompt, reasons in chunk]
            if scored_before := len(ids) - sum(len(reasons) for _, reasons in new):
                progress(scored_before)
            groups = (encode_group(encoder, prompt, reasons, letter) for prompt, reasons in new if reasons)
            for batch in group_batches(groups, batch_tokens):
                reason_ids = [c.reason.id for group in batch for c in group.continuations]
                if any(row not in store for row in reason_ids):
                    yield batch
                else:
                    progress(len(reason_ids))

    for scores in score_batches(missing_batches()):
        store.append(map(to_json, scores))
        progress(len(scores))
    store.finish(order)
