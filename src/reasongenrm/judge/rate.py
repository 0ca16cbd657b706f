"""Ratings of one answer on a scale of 1 to 10: requests, reading, and several votes as one rating.

The judge closes its last turn with `[[7]]`; the last rating counts. A rating is read where a verdict is: from the token
ids after the verdict's header, or, for a server that returns only text, where it closes the text. Anything but a whole
number from 1 to 10 in double brackets is not a rating.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, takewhile
from statistics import fmean

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.verdict import read_outcome, read_reason, verdict_turn
from reasongenrm.engines.base import Request
from reasongenrm.judge.ask import JudgeTask
from reasongenrm.records import Completion, Rating, RatingPrompt

LOWEST, HIGHEST = 1, 10
CLOSING = "]]"
RESCUE_PROMPT = "Now give your rating alone, a whole number from [[1]] to [[10]]."

_RATING = re.compile(r"\[\[(10|[1-9])\]\]")
_AT_END = re.compile(_RATING.pattern + r"\W*$")


def last_rating(text: str) -> int | None:
    """Return the last rating in a text, or None."""
    ratings = _RATING.findall(text)
    return int(ratings[-1]) if ratings else None


def split_rating_at_end(text: str) -> tuple[str, int] | None:
    """Return the text before the rating that closes it, and the rating; None if no rating closes it.

    Only characters other than letters and digits may follow the rating.
    """
    match = _AT_END.search(text)
    return (text[: match.start()].rstrip(), int(match[1])) if match else None


class RatingTask(JudgeTask[RatingPrompt, Rating]):
    """Ratings of single answers: requests, and how completions are read; `combine` and `margin` are not used."""

    rescue_prompt = RESCUE_PROMPT

    def forced_choice_request(self, encoder: ChatEncoder) -> Request:
        """Return the request that holds what all ratings begin with, and allows digits and closing brackets."""
        spellings = [encoder.content(f"[[{rating}]]") for rating in range(LOWEST, HIGHEST + 1)]
        opening = [ids[0] for ids in takewhile(lambda ids: len(set(ids)) == 1, zip(*spellings, strict=False))]
        rests = [ids[len(opening) :] for ids in spellings]
        allowed = tuple(sorted(set(chain.from_iterable(rests))))
        limit = max(map(len, rests))
        return Request("", tuple(opening), max_tokens=limit, allowed=allowed, stop=(CLOSING,))

    def read(self, prompt: RatingPrompt, completion: Completion) -> Rating:
        """Read the rating of one completion; its id is the completion's.

        Of a server that returns only text, the rating must close the text.
        """
        if self.encoder is None or self.verdict_tokens is None:
            parts = split_rating_at_end(completion.text) if completion.finish_reason == "stop" else None
            reason, rating = parts or (completion.text, None)
        else:
            turn = verdict_turn(completion, self.encoder, self.verdict_tokens)
            rating = last_rating(self.encoder.tokenizer.decode(turn[1])) if turn else None
            reason = read_reason(completion, self.encoder, self.verdict_tokens)
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

    def read_rescue(self, first: Rating, completion: Completion) -> Rating:
        """Return `first` with the rating of its rescue, if that can be read, and with the tokens of both."""
        if self.encoder is None or self.forced_choice is None:
            rating = last_rating(completion.text)
        else:
            ids = [*self.forced_choice.prompt_ids, *completion.token_ids]
            match = _RATING.match(self.encoder.tokenizer.decode(ids).lstrip())
            rating = int(match[1]) if match else None
        total = replace(
            first,
            tokens=first.tokens + completion.tokens,
            prompt_tokens=first.prompt_tokens + completion.prompt_tokens,
        )
        if rating is None or completion.finish_reason == "error":
            return total
        return replace(total, rating=float(rating), outcome="ok", rescued=True)

    def combine(self, prompt: RatingPrompt, votes: Sequence[Rating]) -> Rating:
        """Return the mean of the votes that can be read; if none can, outcome and reason are the first vote's."""
        ratings = [vote.rating for vote in votes if vote.rating is not None]
        return replace(
            next((vote for vote in votes if vote.rating is not None), votes[0]),
            id=prompt.id,
            rating=fmean(ratings) if ratings else None,
            tokens=sum(vote.tokens for vote in votes),
            prompt_tokens=sum(vote.prompt_tokens for vote in votes),
            rescued=any(vote.rescued for vote in votes),
            votes=tuple(vote.rating for vote in votes) if len(votes) > 1 else (),
        )
