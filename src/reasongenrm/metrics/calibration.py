"""How far a scalar head's difference of scores is a log-odds: reliability, ECE, Brier score and log-loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

BIN_EDGES = tuple(k / 10 for k in range(11))
"""Ten bins of equal width on [0, 1], in which the predicted probability lies."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bin of a reliability diagram.

    Attributes:
        low, high: predicted probabilities in [low, high); the last bin holds 1 too.
        n: pairs in it.
        predicted: their mean predicted probability that the first answer is better, None in an empty bin.
        observed: the share of them whose first answer is better, None in an empty bin.
    """

    low: float
    high: float
    n: int
    predicted: float | None
    observed: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """See `calibrate`.

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


def calibrate(margins: Sequence[float], turned: Sequence[bool]) -> Calibration | None:
    """Compare sigma(difference of scores) with which answer is better; None without pairs.

    By the model of Bradley and Terry (1952, Biometrika 39:324-345), with which the head is trained, the
    better answer wins with probability p = sigma(delta) = 1 / (1 + exp(-delta)), delta being its score less
    the other's. Were the better answer named first in every pair, every outcome would be 1; so a pair that is
    `turned` counts as q = 1 - p with outcome y = 0, any other as q = p with y = 1. Over the bins b of
    `BIN_EDGES` with n_b of N pairs,

        ECE = sum_b n_b / N * |mean of y in b - mean of q in b|

    (Naeini et al. 2015, AAAI; Guo et al. 2017, arXiv 1706.04599). The Brier score (Brier 1950, Monthly
    Weather Review 78:1-3) is the mean of (y - q)², the log-loss the mean of -log sigma(delta) in nats;
    neither depends on which pairs are turned. With few pairs the ECE does, and is above 0 by chance alone.

    Args:
        margins: delta of each pair, finite, shape (pairs,).
        turned: whether the worse answer is named first; must not depend on the scores. Shape (pairs,).
    """
    import numpy as np
    from scipy.special import expit

    if not margins:
        return None
    delta, worse_first = np.asarray(margins, dtype=float), np.asarray(turned, dtype=bool)
    q, y = expit(np.where(worse_first, -delta, delta)), ~worse_first
    bins = len(BIN_EDGES) - 1
    location = np.minimum(np.searchsorted(BIN_EDGES, q, side="right") - 1, bins - 1)
    n, predicted, observed = (
        np.bincount(location, weights=weights, minlength=bins) for weights in (None, q, y)
    )
    return Calibration(
        ece=float(np.abs(observed - predicted).sum() / len(q)),
        brier=float(np.mean((y - q) ** 2)),
        log_loss=float(np.mean(np.logaddexp(0, -delta))),
        reliability=tuple(
            ReliabilityBin(
                low,
                high,
                int(n[b]),
                float(predicted[b] / n[b]) if n[b] else None,
                float(observed[b] / n[b]) if n[b] else None,
            )
            for b, (low, high) in enumerate(pairwise(BIN_EDGES))
        ),
    )
