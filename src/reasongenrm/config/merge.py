"""Settings of `reasongenrm merge`."""

from __future__ import annotations

from math import isfinite
from typing import Literal

from pydantic import Field, model_validator

from reasongenrm.config.engines import Strict

MergeMethod = Literal["linear", "slerp", "ties", "dare_linear", "dare_ties", "magnitude_prune"]
TRIMMING: tuple[MergeMethod, ...] = ("ties", "dare_linear", "dare_ties", "magnitude_prune")
"""Methods that set a part of every change to zero; they need a base, from which the change is counted."""
AVERAGING: tuple[MergeMethod, ...] = ("ties", "dare_ties")
"""Methods that divide by the number of inputs that agree in sign; the others add up."""


class MergeConfig(Strict):
    """How adapters, or models, become one.

    Attributes:
        method: how the changes of the weights are combined; see `train/merge_tensors.py`.
        weights: factor of each input; null: 1 each for `ties` and `dare_ties`, which take a mean, else shares that sum to 1.
        density: share of each change that is kept, for the methods that trim; null: 0.5 for them.
        rank: of the merged adapter; null: the method's own.
        factors: merge the two factors of every adapter apart, as peft's methods without SVD do: quick, and rough.
        base: folder or hub id of the model that the inputs were trained from; null: the base that the adapters name.
        seed: of the methods that drop at random.
        shard_size: limit of a weight file of a merged model, such as 500MB or 2GB; also the memory that a merge takes.
    """

    method: MergeMethod = "linear"
    weights: list[float] | None = None
    density: float | None = Field(None, gt=0, le=1)
    rank: int | None = Field(None, ge=1)
    factors: bool = False
    base: str | None = None
    seed: int = 17
    shard_size: str = Field("2GB", pattern=r"^[1-9][0-9]*(KB|MB|GB)$")

    @model_validator(mode="after")
    def _consistent(self) -> MergeConfig:
        if self.density is not None and self.method not in TRIMMING:
            raise ValueError(f"density: {self.method} keeps all; only {', '.join(TRIMMING)} trim")
        if self.weights is not None and not isfinite(sum(self.weights)):
            raise ValueError("weights: not all are finite numbers")
        if self.factors and self.method == "slerp":
            raise ValueError("factors: slerp merges the products of the factors")
        if self.factors and self.rank is not None:
            raise ValueError("rank: with factors the rank is that of the inputs")
        if self.method == "slerp" and not _on_an_arc(self.weights):
            raise ValueError("weights: slerp takes two, neither below 0, and their sum above 0")
        return self

    @property
    def kept(self) -> float:
        """Share of each change that is kept."""
        if self.method not in TRIMMING:
            return 1.0
        return 0.5 if self.density is None else self.density

    def input_weights(self, inputs: int) -> list[float]:
        """Return the factor of each of `inputs` inputs."""
        if self.weights is not None:
            return self.weights
        return [1.0 if self.method in AVERAGING else 1 / inputs] * inputs


def _on_an_arc(weights: list[float] | None) -> bool:
    return weights is None or (len(weights) == 2 and min(weights) >= 0 and sum(weights) > 0)
