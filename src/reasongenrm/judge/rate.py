"""Ratings of one answer on a scale of 1 to 10: requests, reading, and several votes as one rating.

The judge closes its last turn with `[[7]]`. A rating is read where a verdict is, and by the same rules
(`VerdictTexts`): from the token ids after the verdict's header, or, for a server that returns only text, where it
closes the text. Anything but a whole number from 1 to 10 in double brackets is not a rating.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain, takewhile
from statistics import fmean

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import VerdictTexts
from reasongenrm.chat.verdict import read_closing, read_outcome, read_reason, verdict_turn
from reasongenrm.engines.base import Request
from reasongenrm.judge.ask import JudgeTask
from reasongenrm.records import Completion, Rating, RatingPrompt

LOWEST, HIGHEST = 1, 10
CLOSING = "]]"
RATINGS = VerdictTexts(tuple(f"[[{rating}]]" for rating in range(LOWEST, HIGHEST + 1)))
"""`[[1]]` to `[[10]]`."""
RESCUE_PROMPT = "Now write the closing rating alone, in the form that was asked for."


class RatingTask(JudgeTask[RatingPrompt, Rating]):
    """Ratings of single answers: requests, and how completions are read; `combine` and `margin` are not used."""

    name = "rating"
    rescue_prompt = RESCUE_PROMPT

    def forced_choice_request(self, encoder: ChatEncoder) -> Request:
        """Return the request that holds what all ratings begin with, and allows digits and closing brackets."""
        spellings = [encoder.content(text) for text in RATINGS.texts]
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
            reason, place = read_closing(completion, RATINGS)
        else:
            turn = verdict_turn(completion, self.encoder, self.verdict_tokens, RATINGS)
            text = self.encoder.tokenizer.decode(turn.ids) if turn else ""
            place = RATINGS.in_turn(text, ended=turn.ended) if turn else None
            reason = read_reason(completion, self.encoder, self.verdict_tokens, RATINGS)
        outcome = read_outcome(completion, place)
        return Rating(
            completion.id,
            None if place is None or outcome == "error" else float(LOWEST + place),
            outcome,
            reason,
            completion.tokens,
            completion.prompt_tokens,
            completion.error if outcome == "error" else None,
        )

    def read_rescue(self, prompt: RatingPrompt, first: Rating, completion: Completion) -> Rating:
        """Return `first` with the rating of its rescue, if that can be read, and with the tokens of both.

        With token ids the rescue begins with the rating; by text only a rating that closes it counts.
        """
        if self.encoder is None or self.forced_choice is None:
            place = read_closing(completion, RATINGS)[1]
        else:
            ids = [*self.forced_choice.prompt_ids, *completion.token_ids]
            text = self.encoder.tokenizer.decode(ids).lstrip()
            place = next((at for at, rating in enumerate(RATINGS.texts) if text.startswith(rating)), None)
        total = replace(
            first,
            tokens=first.tokens + completion.tokens,
            prompt_tokens=first.prompt_tokens + completion.prompt_tokens,
        )
        if place is None or completion.finish_reason == "error":
            return total
        return replace(total, rating=float(LOWEST + place), outcome="ok", rescued=True)

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
