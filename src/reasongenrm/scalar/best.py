"""The best of N responses by a head's scores, and what more candidates would bring."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

from reasongenrm.metrics.best_of_n import best_of_n_curve
from reasongenrm.records import Message


class CandidateSource(Protocol):
    """Anything that samples responses to a context."""

    def candidates(self, context: str | Sequence[Message], n: int) -> list[str]:
        """Return `n` responses, samples of one distribution."""
        ...


@dataclass(frozen=True)  # no slots: `curve` is kept in the instance
class BestOfN:
    """Candidates with their scores.

    Attributes:
        responses: the candidates.
        scores: one per candidate.
        order: indices of the candidates, the best first; equal scores in the order of the candidates.
    """

    responses: tuple[str, ...]
    scores: tuple[float, ...]
    order: tuple[int, ...]

    @property
    def index(self) -> int:
        """Index of the best candidate."""
        return self.order[0]

    @property
    def response(self) -> str:
        """Text of the best candidate."""
        return self.responses[self.index]

    @property
    def score(self) -> float:
        """Score of the best candidate."""
        return self.scores[self.index]

    @cached_property
    def curve(self) -> list[float]:
        """Expected score of the best of 1, 2, … candidates; see `metrics.best_of_n`."""
        return best_of_n_curve(self.scores)

    def expected(self, values: Sequence[float]) -> list[float]:
        """Return the expected value of the best of 1, 2, … candidates, such as the judge's score of it.

        Args:
            values: one per candidate.
        """
        return best_of_n_curve(self.scores, values)
