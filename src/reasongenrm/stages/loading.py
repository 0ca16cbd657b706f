"""What the stages load in the same way: tokenizers, encoders, engines; with errors a user can mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reasongenrm.engines.vllm import VLLMEngine, check_model
from reasongenrm.errors import ConfigError, EngineError, first_line
from reasongenrm.judge.prompts import ChatEncoder, PromptFile
from reasongenrm.recipe import EngineConfig, ModelConfig, Recipe


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


def teacher_encoder(recipe: Recipe, name: str) -> ChatEncoder | None:
    """Return the encoder of a teacher: its own chat template. None for a server that reads messages.

    Raises:
        EngineError: the teacher has no chat template, or its tokenizer cannot be loaded.
    """
    teacher = recipe.teachers[name]
    if teacher.server is not None and (teacher.server.kind != "openai" or teacher.server.api == "chat"):
        return None
    model, key = teacher.model or recipe.model, f"teachers.{name}.model" if teacher.model else "model"
    tokenizer = load_tokenizer(model, key=f"{key}.path")
    if not tokenizer.chat_template:
        raise EngineError(
            f"{model.path} has no chat template", where=f"{key}.path", mend="use an instruction-tuned teacher"
        )
    return ChatEncoder(tokenizer, tokenizer.chat_template)


def load_engine(model: ModelConfig, config: EngineConfig, *, seed: int, max_lora_rank: int = 0) -> VLLMEngine:
    """Start vLLM."""
    return VLLMEngine(model, config, seed=seed, max_lora_rank=max_lora_rank)
