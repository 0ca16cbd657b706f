"""Preferences alone give a reward back: a linear reward, noisy preferences, and the fit that recovers it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from reasongenrm.explain.bradley_terry import probability

PAIRS = (500, 1000, 2000, 4000, 8000, 16000)
"""Numbers of preferences of the error curve."""


def recover_reward(n_pairs: int, dim: int = 8, seed: int | Sequence[int] = 0, length: float = 1.0) -> float:
    """Draw a reward and preferences by it, fit the reward to them, and return the error of the fit.

    The true reward is r(x) = w* x, with w* of a random direction. Both answers' features are standard normal,
    and the first is preferred with P = sigma(w* (x_a - x_b)). The fit is the maximum of the Bradley-Terry
    likelihood (Bradley & Terry 1952), which here is logistic regression on x_a - x_b without intercept or
    penalty; its error falls as 1 / sqrt(n_pairs), as that of every regular maximum-likelihood estimate does.

    Args:
        n_pairs: preferences to learn from; at least 20 per feature, since with few of them some direction may
            separate all preferences, and the likelihood then has no maximum.
        dim: features of an answer.
        seed: of the reward, the features and the preferences.
        length: ||w*||, in nats per unit of feature.

    Returns:
        ||w_hat - w*||, in the unit of `length`.

    Raises:
        ValueError: too few preferences.
    """
    from sklearn.linear_model import LogisticRegression

    if n_pairs < 20 * dim:
        raise ValueError(f"{n_pairs} pairs are too few for {dim} features: give {20 * dim} or more")
    source = np.random.default_rng(seed)
    true = source.standard_normal(dim)
    true *= length / np.linalg.norm(true)
    first, second = source.standard_normal((2, n_pairs, dim))
    differences = first - second
    preferred = source.random(n_pairs) < probability(differences @ true)
    model = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-8, max_iter=1000)
    fitted = model.fit(differences, preferred).coef_[0]
    return float(np.linalg.norm(fitted - true))


def error_curve(ns: Sequence[int] = PAIRS, repeats: int = 20, seed: int = 0, dim: int = 8) -> list[float]:
    """Return the mean error of `recover_reward` for each number of preferences.

    Args:
        ns: numbers of preferences.
        repeats: rewards drawn for each of them.
        seed: the same seed gives the same curve.
        dim: features of an answer.
    """
    return [
        float(np.mean([recover_reward(n, dim, (seed, n, repeat)) for repeat in range(repeats)])) for n in ns
    ]


def slope(ns: Sequence[int], errors: Sequence[float]) -> float:
    """Return the slope of log error over log n, by least squares; -0.5 where errors fall as 1 / sqrt(n)."""
    return float(np.polyfit(np.log(ns), np.log(errors), 1)[0])
