"""Ratings of single answers from pairs: how often an answer is preferred, on the judge's scale."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

from reasongenrm.config.prepare import RatingsConfig
from reasongenrm.records import Message, PreferencePair


class RatedAnswer(NamedTuple):
    """An answer and its rating.

    Attributes:
        history: turns up to and including the last user turn.
        answer: the answer.
        rating: 1 (worst) to 10 (best).
        source: of the first pair with the answer.
    """

    history: tuple[Message, ...]
    answer: str
    rating: int
    source: str


def rated_answers(pairs: Iterable[PreferencePair], config: RatingsConfig) -> Iterator[RatedAnswer]:
    """Yield each answer of a prompt once, with its rating.

    Pairs of one prompt that follow each other, as those from ranked answers do, are compared together. The rating is
    `low + (high - low) · s`, rounded, where s is the share of its pairs in which the answer is preferred (Copeland's score; with
    all pairs of a ranking, Borda's). The two answers of a single pair get `high` and `low`.

    Args:
        pairs: in the order of `pairs.jsonl`.
        config: ratings of an answer that is always preferred, and of one that never is.
    """
    for history, group in groupby(pairs, key=lambda pair: pair.history):
        won: Counter[str] = Counter()
        compared: Counter[str] = Counter()
        sources: dict[str, str] = {}
        for pair in group:
            won[pair.chosen] += 1
            for answer in (pair.chosen, pair.rejected):
                compared[answer] += 1
                sources.setdefault(answer, pair.source)
        for answer, source in sources.items():
            share = won[answer] / compared[answer]
            rating = int(config.low + (config.high - config.low) * share + 0.5)
            yield RatedAnswer(history, answer, rating, source)
