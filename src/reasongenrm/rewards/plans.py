"""Who is compared with whom: the distinct texts of a group, and the pairs of a schedule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations

from reasongenrm.records import content_id

Members = tuple[int, ...]
"""Texts of a list, by index."""

Pair = tuple[int, int]
"""Two texts of a group, by index; the first is the judge's first answer."""


@dataclass(frozen=True, slots=True)
class Texts:
    """The distinct texts of a group, in an order that does not depend on the order of the samples.

    Attributes:
        texts: sorted by content hash.
        place: per sample the index of its text.
        counts: per text the number of samples with it.
    """

    texts: tuple[str, ...]
    place: tuple[int, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, answers: Sequence[str]) -> Texts:
        """Return the distinct texts of some answers."""
        texts = tuple(sorted(set(answers), key=content_id))
        index = {text: number for number, text in enumerate(texts)}
        place = tuple(index[answer] for answer in answers)
        return cls(texts, place, tuple(place.count(number) for number in range(len(texts))))


def circulant(n: int, steps: Sequence[int]) -> list[Pair]:
    """Return the pairs (i, i + step) on a circle of n texts.

    Each text is first as often as second: for each step once first and once second. Half of n is the exception, which
    joins opposite texts: there each text plays once, and is first for the lower half.

    Args:
        n: number of texts.
        steps: distinct, from 1 to n / 2.
    """
    return [(i, (i + step) % n) for step in steps for i in range(n // 2 if 2 * step == n else n)]


def all_pairs(n: int) -> list[Pair]:
    """Return each pair once: n(n−1)/2."""
    return circulant(n, range(1, n // 2 + 1))


def regular(n: int, degree: int) -> list[Pair]:
    """Return pairs in which each text meets `degree` others, or one more where n and degree are both odd; at most all.

    The steps on the circle are spread geometrically, 1 … n^((k−1)/k), so that few games lie between any two texts: the
    variance of a difference of strengths grows with the resistance between them in the graph of the games. A degree of 2
    is one circle.
    """
    if degree >= n - 1:
        return all_pairs(n)
    half = (degree + n * degree % 2) // 2
    opposite = [n // 2] if degree % 2 and n % 2 == 0 else []
    highest = (n - 1) // 2
    steps: list[int] = []
    for k in range(half):
        wish = min(highest, round(n ** (k / max(half, 1))))
        free = [step for step in range(1, highest + 1) if step not in steps]
        steps.append(min(free, key=lambda step: (abs(step - wish), step)))
    return circulant(n, [*steps, *opposite])


LONGEST_LIST = 8
"""Texts in a list: the letters A to H of a judge's verdict."""


def lists(n: int) -> list[Members]:
    """Return lists of two to eight texts: one of all, or, beyond eight, two for each text.

    They are the rows and the columns of a grid, so that any two texts are joined by few lists, and two texts share at most
    one list where the grid is square.
    """
    if n < 2:
        return []
    if n <= LONGEST_LIST:
        return [tuple(range(n))]
    count = -(-n // LONGEST_LIST)
    rows = [tuple(range(n * k // count, n * (k + 1) // count)) for k in range(count)]
    return [*rows, *(tuple(range(k, n, count)) for k in range(count))]


def smaller_lists(members: Members, lengths: Sequence[int]) -> list[Members]:
    """Return the lists in place of one that could not be read: its short texts and its long ones, with about half of the characters each.

    So one overlong text is apart from the others at once; it has no list then. A list of three becomes its three pairs, and a pair
    is not divided.

    Args:
        members: the list.
        lengths: characters of all texts.
    """
    if len(members) < 4:
        return [*combinations(members, 2)] if len(members) == 3 else []
    ordered = sorted(members, key=lambda i: (lengths[i], i))
    sums = list(accumulate(lengths[i] + 1 for i in ordered))
    cut = min(next(k for k, total in enumerate(sums, 1) if 2 * total >= sums[-1]), len(ordered) - 1)
    return [tuple(sorted(half)) for half in (ordered[:cut], ordered[cut:]) if len(half) > 1]


def joining_pairs(
    read: Sequence[Members], unread: Sequence[Members], n: int, lengths: Sequence[int]
) -> list[Pair]:
    """Return pairs that join texts which no chain of readable lists joins: the shortest text of one part with that of each other part.

    A part is as many texts as lists join. The first one is that with the shortest text, of the parts with a readable list if there are any.

    Args:
        read, unread: the lists that were judged.
        n: number of texts.
        lengths: characters of all texts.
    """
    parts = [{i} for i in range(n)]
    for members in read:
        joined = set[int]().union(*(part for part in parts if part & set(members)))
        parts = [joined, *(part for part in parts if not part & joined)]
    shortest = {min(part, key=lambda i: (lengths[i], i)): len(part) for part in parts}
    first, *others = sorted(shortest, key=lambda i: (shortest[i] == 1, lengths[i], i)) or [0]
    return [(first, i) for i in others if (first, i) not in unread and (i, first) not in unread]
