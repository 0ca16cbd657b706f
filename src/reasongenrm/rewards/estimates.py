"""Rewards in [0, 1] and their standard errors, from what was read of a group's judgements."""

from __future__ import annotations

import math
from collections.abc import Sequence

from reasongenrm.judge.strengths import Strengths, fit_pairs
from reasongenrm.rewards.plans import Pair, Texts

Estimate = tuple[tuple[float | None, ...], tuple[float | None, ...]]
"""Rewards and standard errors, one per sample."""


def mean_points(texts: Texts, pairs: Sequence[Pair], points: Sequence[float | None]) -> Estimate:
    """Return each sample's mean P(it is better) over the other samples; those of its own text are a tie.

    Games that could not be read do not count; a text without a readable game has no reward. Where all pairs were played
    and read, these are the win chances of `win_chances` at maximum likelihood (the likelihood equations of Bradley and
    Terry 1952 say just that), from whose strengths the errors come.

    Args:
        texts: the distinct texts.
        pairs: games between them.
        points: P(the first is better) of each game; None if it could not be read.
    """
    sums: list[list[tuple[float, int]]] = [[] for _ in texts.texts]
    for (i, j), value in zip(pairs, points, strict=True):
        if value is not None:
            sums[i].append((value, texts.counts[j]))
            sums[j].append((1 - value, texts.counts[i]))
    rewards: list[float | None] = [None] * len(texts.texts)
    for i, games in enumerate(sums):
        if games or texts.counts[i] == len(texts.place) > 1:
            weighted = [*games, (0.5, texts.counts[i] - 1)]
            rewards[i] = sum(value * count for value, count in weighted) / sum(count for _, count in weighted)
    _, errors = win_chances(
        texts, fit_pairs(pairs, points, len(texts.texts)), [bool(games) for games in sums]
    )
    return tuple(rewards[i] for i in texts.place), errors


def win_chances(texts: Texts, strengths: Strengths, judged: Sequence[bool]) -> Estimate:
    """Return each sample's mean chance to beat the other samples: mean over j of 1 / (1 + exp(θj − θi)), a tie with its own text.

    The errors are by the delta method from the covariance of the strengths (about a tenth too small where each text has four
    games, see tests/judge/test_strengths.py). A group of one text is a tie without an error.

    Args:
        texts: the distinct texts.
        strengths: one per text.
        judged: whether a judgement of the text could be read; others have no reward, and are nobody's opponents.
    """
    import numpy as np

    total = len(texts.place)
    if texts.counts == (total,):
        return (0.5 if total > 1 else None,) * total, (0.0 if total > 1 else None,) * total
    theta, counts = np.array(strengths.values), np.array(texts.counts) * np.array(judged)
    chance = (1 + np.tanh((theta[:, None] - theta) / 2)) / 2
    others = np.maximum(counts.sum() - 1, 1)
    rewards = (chance @ counts - 0.5) / others  # 0.5: a sample does not meet itself
    slopes = chance * (1 - chance) * counts / others
    jacobian = np.diag(slopes.sum(axis=1)) - slopes
    variances = np.einsum("ij,jk,ik->i", jacobian, strengths.covariance, jacobian)
    known = [(float(rewards[i]), math.sqrt(max(0.0, float(variances[i])))) for i in range(len(theta))]
    return (
        tuple(known[i][0] if judged[i] else None for i in texts.place),
        tuple(known[i][1] if judged[i] else None for i in texts.place),
    )


def single_values(values: Sequence[float | None]) -> Estimate:
    """Return one value per sample as its reward; one judgement alone has no error."""
    return tuple(values), (None,) * len(values)
