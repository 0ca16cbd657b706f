"""Correlations of weighted rows, for many weightings at once: a bootstrap is one call.

A weight is the number of times that a row occurs, so a resample of rows is a row of weights. A correlation is NaN where a side is
constant.
"""

from __future__ import annotations

from typing import Any

import numpy as np

BLOCK = 512
"""Columns of the matrix of all pairs that are in memory together."""


def mean(values: Any, weights: Any) -> Any:
    """Return the weighted means, shape (weightings,).

    Args:
        values: shape (rows,).
        weights: shape (weightings, rows), not negative.
    """
    with np.errstate(invalid="ignore"):
        return weights @ values / weights.sum(axis=1)


def pearson(one: Any, other: Any, weights: Any) -> Any:
    """Return Pearson's r per weighting, in [-1, 1]; shapes as in `mean`."""
    return _pearson(_standard(one)[None, :], _standard(other)[None, :], weights)


def _standard(values: Any) -> Any:
    """Return values with mean 0 and the largest distance 1, so that rounding does not depend on their size."""
    centred = np.asarray(values, dtype=float) - np.mean(values)
    return centred / (np.abs(centred).max() or 1.0)


def _pearson(one: Any, other: Any, weights: Any) -> Any:
    """Return the correlation of two columns, or of two columns per weighting."""
    total = weights.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        one = one - (weights * one).sum(axis=1, keepdims=True) / total
        other = other - (weights * other).sum(axis=1, keepdims=True) / total
        squares = [(weights * side**2).sum(axis=1) for side in (one, other)]
        value = (weights * one * other).sum(axis=1) / np.sqrt(squares[0] * squares[1])
    constant = [square <= 1e-15 * np.maximum(total[:, 0], 1) for square in squares]  # rounding
    value[constant[0] | constant[1]] = np.nan
    return np.clip(value, -1, 1)


def spearman(one: Any, other: Any, weights: Any) -> Any:
    """Return Spearman's rho per weighting: Pearson's r of the ranks, ties sharing their mean rank; shapes as in `mean`.

    Source: C. Spearman, American Journal of Psychology 15 (1904).
    """
    first, second = (_ranks(side, weights) / weights.shape[1] for side in (one, other))
    return _pearson(first, second, weights)


def _ranks(values: Any, weights: Any) -> Any:
    """Return the mean rank of each value per weighting, shape (weightings, rows)."""
    _, group = np.unique(values, return_inverse=True)
    order = np.argsort(group, kind="stable")
    last = np.flatnonzero(
        np.diff(np.append(group[order], group.max() + 1))
    )  # the last row of each group of ties
    ends = np.cumsum(weights[:, order], axis=1)[:, last]
    sizes = np.diff(ends, axis=1, prepend=0)
    return (ends - sizes + (sizes + 1) / 2)[:, group]


def kendall(one: Any, other: Any, weights: Any) -> Any:
    """Return Kendall's tau-b per weighting; shapes as in `mean`. The time grows with the square of the rows.

    tau-b = (C - D) / sqrt((P - T)(P - U)) over the P pairs of rows, C in one order on both sides, D in opposite ones, T tied on one
    side and U on the other. Source: M. G. Kendall, Biometrika 33 (1945).
    """
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    sums = np.zeros((3, len(weights)))
    for start in range(0, len(one), BLOCK):
        part = slice(start, start + BLOCK)
        signs = [np.sign(side[:, None] - side[None, part]) for side in (one, other)]
        for number, matrix in enumerate((signs[0] * signs[1], np.abs(signs[0]), np.abs(signs[1]))):
            sums[number] += ((weights @ matrix) * weights[:, part]).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(sums[0] / np.sqrt(sums[1] * sums[2]), -1, 1)
