"""Losses of reward models: known values, and gradients against torch's autograd of torch's own losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.scalar.losses import (
    FAMILIES,
    centring,
    centring_gradient,
    cross_entropy,
    cross_entropy_gradient,
    families_table,
    gradient,
    hinge,
    hinge_gradient,
    loss,
    ordinal,
    ordinal_gradient,
    squared,
    squared_error,
    squared_error_gradient,
    squared_gradient,
)

pytestmark = pytest.mark.unit

DELTAS = np.linspace(-6, 6, 49) + 0.013  # beside the corner of the hinge


def slopes(function: Callable[[Any], Any], values: np.ndarray = DELTAS) -> tuple[np.ndarray, np.ndarray]:
    """Values of a torch function, and its gradient by autograd."""
    import torch

    variable = torch.tensor(values, dtype=torch.float64, requires_grad=True)
    result = function(variable)
    result.sum().backward()
    return result.detach().numpy(), variable.grad.numpy()


def torch_functions() -> Any:
    from torch.nn import functional

    return functional


def ones(delta: Any) -> Any:
    import torch

    return torch.ones_like(delta)


def check(function: Callable[[Any], Any], values: np.ndarray, derivative: np.ndarray) -> None:
    expected, slope = slopes(function)
    np.testing.assert_allclose(values, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(derivative, slope, rtol=1e-10, atol=1e-12)


def test_pairwise_losses_are_those_of_torch() -> None:
    f = torch_functions()
    check(lambda d: f.softplus(1.5 - d), loss(DELTAS, 1.5), gradient(DELTAS, 1.5))
    check(
        lambda d: f.binary_cross_entropy_with_logits(d, 0.7 * ones(d), reduction="none"),
        cross_entropy(DELTAS, 0.7),
        cross_entropy_gradient(DELTAS, 0.7),
    )
    check(
        lambda d: f.margin_ranking_loss(d, 0 * d.detach(), ones(d), margin=1.0, reduction="none"),
        hinge(DELTAS),
        hinge_gradient(DELTAS),
    )
    check(
        lambda d: f.mse_loss(d, 0.5 * ones(d), reduction="none"),
        squared(DELTAS, 0.5),
        squared_gradient(DELTAS, 0.5),
    )
    check(
        lambda d: f.mse_loss(d.sigmoid(), ones(d), reduction="none"),
        squared_error(DELTAS),
        squared_error_gradient(DELTAS),
    )
    check(lambda d: 0.01 * (d + 2.0) ** 2, centring(DELTAS, 2.0), centring_gradient(DELTAS, 2.0))


def test_known_values() -> None:
    assert hinge([-1, 0, 1, 3]).tolist() == [2, 1, 0, 0]
    assert hinge_gradient([-1, 0, 1, 3]).tolist() == [-1, -1, 0, 0]
    assert squared([0, 1, 3]).tolist() == [1, 0, 4]
    assert centring(1.0, 2.0, 0.5) == 4.5 and centring_gradient(1.0, 2.0, 0.5) == 3.0
    assert cross_entropy(0.0, 0.3) == pytest.approx(np.log(2))  # a guess, whatever the label
    # Three of four people prefer the first: the entropy of (3/4, 1/4), 0.5623 nats, at a difference of log 3.
    assert cross_entropy(np.log(3), 0.75) == pytest.approx(0.562335, abs=1e-6)
    assert abs(cross_entropy_gradient(np.log(3), 0.75)) < 1e-12


@given(st.floats(0.01, 0.99), st.floats(-5, 5))
def test_the_cross_entropy_is_lowest_where_the_probability_is_the_label(label: float, delta: float) -> None:
    lowest = np.log(label) - np.log1p(-label)
    assert cross_entropy(delta, label) >= cross_entropy(lowest, label) - 1e-12


def test_the_logarithm_pulls_where_the_squared_error_has_given_up() -> None:
    wrong = -8.0
    assert gradient(wrong) < -0.99
    assert -0.001 < squared_error_gradient(wrong) < 0


@pytest.mark.parametrize("level", range(4))
def test_the_ordinal_loss_is_the_one_that_heads_are_trained_with(level: int) -> None:
    import torch

    from reasongenrm.train.scores import ordinal_loss

    logits = np.array([0.4, -1.2, 2.0])
    labels = torch.tensor([[float(level > k) for k in range(3)]])
    expected, slope = slopes(lambda variable: ordinal_loss(variable[None], labels), logits)
    assert ordinal(logits, level) == pytest.approx(float(expected), rel=1e-6)
    np.testing.assert_allclose(ordinal_gradient(logits, level), slope, rtol=1e-5, atol=1e-7)


def test_an_ordinal_logit_is_asked_only_where_its_condition_holds() -> None:
    assert ordinal([0.0, 5.0, 5.0], 0) == pytest.approx(np.log(2))
    assert ordinal_gradient([0.0, 5.0, 5.0], 0).tolist() == [0.5, 0, 0]


def test_every_loss_of_the_table_has_a_source_and_a_use() -> None:
    lines = families_table().splitlines()
    assert len(lines) == len(FAMILIES) + 2
    assert all(line.count(" | ") == 5 and "(empty)" not in line for line in lines)
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
