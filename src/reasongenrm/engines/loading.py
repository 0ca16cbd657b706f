"""Open the engine of a model: vLLM in this process, vLLM servers, or a server of others."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from reasongenrm.chat.encoder import ChatEncoder, load_tokenizer, template_text
from reasongenrm.chat.grammar import Grammar
from reasongenrm.config.engines import (
    AnthropicConfig,
    EngineConfig,
    ModelConfig,
    OpenAIConfig,
    VLLMServerConfig,
)
from reasongenrm.engines.base import Engine
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.errors import ConfigError


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
            hint = "name the model whose tokenizer it has, or take api: chat"
            raise ConfigError("the completions API takes token ids", location=f"{key}: model", hint=hint)
        text = template_text(template, key="template")
        encoder = ChatEncoder(load_tokenizer(model), text, grammar)
    return OpenAIEngine(server, max_model_len=max_model_len, key=key, on_event=on_event), encoder
