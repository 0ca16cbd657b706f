"""Merge whole models tensor by tensor: memory holds one weight file of the result, not the models."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reasongenrm.config.merge import TRIMMING, MergeConfig
from reasongenrm.console import bar
from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.store import read_json, write_json
from reasongenrm.train.merge_adapters import adapted_skeleton, input_name, lora_layers
from reasongenrm.train.merge_inputs import MergeInput
from reasongenrm.train.merge_tensors import check_finite, merge_tensors

INDEX = "model.safetensors.index.json"


class Weights:
    """The tensors of a model's safetensors files, read one at a time; with an adapter, its change is added.

    Args:
        folder: of the model.
        name: of the input, for errors.

    Raises:
        EngineError: a file is broken.
    """

    def __init__(self, folder: Path, name: str) -> None:
        from safetensors import SafetensorError, safe_open

        self.name = name
        self._layers: dict[str, tuple[Any, str]] = {}
        self._files: dict[str, Any] = {}
        if (folder / INDEX).is_file():
            names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
        else:
            names = sorted(path.name for path in folder.glob("*.safetensors"))
        for file in names:
            try:
                opened = safe_open(folder / file, framework="pt")
            except (SafetensorError, OSError) as error:
                hint = "restore it, or save the model again"
                raise EngineError(
                    f"cannot be read: {error}", location=str(folder / file), hint=hint
                ) from None
            self._files |= dict.fromkeys(opened.keys(), opened)

    def add_adapter(self, skeleton: Any, adapter: str) -> None:
        """Add the change of an adapter of `adapted_skeleton` to every tensor that is read.

        Raises:
            EngineError: it changes a module whose weight is not in the model's files.
        """
        for module, layer in lora_layers(skeleton):
            if adapter not in layer.lora_A:
                continue
            tensor = f"{module}.weight"
            if tensor not in self._files:
                problem = f"its adapter changes {tensor}, which the files of the base do not have"
                raise EngineError(problem, location=self.name, hint="leave this module out of the adapter")
            self._layers[tensor] = (layer, adapter)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every tensor by its name."""
        return {name: tuple(file.get_slice(name).get_shape()) for name, file in self._files.items()}

    def dtype(self, name: str) -> Any:
        """Return the type of a tensor of the files, without reading it all."""
        part = self._files[name].get_slice(name)
        return (part[:0] if part.get_shape() else self._files[name].get_tensor(name)).dtype

    def tensor(self, name: str) -> Any:
        """Return a tensor; where the adapter changes it, in float32."""
        tensor = self._files[name].get_tensor(name)
        if name not in self._layers:
            return tensor
        layer, adapter = self._layers[name]
        return tensor.float() + layer.get_delta_weight(adapter).cpu()


def merge_models(
    inputs: Sequence[MergeInput],
    base: Path | None,
    config: MergeConfig,
    out: Path,
    *,
    lead: MergeInput,
) -> None:
    """Write the merged weights as safetensors, with an index where they are several files.

    A weight file that is there already is kept, so that a killed merge continues.

    Args:
        inputs: models, and adapters on `base`.
        base: folder of the base; None where no input and no method needs it.
        config: method, weights and the size of a weight file.
        out: an existing folder, which holds files of this very merge alone.
        lead: the input whose types of numbers the result has.

    Raises:
        ConfigError: the models have other tensors, or the method needs a base.
    """
    weights = config.input_weights(len(inputs))
    check_base(config, weights, base)
    models = _open_inputs(inputs, base)
    counts_from = base if config.method != "slerp" and not _is_mean(config, weights) else None
    base_weights = Weights(counts_from, str(counts_from)) if counts_from is not None else None
    first = models[inputs.index(lead)]
    shapes = _common_shapes([*models, *([base_weights] if base_weights else [])])
    plan = _plan(first, shapes, config.shard_size)
    with bar(f"merging into {out.stem}", len(shapes)) as progress:
        for file, names in plan.filename_to_tensors.items():
            if (out / file).is_file():
                progress(len(names))
                continue
            merged = {}
            for name in names:
                merged[name] = _merge_one(name, models, base_weights, config, weights, first)
                progress(1)
            _write_file(out / file, merged)
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        write_json(out / INDEX, index)


def check_base(config: MergeConfig, weights: Sequence[float], base: Path | None) -> None:
    """Check that a method that counts changes from a base has one.

    Raises:
        ConfigError: it has none.
    """
    if base is not None or config.method == "slerp" or _is_mean(config, weights):
        return
    if config.method in TRIMMING:
        problem, hint = f"{config.method} needs the model that all inputs were trained from", "give --base"
    else:
        problem = f"the weights of a linear merge of models sum to {sum(weights):g}"
        hint = "give weights that sum to 1, or --base, from which changes are counted"
    raise ConfigError(problem, location="merge", hint=hint)


def _is_mean(config: MergeConfig, weights: Sequence[float]) -> bool:
    """Whether the base would cancel out: a linear merge whose weights sum to 1."""
    return config.method == "linear" and abs(sum(weights) - 1) < 1e-9


def _open_inputs(inputs: Sequence[MergeInput], base: Path | None) -> list[Weights]:
    adapters = [one for one in inputs if one.kind == "adapter"]
    skeleton = adapted_skeleton(base, adapters) if base is not None and adapters else None
    models = []
    for one in inputs:
        if one.kind == "model":
            models.append(Weights(one.folder, one.name))
        else:
            assert base is not None
            model = Weights(base, one.name)
            model.add_adapter(skeleton, input_name(adapters.index(one)))
            models.append(model)
    return models


def _common_shapes(models: Sequence[Weights]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors, which all models have.

    Raises:
        ConfigError: one has another tensor, or another shape of it.
    """
    first = models[0].shapes()
    for model in models[1:]:
        other = model.shapes()
        if differing := sorted(
            name for name in first.keys() | other.keys() if first.get(name) != other.get(name)
        ):
            name = differing[0]
            raise ConfigError(
                f"{len(differing)} tensors differ in shape between {models[0].name} and {model.name}, such as {name}: "
                f"{_shape_text(first.get(name))} and {_shape_text(other.get(name))}",
                location="merge",
                hint="merge models of one architecture and one vocabulary",
            )
    return first


def _shape_text(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else "×".join(map(str, shape)) or "a number"


def _plan(first: Weights, shapes: Mapping[str, tuple[int, ...]], shard_size: str) -> Any:
    """Return which tensors are in which weight file."""
    import torch
    from huggingface_hub import split_torch_state_dict_into_shards

    empty = {
        name: torch.empty(shape, dtype=first.dtype(name), device="meta") for name, shape in shapes.items()
    }
    return split_torch_state_dict_into_shards(empty, max_shard_size=shard_size)


def _merge_one(
    name: str,
    models: Sequence[Weights],
    base: Weights | None,
    config: MergeConfig,
    weights: Sequence[float],
    first: Weights,
) -> Any:
    import torch

    tensors = [model.tensor(name) for model in models]
    dtype = first.dtype(name)
    if dtype.is_floating_point:
        seed = zlib.crc32(f"{config.seed} {name}".encode())
        start = None if base is None else base.tensor(name)
        merged = merge_tensors(tensors, start, config, weights, seed=seed, dtype=dtype)
        check_finite(name, merged, "merge")
        return merged
    if any(not torch.equal(tensors[0], tensor) for tensor in tensors[1:]):
        problem = f"{name} holds whole numbers, which differ between the models"
        raise ConfigError(problem, location="merge", hint="merge models of one architecture")
    return tensors[0]


def _write_file(path: Path, tensors: Mapping[str, Any]) -> None:
    """Write one weight file atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = path.with_name(path.name + ".tmp")
    try:
        save_file(dict(tensors), temporary, metadata={"format": "pt"})
    except (SafetensorError, OSError) as error:
        temporary.unlink(missing_ok=True)
        hint = "make room there; the same command continues"
        raise DataError(f"cannot be written: {error}", location=str(path), hint=hint) from None
    temporary.replace(path)
