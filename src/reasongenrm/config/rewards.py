"""Settings of rewards: who is compared with whom, and what a sample without a readable verdict gets."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from reasongenrm.config.engines import Strict
from reasongenrm.config.shaping import ShapingSettings

ScheduleName = Literal["all_pairs", "circular", "regular", "pivot", "reference", "listwise", "pointwise"]

SINGLE: tuple[ScheduleName, ...] = ("reference", "pointwise")
"""Schedules that judge a sample without the others of its prompt."""

Unread = Literal["retry"] | Annotated[float, Field(ge=0, le=1, strict=True)] | None

DEFAULT_DEGREE = 4


class RewardSettings(Strict):
    """How the samples of one prompt are judged; n is their number, without repeated texts.

    Attributes:
        schedule: - `all_pairs`: every pair, n(n−1)/2 comparisons.
            - `circular`: each sample with two others, n comparisons.
            - `regular`: each sample with `degree` others, n · degree / 2 comparisons.
            - `pivot`: `circular` first, then every sample with the median of that; at most 2n − 3 comparisons in two rounds.
            - `reference`: each sample with its reference answer, n comparisons.
            - `listwise`: lists of up to eight samples, of which the judge names the best: one call for 2 to 8 samples,
              n / 4 calls beyond; a list that cannot be read is judged again in parts.
            - `pointwise`: a rating of each sample alone, n ratings.
        degree: of `regular`: the number of others that each sample meets; another value than the default needs that schedule.
        unread: what a sample without a readable verdict gets: null (no reward), `retry` (verdicts that cannot be read are
            requested once more; then as null), or a number in [0, 1].
        shaping: terms beside the judge's reward, and flags; null: none.
    """

    schedule: ScheduleName = "all_pairs"
    degree: int = Field(DEFAULT_DEGREE, ge=2, strict=True)
    unread: Unread = None
    shaping: ShapingSettings | None = None

    @field_validator("unread", mode="before")
    @classmethod
    def _stated(cls, value: Any) -> Any:
        """Refuse what pydantic would make a number of (`true` is 1.0), by one message in place of one per type."""
        if value is None or value == "retry":
            return value
        if isinstance(value, bool) or not (isinstance(value, int | float) and 0 <= value <= 1):
            raise ValueError("unread is null, retry or a number in [0, 1]")
        return value

    @model_validator(mode="after")
    def _degree_is_used(self) -> RewardSettings:
        # The default may be stated: settings that were sent or saved state every key.
        if self.schedule != "regular" and self.degree != DEFAULT_DEGREE:
            raise ValueError(f"degree belongs to the schedule regular; {self.schedule} does not use it")
        return self

    @property
    def needs_group(self) -> bool:
        """Whether samples are compared with the others of their prompt."""
        return self.schedule not in SINGLE

    def against_references(self) -> RewardSettings:
        """Return the same settings with the schedule `reference`."""
        return self.model_copy(update={"schedule": "reference", "degree": DEFAULT_DEGREE})
