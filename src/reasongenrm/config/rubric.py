"""A rubric: the criteria by which answers are rated or compared, with weights, scales and a text per level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from reasongenrm.config.engines import Strict

Score = Annotated[int, Field(ge=-1000, le=1000)]
"""A place on a scale: servers are given the list of all scores, and judges cannot tell thousands apart."""


class Criterion(Strict):
    """A criterion by which a judge rates answers, or compares them; a text alone is a criterion of this name.

    Attributes:
        name: one or two words.
        text: its explanation; may be empty.
        weight: relative weight, at most 1e6.
        scale: lowest and highest score, whole numbers from -1000 to 1000.
        levels: score -> what an answer with this score is like; scores between them may be left out.
    """

    name: str = Field(min_length=1, pattern=r"\S")
    text: str = ""
    weight: float = Field(1.0, gt=0, le=1e6)
    scale: tuple[Score, Score] = (1, 5)
    levels: dict[int, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, raw: Any) -> Any:
        return {"name": raw.strip()} if isinstance(raw, str) else raw

    @model_validator(mode="after")
    def _levels_on_the_scale(self) -> Criterion:
        low, high = self.scale
        if low >= high:
            raise ValueError(f"scale {low} to {high}: the second number must be higher")
        if outside := [level for level in self.levels if not low <= level <= high]:
            raise ValueError(f"level {outside[0]} is not on the scale {low} to {high}")
        return self

    def __hash__(self) -> int:  # what is rendered from a prompt file is kept by the file; a dict has no hash
        return hash(self.model_dump_json())

    def share(self, score: float) -> float:
        """Return a score as a share of its scale: 0 for the lowest, 1 for the highest."""
        low, high = self.scale
        return (score - low) / (high - low)


class Rubric(Strict):
    """Criteria, each of which is scored alone; a list of criteria is a rubric, too.

    Attributes:
        criteria: at least one; names are unique.
    """

    criteria: Annotated[tuple[Criterion, ...], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, raw: Any) -> Any:
        return {"criteria": raw} if isinstance(raw, list | tuple) else raw

    @model_validator(mode="after")
    def _unique_names(self) -> Rubric:
        name, count = Counter(criterion.name for criterion in self.criteria).most_common(1)[0]
        if count > 1:
            raise ValueError(f"criterion {name!r} occurs {count} times")
        return self

    def weighted_score(self, scores: Mapping[str, float]) -> float:
        """Return Σ weight · share / Σ weight, in [0, 1]; a share is a score's place on its scale (`Criterion.share`).

        Args:
            scores: name of each criterion -> its score.

        Raises:
            KeyError: a criterion has no score.
        """
        total = sum(criterion.weight for criterion in self.criteria)
        return sum(c.weight * c.share(scores[c.name]) for c in self.criteria) / total
