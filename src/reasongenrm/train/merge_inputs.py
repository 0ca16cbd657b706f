"""Inputs of a merge: adapters and models; which of them fit together."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from reasongenrm.chat.encoder import ADAPTER_PROMPTS
from reasongenrm.checkpoints import adapter_config, load_checkpoint
from reasongenrm.config.engines import check_model
from reasongenrm.errors import ConfigError, EngineError, first_line
from reasongenrm.store import read_json
from reasongenrm.train.arguments import EXTRA_WEIGHTS

MODEL_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", ADAPTER_PROMPTS]
"""Files of a model on the hub: weights as safetensors, configuration, tokenizer, wording; no code."""

TEMPLATE = "chat_template.jinja"

TEXT_FILES = (
    *(
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "vocab.json",
    ),
    *("merges.txt", "tokenizer.model", TEMPLATE, ADAPTER_PROMPTS),
)
"""Files of a tokenizer, its chat template and the wording of a judge."""


@dataclass(frozen=True)
class MergeInput:
    """One of the adapters or models of a merge.

    Attributes:
        name: as the user gave it.
        folder: its files.
        kind: an adapter, or a whole model.
        base: of an adapter: what it was trained on; None for a model.
        revision: of the base.
    """

    name: str
    folder: Path
    kind: Literal["adapter", "model"]
    base: str | None = None
    revision: str | None = None

    @property
    def is_judge(self) -> bool:
        """Whether it was trained here, so that chat template and wording belong to its weights."""
        return self.kind == "adapter" or (self.folder / ADAPTER_PROMPTS).is_file()

    def chat_template(self) -> str | None:
        """Return the text of its chat template, if it has one."""
        if (self.folder / TEMPLATE).is_file():
            return (self.folder / TEMPLATE).read_text(encoding="utf-8")
        if not (self.folder / "tokenizer_config.json").is_file():
            return None
        template = read_json(self.folder / "tokenizer_config.json").get("chat_template")
        return template if template is None or isinstance(template, str) else str(template)

    def wording(self) -> str | None:
        """Return the text of its prompt file, if it has one."""
        path = self.folder / ADAPTER_PROMPTS
        return path.read_text(encoding="utf-8") if path.is_file() else None

    def hashes(self) -> dict[str, str]:
        """Return the SHA-256 of its weights, configuration, chat template and wording, by file name."""
        names = ("adapter_config.json", "config.json", "tokenizer.json", TEMPLATE, ADAPTER_PROMPTS)
        paths = {self.folder / name for name in names} | set(self.folder.glob("*.safetensors"))
        hashes = {}
        for path in sorted(path for path in paths if path.is_file()):
            with path.open("rb") as file:
                hashes[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        return hashes


def read_input(name: str) -> MergeInput:
    """Return an adapter's folder, a trained judge's (`runs/<run>/judges/<model>`), a model's folder or a hub id as an input.

    Raises:
        EngineError: there is no such model, or it cannot be merged.
    """
    folder = Path(name)
    adapter = next(
        (one for one in (folder, folder / "adapter") if (one / "adapter_config.json").is_file()), None
    )
    if adapter is not None:
        return _adapter(name, adapter)
    trained = folder / "model"  # of all weights: `train.parameters: all`
    folder = trained if (trained / "config.json").is_file() else local_model(name, key="merge")
    config = read_json(folder / "config.json")
    if "quantization_config" in config:
        hint = "give the weights in 16 or 32 bits"
        raise EngineError("its weights are quantized", location=name, hint=hint)
    if not any(folder.glob("*.safetensors")):
        problem, hint = "it has no weights as safetensors", "save it with save_pretrained of transformers"
        raise EngineError(problem, location=name, hint=hint)
    return MergeInput(name, folder, "model")


def _adapter(name: str, folder: Path) -> MergeInput:
    config = adapter_config(folder)
    extra = [key for key in EXTRA_WEIGHTS if config.get(key)]
    extra += ["bias"] * (config.get("bias", "none") != "none")
    if extra:
        problem = f"its adapter_config.json sets {extra[0]}, which adds weights that are not merged"
        raise EngineError(problem, location=name, hint="give a plain LoRA adapter that peft saved")
    base = config.get("base_model_name_or_path")
    return MergeInput(name, folder, "adapter", base, config.get("revision"))


def local_model(path: str, *, key: str, revision: str | None = None) -> Path:
    """Return the folder of a model: `path` itself, or the copy of a hub id in the hub's cache, loaded if necessary.

    Raises:
        EngineError: the folder is missing, or the model cannot be loaded.
    """
    check_model(path, key=key)
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=MODEL_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        problem = f"cannot load {path} from the hub: {first_line(error)}"
        raise EngineError(
            problem, location=key, hint="check the id and the network, or give a folder"
        ) from None


def leading_input(inputs: Sequence[MergeInput]) -> MergeInput:
    """Return the input that gives tokenizer, chat template and wording: the first judge, else the first model."""
    return next((one for one in inputs if one.is_judge), inputs[0])


def check_inputs(inputs: Sequence[MergeInput]) -> None:
    """Check that the adapters have one base, and the judges one chat template and one wording.

    Raises:
        ConfigError: they differ.
    """
    adapters = [one for one in inputs if one.kind == "adapter"]
    for other in adapters[1:]:
        first = adapters[0]
        if (first.base, first.revision) != (other.base, other.revision):
            raise ConfigError(
                f"{first.name} was trained on {_base_text(first)}, and {other.name} on {_base_text(other)}",
                location="merge",
                hint="merge adapters of one base",
            )
    judges = [one for one in inputs if one.is_judge]
    for other in judges[1:]:
        for what, texts in (
            ("chat template", (judges[0].chat_template(), other.chat_template())),
            (f"wording ({ADAPTER_PROMPTS})", (judges[0].wording(), other.wording())),
        ):
            if texts[0] != texts[1]:
                raise ConfigError(
                    f"{judges[0].name} and {other.name} were trained with another {what}",
                    location="merge",
                    hint="merge judges that are asked in the same way",
                )


def _base_text(one: MergeInput) -> str:
    return f"{one.base or 'an unknown base'}" + (f" ({one.revision})" if one.revision else "")


def check_models(folders: Sequence[Path], names: Sequence[str]) -> None:
    """Check that models have one architecture and one vocabulary.

    Raises:
        ConfigError: they differ.
        EngineError: a tokenizer cannot be loaded.
    """
    kinds = [_model_type(folder) for folder in folders]
    vocabularies = [_vocabulary(folder, name) for folder, name in zip(folders, names, strict=True)]
    for kind, vocabulary, name in zip(kinds[1:], vocabularies[1:], names[1:], strict=True):
        if kind != kinds[0]:
            problem = f"{names[0]} is of the architecture {kinds[0]}, and {name} of {kind}"
            raise ConfigError(problem, location="merge", hint="merge models of one architecture")
        if vocabulary != vocabularies[0]:
            tokens = {token for token, _ in vocabulary.items() ^ vocabularies[0].items()}
            problem = f"the tokenizers of {names[0]} and {name} differ in {len(tokens)} tokens, such as {min(tokens)!r}"
            raise ConfigError(problem, location="merge", hint="merge models of one vocabulary")


def _model_type(folder: Path) -> str:
    config = read_json(folder / "config.json")
    return f"{config.get('model_type')} {', '.join(config.get('architectures') or ())}".strip()


def _vocabulary(folder: Path, name: str) -> dict[str, int]:
    try:
        tokenizer: Any = load_checkpoint("AutoTokenizer", folder, local_files_only=True)
    except (OSError, ValueError) as error:
        problem = f"cannot load the tokenizer: {first_line(error)}"
        raise EngineError(problem, location=name, hint="give a model with its tokenizer") from None
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary
