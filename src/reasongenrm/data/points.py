"""Points of a reference reason: which of them a text covers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from reasongenrm.data.ngrams import is_unspaced, words

_QUOTE = re.compile(r'"([^"]+)"|“([^”]+)”|`([^`]+)`')
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
    quotes = [quote for match in _QUOTE.findall(point) if (quote := words("".join(match)))]
    others = set(words(_QUOTE.sub(" ", point)))
    named = {word for word in others if _counts(word)} or (set() if quotes else others)
    if not quotes and not named:
        return False
    return all(_has_run(said, quote) for quote in quotes) and len(named & set(said)) >= _COVERED * len(named)


def _counts(word: str) -> bool:
    return len(word) >= _SHORT or any(map(str.isdigit, word)) or is_unspaced(word)


def says_something(point: str) -> bool:
    """Whether a point has a quote, or a word that counts beside others."""
    return bool(_QUOTE.search(point)) or any(map(_counts, words(point)))


def _has_run(said: Sequence[str], run: Sequence[str]) -> bool:
    """Whether words come one after the other in a text."""
    return f" {' '.join(run)} " in f" {' '.join(said)} "
