"""Open engines from a recipe: vLLM in this process or in many workers, or the API of another server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.grammar import Grammar
from reasongenrm.chat.own_template import file_or_own_encoder
from reasongenrm.config.engines import (
    AnthropicConfig,
    EngineConfig,
    ModelConfig,
    OpenAIConfig,
)
from reasongenrm.engines.base import Engine
from reasongenrm.engines.vllm import VLLMEngine
from reasongenrm.engines.workers import EngineWorkers, needs_workers
from reasongenrm.errors import ConfigError, EngineError
from reasongenrm.store import read_json


def load_engine(
    model: ModelConfig,
    config: EngineConfig,
    *,
    seed: int,
    adapters: Sequence[Path] = (),
    task: str = "vLLM",
    logs: Path | None = None,
    on_event: Callable[[str], None] = lambda text: None,
) -> Engine:
    """Start vLLM in this process, or in the workers that `config` asks for.

    Args:
        model: the base.
        config: serving options.
        seed: of the engine.
        adapters: LoRA folders to serve on top of the base.
        task: what the workers do, as their messages and `workers.json` name it.
        logs: folder for the workers' logs and for `workers.json`.
        on_event: called with one line about each event of the workers that the user should see.

    Raises:
        EngineError: vLLM cannot serve the model, or the workers cannot start.
    """
    configs = [path / "adapter_config.json" for path in adapters]
    rank = max((int(read_json(file)["r"]) for file in configs), default=0)
    if not needs_workers(config, config.tensor_parallel):
        return VLLMEngine(model, config, seed=seed, max_lora_rank=rank)
    return EngineWorkers(
        model, config, seed=seed, max_lora_rank=rank, task=task, logs=logs, on_event=on_event
    )


def open_server(
    server: OpenAIConfig | AnthropicConfig,
    *,
    max_model_len: int,
    state: Path,
    key: str,
    on_event: Callable[[str], None] = lambda text: None,
) -> Engine:
    """Return the client of a model that is served elsewhere.

    Args:
        server: URLs, model and limits.
        max_model_len: tokens of prompt and completion together, of the server.
        state: file that records Anthropic's batches, so that a restarted run finds them.
        key: the recipe key of `server`, named in errors.
        on_event: called with one line about each event that the user should see.

    Raises:
        EngineError: the SDK is not installed, or the API key is not in the environment.
    """
    try:
        if server.kind == "anthropic" and server.mode == "direct":
            from reasongenrm.engines.anthropic_direct import AnthropicDirectEngine

            return AnthropicDirectEngine(server, max_model_len=max_model_len, key=key, on_event=on_event)
        if server.kind == "anthropic":
            from reasongenrm.engines.anthropic import AnthropicEngine

            return AnthropicEngine(
                server, max_model_len=max_model_len, state=state, key=key, on_event=on_event
            )
        from reasongenrm.engines.openai import OpenAIEngine

        return OpenAIEngine(server, max_model_len=max_model_len, key=key, on_event=on_event)
    except ModuleNotFoundError as error:
        raise EngineError(
            f"the package {error.name} is not installed", location=key, hint=f"pip install {error.name}"
        ) from None


def server_encoder(
    server: OpenAIConfig | AnthropicConfig,
    model: ModelConfig | None,
    template: str | None,
    grammar: Grammar,
    *,
    reasons: bool,
    key: str,
) -> ChatEncoder | None:
    """Return the encoder for a judge that is served elsewhere; None where the server takes messages.

    Args:
        server: the server.
        model: whose tokenizer the server uses; needed by the completions API.
        template: the chat template file; None: that of the tokenizer.
        grammar: how the judge writes its verdict.
        reasons: whether it writes a reason before its verdict, under the template of its tokenizer.
        key: the recipe key of `server`, named in errors.

    Raises:
        ConfigError: a server of the completions API without a model, or a model without a chat template.
        EngineError: the tokenizer or the template cannot be loaded.
    """
    if server.kind == "anthropic" or server.api == "chat":
        return None
    if model is None:
        hint = "name the model whose tokenizer it has, or set api: chat"
        raise ConfigError("the completions API takes token ids", location=f"{key}: model", hint=hint)
    return file_or_own_encoder(model, template, grammar, reasons=reasons, key=f"{key}: template")
