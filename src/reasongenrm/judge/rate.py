"""One answer rated alone on a scale of 1 to 10: how the judge is asked, how it is read, and many votes made one.

The judge closes its last turn with `[[7]]`; the last rating counts. It is read where a verdict is: behind the verdict's
header, found among the token ids, or, of a server that gives the text alone, only where it closes the text. What is no
whole number from 1 to 10 in double brackets is no rating.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain, takewhile

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.verdict import VerdictTokens, after_header, read_outcome, reason_ids
from reasongenrm.judge.ask import ForcedChoice, JudgeTask, SamplingSettings
from reasongenrm.judge.verdicts import mean_of
from reasongenrm.records import Completion, Rating, RatingPrompt

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


def read_rating(completion: Completion, encoder: ChatEncoder, tokens: RatingTokens) -> Rating:
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


def read_rating_text(completion: Completion) -> Rating:
    """Read a completion of which the text alone is known: the rating that closes it, and the reason before it."""
    found = rating_at_end(completion.text) if completion.finish_reason == "stop" else None
    reason, rating = found if found else (completion.text, None)
    return _rated(completion, reason, rating)


def _rated(completion: Completion, reason: str, rating: int | None) -> Rating:
    outcome = read_outcome(completion, rating)
    return Rating(
        completion.id,
        None if rating is None or outcome == "error" else float(rating),
        outcome,
        reason.strip(),
        completion.tokens,
        completion.prompt_tokens,
        completion.error if outcome == "error" else None,
    )


class RatingTask(JudgeTask[RatingPrompt, Rating]):
    """Requests for the ratings of one judge, and their reading.

    Args:
        asking: limits, votes and seeds; its `combine` and `margin` are about verdicts and mean nothing here.
        encoder: tokenizer and chat template of the judge; None for a server that is asked by messages alone.
        max_model_len: tokens of prompt and completion together.

    Raises:
        ConfigError: see `RatingTokens.of`.
    """

    closing = CLOSING
    rescue_prompt = ALONE

    def __init__(self, asking: SamplingSettings, encoder: ChatEncoder | None, max_model_len: int) -> None:
        self.tokens = tokens = RatingTokens.of(encoder) if encoder else None
        alone = None
        if tokens:
            alone = ForcedChoice(
                tokens.opening, tokens.allowed, tokens.longest, tokens.verdict.header, stop=(CLOSING,)
            )
        super().__init__(asking, encoder, tokens.verdict if tokens else None, alone, max_model_len)

    def read(self, prompt: RatingPrompt, completion: Completion) -> Rating:
        """Return the rating of one completion; its id is the completion's."""
        if self.encoder is None or self.tokens is None:
            return read_rating_text(completion)
        return read_rating(completion, self.encoder, self.tokens)

    def read_rescue(self, first: Rating, completion: Completion) -> Rating:
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

    def combine(self, prompt: RatingPrompt, votes: Sequence[Rating]) -> Rating:
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
