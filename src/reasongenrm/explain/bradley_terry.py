"""The Bradley-Terry loss of a scalar reward model in numpy: what RewardTrainer minimises, to look at.

Everywhere delta = Z_a - Z_b, the score of the preferred answer less that of the other, in nats (log-odds).

Sources: Bradley & Terry 1952, Biometrika 39, 324-345 (the probability); Christiano et al. 2017, arXiv
1706.03741 (its cross-entropy as a loss on rewards); Ouyang et al. 2022, arXiv 2203.02155, equation 1 (on
answers of a language model).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

DELTAS = (0.0, 1.0, 2.0, 5.0)
"""The differences of the table, in nats."""


class LossRow(NamedTuple):
    """One line of the loss table.

    Attributes:
        delta: Z_a - Z_b, in nats.
        probability: sigma(delta - margin), in (0, 1).
        loss: in nats.
        gradient: d loss / d delta, in (-1, 0).
    """

    delta: float
    probability: float
    loss: float
    gradient: float


class Comparison(NamedTuple):
    """Two scored answers.

    Attributes:
        first, second: their names.
        delta: score of the first less that of the second, in nats.
        probability: that the first is better, sigma(delta).
    """

    first: str
    second: str
    delta: float
    probability: float


def probability(delta: ArrayLike) -> NDArray[np.float64]:
    """Return sigma(delta) = 1 / (1 + exp(-delta)), the probability that the first answer is better.

    Source: Bradley & Terry 1952; with strengths exp(Z) it is exp(Z_a) / (exp(Z_a) + exp(Z_b)).

    Args:
        delta: Z_a - Z_b in nats, of any shape and size.

    Returns:
        The same shape, in [0, 1].
    """
    return np.exp(-loss(delta))


def loss(delta: ArrayLike, margin: ArrayLike = 0.0) -> NDArray[np.float64]:
    """Return -log sigma(delta - margin), the loss of one preference, in nats.

    Sources: Ouyang et al. 2022, equation 1, for one pair; the margin is that of Llama 2 (Touvron et al. 2023,
    arXiv 2307.09288, section 3.2.2) and of the column `margin` of TRL's RewardTrainer.

    Args:
        delta: Z_a - Z_b in nats, of any shape and size.
        margin: by how much the preferred answer is to lead, in nats; broadcast against delta.

    Returns:
        The shape both have in common; at least 0.
    """
    # log(exp(0) + exp(-x)): neither overflows at x = -1e4 nor loses the small loss at x = 50.
    return np.logaddexp(0.0, -_less(delta, margin))


def gradient(delta: ArrayLike, margin: ArrayLike = 0.0) -> NDArray[np.float64]:
    """Return d loss / d delta = -(1 - sigma(delta - margin)): how hard a pair pulls its two scores apart.

    It is d loss / d Z_a, and -d loss / d Z_b. Source: the derivative of `loss`.

    Args:
        delta: Z_a - Z_b in nats, of any shape and size.
        margin: as in `loss`.

    Returns:
        The shape both have in common, in [-1, 0].
    """
    return -probability(-_less(delta, margin))  # 1 - sigma(x) is sigma(-x), without the cancellation


def centering(chosen: ArrayLike, rejected: ArrayLike, coefficient: float) -> float:
    """Return coefficient * mean((Z_a + Z_b)^2), which is added to a batch's loss to keep scores around 0.

    Source: Eisenstein et al. 2023, arXiv 2312.09244; TRL's `center_rewards_coefficient`.

    Args:
        chosen, rejected: scores of the preferred answers and of the others, of one shape.
        coefficient: its weight.
    """
    total = np.asarray(chosen, dtype=np.float64) + np.asarray(rejected, dtype=np.float64)
    return coefficient * float(np.mean(total**2))


def loss_table(deltas: Sequence[float] = DELTAS, margin: float = 0.0) -> list[LossRow]:
    """Return one row per difference: the probability, the loss and its gradient there."""
    return [
        LossRow(
            float(delta),
            float(probability(delta - margin)),
            float(loss(delta, margin)),
            float(gradient(delta, margin)),
        )
        for delta in deltas
    ]


def compare_scores(scores: Mapping[str, float]) -> list[Comparison]:
    """Return every pair of scored answers once, the one that is named earlier first.

    Args:
        scores: name of an answer -> its score; answers to one prompt.
    """
    return [
        Comparison(
            first, second, scores[first] - scores[second], float(probability(scores[first] - scores[second]))
        )
        for first, second in combinations(scores, 2)
    ]


def _less(delta: ArrayLike, margin: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(delta, dtype=np.float64) - np.asarray(margin, dtype=np.float64)
