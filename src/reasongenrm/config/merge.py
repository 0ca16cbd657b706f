"""Settings of `reasongenrm merge`."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from reasongenrm.config.engines import Seed, Strict
from reasongenrm.config.loading import validate
from reasongenrm.errors import ConfigError

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
        seed: of the methods that drop at random; 0 to 2**32 - 1.
        shard_size: limit of a weight file of a merged model, such as 500MB or 2GB; also the memory that a merge takes.
    """

    method: MergeMethod = "linear"
    weights: list[float] | None = None
    density: float | None = Field(None, gt=0, le=1)
    rank: int | None = Field(None, ge=1)
    factors: bool = False
    base: str | None = None
    seed: Seed = 17
    shard_size: str = Field("2GB", pattern=r"^[1-9][0-9]*(KB|MB|GB)$")

    @model_validator(mode="after")
    def _consistent(self) -> MergeConfig:
        slerp, weights = self.method == "slerp", self.weights
        if self.density is not None and self.method not in TRIMMING:
            problem = f"{self.method} keeps all; only {', '.join(TRIMMING)} have a density"
            raise _misfit("density", problem, "leave it out, or choose one of these methods")
        if weights is not None and not isfinite(sum(weights)):
            raise _misfit("weights", "the weights are not all finite numbers", _HINTS["weights"])
        if slerp and not _on_an_arc(weights):
            problem = "slerp takes two weights, neither below 0, and their sum above 0"
            raise _misfit("weights", problem, "give two such as 0.7,0.3")
        if weights is not None and not any(weights):
            problem = "all weights are 0, so that the result would be the base"
            raise _misfit("weights", problem, _HINTS["weights"])
        if slerp and self.factors:
            problem = "slerp merges the products of the factors"
            raise _misfit("factors", problem, "leave out the factors")
        if self.factors and self.rank is not None:
            problem = "with factors the rank is that of the inputs"
            raise _misfit("rank", problem, "leave out the rank, or the factors")
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


_HINTS = {
    "weights": "give one number per input, such as 0.7,0.3",
    "density": "give a share above 0 and up to 1, such as 0.5",
    "rank": "give a whole number from 1",
    "seed": "give a whole number from 0 to 4294967295",
    "shard_size": "give a size such as 500MB or 2GB",
}
"""How to correct a value of a setting."""


def merge_options(options: Mapping[str, Any]) -> MergeConfig:
    """Return options of the command line, by their keys in `MergeConfig`, as settings.

    Raises:
        ConfigError: names the option.
    """
    try:
        return validate(MergeConfig, options, "--", "", "options")
    except ConfigError as error:
        key = error.location.removeprefix("--").partition(".")[0]
        location, hint = f"--{key.replace('_', '-')}", error.hint or _HINTS.get(key, "")
        raise ConfigError(error.problem, location=location, hint=hint) from None


def _misfit(key: str, problem: str, hint: str) -> PydanticCustomError:
    """Return the error of a setting that does not fit another one."""
    return PydanticCustomError("misfit", "{problem}", {"key": key, "problem": problem, "hint": hint})


def _on_an_arc(weights: list[float] | None) -> bool:
    return weights is None or (len(weights) == 2 and min(weights) >= 0 and sum(weights) > 0)
