"""Rationale consistency: the share of people's points that a judge's reason contains, by a second judge.

Source: Wang et al. 2026, https://arxiv.org/abs/2602.04649, and `metajudge_analysis.py` of https://github.com/raprite/RationaleRM:
recall over people's points, precision over the judge's. There a model first turns the reason into a list of at most five points, and a
match has a score; here the sentences of the reason are matched as they are, and a match is one or none. A point is matched
with one sentence at most, and a sentence with one point.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reasongenrm.chat.thoughts import split_thoughts
from reasongenrm.records import Completion

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "matches": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"point": {"type": "integer"}, "sentence": {"type": "integer"}},
                "required": ["point", "sentence"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["matches"],
    "additionalProperties": False,
}
"""Of an answer, for servers that know schemas."""

_END_OF_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=\S)|\n+")


@dataclass(frozen=True, slots=True)
class Consistency:
    """Agreement of one reason with people's points; every number in [0, 1].

    Attributes:
        recall: share of the points that are matched.
        precision: share of the sentences that are matched.
    """

    recall: float
    precision: float

    @property
    def f1(self) -> float:
        """Harmonic mean of both; 0 where both are 0."""
        total = self.recall + self.precision
        return 2 * self.recall * self.precision / total if total else 0.0


def sentences_of(reason: str) -> list[str]:
    """Return the sentences of a reason: parts that end in `.`, `!`, `?` or a line end."""
    return [part.strip() for part in _END_OF_SENTENCE.split(reason) if part.strip()]


def read_matches(completion: Completion, points: int, sentences: int) -> list[tuple[int, int]] | None:
    """Return the named (point, sentence), numbers from 0; None where the answer cannot be read.

    A number that does not exist makes the answer unreadable.
    """
    if completion.finish_reason == "error":
        return None
    text = split_thoughts(completion.text.strip())[1] or ""
    start = text.find("{")
    try:
        raw = json.JSONDecoder().raw_decode(text, start)[0]["matches"] if start >= 0 else None
        named = [(match["point"], match["sentence"]) for match in raw]  # type: ignore[union-attr]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if not all(
        type(p) is int and type(s) is int and 1 <= p <= points and 1 <= s <= sentences for p, s in named
    ):
        return None
    return [(point - 1, sentence - 1) for point, sentence in named]


def consistency(matches: Sequence[tuple[int, int]], points: int, sentences: int) -> Consistency:
    """Return the agreement by the largest one-to-one matching.

    Args:
        matches: pairs that the second judge names; a point may have several sentences, and a sentence several points.
        points, sentences: numbers of both, at least one.
    """
    import numpy as np
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if not matches:
        return Consistency(0.0, 0.0)
    rows, columns = zip(*matches, strict=True)
    graph = csr_matrix((np.ones(len(matches)), (rows, columns)), shape=(points, sentences))
    matched = int((maximum_bipartite_matching(graph, perm_type="column") >= 0).sum())
    return Consistency(matched / points, matched / sentences)
