"""Settings of the scalar head: training, evaluation, and the generation of answers to rank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from reasongenrm.config.engines import AnthropicConfig, EngineConfig, ModelConfig, OpenAIConfig, Strict
from reasongenrm.config.prepare import SourceConfig


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


class ScalarConfig(Strict):
    """The classic scalar head.

    Attributes:
        model: hub id or folder of an encoder or a causal language model.
        revision: revision on the hub.
        max_length: tokens of prompt and answer together; of longer inputs the longer text is cut at its end, and they
            are counted.
        margin: have the loss ask for a lead of so many nats per rank between the answers, where the pairs come from
            ranks; 0 asks for none.
        validation: share of the prompts that are held out; all pairs of a prompt stand on one side.
        patience: stop after so many evaluations without a lower loss on what is held out, and keep the best weights;
            an evaluation is due with every checkpoint (`args.save_steps`).
        lora: `peft.LoraConfig` keys; the base is then frozen, the head is trained whole, and the adapter is merged in
            at the end.
        args: `trl.RewardConfig` keys, passed through untouched, such as `center_rewards_coefficient`.
    """

    model: str = "distilbert-base-uncased"
    revision: str | None = None
    max_length: int = Field(512, ge=8)
    margin: float = Field(0.0, ge=0)
    validation: float = Field(0.0, ge=0, lt=1)
    patience: int | None = Field(None, ge=1)
    lora: dict[str, Any] | None = None
    args: dict[str, Any] = {}

    @model_validator(mode="after")
    def _consistent(self) -> ScalarConfig:
        if self.patience is not None and not self.validation:
            raise ValueError("patience wants prompts that are held out: set validation, such as 0.1")
        return self


class ScalarEvaluateConfig(Strict):
    """Which answers `reasongenrm scalar evaluate` scores.

    Attributes:
        answers: a file of answers, ranked or not: CSV or JSONL with `prompt`, `answer` and perhaps `rank`; the
            held-out prompts of the training where neither this nor `generate` is given.
        generate: how new answers are generated, where there is no file.
        batch_size: answers scored together.
    """

    answers: str | None = None
    generate: AnswersConfig | None = None
    batch_size: int = Field(32, ge=1)

    @model_validator(mode="after")
    def _one(self) -> ScalarEvaluateConfig:
        if self.answers is not None and self.generate is not None:
            raise ValueError("give answers or generate, not both")
        return self


class ScalarRecipe(Strict):
    """What `reasongenrm scalar train` and `scalar evaluate` read.

    Attributes:
        name: of the run folder, `runs/<name>`; the trained head is its folder `scalar`.
        seed: of the head's initial weights, the order of the pairs and what is held out.
        sources: ranked answers, or pairs; read one after the other.
        drop_sources: values of the source column that are left out.
        limit: use this number of rows, a share of every source.
        scalar: the head and its training.
        evaluate: what it is measured on.
    """

    name: str = Field(pattern=r"[A-Za-z0-9][A-Za-z0-9._-]*")
    seed: int = 17
    sources: Annotated[list[SourceConfig], Field(min_length=1)]
    drop_sources: list[str] = ["magpie_ultra"]
    limit: int | None = Field(None, ge=1)
    scalar: ScalarConfig = ScalarConfig()
    evaluate: ScalarEvaluateConfig = ScalarEvaluateConfig()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path("runs") / self.name
