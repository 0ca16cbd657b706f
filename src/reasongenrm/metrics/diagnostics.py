"""What a score hides: consistency, position bias, length bias, what could not be read, and calibration.

Everything is counted over comparisons of two answers. A verdict is *readable* here when it names a letter; a tie
names no answer. A scalar head has no verdicts and no orders: its choice is the answer with the higher score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from reasongenrm.metrics.intervals import Interval, wilson_interval
from reasongenrm.records import PairResult

if TYPE_CHECKING:
    from reasongenrm.records import Row


BIN_EDGES = tuple((10 + k) / 20 for k in range(11))
"""Ten bins of equal width on [0.5, 1], in which the confidence of a choice between two lies."""


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin of a reliability diagram.

    Attributes:
        low, high: confidences in [low, high); the last bin holds 1 too.
        n: comparisons in it.
        confidence: their mean confidence, None in an empty bin.
        accuracy: the share of them whose right answer has the higher probability, None in an empty bin.
    """

    low: float
    high: float
    n: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """How a model judges, beside how often it is right. Every share is in [0, 1], and None where nothing was counted.

    Attributes:
        pairs: comparisons.
        both_read: comparisons with a readable verdict in both orders.
        consistency: share of `both_read` whose two verdicts name the same answer.
        consistency_interval: its 95% Wilson interval.
        position_bias: share of A among readable verdicts; 0.5 is unbiased when both orders are judged.
        first_preference, second_preference: of the comparisons in `both_read` that are not consistent, the share in
            which the judge named the first answer (A) twice, and the second (B) twice; they add up to 1.
        length_bias: among choices between answers of different length (characters), the share that takes the longer
            one minus the share in which the longer one is right; in [-1, 1], positive for a taste for length.
        longer_right_accuracy, shorter_right_accuracy: mean credit of the comparisons whose right answer is the
            longer, and the shorter one.
        unparsed, truncated, error, tie, rescued: shares of the judgements; rescued ones also have an outcome.
        calibrated: comparisons with a probability.
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
    reliability: tuple[Bin, ...]


def probability_right(result: PairResult) -> float | None:
    """Return P(the right answer is better): the mean over the orders that have a probability.

    Of a scalar head it is the sigmoid of the difference of its scores (Bradley & Terry 1952). None without any.
    """
    if result.scores is not None and not result.verdicts:
        return 1 / (1 + math.exp(min(700.0, result.scores[1] - result.scores[0])))
    found = [v.prob_a if v.order == "AB" else 1 - v.prob_a for v in result.verdicts if v.prob_a is not None]
    return sum(found) / len(found) if found else None


def diagnose(rows: Sequence[Row], results: Mapping[str, PairResult]) -> Diagnostics:
    """Count how a model judged the comparisons of some rows.

    With p = P(right answer) of a comparison (see `probability_right`), its confidence is c = max(p, 1 - p), and it
    is a hit h = 1 when p > 0.5, else 0. Over the bins b of `BIN_EDGES` with n_b of N comparisons,

        ECE = sum_b n_b / N * |mean of h in b - mean of c in b|

    (Naeini et al. 2015, AAAI; Guo et al. 2017, arXiv 1706.04599). The Brier score (Brier 1950, Monthly Weather
    Review 78:1-3) is the mean of (1 - p)²: which of the two answers is named first does not change it.

    Args:
        rows: the rows that were judged.
        results: pair id -> result, one for every pair of every row.
    """
    import numpy as np

    lengths: list[tuple[int, int]] = []
    judged: list[PairResult] = []
    for row in rows:
        sizes = [len(answer) for answer in row.answers]
        lengths += [(sizes[right], sizes[wrong]) for right, wrong in row.places]
        judged += [results[pair.id] for pair in row.pairs]
    table = np.asarray(lengths, dtype=np.int64).reshape(len(lengths), 2)
    longer = np.sign(table[:, 0] - table[:, 1])  # 1: the right answer is the longer one, -1: the shorter one
    return Diagnostics(
        pairs=len(judged),
        **_orders(judged),
        **_length(judged, longer),
        **_outcomes(judged),
        **_calibration(judged),
    )


def _share(part: Any, whole: Any) -> float | None:
    return float(part) / int(whole) if whole else None


def _orders(judged: Sequence[PairResult]) -> dict[str, Any]:
    """Count letters and orders."""
    letters = [v.winner for result in judged for v in result.verdicts if v.winner in ("A", "B")]
    twice = [
        (result.verdicts[0].winner, result.verdicts[1].winner)
        for result in judged
        if {verdict.order for verdict in result.verdicts} == {"AB", "BA"}
        and len(result.verdicts) == 2
        and all(verdict.winner in ("A", "B") for verdict in result.verdicts)
    ]
    # The orders differ: the same letter twice is two answers.
    same, first = sum(one != other for one, other in twice), twice.count(("A", "A"))
    return {
        "both_read": len(twice),
        "consistency": _share(same, len(twice)),
        "consistency_interval": wilson_interval(same, len(twice)) if twice else None,
        "position_bias": _share(letters.count("A"), len(letters)),
        "first_preference": _share(first, len(twice) - same),
        "second_preference": _share(len(twice) - same - first, len(twice) - same),
    }


def _choices(result: PairResult) -> list[bool]:
    """Return, for every choice made, whether it took the right answer."""
    if result.scores is not None and not result.verdicts:
        return [] if result.scores[0] == result.scores[1] else [result.scores[0] > result.scores[1]]
    return [(v.winner == "A") == (v.order == "AB") for v in result.verdicts if v.winner in ("A", "B")]


def _length(judged: Sequence[PairResult], longer: Any) -> dict[str, Any]:
    """Compare choices and credits with which answer is the longer one."""
    import numpy as np

    made = [(at, right) for at, result in enumerate(judged) for right in _choices(result)]
    places = np.asarray([at for at, _ in made], dtype=np.int64)
    took_right = np.asarray([right for _, right in made], dtype=bool)
    side = longer[places]
    differs = side != 0
    took_longer = took_right == (side == 1)
    picked, owed = (_share((what & differs).sum(), differs.sum()) for what in (took_longer, side == 1))
    credit = np.asarray([result.credit for result in judged])
    return {
        "length_bias": None if picked is None or owed is None else picked - owed,
        **{
            name: _share(credit[longer == sign].sum(), (longer == sign).sum())
            for name, sign in (("longer_right_accuracy", 1), ("shorter_right_accuracy", -1))
        },
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

    found = [value for result in judged if (value := probability_right(result)) is not None]
    if not found:
        return {"calibrated": 0, "ece": None, "brier": None, "reliability": ()}
    p = np.asarray(found)
    confidence, hit = np.maximum(p, 1 - p), p > 0.5
    bins = len(BIN_EDGES) - 1
    location = np.minimum(np.searchsorted(BIN_EDGES, confidence, side="right") - 1, bins - 1)
    n, confidences, hits = (
        np.bincount(location, weights=weights, minlength=bins) for weights in (None, confidence, hit)
    )
    reliability = tuple(
        Bin(low, high, int(n[b]), _share(confidences[b], n[b]), _share(hits[b], n[b]))
        for b, (low, high) in enumerate(pairwise(BIN_EDGES))
    )
    return {
        "calibrated": len(p),
        "ece": float(np.abs(hits - confidences).sum() / len(p)),
        "brier": float(np.mean((1 - p) ** 2)),
        "reliability": reliability,
    }
