"""The losses of reward models and their gradients, as numbers; the table that compares them.

Scores, differences and losses are in nats. Nothing here trains: `train/` has the losses that do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, log_expit

from reasongenrm.report.tables import grid

DELTAS = (0.0, 1.0, 2.0, 5.0)
"""The differences of the loss table, in nats."""

Numbers = NDArray[np.float64]


def probability(delta: ArrayLike) -> Numbers:
    """Return sigma(delta) = 1 / (1 + exp(-delta)), the probability that the first answer is better.

    Source: Bradley & Terry 1952; with strengths exp(Z) it is exp(Z_a) / (exp(Z_a) + exp(Z_b)).

    Args:
        delta: Z_a - Z_b in nats, of any shape.

    Returns:
        The same shape, in [0, 1].
    """
    return expit(np.asarray(delta, dtype=np.float64))


def loss(delta: ArrayLike, margin: ArrayLike = 0.0) -> Numbers:
    """Return -log sigma(delta - margin), the loss of one preference, in nats.

    Sources: Ouyang et al. 2022, equation 1, for one pair; the margin is that of Llama 2 (Touvron et al. 2023,
    arXiv 2307.09288, section 3.2.2) and of the column `margin` of TRL's RewardTrainer.

    Args:
        delta: Z_a - Z_b in nats, of any shape.
        margin: the required lead of the preferred answer, in nats; broadcast against delta.

    Returns:
        The common shape; at least 0.
    """
    return -log_expit(np.subtract(delta, margin, dtype=np.float64))


def gradient(delta: ArrayLike, margin: ArrayLike = 0.0) -> Numbers:
    """Return d loss / d delta = -(1 - sigma(delta - margin)): how strongly a pair pulls its two scores apart.

    It is d loss / d Z_a, and -d loss / d Z_b. Source: the derivative of `loss`, whose arguments it has.

    Returns:
        The common shape, in [-1, 0].
    """
    return -probability(np.subtract(margin, delta))  # 1 - sigma(x) is sigma(-x), without the cancellation


def cross_entropy(delta: ArrayLike, label: ArrayLike) -> Numbers:
    """Return -Y log sigma(delta) - (1 - Y) log sigma(-delta), the binary cross-entropy of a pair with label Y, in nats.

    With Y = 1 it is `loss`. Its minimum over delta is at sigma(delta) = Y, so with a share of votes as the label the
    score difference becomes log(Y / (1 - Y)). Source: Christiano et al. 2017, arXiv 1706.03741, section 2.2.3, whose
    labels are distributions over the two sides.

    Args:
        delta: Z_a - Z_b in nats, of any shape.
        label: Y, the probability (or the share of annotators) that the first answer is better, in [0, 1]; broadcast.
    """
    label = np.asarray(label, dtype=np.float64)
    return label * loss(delta) + (1 - label) * loss(np.negative(delta))


def cross_entropy_gradient(delta: ArrayLike, label: ArrayLike) -> Numbers:
    """Return d cross_entropy / d delta = sigma(delta) - Y: predicted minus observed, in [-1, 1]."""
    return probability(delta) - np.asarray(label, dtype=np.float64)


def squared_error(delta: ArrayLike) -> Numbers:
    """Return (1 - sigma(delta))^2, the squared error of the probability (Brier 1950): the loss without a logarithm."""
    return np.square(probability(np.negative(delta)))


def squared_error_gradient(delta: ArrayLike) -> Numbers:
    """Return d squared_error / d delta = -2 sigma(delta) (1 - sigma(delta))^2; it vanishes where the order is wrong, too."""
    return -2 * probability(delta) * squared_error(delta)


def hinge(delta: ArrayLike, margin: ArrayLike = 1.0) -> Numbers:
    """Return max(0, margin - delta), zero where the preferred answer leads by the margin (Joachims 2002; Zhao et al. 2023)."""
    return np.maximum(0.0, np.subtract(margin, delta, dtype=np.float64))


def hinge_gradient(delta: ArrayLike, margin: ArrayLike = 1.0) -> Numbers:
    """Return d hinge / d delta: -1 below the margin, else 0."""
    return -np.less(delta, margin).astype(np.float64)


def squared(delta: ArrayLike, target: ArrayLike = 1.0) -> Numbers:
    """Return (delta - target)^2, which asks for one lead, and no more (IPO: Azar et al. 2023, arXiv 2310.12036)."""
    return np.square(np.subtract(delta, target, dtype=np.float64))


def squared_gradient(delta: ArrayLike, target: ArrayLike = 1.0) -> Numbers:
    """Return d squared / d delta = 2 (delta - target); positive where the lead is larger than the target."""
    return 2 * np.subtract(delta, target, dtype=np.float64)


def centring(first: ArrayLike, second: ArrayLike, coefficient: float = 0.01) -> Numbers:
    """Return c (Z_a + Z_b)^2, the term that keeps scores around 0 (Eisenstein et al. 2023, arXiv 2312.09244)."""
    return coefficient * np.square(np.add(first, second, dtype=np.float64))


def centring_gradient(first: ArrayLike, second: ArrayLike, coefficient: float = 0.01) -> Numbers:
    """Return d centring / d Z_a = 2 c (Z_a + Z_b), which is d centring / d Z_b too: the difference is not pulled."""
    return 2 * coefficient * np.add(first, second, dtype=np.float64)


def ordinal(logits: ArrayLike, level: int) -> float:
    """Return the loss of one answer with a level, from the conditional logits of CORN, in nats.

    Logit k is that of P(level > k | level > k - 1). It is asked only where the condition holds, so the loss is the sum of
    the cross-entropies of the logits 0 to min(level, K - 2). Source: Shi, Cao & Raschka 2021, arXiv 2111.08851.

    Args:
        logits: shape (K - 1,), for K levels.
        level: from 0 to K - 1.
    """
    logits = np.asarray(logits, dtype=np.float64)
    thresholds = np.arange(len(logits))
    asked = thresholds <= level
    return float(np.sum(asked * cross_entropy(logits, thresholds < level)))


def ordinal_gradient(logits: ArrayLike, level: int) -> Numbers:
    """Return d ordinal / d logits, shape (K - 1,): sigma - [level > k] where the logit is asked, else 0."""
    logits = np.asarray(logits, dtype=np.float64)
    thresholds = np.arange(len(logits))
    return (thresholds <= level) * cross_entropy_gradient(logits, thresholds < level)


def loss_table(deltas: Sequence[float] = DELTAS) -> str:
    """Return a Markdown table of the probability, the loss and its gradient at each difference, to three decimals."""
    rows = [[f"{d:g}", *(f"{float(f(d)):.3f}" for f in (probability, loss, gradient))] for d in deltas]
    return grid(["Δ", "σ(Δ)", "loss", "gradient"], rows, text_columns=0)


@dataclass(frozen=True, slots=True)
class LossFamily:
    """A row of `families_table`; texts, formulas in Unicode.

    Attributes:
        name: of the loss.
        formula: per pair or per answer.
        slope: its derivative, by Δ, or by the score where the loss has one answer.
        use: the labels that it learns from, and when to choose it.
        here: the setting of this suite, or "no".
        source: authors and year.
    """

    name: str
    formula: str
    slope: str
    use: str
    here: str
    source: str


FAMILIES = (
    LossFamily(
        "logistic (Bradley-Terry)",
        "−log σ(Δ)",
        "−(1 − σ(Δ))",
        "pairs; the default: σ(Δ) is a probability, and a wrong order is pulled with full force",
        "scalar train",
        "Bradley & Terry 1952; Ouyang et al. 2022",
    ),
    LossFamily(
        "logistic with a margin",
        "−log σ(Δ − m)",
        "−(1 − σ(Δ − m))",
        "pairs, and by how much one is better",
        "scalar.margin",
        "Touvron et al. 2023",
    ),
    LossFamily(
        "cross-entropy with a soft label",
        "−Y log σ(Δ) − (1 − Y) log σ(−Δ)",
        "σ(Δ) − Y",
        "pairs with several votes, or labels known to be wrong in a share of cases",
        "no",
        "Christiano et al. 2017",
    ),
    LossFamily(
        "hinge",
        "max(0, m − Δ)",
        "−1 where Δ < m, else 0",
        "only the order matters; a pair with enough lead is left alone, and there is no probability",
        "no",
        "Joachims 2002; Zhao et al. 2023",
    ),
    LossFamily(
        "squared difference",
        "(Δ − m)²",
        "2(Δ − m)",
        "a known lead; large leads are pulled back, so scores stay bounded",
        "no",
        "Azar et al. 2023",
    ),
    LossFamily(
        "centring, added to one of the above",
        "c(Z_a + Z_b)²",
        "2c(Z_a + Z_b) for both scores",
        "the score is used alone, as in reinforcement learning",
        "scalar.args.center_rewards_coefficient",
        "Eisenstein et al. 2023",
    ),
    LossFamily(
        "regression",
        "(Z − y)²",
        "2(Z − y)",
        "a rating y of each answer, on a scale with equal steps",
        "objective: regression, dimensions",
        "Wang et al. 2024",
    ),
    LossFamily(
        "pointwise cross-entropy",
        "−y log σ(Z) − (1 − y) log σ(−Z)",
        "σ(Z) − y",
        "right or wrong for each answer (y is 1 or 0), as from a unit test: a verifier",
        "no",
        "Cox 1958; Lightman et al. 2023",
    ),
    LossFamily(
        "ordinal (CORN)",
        "Σ −[y > k] log σ(Z_k) − [y ≤ k] log σ(−Z_k), over the k with y > k − 1",
        "σ(Z_k) − [y > k]",
        "a level of each answer (1 to 5 stars) whose steps need not be equal; one logit per step",
        "objective: ordinal",
        "Shi, Cao & Raschka 2021",
    ),
)
"""The losses of docs/reward-modeling.md."""


def families_table() -> str:
    """Return the losses of FAMILIES as a Markdown table."""
    headings = ["loss", "formula", "gradient", "learns from; when", "in this suite", "source"]
    return grid(headings, [astuple(family) for family in FAMILIES], text_columns=len(headings))
