"""Merge a LoRA adapter into its base, and several adapters or models into one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from reasongenrm.checkpoints import load_adapter, load_checkpoint
from reasongenrm.config.engines import ModelConfig
from reasongenrm.config.merge import MergeConfig
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.lock import open_locked
from reasongenrm.store import explain_write_errors, read_json, write_json
from reasongenrm.train.merge_adapters import merge_adapters
from reasongenrm.train.merge_inputs import (
    TEXT_FILES,
    MergeInput,
    check_inputs,
    check_models,
    leading_input,
    local_model,
    read_input,
)
from reasongenrm.train.merge_models import check_base, merge_models

RECORD = "merge.json"
"""File beside a merged adapter or model: settings, inputs and their hashes."""


def merge_adapter(model: ModelConfig, adapter: Path, out: Path) -> None:
    """Write the base with the adapter merged in, with tokenizer and chat template, as safetensors.

    Args:
        model: the base the adapter was trained on.
        adapter: folder saved by peft.
        out: the folder to write; it appears when it is complete.
    """
    import torch

    base = load_checkpoint(
        "AutoModelForCausalLM",
        model.path,
        revision=model.revision,
        dtype=getattr(torch, model.dtype),
        trust_remote_code=model.trust_remote_code,
        permission="model.trust_remote_code",
    )
    merged = load_adapter(base, adapter).merge_and_unload()
    temporary = out.with_name(out.name + ".tmp")
    merged.save_pretrained(temporary)
    load_checkpoint("AutoTokenizer", adapter).save_pretrained(temporary)
    temporary.rename(out)


def merge(names: Sequence[str], config: MergeConfig, out: Path) -> dict[str, Any]:
    """Merge adapters of one base into an adapter; with a model among the inputs, all of them into a model.

    `out` appears when it is complete, and is never overwritten. Until then its files are in `<out>.partial`; the same command
    continues a merge of models that was killed.

    Args:
        names: two or more adapters (folders, or `runs/<run>/judges/<model>`) or models (folders or hub ids).
        config: the method and its settings.
        out: the folder to write.

    Returns:
        What is written to `merge.json`.

    Raises:
        ConfigError, EngineError: inputs that do not fit together, or settings that do not fit them; or `out` exists.
        DataError: another process merges into `out`, or it cannot be written.
    """
    inputs = [read_input(name) for name in names]
    _check_counts(inputs, config)
    check_inputs(inputs)
    whole = any(one.kind == "model" for one in inputs)
    base = _base_folder(inputs, config)
    if whole:
        check_base(config, config.input_weights(len(inputs)), base)
        folders = [one.folder if one.kind == "model" else base for one in inputs]
        check_models([folder for folder in folders if folder is not None], [one.name for one in inputs])
    record = _record(inputs, config, base, whole)
    if out.exists():
        return _finished(out, record)
    partial = out.with_name(out.name + ".partial")
    lock = out.with_name(out.name + ".merging")
    with explain_write_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        with open_locked(lock, location=out):
            try:
                _begin(partial, record)
                if whole:
                    lead = leading_input(inputs)
                    merge_models(inputs, base, config, partial, lead=lead)
                    _copy_texts(lead, base, partial)
                else:
                    assert base is not None
                    record["rank"] = merge_adapters(base, inputs, config, partial)
                    _copy_texts(inputs[0], None, partial)
                write_json(partial / RECORD, record)
                partial.rename(out)
            except BaseException:
                if not any(partial.glob("*.safetensors")):  # nothing that the same command would continue
                    shutil.rmtree(partial, ignore_errors=True)
                raise
            finally:
                lock.unlink()
    return record


def _check_counts(inputs: Sequence[MergeInput], config: MergeConfig) -> None:
    """Check settings that depend on the number and the kind of the inputs.

    Raises:
        ConfigError: one does not fit.
    """
    whole = [one.name for one in inputs if one.kind == "model"]
    problem = hint = ""
    if len(inputs) < 2:
        problem, hint = "there is nothing to merge", "give two adapters or models, or more"
    elif config.method == "slerp" and len(inputs) != 2:
        problem, hint = f"slerp goes from one input to another, and {len(inputs)} are given", "give two"
    elif config.weights is not None and len(config.weights) != len(inputs):
        problem = f"{len(config.weights)} weights for {len(inputs)} inputs"
        hint = "give one weight per input: --weights 0.7,0.3"
    elif whole and (config.rank is not None or config.factors):
        problem = f"rank and factors are of merged adapters, and {whole[0]} is a model"
        hint = "leave out --rank and --factors"
    if problem:
        raise ConfigError(problem, location="merge", hint=hint)


def _base_folder(inputs: Sequence[MergeInput], config: MergeConfig) -> Path | None:
    """Return the folder of the inputs' base; None for models where none is given.

    Raises:
        ConfigError: adapters do not name their base.
        EngineError: it cannot be found.
    """
    if config.base is not None:
        return local_model(config.base, key="--base")
    adapter = next((one for one in inputs if one.kind == "adapter"), None)
    if adapter is None:
        return None
    if adapter.base is None:
        problem, hint = "its adapter_config.json names no base", "give --base"
        raise ConfigError(problem, location=adapter.name, hint=hint)
    return local_model(adapter.base, key=f"base of {adapter.name}", revision=adapter.revision)


def _record(
    inputs: Sequence[MergeInput], config: MergeConfig, base: Path | None, whole: bool
) -> dict[str, Any]:
    """Return the settings and the inputs of a merge, with their hashes."""
    weights = config.input_weights(len(inputs))
    settings = config.model_dump(mode="json") | {"weights": weights, "density": config.kept}
    if not whole:
        del settings["shard_size"]
    base_files = base and MergeInput(str(base), base, "model").hashes()
    if base_files and not whole:  # only the shapes of its weights are needed
        base_files = {"config.json": base_files["config.json"]}
    return {
        "result": "model" if whole else "adapter",
        "settings": settings,
        "inputs": [
            {"name": one.name, "kind": one.kind, "base": one.base, "files": one.hashes()} for one in inputs
        ],
        "base": base_files,
        "versions": {name: version(name) for name in ("peft", "torch")},
    }


def _finished(out: Path, record: dict[str, Any]) -> dict[str, Any]:
    """Return the record of a merge that is done.

    Raises:
        ConfigError: the folder holds something else.
    """
    if (out / RECORD).is_file():
        done: dict[str, Any] = read_json(out / RECORD)
        if {key: done.get(key) for key in record} == record:
            return done
    problem, hint = "it exists, and is not the result of this merge", "name another folder"
    raise ConfigError(problem, location=str(out), hint=hint)


def _begin(partial: Path, record: dict[str, Any]) -> None:
    """Make the folder of work in progress; files of another merge in it are removed."""
    try:
        same = (partial / RECORD).is_file() and read_json(partial / RECORD) == record
    except DataError:
        same = False
    if not same and partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    for torn in partial.glob("*.tmp"):
        torn.unlink()
    write_json(partial / RECORD, record)


def _copy_texts(lead: MergeInput, base: Path | None, out: Path) -> None:
    """Copy tokenizer, chat template and wording of an input; of a merged model also the configuration.

    An adapter without a tokenizer of its own has that of its base.
    """
    folders = [lead.folder]
    names: tuple[str, ...] = TEXT_FILES
    if base is not None or lead.kind == "model":
        names += ("config.json", "generation_config.json")
        if lead.kind == "adapter" and base is not None:
            folders.insert(0, base)
    for folder in folders:  # the files of the last one count
        for name in names:
            if (folder / name).is_file():
                shutil.copyfile(folder / name, out / name)
