"""How answers are generated: the file that `reasongenrm answers generate` reads."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from reasongenrm.recipe_data import AnthropicConfig, EngineConfig, ModelConfig, OpenAIConfig, Strict


class PromptConfig(Strict):
    """A prompt to be answered.

    Attributes:
        kind: what sort of task it is; goes into the file of answers.
        prompt: the user's turn.
    """

    kind: str = ""
    prompt: str = Field(min_length=1)


class AnswersConfig(Strict):
    """Prompts, and how many answers of what model they get.

    Attributes:
        prompts: what is asked.
        answers: answers per prompt; of those that are the same text one is kept.
        model: a causal language model, served by vLLM in this process.
        engine: its serving options.
        server: an OpenAI-compatible or Anthropic model instead of `model`.
        wrap: how a model without a chat template is asked; `{prompt}` stands for the prompt. A model with one is asked
            by it.
        system: system turn.
        temperatures: the answers of a prompt take them in turn.
        top_p: nucleus sampling.
        max_tokens: limit of an answer.
        stop: texts that end an answer; they are cut off.
        seed: of the sampling; each answer has its own, from this one, its prompt and its number.
    """

    prompts: Annotated[list[PromptConfig], Field(min_length=1)]
    answers: int = Field(4, ge=1)
    model: ModelConfig = ModelConfig(path="microsoft/phi-2")
    engine: EngineConfig = EngineConfig(max_model_len=2048)
    server: Annotated[OpenAIConfig | AnthropicConfig, Field(discriminator="kind")] | None = None
    wrap: str = Field("Instruct: {prompt}\nOutput:", pattern=r"\{prompt\}")
    system: str | None = None
    temperatures: Annotated[list[Annotated[float, Field(ge=0, le=2)]], Field(min_length=1)] = [
        0.3,
        0.7,
        1.0,
        1.3,
    ]
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(256, ge=1)
    stop: list[str] = []
    seed: int = 17
