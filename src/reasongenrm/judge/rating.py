"""One answer rated alone on a scale of 1 to 10: how the judge is asked, how it is read, and many votes made one.

The judge closes its last turn with `[[7]]`; the last rating counts. It is read where a verdict is: behind the verdict's
header, found among the token ids, or, of a server that gives the text alone, only where it closes the text. What is no
whole number from 1 to 10 in double brackets is no rating.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from typing import Literal

from reasongenrm.engines.base import Engine, Request
from reasongenrm.engines.resume import complete_missing
from reasongenrm.judge.asking import RESCUE, RESCUE_TOKENS, Asking, request_seed
from reasongenrm.judge.encoder import ChatEncoder
from reasongenrm.judge.verdict import VerdictTokens, after_header, reason_ids
from reasongenrm.judge.votes import mean_of
from reasongenrm.records import Completion, Message, Rated, RatingPrompt, completion_from_json
from reasongenrm.store import PartStore

LOWEST, HIGHEST = 1, 10
CLOSING = "]]"
ALONE = "Now give your rating alone, a whole number from [[1]] to [[10]]."

_RATING = re.compile(r"\[\[(10|[1-9])\]\]")
_AT_END = re.compile(_RATING.pattern + r"\W*$")


def rating_text(rating: int) -> str:
    """Return a rating as the judge writes it."""
    return f"[[{rating}]]"


def last_rating(text: str) -> int | None:
    """Return the last rating in a text, or None."""
    found = _RATING.findall(text)
    return int(found[-1]) if found else None


def rating_at_end(text: str) -> tuple[str, int] | None:
    """Return what stands before the rating that closes a text, and the rating; None where none closes it.

    Marks that are no letters or digits may stand behind it.
    """
    found = _AT_END.search(text)
    return (text[: found.start()].rstrip(), int(found[1])) if found else None


@dataclass(frozen=True, slots=True)
class RatingTokens:
    """How a tokenizer spells a rating: `opening`, then at most `longest` of the tokens `allowed`.

    Attributes:
        opening: ids that all ratings begin with.
        allowed: ids of what follows: digits and what closes a rating.
        longest: how many ids follow at most.
        verdict: where a rating stands: the header before it and the end of its turn are those of a verdict.
    """

    opening: tuple[int, ...]
    allowed: tuple[int, ...]
    longest: int
    verdict: VerdictTokens

    @classmethod
    def of(cls, encoder: ChatEncoder) -> RatingTokens:
        """Find the ids.

        Raises:
            ConfigError: the judge's turns cannot be told apart (see `VerdictTokens.of`).
        """
        spelled = [encoder.content(rating_text(rating)) for rating in range(LOWEST, HIGHEST + 1)]
        opening = [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*spelled, strict=False))]
        rests = [ids[len(opening) :] for ids in spelled]
        allowed = tuple(sorted(set(chain.from_iterable(rests))))
        return cls(tuple(opening), allowed, max(map(len, rests)), VerdictTokens.of(encoder))


def read_rating(completion: Completion, encoder: ChatEncoder, tokens: RatingTokens) -> Rated:
    """Read one completion by its token ids; what cannot be read is `truncated` (out of tokens) or `unparsed`."""
    ids = completion.token_ids
    start = after_header(ids, tokens.verdict.header) if encoder.reasons_first else 0
    rating = None
    if start is not None:
        turn = ids[start:]
        if tokens.verdict.end in turn:  # decoded on: a turn that the judge made up is no rating
            turn = turn[: turn.index(tokens.verdict.end)]
        rating = last_rating(encoder.tokenizer.decode(list(turn)))
    reason = ""
    if encoder.reasons_first:
        reason = encoder.tokenizer.decode(reason_ids(completion, tokens.verdict))
    return _rated(completion, reason, rating)


def read_rating_text(completion: Completion) -> Rated:
    """Read a completion of which the text alone is known: the rating that closes it, and the reason before it."""
    found = rating_at_end(completion.text) if completion.finish_reason == "stop" else None
    reason, rating = found if found else (completion.text, None)
    return _rated(completion, reason, rating)


def _rated(completion: Completion, reason: str, rating: int | None) -> Rated:
    outcome: Literal["ok", "unparsed", "truncated", "error"] = "ok"
    if completion.finish_reason == "error":
        outcome, rating = "error", None
    elif rating is None:
        outcome = "truncated" if completion.finish_reason == "length" else "unparsed"
    return Rated(
        completion.id,
        None if rating is None else float(rating),
        outcome,
        reason.strip(),
        completion.tokens,
        completion.prompt_tokens,
        completion.error if outcome == "error" else None,
    )


class Rater:
    """Requests for the ratings of one judge, and their reading.

    Args:
        asking: limits, votes and seeds; its `combine` and `margin` are about verdicts and mean nothing here.
        encoder: tokenizer and chat template of the judge; None for a server that is asked by messages alone.
        max_model_len: tokens of prompt and completion together.

    Raises:
        ConfigError: see `RatingTokens.of`.
    """

    def __init__(self, asking: Asking, encoder: ChatEncoder | None, max_model_len: int) -> None:
        self.asking, self.encoder, self.max_model_len = asking, encoder, max_model_len
        self.tokens = RatingTokens.of(encoder) if encoder else None

    def names(self, prompt: RatingPrompt) -> list[str]:
        """Return the ids of a prompt's requests, one per vote."""
        return [prompt.id, *(f"{prompt.id}#{vote}" for vote in range(2, self.asking.votes + 1))]

    def requests(self, prompts: Sequence[RatingPrompt]) -> Iterator[Request]:
        """Yield a request per vote, those of one prompt behind each other, so that its tokens are computed once.

        A long prompt leaves less room for the completion, at least one token; one that fills the context is refused
        by the engine and counted as an error.
        """
        asking = self.asking
        for prompt in prompts:
            ids = tuple(self.encoder.encode(prompt.messages, generation=True)) if self.encoder else ()
            room = max(1, min(asking.max_tokens, self.max_model_len - len(ids)))
            for name in self.names(prompt):
                seed = request_seed(asking.seed, name) if asking.temperature > 0 else None
                if self.encoder is None:
                    yield Request(
                        name, (), asking.max_tokens, asking.temperature, seed=seed, messages=prompt.messages
                    )
                    continue
                yield Request(
                    name,
                    ids,
                    max_tokens=room,
                    temperature=asking.temperature,
                    seed=seed,
                    stop=(CLOSING + self.encoder.end,),
                    ignore_eos=True,
                )

    def owes_rescue(self, rated: Rated) -> bool:
        """Whether a rating has to be asked for alone."""
        return self.asking.rescue and rated.outcome in ("unparsed", "truncated")

    def rescue(self, prompt: RatingPrompt, completion: Completion) -> Request:
        """Return the request for the number alone, behind the prompt and as much of the reason as fits."""
        name = completion.id + RESCUE
        if self.encoder is None or self.tokens is None:
            said = Message(role="assistant", content=completion.text or "…")
            turns = (*prompt.messages, said, Message(role="user", content=ALONE))
            return Request(name, (), RESCUE_TOKENS, messages=turns)
        tokens = self.tokens
        ids = self.encoder.encode(prompt.messages, generation=True)
        tail = list(tokens.opening)
        if self.encoder.reasons_first:
            tail = [*tokens.verdict.header, *tail]
            room = max(0, self.max_model_len - tokens.longest - len(ids) - len(tail))
            tail = reason_ids(completion, tokens.verdict)[:room] + tail
        ids += tail
        longest = max(1, min(tokens.longest, self.max_model_len - len(ids)))
        return Request(name, tuple(ids), max_tokens=longest, allowed=tokens.allowed, stop=(CLOSING,))

    def read(self, completion: Completion) -> Rated:
        """Return the rating of one completion; its id is the completion's."""
        if self.encoder is None or self.tokens is None:
            return read_rating_text(completion)
        return read_rating(completion, self.encoder, self.tokens)

    def read_rescue(self, first: Rated, completion: Completion) -> Rated:
        """Return the rating with what was asked for alone, and its cost; without a rating where that has none either."""
        if self.encoder is None or self.tokens is None:
            rating = last_rating(completion.text)
        else:
            ids = [*self.tokens.opening, *completion.token_ids]
            found = _RATING.match(self.encoder.tokenizer.decode(ids).lstrip())
            rating = int(found[1]) if found else None
        paid = replace(
            first,
            tokens=first.tokens + completion.tokens,
            prompt_tokens=first.prompt_tokens + completion.prompt_tokens,
        )
        if rating is None or completion.finish_reason == "error":
            return paid
        return replace(paid, rating=float(rating), outcome="ok", rescued=True)

    def combine(self, prompt: RatingPrompt, votes: Sequence[Rated]) -> Rated:
        """Return the mean of a prompt's votes; those that cannot be read do not count.

        Where none can be read, outcome and reason are the first vote's.
        """
        read = [vote.rating for vote in votes if vote.rating is not None]
        return replace(
            next((vote for vote in votes if vote.rating is not None), votes[0]),
            id=prompt.id,
            rating=mean_of(read) if read else None,
            tokens=sum(vote.tokens for vote in votes),
            prompt_tokens=sum(vote.prompt_tokens for vote in votes),
            rescued=any(vote.rescued for vote in votes),
            votes=tuple(vote.rating for vote in votes) if len(votes) > 1 else (),
        )

    def rated(self, prompt: RatingPrompt, found: Callable[[str], Completion | None]) -> Rated:
        """Return what came of one prompt.

        Args:
            found: request id -> completion; None where nothing was asked.
        """
        votes = []
        for name in self.names(prompt):
            completion, rescue = found(name), found(name + RESCUE)
            assert completion is not None, f"no completion {name}"
            vote = self.read(completion)
            votes.append(self.read_rescue(vote, rescue) if rescue else vote)
        return self.combine(prompt, votes)


def rate_now(
    prompts: Sequence[RatingPrompt], engine: Engine, rater: Rater, *, adapter: str | None = None
) -> list[Rated]:
    """Rate every answer, keeping nothing; return what came of each, in their order.

    All requests go to the engine at once, and then all rescues. A prompt that stands there twice is asked once.
    """
    distinct = {prompt.id: prompt for prompt in prompts}
    of = {name: prompt for prompt in distinct.values() for name in rater.names(prompt)}
    found = {c.id: c for c in engine.complete(rater.requests([*distinct.values()]), adapter=adapter)}
    owed = [name for name in of if rater.owes_rescue(rater.read(found[name]))]
    rescues = [rater.rescue(of[name], found[name]) for name in owed]
    if rescues:
        found |= {c.id: c for c in engine.complete(rescues, adapter=adapter)}
    told = {name: rater.rated(prompt, found.get) for name, prompt in distinct.items()}
    return [told[prompt.id] for prompt in prompts]


def rate(
    prompts: Sequence[RatingPrompt],
    engine: Engine,
    rater: Rater,
    store: PartStore,
    *,
    adapter: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Rate every answer; completions are kept in the store, so a killed run goes on where it stopped.

    Args:
        prompts: what to rate; ids are distinct.
        engine: the engine that holds the base model.
        rater: how it is asked.
        store: of completions; read them with `ratings`.
        adapter: the trained LoRA folder, None for the untouched base.
        progress: called with the number of requests just done.
    """
    if store.finished:
        return
    complete_missing(engine, rater.requests(prompts), store, adapter=adapter, progress=progress)
    of = {name: prompt for prompt in prompts for name in rater.names(prompt)}
    owed = [name for name in of if rater.owes_rescue(rater.read(completion_from_json(store[name])))]
    rescues = (rater.rescue(of[name], completion_from_json(store[name])) for name in owed)
    complete_missing(engine, rescues, store, adapter=adapter)
    store.finish([*of, *(name + RESCUE for name in owed)])


def ratings(prompts: Sequence[RatingPrompt], store: PartStore, rater: Rater) -> list[Rated]:
    """Read the ratings from stored completions; nothing is asked again."""

    def found(name: str) -> Completion | None:
        return completion_from_json(store[name]) if name in store else None

    return [rater.rated(prompt, found) for prompt in prompts]
