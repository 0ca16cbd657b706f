"""Merging tensors: values computed by hand, closed forms, and peft's own functions on whole tensors."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

from reasongenrm.config.merge import MergeConfig, MergeMethod
from reasongenrm.train import merge_tensors
from reasongenrm.train.merge_tensors import slerp_factors
from reasongenrm.verbs.stages import MERGE_METHODS

pytestmark = pytest.mark.unit


def merged(
    tensors: list[Any], base: Any = None, *, weights: list[float] | None = None, seed: int = 1, **keys: Any
) -> Any:
    import torch

    config = MergeConfig(weights=weights, **keys)
    factors = config.input_weights(len(tensors))
    return merge_tensors.merge_tensors(tensors, base, config, factors, seed=seed, dtype=torch.float32)


def test_the_command_line_has_the_methods_of_the_settings() -> None:
    assert get_args(MergeMethod) == MERGE_METHODS


# --- SLERP


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_slerp_of_perpendicular_vectors_walks_the_quarter_circle(t: float) -> None:
    assert slerp_factors(0.0, (1.0, 1.0), t) == pytest.approx(
        (math.cos(t * math.pi / 2), math.sin(t * math.pi / 2))
    )


def test_slerp_at_sixty_degrees_keeps_the_length() -> None:
    c0, c1 = slerp_factors(0.5, (1.0, 1.0), 0.5)
    # sin 30 / sin 60, twice; the point in the middle has length 1
    assert c0 == pytest.approx(1 / math.sqrt(3)) == c1
    assert math.hypot(c0 + c1 * 0.5, c1 * math.sqrt(3) / 2) == pytest.approx(1)


@pytest.mark.parametrize(
    ("dot", "norms"), [(6.0, (2.0, 3.0)), (-6.0, (2.0, 3.0)), (0.0, (0.0, 3.0)), (6.000001, (2.0, 3.0))]
)
def test_slerp_without_an_arc_is_a_straight_line(dot: float, norms: tuple[float, float]) -> None:
    assert slerp_factors(dot, norms, 0.25) == (0.75, 0.25)


def test_slerp_takes_a_whole_tensor_as_one_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(merge_tensors, "BLOCK", 1)
    first, second = torch.tensor([[3.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, 4.0]])
    result = merged([first, second], method="slerp", weights=[1, 2])
    # an angle of 90 degrees, two thirds of it from the first
    torch.testing.assert_close(result, torch.tensor([[1.5, 0.0], [0.0, 2 * math.sqrt(3)]]))


# --- TIES, by hand

BASE = [[10.0, 10.0], [10.0, 10.0]]
FIRST = [[5.0, -1.0], [2.0, 0.5]]
SECOND = [[-3.0, -4.0], [1.0, 0.25]]
# Density 0.5 keeps two values of each change: 5 and 2 of FIRST, -3 and -4 of SECOND. Sums: 2 (+), -4 (-), 2 (+), 0.
# The mean of the values with the larger sign: 5, -4, 2, 0. (-3 at the first place disagrees.)


@pytest.mark.parametrize("block", [1, 3, 1 << 24])
def test_ties_of_two_by_two(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(merge_tensors, "BLOCK", block)
    base = torch.tensor(BASE)
    tensors = [base + torch.tensor(FIRST), base + torch.tensor(SECOND)]
    result = merged(tensors, base, method="ties", density=0.5)
    assert (result - base).tolist() == [[5.0, -4.0], [2.0, 0.0]]
    half = merged(tensors, base, method="ties", density=0.5, weights=[0.5, 1])
    assert (half - base).tolist() == [[2.5, -4.0], [1.0, 0.0]]


def test_values_that_agree_are_averaged() -> None:
    import torch

    base = torch.zeros(2)
    result = merged([torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])], base, method="ties", density=1)
    assert result.tolist() == [2.0, 2.0]


def test_pruning_keeps_the_largest_of_each_and_adds_them() -> None:
    import torch

    base = torch.tensor(BASE)
    tensors = [base + torch.tensor(FIRST), base + torch.tensor(SECOND)]
    result = merged(tensors, base, method="magnitude_prune", density=0.5, weights=[1, 1])
    assert (result - base).tolist() == [[2.0, -4.0], [2.0, 0.0]]


# --- against peft's functions on whole tensors


@pytest.mark.parametrize("method", ["ties", "magnitude_prune"])
@pytest.mark.parametrize("density", [0.2, 0.7, 1.0, 0.001])
def test_blocks_give_what_peft_gives_for_a_whole_tensor(
    method: str, density: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from peft.utils import merge_utils

    monkeypatch.setattr(merge_tensors, "BLOCK", 7)
    generator = torch.Generator().manual_seed(3)
    changes = [torch.randn(11, 13, generator=generator) for _ in range(3)]
    weights = torch.tensor([0.5, 1.0, 2.0])
    expected = getattr(merge_utils, method)(list(changes), weights, density)
    result = merged(changes, torch.zeros(11, 13), method=method, density=density, weights=weights.tolist())
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties"])
def test_dare_drops_at_random_keeps_the_mean_and_depends_on_its_seed_alone(method: str) -> None:
    import torch

    change, base = torch.full((40_000,), 2.0), torch.zeros(40_000)
    one = merged([change, base], base, method=method, density=0.25, weights=[1, 0])
    torch.manual_seed(99)
    assert torch.equal(one, merged([change, base], base, method=method, density=0.25, weights=[1, 0]))
    other = merged([change, base], base, method=method, density=0.25, weights=[1, 0], seed=2)
    assert not torch.equal(one, other)
    assert set(one.tolist()) == {0.0, 8.0}, "kept values are scaled by 1 / 0.25"
    assert float(one.mean()) == pytest.approx(2.0, rel=0.05)


# --- linear


def test_linear_adds_changes_to_the_base_or_takes_a_mean() -> None:
    import torch

    base, first, second = torch.tensor([1.0, 1.0]), torch.tensor([2.0, 1.0]), torch.tensor([1.0, 4.0])
    assert merged([first, second], base, weights=[1, 1]).tolist() == [2.0, 4.0]
    assert merged([first, second], weights=[0.25, 0.75]).tolist() == [1.25, 3.25]
    assert merged([first, second]).tolist() == [1.5, 2.5]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"density": 0.5}, "linear keeps all"),
        ({"method": "slerp", "factors": True}, "slerp merges the products"),
        ({"method": "slerp", "weights": [1, 1, 1]}, "slerp takes two"),
        ({"method": "slerp", "weights": [-1, 2]}, "neither below 0"),
        ({"factors": True, "rank": 4}, "with factors the rank is that of the inputs"),
    ],
)
def test_settings_that_have_no_effect_are_errors(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MergeConfig(**keys)
