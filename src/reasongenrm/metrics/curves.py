"""Alarms over the logged rows of a training: a loss that diverges, and a reward that rises while a check of it falls."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]
"""A line of metrics.jsonl: `step` and the values logged at it."""

HIGH_LOSSES = 5
"""Losses in a row that have to be high before a training counts as diverged."""
EARLIER_LOSSES = 20
"""Losses before them that they are compared with; at least half as many, which is the warm-up."""
HIGH = 3.0
"""A high loss exceeds this multiple of the earlier median."""

CHECKS = {"consistency": "both-order consistency", "readable": "the share of readable verdicts"}
"""Values in [0, 1] that an honest reward does not lower -> what they are."""
BLOCKS = 20
"""Points of a trend; more rows are averaged in as many blocks."""
FEWEST_ROWS = 10
SMALLEST_FALL = 0.05
"""Fall of a check, from the first to the last quarter of its points, below which there is no alarm."""
RISE_LEVEL, FALL_LEVEL = 0.01, 0.001
"""Largest p-values of Kendall's test at which a reward rises and a check falls."""


def diverged_since(rows: Sequence[Row]) -> int | None:
    """Return the step at which a loss began to diverge, or None.

    It has diverged when each of the last 5 losses exceeds 3 times the median, and the largest, of the 20 losses before
    them (of 10 at least). If all losses were draws of one distribution, however wide, the second condition alone would hold
    once in 53,130 looks (1 / C(25, 5)). A policy's loss, which is near zero and may be negative, is not examined.

    Args:
        rows: in the order of their steps; those with `loss` count, and none do if there is a `reward`.
    """
    losses = [(row["step"], row["loss"]) for row in rows if row.get("loss") is not None]
    earlier = [loss for _, loss in losses[:-HIGH_LOSSES]][-EARLIER_LOSSES:]
    if any("reward" in row for row in rows) or len(earlier) < EARLIER_LOSSES // 2:
        return None
    lowest = min(loss for _, loss in losses[-HIGH_LOSSES:])
    median = sorted(earlier)[len(earlier) // 2]
    return losses[-HIGH_LOSSES][0] if lowest > max(HIGH * median, *earlier) else None


class RewardAlarm(NamedTuple):
    """A reward rises while a check falls: the policy may have found how to please the reward without judging better.

    Attributes:
        check: a key of `CHECKS`.
        step: the first step of the rows in which this is seen.
    """

    check: str
    step: int

    @property
    def name(self) -> str:
        """What is seen, without the step."""
        return f"reward rises while {CHECKS[self.check]} falls"

    def __str__(self) -> str:
        return f"{self.name} from step {self.step}"


def reward_alarms(rows: Sequence[Row]) -> list[RewardAlarm]:
    """Return the alarms that the last row gives cause for, one per check at most.

    The last 20 rows are examined at every fifth row, the last 40 at every tenth, the last 80 at every twentieth, …; all rows
    when there are 10 and 15. More than 20 rows count as the means of 20 blocks. There is an alarm where Kendall's rank
    correlation with the step (one-sided; Mann 1945, Econometrica 13:245-259) shows a rise of the reward at the level 0.01
    and a fall of the check at 0.001, and the check has fallen by 5 points.

    Args:
        rows: in the order of their steps; those with a `reward` count.
    """
    alarms = []
    for check in CHECKS:
        values = [(row["step"], row["reward"], row[check]) for row in rows if _is_complete(row, check)]
        for length in _window_lengths(len(values)):
            steps, rewards, checks = zip(*values[-length:], strict=True)
            if _rises(_blocks(rewards), RISE_LEVEL) and _falls(_blocks(checks)):
                alarms.append(RewardAlarm(check, steps[0]))
                break
    return alarms


def reward_rises(rows: Sequence[Row]) -> bool:
    """Whether the reward rises over a whole training, by the test of `reward_alarms`."""
    rewards = [row["reward"] for row in rows if row.get("reward") is not None]
    return len(rewards) >= FEWEST_ROWS and _rises(_blocks(rewards), RISE_LEVEL)


def _is_complete(row: Row, check: str) -> bool:
    return all(isinstance(row.get(key), float | int) and math.isfinite(row[key]) for key in ("reward", check))


def _window_lengths(count: int) -> list[int]:
    """Return the numbers of last rows to examine when there are `count` of them."""
    if count < BLOCKS:
        return [count] if count in (BLOCKS // 2, BLOCKS * 3 // 4) else []
    lengths = (BLOCKS * 2**power for power in range((count // BLOCKS).bit_length()))
    return [length for length in lengths if count % (length // 4) == 0]


def _blocks(values: Sequence[float]) -> list[float]:
    """Return the values, or where there are more than 20 the means of 20 blocks of equal length."""
    size = max(1, len(values) // BLOCKS)
    values = values[len(values) % size :]
    return [sum(values[at : at + size]) / size for at in range(0, len(values), size)]


def _rises(values: Sequence[float], level: float) -> bool:
    from scipy.stats import kendalltau

    if len(set(values)) == 1:
        return False
    return bool(kendalltau(range(len(values)), values, alternative="greater").pvalue < level)


def _falls(values: Sequence[float]) -> bool:
    quarter = len(values) // 4
    fall = (sum(values[:quarter]) - sum(values[-quarter:])) / quarter
    return fall >= SMALLEST_FALL and _rises([-value for value in values], FALL_LEVEL)
