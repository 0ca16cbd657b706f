"""Settings of reward shaping: terms that are added to the judge's reward, and flags of answers that try to please it."""

from __future__ import annotations

import math
import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from reasongenrm.config.engines import Strict

Flag = Literal["one_token", "verdict", "instruction", "marker"]
"""Detectors of `rewards/flags.py`."""

Weight = Field(0.0, ge=0, le=1e6, allow_inf_nan=False, strict=True)

PHRASES = 64
"""Most regular expressions of one group."""

PATTERN_LENGTH = 1000
"""Most characters of a regular expression."""

PATTERN_SIZE = 20_000
"""Most characters of a regular expression times all its counts `{n}`: `regex` writes them out when it compiles, in about 1 µs each."""

Pattern = Annotated[str, Field(min_length=1, max_length=PATTERN_LENGTH)]

_COUNT = re.compile(r"\{(\d{1,9})(?:,\1)?\}")


class ShapingSettings(Strict):
    """Terms added to a judge's reward; a term of weight 0 is not computed. Formulas and sources: `rewards/shaping.py`.

    Attributes:
        length: cost of an answer longer than the median of its group.
        length_unit: of all lengths; `tokens` needs the callers' token counts (`Group.lengths`).
        length_free: share above the median without a cost.
        overlong: cost of an answer near or above `overlong_limit` (DAPO's soft overlong punishment).
        overlong_limit: length from which the cost is whole; that is the trainer's limit of a completion.
        overlong_cache: length before the limit over which the cost grows.
        style: cost of more headers, list items and bold texts than the median of the group.
        repetition: cost of repeated n-grams of words.
        repetition_n: words of an n-gram.
        format: cost of an answer in which `format_pattern` finds nothing.
        format_pattern: a regular expression; begin and end it with `^` and `$` to match whole answers (`.` is any character).
        flags: detectors that are applied to each answer.
        phrases: further regular expressions, without regard to case; an answer in which one is found is flagged as `phrase`.
        flag_penalty: subtracted from the reward of a flagged answer, once.
        flag_value: reward of a flagged answer in place of all else. With neither, flagged answers are only counted.
    """

    length: float = Weight
    length_unit: Literal["characters", "tokens"] = "characters"
    length_free: float = Field(0.0, ge=0, allow_inf_nan=False, strict=True)
    overlong: float = Weight
    overlong_limit: int | None = Field(None, gt=0, strict=True)
    overlong_cache: int | None = Field(None, gt=0, strict=True)
    style: float = Weight
    repetition: float = Weight
    repetition_n: int = Field(4, ge=1, le=100, strict=True)
    format: float = Weight
    format_pattern: Pattern | None = None
    flags: tuple[Flag, ...] = ()
    phrases: tuple[Pattern, ...] = Field((), max_length=PHRASES)
    flag_penalty: float | None = Field(None, gt=0, le=1e6, allow_inf_nan=False, strict=True)
    flag_value: float | None = Field(None, ge=-1e6, le=1e6, allow_inf_nan=False, strict=True)

    @field_validator("format_pattern", "phrases")
    @classmethod
    def _valid_patterns(cls, value: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
        for pattern in (value,) if isinstance(value, str) else value or ():
            _check_pattern(pattern)
        return value

    @model_validator(mode="after")
    def _complete(self) -> ShapingSettings:
        if bool(self.format) != (self.format_pattern is not None):
            raise ValueError("format and format_pattern belong together; set both or neither")
        limits = (self.overlong_limit, self.overlong_cache)
        if any(limit is None for limit in limits) if self.overlong else any(limits):
            raise ValueError("overlong, overlong_limit and overlong_cache belong together; set all or none")
        if self.overlong_limit and self.overlong_cache and self.overlong_cache > self.overlong_limit:
            raise ValueError("overlong_cache is above overlong_limit; the cost would begin below 0")
        if self.flag_penalty is not None and self.flag_value is not None:
            raise ValueError("flag_penalty and flag_value contradict each other; set one of them")
        if not self.detects and (self.flag_penalty is not None or self.flag_value is not None):
            raise ValueError("nothing is flagged; set flags or phrases beside flag_penalty or flag_value")
        return self

    @property
    def detects(self) -> bool:
        """Whether answers are searched for anything."""
        return bool(self.flags or self.phrases)


def _check_pattern(pattern: str) -> None:
    """Raise ValueError for a regular expression that is not valid, or too large to compile."""
    import regex

    shown = pattern if len(pattern) <= 60 else f"{pattern[:60]}…"
    # In verbose patterns, white space may divide a count.
    counts = [int(count) for count in _COUNT.findall("".join(pattern.split()))]
    if counts and len(pattern) * math.prod(max(1, count) for count in counts) > PATTERN_SIZE:
        raise ValueError(
            f"the counts of the regular expression {shown!r} are too large; write {{n,}} or {{n,m}}"
        )
    try:
        regex.compile(pattern)
    except RecursionError:
        raise ValueError(
            f"the regular expression {shown!r} is nested too deeply; use fewer parentheses"
        ) from None
    except regex.error as error:
        raise ValueError(f"invalid regular expression {shown!r}: {error}") from None
