"""What the stages load in the same way: a teacher's encoder."""

from __future__ import annotations

from reasongenrm.errors import EngineError
from reasongenrm.judge.encoder import ChatEncoder
from reasongenrm.judge.loading import load_tokenizer
from reasongenrm.recipe import Recipe


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
