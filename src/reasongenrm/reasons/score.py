"""Score reasons under the student: log p(R | U) and log p(A | U, R), from which the selectors work.

The work is laid out here; `score_transformers.py` and `score_vllm.py` do it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Protocol

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import verdict_text
from reasongenrm.records import JudgePrompt, Reason, ScoredReason
from reasongenrm.store import PartStore, to_json

CHUNK = 256
"""Prompts that are laid out together: batches do not reach across, so that done chunks need no tokenising again."""


@dataclass(frozen=True, slots=True)
class Line:
    """What the judge would have to write after one prompt: a reason, the header, and the right verdict.

    Attributes:
        reason: the reason.
        ids: token ids of reason, header and verdict.
        said: number of reason tokens, which come first.
        verdict: number of verdict tokens, which come last.
    """

    reason: Reason
    ids: tuple[int, ...]
    said: int
    verdict: int

    @property
    def scored(self) -> list[int]:
        """Places in `ids` of the tokens whose log-probabilities are wanted: the reason's, then the verdict's."""
        return [*range(self.said), *range(len(self.ids) - self.verdict, len(self.ids))]


@dataclass(frozen=True, slots=True)
class Group:
    """One prompt and the reasons that share it.

    Attributes:
        prompt: the judge prompt.
        asked: its token ids, up to and including the header that the judge answers to.
        lines: its reasons.
    """

    prompt: JudgePrompt
    asked: tuple[int, ...]
    lines: tuple[Line, ...]


class Scorer(Protocol):
    """A student that gives log-probabilities.

    Attributes:
        encoder: tokenizer and chat template of the reasoning judge.
    """

    encoder: ChatEncoder

    def score(self, groups: Sequence[Group]) -> list[ScoredReason]:
        """Return the scores of one batch in its order: a function of the batch alone."""
        ...


def lay_out(encoder: ChatEncoder, prompt: JudgePrompt, reasons: Sequence[Reason]) -> Group:
    """Return the token ids of a prompt and of what the judge would have to write for each reason."""
    header = encoder.structure(encoder.between)
    verdict = encoder.content(verdict_text(prompt.winner, encoder.grammar))
    lines = []
    for reason in reasons:
        said = encoder.content(reason.text)
        lines.append(Line(reason, (*said, *header, *verdict), len(said), len(verdict)))
    return Group(prompt, tuple(encoder.encode(prompt.messages, generation=True)), tuple(lines))


def scored_reason(group: Group, line: Line, logprobs: Sequence[float]) -> ScoredReason:
    """Average the log-probabilities (nats) of the line's scored tokens over the reason, and over the verdict."""
    assert line.reason.verdict is not None, "a reason without a verdict is not scored"
    return ScoredReason(
        id=line.reason.id,
        prompt_id=line.reason.prompt_id,
        text=line.reason.text,
        verdict=line.reason.verdict,
        winner=group.prompt.winner,
        reason_logprob=round(sum(logprobs[: line.said]) / line.said, 6),
        verdict_logprob=round(sum(logprobs[line.said :]) / line.verdict, 6),
        tokens=line.said,
        teacher=line.reason.teacher,
        mode=line.reason.mode,
    )


def batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Group indices by length into batches of at most `batch_tokens` padded tokens (one row at least).

    A function of the lengths alone: a resumed run forms the same batches, and so the same scores.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[index] > batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def packs(groups: Iterable[Group], batch_tokens: int) -> Iterator[list[Group]]:
    """Fill batches of at most `batch_tokens` tokens in the given order, each prompt counted once.

    A group that is larger by itself is cut into several, which repeat its prompt; one reason stands alone if need be.
    """
    batch: list[Group] = []
    room = batch_tokens
    for group in groups:
        for part in _parts(group, batch_tokens):
            tokens = len(part.asked) + sum(len(line.ids) for line in part.lines)
            if batch and tokens > room:
                yield batch
                batch, room = [], batch_tokens
            batch.append(part)
            room -= tokens
    if batch:
        yield batch


def _parts(group: Group, batch_tokens: int) -> Iterator[Group]:
    lines: list[Line] = []
    room = batch_tokens - len(group.asked)
    for line in group.lines:
        if lines and len(line.ids) > room:
            yield replace(group, lines=tuple(lines))
            lines, room = [], batch_tokens - len(group.asked)
        lines.append(line)
        room -= len(line.ids)
    if lines:
        yield replace(group, lines=tuple(lines))


def score_reasons(
    groups: Iterable[tuple[JudgePrompt, Sequence[Reason]]],
    load: Callable[[], Scorer],
    store: PartStore,
    *,
    batch_tokens: int,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Score every reason into the store (rows are `ScoredReason`), in the order of the prompts and their reasons.

    The groups are read as a stream, `CHUNK` prompts at a time. Batches depend on the groups alone, so a resumed run
    forms the same ones; a batch that a kill left half written is scored again.

    Args:
        groups: each prompt with its reasons that are worth scoring: whole, not empty, with a verdict; maybe none.
        load: gives the student; called only when something is left to score.
        store: of scored reasons.
        batch_tokens: tokens per batch, each prompt counted once.
        progress: called with the number of reasons just done.
    """
    if store.finished:
        return
    scorer: Scorer | None = None
    order: list[str] = []
    stream = iter(groups)
    while chunk := list(islice(stream, CHUNK)):
        ids = [reason.id for _, reasons in chunk for reason in reasons]
        order += ids
        if all(row in store for row in ids):
            progress(len(ids))
            continue
        scorer = scorer or load()
        encoder = scorer.encoder
        for batch in packs((lay_out(encoder, prompt, reasons) for prompt, reasons in chunk), batch_tokens):
            lines = [line for group in batch for line in group.lines]
            if any(line.reason.id not in store for line in lines):
                store.append(to_json(scored) for scored in scorer.score(batch))
            progress(len(lines))
    store.finish(order)
