"""Merge tensors of one name: linear, SLERP, TIES, DARE and pruning by magnitude.

With W_i the tensors of the inputs, W_0 that of their base, D_i = W_i - W_0 and w_i the weights:

- linear: W_0 + sum w_i D_i (task arithmetic, Ilharco et al. 2023, arXiv 2212.04089); without a base, sum w_i W_i.
- slerp: the point at w_1 / (w_0 + w_1) of the arc from the first tensor to the second, each one vector (Shoemake 1985,
  "Animating rotation with quaternion curves"); `slerp_factors` has the formula.
- ties: of each D_i the largest values, the sign of the larger sum, the mean of the values with this sign (Yadav et al.
  2023, arXiv 2306.01708).
- dare_linear, dare_ties: of each D_i values that are drawn at random, scaled up by 1 / density; then linear, or as ties (Yu et
  al. 2024, arXiv 2311.03099).
- magnitude_prune: of each D_i the largest values, then linear.

The parts of TIES and DARE are peft's (`peft.utils.merge_utils`), whose weights scale the values after the sign was chosen. A large
tensor is computed in blocks, so that memory holds it a few times in 16 bits, not in 32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from reasongenrm.config.merge import AVERAGING, TRIMMING, MergeConfig, MergeMethod
from reasongenrm.errors import EngineError

BLOCK = 1 << 16
"""Values of a tensor that are computed together: their 256 KiB per input stay in the cache of a core."""

PARALLEL = 0.9995
"""Cosine above which an arc is computed as a straight line, as mergekit does: its sine would divide by nearly zero."""


def slerp_factors(dot: float, norms: tuple[float, float], t: float) -> tuple[float, float]:
    """Return the factors c0 and c1 of the spherical interpolation c0 v0 + c1 v1.

    c0 = sin((1 - t) a) / sin a and c1 = sin(t a) / sin a, where a is the angle between v0 and v1. Vectors that are parallel, opposite or
    zero have no arc: c0 = 1 - t and c1 = t.

    Args:
        dot: inner product of v0 and v1.
        norms: their lengths.
        t: from 0 (v0) to 1 (v1).
    """
    length = norms[0] * norms[1]
    cosine = dot / length if length else 1.0
    if abs(cosine) > PARALLEL:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def slerp_share(weights: Sequence[float]) -> float:
    """Return t, the place of the second input's weight on the arc from 0 to 1."""
    return weights[1] / (weights[0] + weights[1])


def merge_tensors(
    tensors: Sequence[Any],
    base: Any,
    config: MergeConfig,
    weights: Sequence[float],
    *,
    seed: int,
    dtype: Any,
) -> Any:
    """Return one tensor for those of all inputs.

    Args:
        tensors: one per input, of one shape; computed in float32.
        base: the base's; None where the method is `linear` and the weights sum to 1, or `slerp`.
        config: method and density.
        weights: one per input.
        seed: of this tensor, for the methods that drop at random.
        dtype: of the result.
    """
    import torch

    first = tensors[0]
    merged = torch.empty(first.numel(), dtype=dtype)
    flat = [tensor.reshape(-1) for tensor in tensors]
    flat_base = None if base is None else base.reshape(-1)
    if config.method == "slerp":
        weights = _slerp_weights(flat, slerp_share(weights))
    floors = [0.0] * len(flat)
    if config.method in ("ties", "magnitude_prune"):
        floors = [_magnitude_floor(tensor, flat_base, config.kept) for tensor in flat]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for block in _blocks(merged.numel()):
            start = None if flat_base is None else flat_base[block].float()
            changes = [tensor[block].float() - (0 if start is None else start) for tensor in flat]
            change = combine_changes(changes, weights, config.method, config.kept, floors)
            merged[block] = change if start is None else start + change
    return merged.reshape(first.shape)


def check_finite(name: str, tensor: Any, location: str) -> None:
    """Check that a tensor has finite numbers alone.

    Args:
        name: of the tensor.
        location: the input that it is of, or `merge` for a result.

    Raises:
        EngineError: it has others: a training has failed, or a merged number is beyond the range of its type.
    """
    if not bool(tensor.isfinite().all()):
        hint = "leave out an input whose training has failed, or give smaller --weights"
        raise EngineError(f"the weights of {name} are not finite", location=location, hint=hint)


def combine_changes(
    changes: Sequence[Any],
    weights: Sequence[float],
    method: MergeMethod,
    kept: float,
    floors: Sequence[float],
) -> Any:
    """Return one change for those of all inputs.

    Args:
        changes: one per input, of one shape.
        weights: their factors.
        method: see the module.
        kept: share of the values that DARE keeps.
        floors: smallest absolute value that TIES and pruning keep, per input.
    """
    import torch
    from peft.utils.merge_utils import (
        calculate_majority_sign_mask,
        disjoint_merge,
        random_pruning,
        task_arithmetic,
    )

    if method in TRIMMING:
        if method.startswith("dare"):
            changes = [random_pruning(change, kept, rescale=True) for change in changes]
        else:
            changes = [
                change * (change.abs() >= floor) for change, floor in zip(changes, floors, strict=True)
            ]
    factors = torch.tensor(weights)
    if method not in AVERAGING:
        return task_arithmetic(list(changes), factors)
    stacked = torch.stack(list(changes))
    agree = calculate_majority_sign_mask(stacked)
    return disjoint_merge(stacked * factors[:, None], agree)


def _blocks(values: int) -> Iterator[slice]:
    for start in range(0, values, BLOCK):
        yield slice(start, min(start + BLOCK, values))


def _slerp_weights(flat: Sequence[Any], t: float) -> tuple[float, float]:
    dot = squares0 = squares1 = 0.0
    for block in _blocks(flat[0].numel()):
        v0, v1 = (vector[block].double() for vector in flat)
        dot += float(v0 @ v1)
        squares0 += float(v0 @ v0)
        squares1 += float(v1 @ v1)
    return slerp_factors(dot, (math.sqrt(squares0), math.sqrt(squares1)), t)


def _magnitude_floor(tensor: Any, base: Any, kept: float) -> float:
    """Return the k-th largest absolute value of a change, k = the share `kept` of its values (inf for k = 0)."""
    import numpy as np

    count = tensor.numel()
    keep = int(kept * count)
    if not keep:
        return math.inf
    sizes = np.empty(count, dtype=np.float32)
    for block in _blocks(count):
        sizes[block] = (tensor[block].float() - base[block].float()).abs().numpy()
    sizes.partition(count - keep)  # in place: torch's topk would hold the tensor three times more
    return float(sizes[count - keep])
