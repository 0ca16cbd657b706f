"""Merge LoRA adapters of one base into one adapter, with peft's `add_weighted_adapter`.

Only the shapes of the base are needed. Its weights are zeros that take no memory, so a merge takes the memory of the adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reasongenrm.checkpoints import load_adapter, load_checkpoint
from reasongenrm.config.merge import TRIMMING, MergeConfig
from reasongenrm.errors import ConfigError, EngineError, first_line
from reasongenrm.train.merge_inputs import MergeInput
from reasongenrm.train.merge_tensors import check_finite, slerp_factors, slerp_share

MERGED = "default"
"""peft's name of the merged adapter: an adapter of another name is saved in a folder of its own."""


def input_name(number: int) -> str:
    """Return peft's name of an input."""
    return f"input-{number}"


def adapted_skeleton(base: Path, adapters: Sequence[MergeInput]) -> Any:
    """Return a base without weights, with the adapters on it as `input-0`, `input-1` and so on.

    Args:
        base: folder of the base; its config.json is read.
        adapters: at least one.

    Raises:
        EngineError: the base is unknown to transformers, or an adapter does not fit it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        config = load_checkpoint("AutoConfig", base, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError) as error:
        problem = f"cannot read the base: {first_line(error)}"
        raise EngineError(problem, location=str(base), hint="give its folder with --base") from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            zeros = torch.zeros((), dtype=torch.float32, device=device).expand(weight.shape)
            setattr(module, name, torch.nn.Parameter(zeros, requires_grad=False))
    for number, one in enumerate(adapters):
        try:
            model = load_adapter(model, one.folder, name=input_name(number))
        except (RuntimeError, ValueError, KeyError) as error:
            problem = f"it does not fit the base {base}: {first_line(error)}"
            raise EngineError(problem, location=one.name, hint="give its own base with --base") from None
    if any(layer.lora_embedding_A for _, layer in lora_layers(model)):
        problem, hint = (
            "an adapter changes an embedding, which is not merged",
            "merge adapters of linear modules",
        )
        raise EngineError(problem, location=adapters[0].name, hint=hint)
    return model


def lora_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Yield the modules of a model that have an adapter, each with its name in the model without adapters."""
    from peft.tuners.lora import LoraLayer

    for name, module in model.base_model.model.named_modules():
        if isinstance(module, LoraLayer):
            yield name, module


def merge_adapters(base: Path, adapters: Sequence[MergeInput], config: MergeConfig, out: Path) -> int:
    """Write the merged adapter, `adapter_model.safetensors` and `adapter_config.json`; return its rank.

    `linear` and `slerp` are exact: the factors are put side by side, so that the rank is the sum of all ranks; with `config.rank` the
    product is cut to its largest singular values. The methods that trim do so with the product of the factors, and cut the result to
    `config.rank`, by default the highest rank of the inputs.

    Args:
        base: folder of the base.
        adapters: two or more of this base.
        config: method, weights and rank.
        out: an existing folder.

    Raises:
        ConfigError: peft cannot merge these adapters, such as factors of several ranks; or the result cannot have the rank.
        EngineError: an adapter, or the result, has numbers that are not finite.
    """
    import torch

    model = adapted_skeleton(base, adapters)
    names = [input_name(number) for number in range(len(adapters))]
    for name, one in zip(names, adapters, strict=True):
        _check_factors(model, name, one.name)
    weights = [1.0, 1.0] if config.method == "slerp" else config.input_weights(len(adapters))
    trims = config.method in TRIMMING
    _check_rank(model, names, config)
    kind = config.method if config.factors else f"{config.method}_svd" if trims else "cat"
    torch.manual_seed(config.seed)
    try:
        model.add_weighted_adapter(
            names, weights, adapter_name=MERGED, combination_type=kind, svd_rank=config.rank, density=config.kept,
            svd_full_matrices=False,  # the rest of them is not used, and is wide
        )  # fmt: skip
    except ValueError as error:
        problem = f"peft cannot merge these adapters: {first_line(error)}"
        hint = "leave out --factors" if config.factors else "merge adapters with the same target_modules"
        raise ConfigError(problem, location="merge", hint=hint) from None
    peft_config = model.peft_config[MERGED]
    rank: int = peft_config.r
    if config.method == "slerp":
        for layer in _merged_layers(model):
            _scale_to_arc(layer, slerp_share(config.input_weights(2)))
    if kind == "cat" and config.rank is not None and config.rank < rank:
        rank = config.rank
        for layer in _merged_layers(model):
            _cut_rank(layer, rank)
    if kind.endswith("_svd"):
        for layer in _merged_layers(model):
            _set_factors(layer, layer.lora_A[MERGED].weight.data, layer.lora_B[MERGED].weight.data, rank)
    _check_factors(model, MERGED, "merge")
    # The merged factors hold the scaling of their adapters: their own has to be 1.
    peft_config.r = peft_config.lora_alpha = rank
    peft_config.use_rslora = False
    model.save_pretrained(out, selected_adapters=[MERGED], save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)  # peft's empty model card
    return rank


def _check_rank(model: Any, names: Sequence[str], config: MergeConfig) -> None:
    """Check that the result can have the rank of the settings.

    Raises:
        ConfigError: it is higher than the sum of the inputs' ranks; for methods that trim, than that of the largest weight.
    """
    if config.rank is None:
        return
    factors = [
        [(layer.lora_A[name].weight, layer.lora_B[name].weight) for _, layer in lora_layers(model) if name in layer.lora_A]
        for name in names
    ]  # fmt: skip
    if config.method in TRIMMING:
        most = max(min(a.shape[1], len(b)) for layers in factors for a, b in layers)
        limit = f"the rank of the largest weight, {most}"
    else:
        most = sum(max(len(a) for a, _ in layers) for layers in factors)
        limit = f"the sum of the inputs' ranks, {most}"
    if config.rank > most:
        hint = f"give at most {most}, or leave out --rank"
        raise ConfigError(f"{config.rank} is more than {limit}", location="--rank", hint=hint)


def _check_factors(model: Any, adapter: str, location: str) -> None:
    for name, layer in lora_layers(model):
        for factor in (layer.lora_A, layer.lora_B):
            if adapter in factor:
                check_finite(name, factor[adapter].weight.data, location)


def _merged_layers(model: Any) -> list[Any]:
    return [layer for _, layer in lora_layers(model) if MERGED in layer.lora_A]


def _scale_to_arc(layer: Any, t: float) -> None:
    """Give the two adapters that stand side by side in a layer's merged factors the weights of their interpolation."""
    factors = _product(layer, input_name(0)), _product(layer, input_name(1))
    rows = [len(a) for a, _ in factors]

    # Of low-rank matrices the inner product needs no matrix of full size: <B0 A0, B1 A1> = sum of (B0' B1) * (A0 A1').
    def inner(left: tuple[Any, Any], right: tuple[Any, Any]) -> float:
        return float(((left[1].T @ right[1]) * (left[0] @ right[0].T)).sum())

    norms = tuple(max(0.0, inner(one, one)) ** 0.5 for one in factors)
    scale = slerp_factors(inner(*factors), (norms[0], norms[1]), t)
    merged = layer.lora_A[MERGED].weight.data
    merged[: rows[0]] *= scale[0]
    merged[rows[0] : sum(rows)] *= scale[1]


def _product(layer: Any, name: str) -> tuple[Any, Any]:
    """Return an adapter's factors A (with its scaling) and B in a layer; without rows where it has none there."""
    if name in layer.lora_A:
        return layer.lora_A[name].weight.double() * layer.scaling[name], layer.lora_B[name].weight.double()
    return (
        layer.lora_A[MERGED].weight[:0].double(),
        layer.lora_B[MERGED].weight[:, :0].double(),
    )


def _cut_rank(layer: Any, rank: int) -> None:
    """Replace a layer's merged factors by those of a lower rank whose product is nearest (Eckart-Young)."""
    import torch

    first, second = layer.lora_A[MERGED], layer.lora_B[MERGED]
    # The singular values of B A are those of R_B R_A', a small matrix.
    q_b, r_b = torch.linalg.qr(second.weight.data.double())
    q_a, r_a = torch.linalg.qr(first.weight.data.double().T)
    left, values, right = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    kept = min(rank, len(values))
    a, b = right[:kept] @ q_a.T, (q_b @ left[:, :kept]) * values[:kept]
    _set_factors(layer, a.to(first.weight.dtype), b.to(second.weight.dtype), rank)


def _set_factors(layer: Any, a: Any, b: Any, rank: int) -> None:
    """Set a layer's merged factors, with zeros up to a rank: a narrow weight has fewer singular values."""
    import torch

    missing = rank - len(a)
    layer.lora_A[MERGED].weight = torch.nn.Parameter(torch.nn.functional.pad(a, (0, 0, 0, missing)))
    layer.lora_B[MERGED].weight = torch.nn.Parameter(torch.nn.functional.pad(b, (0, missing)))
