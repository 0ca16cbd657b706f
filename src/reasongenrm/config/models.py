"""`ModelsRecipe`: what `reasongenrm evaluate --model` judges benchmarks with: models that no recipe has trained."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import Field, model_validator

from reasongenrm.config.engines import EngineConfig, FolderName, ModelConfig, Seed, Strict
from reasongenrm.config.evaluate import BenchmarkKind, EvaluateConfig
from reasongenrm.config.loading import overridden
from reasongenrm.errors import ConfigError


class ModelsRecipe(Strict):
    """Settings of an evaluation without a training; at least one model is needed.

    Attributes:
        name: the run folder is `runs/<name>`.
        seed: of the A/B order and of sampling.
        limit: use the first N rows of each benchmark.
        model: a chat model for vLLM, asked in its own chat template: with reasons, and without (`evaluate.base: false`
            leaves both out, for the base of an adapter).
        adapter: LoRA folder of a judge on this model; its chat template and its wording (`chat_template.jinja`,
            `judge.yaml`) are used where they are beside it.
        scalar: folder or hub id of a reward model with one output.
        engine: serving options of the model.
        prompts: prompt file.
        evaluate: benchmarks, judging, and models on servers (`others`).
    """

    name: FolderName
    seed: Seed = 17
    limit: int | None = Field(None, ge=1)
    model: ModelConfig | None = None
    adapter: str | None = None
    scalar: str | None = None
    engine: EngineConfig = EngineConfig()
    prompts: str = "configs/prompts/judge.yaml"
    evaluate: EvaluateConfig

    @model_validator(mode="after")
    def _has_a_model(self) -> ModelsRecipe:
        if self.adapter is not None and self.model is None:
            raise ValueError("an adapter needs its base: give --model, without --server")
        if self.model is None and not self.evaluate.others and self.scalar is None:
            raise ValueError("there is no model to evaluate: give --model, --server or --scalar")
        if self.model is not None and self.evaluate.max_tokens >= self.engine.max_model_len:
            raise ValueError("evaluate.max_tokens must be below engine.max_model_len")
        if self.evaluate.combine == "meta" and self.evaluate.meta is None:
            raise ValueError("evaluate.combine: meta needs the folder of a trained head: evaluate.meta")
        names = [*self.local_names, *(["scalar"] if self.scalar else []), *self.evaluate.others]
        if len(set(names)) < len(names):
            raise ValueError(f"two models have one name: {', '.join(names)}")
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path("runs") / self.name

    @property
    def judging(self) -> EvaluateConfig:
        """The section `evaluate`."""
        return self.evaluate

    @property
    def base_names(self) -> tuple[str, str] | None:
        """Names of the model with reasons and without; None where it is not asked."""
        if self.model is None or not self.evaluate.base:
            return None
        return (name := row_name(self.model.path)), f"{name}-direct"

    @property
    def adapter_name(self) -> str | None:
        """Name of the adapter: its folder's, or the one above a folder `adapter`."""
        return row_name(self.adapter.removesuffix("/").removesuffix("/adapter")) if self.adapter else None

    @property
    def local_names(self) -> list[str]:
        """Names of the models on vLLM."""
        return [*(self.base_names or ()), *filter(None, [self.adapter_name])]


def row_name(model: str) -> str:
    """Return the name of a model in tables and folders: the last part of its path or hub id."""
    last = model.rstrip("/").rpartition("/")[2]
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", last).strip("-._") or "model"


def models_recipe(
    *,
    model: str | None,
    adapter: str | None,
    server: str | None,
    api_key_env: str | None,
    scalar: str | None,
    benchmarks: str,
    overrides: Sequence[str] = (),
) -> ModelsRecipe:
    """Return the settings that a command line asks for.

    Args:
        model: hub id or folder; with a server, the name of the model there.
        adapter: see `ModelsRecipe`.
        server: base URL of an OpenAI-compatible server, such as `http://127.0.0.1:8000/v1`, whose chat API is used; or
            `anthropic`.
        api_key_env: environment variable with the key of the server.
        scalar: see `ModelsRecipe`.
        benchmarks: kinds, separated by commas; `kind:path` reads another dataset than the kind's on the hub.
        overrides: `key=value` for any key of `ModelsRecipe`.

    Raises:
        ConfigError: an unknown benchmark or key, an invalid value, or no model.
    """
    raw: dict[str, Any] = {
        "name": "-".join(["evaluate", *map(row_name, filter(None, (model, adapter, scalar)))])[:100]
    }
    evaluate: dict[str, Any] = {"benchmarks": _benchmarks(benchmarks)}
    if server is not None:
        if model is None:
            raise ConfigError(
                "no model is named", location="--server", hint="give --model NAME, as the server calls it"
            )
        served = {"server": server_keys(server, model, api_key_env)}
        name = row_name(model)
        evaluate["others"] = {name: served, f"{name}-direct": served | {"reasons": False}}
    elif model is not None:
        raw["model"] = {"path": model}
    raw |= {"adapter": adapter, "scalar": scalar, "evaluate": evaluate}
    return overridden(ModelsRecipe, raw, overrides, "evaluate: ", "see reasongenrm evaluate --help")


def server_keys(server: str, model: str, api_key_env: str | None) -> dict[str, Any]:
    """Return the keys of a server's settings; see `models_recipe`."""
    key = {"api_key_env": api_key_env} if api_key_env else {}
    if server == "anthropic":
        return {"kind": "anthropic", "model": model} | key
    return {"kind": "openai", "urls": [server], "model": model, "api": "chat"} | key


def _benchmarks(text: str) -> dict[str, dict[str, str]]:
    """Return the benchmarks of `--benchmark` by name: the kind, with a number from the second of a kind on."""
    benchmarks: dict[str, dict[str, str]] = {}
    for word in filter(None, text.split(",")):
        kind, _, path = word.partition(":")
        if kind not in get_args(BenchmarkKind):
            hint = f"use {', '.join(get_args(BenchmarkKind))}; KIND:PATH for a file"
            raise ConfigError(f"unknown benchmark {kind!r}", location="--benchmark", hint=hint)
        number = 1 + sum(one["kind"] == kind for one in benchmarks.values())
        name = kind if number == 1 else f"{kind}-{number}"
        benchmarks[name] = {"kind": kind} | ({"path": path} if path else {})
    return benchmarks
