"""How a model judges, beside its score: consistency, position and length bias, unreadable verdicts, calibration.

Everything is counted over comparisons of two answers. A verdict is *readable* here when it names a letter; a tie
does not. A scalar head has no verdicts and no orders: its choice is the answer with the higher score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reasongenrm.metrics.calibration import CONFIDENCE_EDGES, ReliabilityBin, reliability
from reasongenrm.metrics.intervals import Interval, wilson_interval
from reasongenrm.records import PairResult, Row


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """Counts over a model's comparisons. Every share is in [0, 1], and None where nothing was counted.

    Attributes:
        pairs: number of comparisons.
        both_read: number of comparisons with a readable verdict in both orders.
        consistency: share of `both_read` in which the two verdicts name the same answer.
        consistency_interval: its 95% Wilson interval.
        position_bias: share of A among readable verdicts; 0.5 is unbiased when both orders are judged.
        first_preference, second_preference: of the comparisons in `both_read` that are not consistent, the share in
            which the judge named the first answer (A) twice, and the second (B) twice; they add up to 1.
        length_bias: among choices between answers of different length (characters), the share that takes the longer
            answer minus the share in which the longer one is right; in [-1, 1], positive if the model prefers length.
        longer_right_accuracy, shorter_right_accuracy: mean credit of the comparisons whose right answer is the
            longer, and the shorter one.
        unparsed, truncated, error, tie, rescued: shares of the judgements; rescued ones also have an outcome.
        calibrated: number of comparisons with a probability.
        ece: expected calibration error, see `diagnose`.
        brier: Brier score, see `diagnose`.
        reliability: ten bins over [0.5, 1]; empty when nothing has a probability.
    """

    pairs: int
    both_read: int
    consistency: float | None
    consistency_interval: Interval | None
    position_bias: float | None
    first_preference: float | None
    second_preference: float | None
    length_bias: float | None
    longer_right_accuracy: float | None
    shorter_right_accuracy: float | None
    unparsed: float | None
    truncated: float | None
    error: float | None
    tie: float | None
    rescued: float | None
    calibrated: int
    ece: float | None
    brier: float | None
    reliability: tuple[ReliabilityBin, ...]


def probability_right(result: PairResult) -> float | None:
    """Return P(the right answer is better): the mean over the orders that have a probability; None without any.

    For a scalar head it is the sigmoid of the difference of its scores (Bradley & Terry 1952).
    """
    if result.scores is not None and not result.verdicts:
        return 1 / (1 + math.exp(min(700.0, result.scores[1] - result.scores[0])))
    values = [v.prob_a if v.order == "AB" else 1 - v.prob_a for v in result.verdicts if v.prob_a is not None]
    return sum(values) / len(values) if values else None


def diagnose(rows: Sequence[Row], results: Mapping[str, PairResult]) -> Diagnostics:
    """Count how a model judged the comparisons of some rows.

    With p = P(right answer) of a comparison (see `probability_right`), its confidence is max(p, 1 - p), and the event
    that it predicts is that the choice is right, p > 0.5; ECE and bins are those of `calibration.reliability`. The
    Brier score is then the mean of (1 - p)²: it does not depend on which of the two answers comes first.

    Args:
        rows: the rows that were judged.
        results: pair id -> result, one for every pair of every row.
    """
    judged: list[PairResult] = []
    longer: list[int] = []  # 1: the right answer is the longer one, -1: the shorter one
    for row in rows:
        sizes = [len(answer) for answer in row.answers]
        longer += [(sizes[i] > sizes[j]) - (sizes[i] < sizes[j]) for i, j in row.places]
        judged += [results[pair.id] for pair in row.pairs]
    return Diagnostics(
        pairs=len(judged),
        **_orders(judged),
        **_length(judged, longer),
        **_outcomes(judged),
        **_calibration(judged),
    )


def _share(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def _orders(judged: Sequence[PairResult]) -> dict[str, Any]:
    """Count letters and orders."""
    letters = [v.winner for result in judged for v in result.verdicts if v.winner in ("A", "B")]
    both = [
        (result.verdicts[0].winner, result.verdicts[1].winner)
        for result in judged
        if {verdict.order for verdict in result.verdicts} == {"AB", "BA"}
        and len(result.verdicts) == 2
        and all(verdict.winner in ("A", "B") for verdict in result.verdicts)
    ]
    # The orders differ: the same letter twice means two different answers.
    same, first = sum(one != other for one, other in both), both.count(("A", "A"))
    return {
        "both_read": len(both),
        "consistency": _share(same, len(both)),
        "consistency_interval": wilson_interval(same, len(both)) if both else None,
        "position_bias": _share(letters.count("A"), len(letters)),
        "first_preference": _share(first, len(both) - same),
        "second_preference": _share(len(both) - same - first, len(both) - same),
    }


def _choices(result: PairResult) -> list[bool]:
    """Return for every choice of the model whether it took the right answer."""
    if result.scores is not None and not result.verdicts:
        return [] if result.scores[0] == result.scores[1] else [result.scores[0] > result.scores[1]]
    return [(v.winner == "A") == (v.order == "AB") for v in result.verdicts if v.winner in ("A", "B")]


def _length(judged: Sequence[PairResult], longer: Sequence[int]) -> dict[str, Any]:
    """Compare choices and credits with which answer is the longer one."""
    sides = list(zip(longer, judged, strict=True))
    choices = [(side > 0, right) for side, result in sides if side for right in _choices(result)]
    taken = _share(sum(right == longer_right for longer_right, right in choices), len(choices))
    expected = _share(sum(longer_right for longer_right, _ in choices), len(choices))
    credits = {sign: [result.credit for side, result in sides if side == sign] for sign in (1, -1)}
    return {
        "length_bias": None if taken is None or expected is None else taken - expected,
        "longer_right_accuracy": _share(sum(credits[1]), len(credits[1])),
        "shorter_right_accuracy": _share(sum(credits[-1]), len(credits[-1])),
    }


def _outcomes(judged: Sequence[PairResult]) -> dict[str, Any]:
    outcomes = [outcome for result in judged for outcome in result.outcomes]
    shares = {
        name: _share(outcomes.count(name), len(outcomes))
        for name in ("unparsed", "truncated", "error", "tie")
    }
    rescued = sum(result.rescued for result in judged)
    return shares | {"rescued": _share(rescued, len(outcomes))}


def _calibration(judged: Sequence[PairResult]) -> dict[str, Any]:
    import numpy as np

    p = np.asarray([value for result in judged if (value := probability_right(result)) is not None])
    if not len(p):
        return {"calibrated": 0, "ece": None, "brier": None, "reliability": ()}
    ece, brier, bins = reliability(np.maximum(p, 1 - p), p > 0.5, CONFIDENCE_EDGES)
    return {"calibrated": len(p), "ece": ece, "brier": brier, "reliability": bins}
