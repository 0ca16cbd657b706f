"""Points of a reference reason: which of them a text covers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reasongenrm.data.ngrams import is_unspaced, words

_QUOTE_MARK = re.compile('["“`]')
_CLOSING = {'"': '"', "“": "”", "`": "`"}
"""What opens a quote -> what closes it."""
_SHORT = 4
"""Words of fewer characters do not count in a point, unless they hold a digit, are of a script without spaces, or the point has
no others."""
_COVERED = 2 / 3
"""Share of a point's words from which a text covers it."""


def coverage(text: str, points: Sequence[str]) -> float:
    """Return the share of points that a text covers, in [0, 1]; 1 without points.

    A point is covered when the text has what the point quotes, word for word, and two thirds of its other different words, in
    any order and case. A quote is what is in double quotes or backticks: a result, a name, an order, which other words cannot
    say. Of the other words those of fewer than four characters count only if they hold a digit, or if the point has nothing else.
    """
    said = words(text) if points else ()
    return sum(_covers(said, point) for point in points) / len(points) if points else 1.0


def _covers(said: Sequence[str], point: str) -> bool:
    quotes, unquoted = _split_quotes(point)
    others = set(words(unquoted))
    named = {word for word in others if _counts(word)} or (set() if quotes else others)
    if not quotes and not named:
        return False
    return all(_has_run(said, quote) for quote in quotes) and len(named & set(said)) >= _COVERED * len(named)


def _counts(word: str) -> bool:
    return len(word) >= _SHORT or any(map(str.isdigit, word)) or is_unspaced(word)


def says_something(point: str) -> bool:
    """Whether a point quotes a word, or has one that counts beside others."""
    quotes, unquoted = _split_quotes(point)
    return bool(quotes) or any(map(_counts, words(unquoted)))


def _split_quotes(point: str) -> tuple[list[list[str]], str]:
    """Return the words of each quote that has some, and the point with a space for every quote.

    A mark that nothing closes, and the first of two marks with nothing between them, are no quote. The time is linear in the
    length, which for an unclosed mark a regular expression is not.
    """
    quotes: list[list[str]] = []
    unquoted: list[str] = []
    unclosed: set[str] = set()
    end = place = 0  # of the last quote; from where the next mark is searched
    while mark := _QUOTE_MARK.search(point, place):
        place, opening = mark.end(), mark[0]
        close = -1 if opening in unclosed else point.find(_CLOSING[opening], place)
        if close < 0:
            unclosed.add(opening)
        elif close > place:
            unquoted.append(point[end : mark.start()])
            if quote := words(point[place:close]):
                quotes.append(quote)
            end = place = close + 1
    return quotes, " ".join([*unquoted, point[end:]])


def _has_run(said: Sequence[str], run: Sequence[str]) -> bool:
    """Whether words come one after the other in a text."""
    return f" {' '.join(run)} " in f" {' '.join(said)} "
