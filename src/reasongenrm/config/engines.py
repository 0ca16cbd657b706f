"""Settings of models and engines: vLLM, OpenAI-compatible servers, Anthropic's batches."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from reasongenrm.errors import EngineError


class Strict(BaseModel):
    """Base of all settings: unknown keys are errors, values are frozen."""

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


def _check_folder_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"name {name!r}: use letters, digits, '_', '-' and '.'")
    return name


FolderName = Annotated[str, AfterValidator(_check_folder_name)]


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
    enforce_eager: bool = False
    batch_invariant: bool = False
    args: dict[str, Any] = {}


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
        timeout: seconds until a request counts as failed.
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
    """Anthropic's Message Batches: half the price, results within a day.

    Attributes:
        kind: `anthropic`.
        model: the model's name.
        url: base URL; null is Anthropic's.
        api_key_env: environment variable with the key.
        batch: requests per message batch.
        poll_seconds: time between two polls of a batch.
        timeout: seconds until a call counts as failed.
        max_retries: retries of a failed call by the SDK, with exponential backoff.
    """

    kind: Literal["anthropic"]
    model: str
    url: str | None = None
    api_key_env: str = "ANTHROPIC_API_KEY"
    batch: int = Field(10_000, ge=1, le=100_000)
    poll_seconds: float = Field(30, gt=0)
    timeout: float = Field(600, gt=0)
    max_retries: int = Field(4, ge=0)


APIConfig = Annotated[OpenAIConfig | AnthropicConfig, Field(discriminator="kind")]


class VLLMServerConfig(Strict):
    """Stock vLLM servers on this machine, started by this suite, instead of vLLM in process.

    Attributes:
        kind: `vllm`.
        replicas: servers, each with `engine.tensor_parallel` GPUs: data parallel.
        startup_seconds: time limit until they answer.
        timeout: seconds until a request counts as failed.
        args: further arguments for the server's command line.
    """

    kind: Literal["vllm"]
    replicas: int = Field(1, ge=1)
    startup_seconds: float = Field(900, gt=0)
    timeout: float = Field(3600, gt=0)
    args: tuple[str, ...] = ()


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
