"""What stages and the API load in the same way: tokenizers, encoders, engines; with errors a user can mend."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from reasongenrm.engines.base import Engine
from reasongenrm.engines.vllm import VLLMEngine, check_model
from reasongenrm.errors import ConfigError, EngineError, first_line
from reasongenrm.judge.encoder import ChatEncoder
from reasongenrm.judge.grammar import Grammar
from reasongenrm.judge.prompts import PromptFile
from reasongenrm.recipe import EngineConfig, ModelConfig, Recipe
from reasongenrm.recipe_data import AnthropicConfig, OpenAIConfig, Strict
from reasongenrm.recipe_evaluate import VLLMServerConfig

Config = TypeVar("Config", bound=Strict)

PROMPTS = "judge.yaml"
"""The judge's wording, beside its adapter: a trained judge is asked as it was taught."""


def load_tokenizer(model: ModelConfig, *, key: str = "model.path") -> Any:
    """Return a model's fast tokenizer.

    Raises:
        EngineError: it cannot be found or loaded.
    """
    from transformers import AutoTokenizer

    check_model(model.path, key=key)
    try:
        return AutoTokenizer.from_pretrained(
            model.path, revision=model.revision, trust_remote_code=model.trust_remote_code, use_fast=True
        )
    except (OSError, ValueError) as error:
        raise EngineError(
            f"cannot load the tokenizer of {model.path}: {first_line(error)}", where=key
        ) from None


def template_text(path: str, *, key: str) -> str:
    """Return a chat template file's text.

    Raises:
        ConfigError: the file is missing.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        raise ConfigError(f"chat template {path} not found", where=key, mend="see configs/prompts/") from None


def judge_encoder(recipe: Recipe, template: str, tokenizer: Any) -> ChatEncoder:
    """Return the encoder of one judge template (`reason` or `direct`).

    Raises:
        ConfigError: the recipe names no chat template file for it.
    """
    files: dict[str, str] = {str(kind): path for kind, path in recipe.templates.items()}
    if template not in files:
        raise ConfigError(f"no chat template for {template!r}", where="templates", mend="name its file")
    text = template_text(files[template], key=f"templates.{template}")
    return ChatEncoder(tokenizer, text, PromptFile.load(recipe.prompts).verdict)


def load_engine(
    model: ModelConfig,
    config: EngineConfig,
    *,
    seed: int,
    adapters: Sequence[Path] = (),
    server: VLLMServerConfig | None = None,
    logs: Path | None = None,
    on_event: Callable[[str], None] = lambda text: None,
) -> Engine:
    """Start vLLM in this process, or as servers of its own.

    Args:
        model: the base.
        config: serving options.
        seed: of the engine.
        adapters: LoRA folders that will be asked for.
        server: the servers to start; None for this process.
        logs: folder for the servers' logs.
        on_event: told, in one line each, what a user should know of the servers.

    Raises:
        EngineError: it cannot be served.
    """
    rank = max((_rank(path) for path in adapters), default=0)
    if server is None:
        return VLLMEngine(model, config, seed=seed, max_lora_rank=rank)
    from reasongenrm.engines.serve import VLLMServers

    paths = [str(path) for path in adapters]
    return VLLMServers(
        model, config, server, adapters=paths, max_lora_rank=rank, seed=seed, logs=logs, on_event=on_event
    )


def _rank(adapter: Path) -> int:
    return int(json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["r"])


def open_server(
    server: OpenAIConfig | AnthropicConfig,
    *,
    model: ModelConfig | None,
    template: str,
    grammar: Grammar,
    max_model_len: int,
    state: Path,
    key: str,
    on_event: Callable[[str], None] = lambda text: None,
) -> tuple[Engine, ChatEncoder | None]:
    """Return the engine of a judge that somebody else serves, and its encoder where it takes token ids.

    Args:
        server: where it is.
        model: whose tokenizer a server of the completions API is asked with.
        template: the chat template file for it.
        grammar: how the judge writes its verdict.
        max_model_len: tokens of prompt and completion together, of the server.
        state: where Anthropic's batches are noted, so that a killed process finds them again.
        key: the recipe key of the server.
        on_event: told, in one line each, what a user should know.

    Raises:
        ConfigError: a completions server without a model.
        EngineError: the key is missing.
    """
    if server.kind == "anthropic":
        from reasongenrm.engines.anthropic import AnthropicEngine

        return (
            AnthropicEngine(server, max_model_len=max_model_len, state=state, key=key, on_event=on_event),
            None,
        )
    from reasongenrm.engines.openai import OpenAIEngine

    encoder = None
    if server.api == "completions":
        if model is None:
            mend = "name the model whose tokenizer it has, or take api: chat"
            raise ConfigError("the completions API takes token ids", where=f"{key}: model", mend=mend)
        text = template_text(template, key="template")
        encoder = ChatEncoder(load_tokenizer(model), text, grammar)
    return OpenAIEngine(server, max_model_len=max_model_len, key=key, on_event=on_event), encoder


def section(kind: type[Config], given: Mapping[str, Any] | Strict, where: str) -> Config:
    """Return a recipe's section from its keys.

    Raises:
        ConfigError: an unknown key, or a value that does not fit.
    """
    if isinstance(given, kind):
        return given
    try:
        return kind.model_validate(given.model_dump() if isinstance(given, Strict) else given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join([where, *map(str, first["loc"])])
        raise ConfigError(first["msg"], where=key, mend=f"keys: {', '.join(kind.model_fields)}") from None
