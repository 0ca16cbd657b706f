"""Lists of answers from pairs: an answer, and those that it is preferred to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby

from reasongenrm.chat.grammar import LETTERS
from reasongenrm.records import AnswerList, PreferencePair, content_id

OTHERS = len(LETTERS) - 1
"""Answers of a list besides the best one, at most."""


def answer_lists(
    pairs: Iterable[PreferencePair], fits: Callable[[AnswerList], bool] = lambda answers: True
) -> Iterator[tuple[AnswerList, list[PreferencePair]]]:
    """Yield lists whose first answer is preferred to all others, with the pairs they are made of.

    Every pair is in exactly one list. Pairs of one prompt and one chosen answer that follow each other, as those from ranked
    answers do, are one list; any other pair is a list of two. An answer that is preferred to more than seven others heads
    several lists.

    Args:
        pairs: in the order of `pairs.jsonl`.
        fits: whether a list is short enough; one that is not is halved, down to lists of two.
    """
    for _, group in groupby(pairs, key=lambda pair: (pair.history, pair.chosen)):
        of_answer = list(group)
        for start in range(0, len(of_answer), OTHERS):
            yield from _halved(of_answer[start : start + OTHERS], fits)


def _halved(
    pairs: list[PreferencePair], fits: Callable[[AnswerList], bool]
) -> Iterator[tuple[AnswerList, list[PreferencePair]]]:
    answers = _list_of(pairs)
    if len(pairs) == 1 or fits(answers):
        yield answers, pairs
        return
    middle = len(pairs) // 2
    yield from _halved(pairs[:middle], fits)
    yield from _halved(pairs[middle:], fits)


def _list_of(pairs: Sequence[PreferencePair]) -> AnswerList:
    first = pairs[0]
    answers = (first.chosen, *(pair.rejected for pair in pairs))
    name = first.id if len(pairs) == 1 else content_id(first.history, answers)
    return AnswerList(name, first.history, answers, first.source)
