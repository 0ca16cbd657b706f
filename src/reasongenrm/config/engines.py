"""Settings of models and engines: vLLM, OpenAI-compatible servers, Anthropic's batches."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from reasongenrm.config.arguments import Arguments, hidden_secrets
from reasongenrm.errors import EngineError


class Strict(BaseModel):
    """Base of all settings: unknown keys are errors, values are frozen, and what is saved has no keys or passwords."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, raw: Any) -> Any:
        """Name an unknown key with the closest known one; `extra="forbid"` would only name it."""
        known = list(cls.model_fields)
        for key in raw if isinstance(raw, Mapping) else ():
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
                raise PydanticCustomError("unknown_key", "unknown key", {"key": str(key), "hint": hint})
        return raw

    @model_serializer(mode="wrap")
    def _without_secrets(
        self, handler: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """Hide passwords and keys inside URLs, in the JSON form alone: it is what is saved, shown and compared."""
        values: dict[str, Any] = handler(self)
        return (
            values if info.mode != "json" else {key: hidden_secrets(value) for key, value in values.items()}
        )


Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""A seed: what the generators of all libraries take."""

ENDINGS = (
    "part",
    "partial",
    "earlier",
    "batches",
    "dropped",
    "completions",
    "json",
    "jsonl",
    "tmp",
    "md",
    "html",
)
"""Endings of names that this suite gives to files and folders beside those with a name of the recipe."""


def _check_folder_name(name: str) -> str:
    """Check a name that becomes a part of a path, so that no path leaves its folder or is another one's.

    Raises:
        ValueError: it cannot be a name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        problem = "use letters, digits, '_', '-' and '.', 100 at most, a letter or digit first"
    elif (ending := name.lower().rpartition(".")[2]) in ENDINGS and ending != name.lower():
        problem = f"names that end in .{ending} are used by the suite"
    else:
        return name
    raise ValueError(f"name {name!r}: {problem}")


FolderName = Annotated[str, AfterValidator(_check_folder_name)]
"""The name of a folder, or of a file without its ending."""


class ModelConfig(Strict):
    """A causal language model: hub id or folder.

    Attributes:
        path: hub id or local folder with safetensors.
        revision: branch, tag or commit on the hub.
        dtype: `bfloat16`, `float16` or `float32`, for scoring, training and serving.
        trust_remote_code: run code from the model's repository.
    """

    path: str
    revision: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    trust_remote_code: bool = False


class EngineConfig(Strict):
    """Serving options of vLLM.

    Attributes:
        max_model_len: tokens of prompt and completion together.
        max_num_seqs: sequences decoded at the same time; null: vLLM's default, 256 or 1,024 by the GPU, 256 on a CPU.
        gpu_memory_utilization: share of GPU memory that vLLM may use.
        cpu_kv_gib: GiB for the KV cache on the CPU build.
        tensor_parallel: number of GPUs that share one model.
        workers: engines that work side by side, each with `tensor_parallel` GPUs; `auto`: as many as the visible GPUs, or
            those of the Ray cluster, are enough for, and one on a CPU. More than one are Ray actors.
        ray: address of a Ray cluster, `host:port`, or `auto` on one of its machines; null: that of the environment
            variable RAY_ADDRESS, or this machine alone.
        enforce_eager: no compilation: a faster start, but slower on a GPU.
        batch_invariant: vLLM's batch-invariant kernels (`VLLM_BATCH_INVARIANT`), with which a result on a GPU does not
            depend on the requests beside it; slower. A CPU has no such kernels.
        args: further `vllm.LLM` arguments, passed through unchanged.
    """

    max_model_len: int = Field(8192, ge=64)
    max_num_seqs: int | None = Field(None, ge=1)
    gpu_memory_utilization: float = Field(0.9, gt=0, le=1)
    cpu_kv_gib: int = Field(2, ge=1)
    tensor_parallel: int = Field(1, ge=1)
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    ray: str | None = None
    enforce_eager: bool = False
    batch_invariant: bool = False
    args: Arguments = {}

    @field_validator("args")
    @classmethod
    def _no_permission(cls, args: Mapping[str, Any]) -> Mapping[str, Any]:
        if "trust_remote_code" in args:
            raise ValueError("trust_remote_code belongs beside the model's path, not among vLLM's arguments")
        return args

    @property
    def ray_address(self) -> str | None:
        """Address of the Ray cluster; None: this machine alone."""
        return self.ray or os.environ.get("RAY_ADDRESS") or None


class OpenAIConfig(Strict):
    """OpenAI-compatible servers of one model: each request goes to the one with the fewest open requests.

    Attributes:
        kind: `openai`.
        urls: base URLs, such as `http://127.0.0.1:8000/v1`.
        model: the model's name on the servers.
        api: `completions` sends token ids (vLLM, SGLang: judged text cannot become structure), `chat` sends messages,
            which the server renders.
        api_key_env: environment variable with the key; null for servers that need none.
        max_concurrent: open requests per server; the SDK opens 1000 connections at most.
        timeout: seconds until a request counts as failed, the retries of the SDK included.
        max_retries: retries of a failed request by the SDK, with exponential backoff.
    """

    kind: Literal["openai"]
    urls: Annotated[list[str], Field(min_length=1)]
    model: str
    api: Literal["completions", "chat"] = "completions"
    api_key_env: str | None = None
    max_concurrent: int = Field(64, ge=1, le=1000)
    timeout: float = Field(600, gt=0)
    max_retries: int = Field(4, ge=0)


class AnthropicConfig(Strict):
    """Anthropic's API: Message Batches at half the price with results within a day, or single calls at once.

    Attributes:
        kind: `anthropic`.
        model: the model's name.
        url: base URL; null is Anthropic's.
        api_key_env: environment variable with the key.
        mode: `batches`, or `direct` for single calls.
        effort: how much the model thinks and writes; null: its default. Only for models that have this setting.
        batch: requests per message batch.
        poll_seconds: time between two polls of a batch.
        max_concurrent: open single calls.
        timeout: seconds until a call counts as failed.
        max_retries: retries of a failed call by the SDK, with exponential backoff.
    """

    kind: Literal["anthropic"]
    model: str
    url: str | None = None
    api_key_env: str = "ANTHROPIC_API_KEY"
    mode: Literal["batches", "direct"] = "batches"
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    batch: int = Field(10_000, ge=1, le=100_000)
    poll_seconds: float = Field(30, gt=0)
    max_concurrent: int = Field(8, ge=1, le=1000)
    timeout: float = Field(600, gt=0)
    max_retries: int = Field(4, ge=0)


APIConfig = Annotated[OpenAIConfig | AnthropicConfig, Field(discriminator="kind")]


def check_model(path: str, *, key: str, file: str = "config.json") -> None:
    """Fail early where `path` looks like a local directory and is not one, or has no `file`.

    Raises:
        EngineError: names the recipe key, with a hint.
    """
    if Path(path).is_dir():
        if not (Path(path) / file).is_file():
            raise EngineError(
                f"{file} not found in {path}",
                location=key,
                hint="give a directory saved by transformers or peft",
            )
        return
    is_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~"))
    if not is_hub_id or Path(path).parts[0] in ("data", "runs"):
        hint = "give an existing directory or a hub id such as owner/name"
        raise EngineError(f"directory not found: {path}", location=key, hint=hint)
