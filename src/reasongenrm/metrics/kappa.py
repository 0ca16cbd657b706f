"""Agreement of labels beyond chance: Cohen's and Fleiss' kappa, Krippendorff's alpha, recall, macro-F1; for many weightings.

A weight is the number of times that a row occurs, so a resample of rows is a row of weights, and a bootstrap is one call. A
value is NaN where it is undefined, such as a kappa of rows that all have one label.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def joint_counts(one: Sequence[int], other: Sequence[int], labels: int) -> Any:
    """Return the table of two raters per row, shape (rows, labels, labels): 1 where the first gives the row's label and the
    second the column's.

    Args:
        one, other: number of each rater's label, from 0, shape (rows,).
        labels: number of labels.
    """
    table = np.zeros((len(one), labels, labels))
    table[np.arange(len(one)), list(one), list(other)] = 1
    return table


def cohen_kappa(joint: Any, weights: Any) -> Any:
    """Return Cohen's kappa per weighting, at most 1; 0 is agreement by chance.

    κ = (p_o − p_e) / (1 − p_e), with p_o the share of equal labels and p_e the sum over labels of the product of both raters'
    shares. Source: J. Cohen, "A Coefficient of Agreement for Nominal Scales", Educational and Psychological Measurement 20
    (1960).

    Args:
        joint: see `joint_counts`.
        weights: shape (weightings, rows), not negative.
    """
    table = np.tensordot(weights, joint, axes=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        table = table / table.sum(axis=(1, 2), keepdims=True)
        expected = (table.sum(axis=1) * table.sum(axis=2)).sum(axis=1)
        return _beyond(np.trace(table, axis1=1, axis2=2), expected)


def accuracy(joint: Any, weights: Any) -> Any:
    """Return the share of rows on which both raters agree, per weighting, in [0, 1]; shapes as in `cohen_kappa`."""
    table = np.tensordot(weights, joint, axes=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.trace(table, axis1=1, axis2=2) / table.sum(axis=(1, 2))


def recall(joint: Any, weights: Any, label: int) -> Any:
    """Return, of the rows to which the first rater gives a label, the share to which the second gives it too, per weighting.

    Of the labels pass and fail, the recall of pass is the true-positive rate and that of fail the true-negative rate.
    Shapes as in `cohen_kappa`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ joint[:, label, label]) / (weights @ joint[:, label, :].sum(axis=1))


def macro_f1(joint: Any, weights: Any, labels: Sequence[int]) -> Any:
    """Return the mean over labels of F1 = 2·TP / (2·TP + FP + FN), per weighting, in [0, 1]; the first rater holds the truth.

    A label that neither rater gives counts 0, as in scikit-learn with `zero_division=0`. Shapes as in `cohen_kappa`.

    Args:
        joint, weights: see `cohen_kappa`.
        labels: the labels that count.
    """
    table = np.tensordot(weights, joint, axes=1)
    sums = table.sum(axis=1) + table.sum(axis=2)
    hits = np.diagonal(table, axis1=1, axis2=2)
    f1 = np.divide(2 * hits, sums, out=np.zeros_like(sums), where=sums > 0)
    return f1[:, list(labels)].mean(axis=1)


def fleiss_kappa(counts: Any, weights: Any) -> Any:
    """Return Fleiss' kappa of rows with the same number of raters, per weighting, at most 1.

    With n raters and n_ij of them giving row i the label j: P_i = (Σ_j n_ij² − n) / (n(n − 1)), p_j the share of label j,
    κ = (mean of P_i − Σ_j p_j²) / (1 − Σ_j p_j²). Source: J. L. Fleiss, "Measuring Nominal Scale Agreement Among Many
    Raters", Psychological Bulletin 76 (1971).

    Args:
        counts: number of raters per row and label, shape (rows, labels); each row sums to the same n >= 2.
        weights: shape (weightings, rows), not negative.
    """
    counts = np.asarray(counts, dtype=float)
    raters = counts[0].sum()
    per_row = ((counts**2).sum(axis=1) - raters) / (raters * (raters - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights.sum(axis=1)
        shares = (weights @ counts) / (total * raters)[:, None]
        return _beyond(weights @ per_row / total, (shares**2).sum(axis=1))


def krippendorff_alpha(counts: Any, weights: Any) -> Any:
    """Return Krippendorff's alpha for nominal labels, per weighting, at most 1; rows may have any number of raters from 2 on.

    α = 1 − (n − 1) Σ_{c≠k} o_ck / Σ_{c≠k} n_c n_k, with o_ck the coincidences of labels c and k, each row's divided by its
    raters minus 1, n_c their sums and n the sum of all. Source: K. Krippendorff, "Computing Krippendorff's
    Alpha-Reliability" (2011). A row with one rater says nothing and is left out.

    Args:
        counts: number of raters per row and label, shape (rows, labels).
        weights: shape (weightings, rows), not negative.
    """
    counts = np.asarray(counts, dtype=float)
    raters = counts.sum(axis=1)
    usable = raters >= 2
    counts, raters, weights = counts[usable], raters[usable], weights[:, usable]
    sums = weights @ counts
    equal = weights @ ((counts * (counts - 1)).sum(axis=1) / (raters - 1))
    total = sums.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        chance = total**2 - (sums**2).sum(axis=1)
        value = 1 - (total - 1) * (total - equal) / chance
    return np.where(chance > 0, value, np.nan)


def _beyond(observed: Any, expected: Any) -> Any:
    """Return agreement beyond chance; NaN where chance alone gives full agreement."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(expected < 1 - 1e-12, (observed - expected) / (1 - expected), np.nan)
