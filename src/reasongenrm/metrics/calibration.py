"""Calibration of probabilities: reliability bins, expected calibration error, Brier score and log-loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

PROBABILITY_EDGES = tuple(k / 10 for k in range(11))
"""Ten bins of equal width on [0, 1], for the probability that the first of two answers is better."""

CONFIDENCE_EDGES = tuple((10 + k) / 20 for k in range(11))
"""Ten bins of equal width on [0.5, 1], for the confidence of a choice between two answers."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bin of a reliability diagram.

    Attributes:
        low, high: predicted probabilities in [low, high); the last bin includes 1.
        n: number of comparisons in the bin.
        predicted: mean predicted probability of the event, None in an empty bin.
        observed: share of the comparisons in which the event happened, None in an empty bin.
    """

    low: float
    high: float
    n: int
    predicted: float | None
    observed: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """Calibration of a scalar head, see `calibrate`.

    Attributes:
        ece: expected calibration error, in [0, 1].
        brier: Brier score, in [0, 1]; 0.25 for a head that gives every answer the same score.
        log_loss: Bradley-Terry loss in nats, >= 0; log 2 = 0.693 for such a head.
        reliability: ten bins over [0, 1]; their `n` add up to the number of pairs.
    """

    ece: float
    brier: float
    log_loss: float
    reliability: tuple[ReliabilityBin, ...]


def reliability(
    predicted: Any, observed: Any, edges: Sequence[float]
) -> tuple[float, float, tuple[ReliabilityBin, ...]]:
    """Return expected calibration error, Brier score and reliability bins of predicted probabilities.

    Over the bins b with n_b of N comparisons,

        ECE = sum_b n_b / N * |mean of observed in b - mean of predicted in b|

    (Naeini et al. 2015, AAAI; Guo et al. 2017, arXiv 1706.04599). The Brier score (Brier 1950, Monthly Weather
    Review 78:1-3) is the mean of (observed - predicted)².

    Args:
        predicted: probabilities of an event, a float array of shape (comparisons,), at least one.
        observed: whether the event happened, a boolean array of the same shape.
        edges: bounds of the bins, ascending; all probabilities are between the first and the last.
    """
    import numpy as np

    bins = len(edges) - 1
    location = np.minimum(np.searchsorted(edges, predicted, side="right") - 1, bins - 1)
    counts, sums, events = (
        np.bincount(location, weights=weights, minlength=bins) for weights in (None, predicted, observed)
    )
    table = tuple(
        ReliabilityBin(
            low,
            high,
            int(counts[b]),
            float(sums[b] / counts[b]) if counts[b] else None,
            float(events[b] / counts[b]) if counts[b] else None,
        )
        for b, (low, high) in enumerate(pairwise(edges))
    )
    ece = float(np.abs(events - sums).sum() / len(predicted))
    return ece, float(np.mean((observed - predicted) ** 2)), table


def calibrate(margins: Sequence[float], turned: Sequence[bool]) -> Calibration | None:
    """Compare sigma(difference of scores) with which answer is better; None without pairs.

    By the model of Bradley and Terry (1952, Biometrika 39:324-345), with which the head is trained, the
    better answer wins with probability p = sigma(delta) = 1 / (1 + exp(-delta)), where delta is its score minus
    the other's. If the better answer came first in every pair, every outcome would be 1; therefore a pair that is
    `turned` counts as q = 1 - p with outcome y = 0, any other pair as q = p with y = 1. ECE and Brier score are
    those of q and y (see `reliability`), the log-loss is the mean of -log sigma(delta) in nats. Brier score and
    log-loss do not depend on which pairs are turned. With few pairs the ECE does, and chance alone makes it positive.

    Args:
        margins: delta of each pair, finite, shape (pairs,).
        turned: whether the worse answer comes first; must not depend on the scores. Shape (pairs,).
    """
    import numpy as np
    from scipy.special import expit

    if not margins:
        return None
    delta, worse_first = np.asarray(margins, dtype=float), np.asarray(turned, dtype=bool)
    q = expit(np.where(worse_first, -delta, delta))
    ece, brier, bins = reliability(q, ~worse_first, PROBABILITY_EDGES)
    return Calibration(ece, brier, float(np.mean(np.logaddexp(0, -delta))), bins)
