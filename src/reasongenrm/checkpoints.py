"""Load checkpoints. Only here is `from_pretrained` called, so only here is decided whether a checkpoint's code runs.

A checkpoint is data unless the recipe says otherwise (`trust_remote_code` beside its path):

- Its Python files do not run. transformers would ask on standard input, which may carry the rows to judge; the answer is always no.
- Weights are safetensors, not pickles.
- A `config.json` cannot name attention kernels of the hub, which transformers would download and run.
- An adapter is LoRA: peft's other kinds can load further models and tokenizers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from reasongenrm import collector
from reasongenrm.errors import EngineError
from reasongenrm.store import read_json


def load_checkpoint(
    auto_class: str,
    path: str | Path,
    *,
    trust_remote_code: bool = False,
    permission: str = "",
    **options: Any,
) -> Any:
    """Return what one of transformers' auto classes makes of a checkpoint.

    Args:
        auto_class: such as `AutoConfig`, `AutoTokenizer`, `AutoModelForCausalLM`.
        path: hub id or folder.
        trust_remote_code: whether Python files of the checkpoint may run.
        permission: the recipe key that allows it, named in the error; empty where nothing does.
        options: further arguments of `from_pretrained`.

    Raises:
        EngineError: the checkpoint needs code that may not run.
        OSError, ValueError: the checkpoint is missing or broken; see transformers.
    """
    with collector.paused():
        return _load(auto_class, path, trust_remote_code, permission, options)


def _load(
    auto_class: str, path: str | Path, trust_remote_code: bool, permission: str, options: dict[str, Any]
) -> Any:
    import transformers

    never_ask()
    is_model = auto_class.startswith("AutoModel")
    if is_model:
        options["use_safetensors"] = True
        if not trust_remote_code:
            _refuse_kernels(path, permission, options)
    try:
        return getattr(transformers, auto_class).from_pretrained(
            str(path), trust_remote_code=trust_remote_code, **options
        )
    except ValueError as error:
        if trust_remote_code or "trust_remote_code" not in str(error):
            raise
        raise _code_error(path, "it needs Python files of its own, which are not run", permission) from None


def adapter_config(folder: str | Path) -> dict[str, Any]:
    """Return the configuration of a LoRA adapter.

    Raises:
        EngineError: the adapter is of another kind, or has no safetensors weights.
    """
    config: dict[str, Any] = read_json(Path(folder) / "adapter_config.json")
    problem = ""
    if config.get("peft_type") != "LORA":
        problem = f"it is an adapter of the kind {config.get('peft_type')}"
    elif not (Path(folder) / "adapter_model.safetensors").is_file():
        problem = "adapter_model.safetensors is missing"
    if problem:
        raise EngineError(problem, location=str(folder), hint="give a LoRA adapter that peft saved")
    return config


def load_adapter(model: Any, folder: str | Path, *, trainable: bool = False, name: str = "default") -> Any:
    """Return a model with a LoRA adapter of peft on it.

    Args:
        model: the base, or the result of an earlier call, which then has one adapter more.
        folder: of the adapter.
        name: of the adapter in the model.
        trainable: whether its weights are trained further.

    Raises:
        EngineError: the adapter is of another kind, or has no safetensors weights.
    """
    from peft import PeftModel

    never_ask()
    adapter_config(folder)
    # TRL makes a new adapter's weights float32 unless ZeRO-3 gathers them with the base's (TRL's issue 6089); so here.
    from transformers.integrations import is_deepspeed_zero3_enabled

    options: dict[str, Any] = dict(
        adapter_name=name, is_trainable=trainable, autocast_adapter_dtype=not is_deepspeed_zero3_enabled()
    )
    if isinstance(model, PeftModel):
        model.load_adapter(str(folder), **options)
        return model
    return PeftModel.from_pretrained(model, str(folder), **options)


def check_base(folder: str | Path, base: str) -> None:
    """Check that an adapter was trained on a base: vLLM would serve it on another one without an error.

    The base is the one if it has the name that peft saved; if both names are folders, with an equal `config.json` and equal
    weights, of which samples are compared; else, if the last parts of the names are equal, since a folder may be a copy of a
    model of the hub.

    Args:
        folder: of the adapter.
        base: hub id or folder of the model that it is put on.

    Raises:
        EngineError: it was trained on another base.
    """
    trained_on = read_json(Path(folder) / "adapter_config.json").get("base_model_name_or_path")
    if trained_on and not _is_same_model(trained_on, base):
        raise EngineError(
            f"the adapter was trained on {trained_on}, and the base is {base}",
            location=str(folder),
            hint=f"use {trained_on} as the base; if they are one model, write the base's name into adapter_config.json",
        )


def check_template(folder: str | Path, template: str) -> None:
    """Check that a judge is asked in the chat template that it was trained in.

    Args:
        folder: of its weights; its `chat_template.jinja`, where there is one, has to equal the template.
        template: text of the template.

    Raises:
        EngineError: it was trained in another one.
    """
    saved = Path(folder) / "chat_template.jinja"
    if saved.is_file() and saved.read_text(encoding="utf-8") != template:
        raise EngineError(
            "the judge was trained in another chat template",
            location=str(saved),
            hint="use this file as the template, or train again",
        )


def _is_same_model(one: str, other: str) -> bool:
    folders = [Path(one), Path(other)]
    if one == other or not all(path.is_dir() for path in folders):
        return folders[0].name == folders[1].name
    if folders[0].samefile(folders[1]):
        return True
    configs = [read_json(path / "config.json") for path in folders]
    return configs[0] == configs[1] and _weight_samples(folders[0]) == _weight_samples(folders[1])


SAMPLES, SAMPLE_BYTES = 64, 4096
"""Parts of a weight file that are compared, evenly spread: training changes nearly all weights, and a merge those of every layer."""


def _weight_samples(folder: Path) -> dict[str, tuple[int, str]]:
    """Return the size of each weight file of a model, and a hash of samples of its bytes, by name."""
    samples = {}
    for path in folder.glob("*.safetensors"):
        size, digest = path.stat().st_size, hashlib.sha256()
        with path.open("rb") as file:
            for number in range(SAMPLES):
                file.seek(size * number // SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
        samples[path.name] = (size, digest.hexdigest())
    return samples


def never_ask() -> None:
    """Keep transformers from asking on standard input whether code may run: also where a library loads by itself."""
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0


def _refuse_kernels(path: str | Path, permission: str, options: Mapping[str, Any]) -> None:
    from transformers import PreTrainedConfig

    names = ("revision", "local_files_only", "subfolder")
    config, _ = PreTrainedConfig.get_config_dict(
        str(path), **{name: options[name] for name in names if name in options}
    )
    for value in _attention_names(config):
        if "/" in value:
            raise _code_error(
                path, f"its config.json asks for the attention kernel {value!r} of the hub", permission
            )


def _attention_names(config: Any) -> Iterator[str]:
    """Yield the values of the keys that choose an attention implementation, those of nested configs too."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _attention_names(value)
            if key.endswith("attn_implementation"):
                yield from map(str, value.values())
        elif key.endswith("attn_implementation"):
            yield str(value)


def _code_error(path: str | Path, problem: str, permission: str) -> EngineError:
    hint = (
        f"set {permission}=true if you trust its authors"
        if permission
        else "give a model that transformers has a class for"
    )
    return EngineError(problem, location=str(path), hint=hint)
