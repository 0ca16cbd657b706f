"""From the logits of a head to its score: saved in the head's `config.json` under `reasongenrm`."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from reasongenrm.config.distil import Objective
from reasongenrm.config.engines import Strict
from reasongenrm.config.rubric import Rubric

CONFIG_KEY = "reasongenrm"
"""Key of `config.json` with the scale; plain transformers keep it, and do not read it."""


class ScoreScale(Strict):
    """The scale on which a head was trained.

    The score of `regression`, `dimensions` and `ordinal` is the judge's weighted score, 0 to 1; a head can go a little beyond, except
    an ordinal one. The score of `pairs` has no scale: only differences count.

    - `regression`: score = mean + sd · logit.
    - `dimensions`: a logit per criterion, each with its own mean and sd; the score is `Rubric.weighted_score` of these.
    - `ordinal`: logit k is that of P(level > k | level > k - 1); P(level > k) is the product of the first of them, and the score is
      the mean level over the highest (CORN: X. Shi, W. Cao and S. Raschka, "Deep Neural Networks for Rank-Consistent Ordinal Regression
      Based On Conditional Probabilities", arXiv 2111.08851).

    Attributes:
        objective: what the head has learned.
        mean, sd: of the training scores, one per logit; empty for `ordinal` and `pairs`.
        levels: number of levels, for `ordinal`.
        rubric: the criteria in the order of the logits, for `dimensions`.
    """

    objective: Objective
    mean: tuple[float, ...] = ()
    sd: tuple[float, ...] = ()
    levels: int | None = None
    rubric: Rubric | None = None

    @model_validator(mode="after")
    def _complete(self) -> ScoreScale:
        standardised = self.logits * (self.objective in ("regression", "dimensions"))
        if len(self.mean) != standardised or len(self.sd) != standardised:
            raise ValueError(f"{self.objective} needs {standardised} numbers in mean and in sd")
        return self

    @property
    def logits(self) -> int:
        """Number of logits of the head."""
        if self.objective == "dimensions":
            if self.rubric is None:
                raise ValueError("dimensions needs a rubric")
            return len(self.rubric.criteria)
        if self.objective == "ordinal":
            if self.levels is None:
                raise ValueError("ordinal needs levels")
            return self.levels - 1
        return 1

    @property
    def is_judge_scale(self) -> bool:
        """Whether a score estimates the judge's weighted score."""
        return self.objective != "pairs"

    def scores(self, logits: Any) -> list[float]:
        """Return one score per row of logits, shape (rows, logits)."""
        import numpy as np

        if self.objective == "pairs":
            return [float(row[0]) for row in logits]
        if self.objective == "dimensions":
            assert self.rubric is not None
            return [self.rubric.weighted_score(row) for row in self.criterion_scores(logits)]
        table = np.asarray(logits, dtype=float).reshape(-1, self.logits)
        if self.objective == "ordinal":
            from scipy.special import expit

            values: list[float] = np.cumprod(expit(table), axis=1).mean(axis=1).tolist()
            return values
        values = (self.mean[0] + self.sd[0] * table[:, 0]).tolist()
        return values

    def criterion_scores(self, logits: Any) -> list[dict[str, float]]:
        """Return criterion -> score on the criterion's scale, per row of logits; empty without a logit per criterion."""
        import numpy as np

        if self.rubric is None:
            return [{} for _ in logits]
        table = np.asarray(logits, dtype=float).reshape(-1, self.logits)
        names = [criterion.name for criterion in self.rubric.criteria]
        rows = (np.asarray(self.mean) + np.asarray(self.sd) * table).tolist()
        return [dict(zip(names, row, strict=True)) for row in rows]
