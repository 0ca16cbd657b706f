"""Settings of the scalar head: training, evaluation, and the generation of answers to rank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from reasongenrm.config.arguments import Arguments
from reasongenrm.config.engines import APIConfig, EngineConfig, FolderName, ModelConfig, Strict
from reasongenrm.config.prepare import SourceConfig

Temperature = Annotated[float, Field(ge=0, le=2)]


class PromptConfig(Strict):
    """A prompt to generate answers to.

    Attributes:
        kind: a name for the type of task; copied to the file of answers.
        prompt: the user's turn.
    """

    kind: str = ""
    prompt: str = Field(min_length=1)


class AnswersConfig(Strict):
    """Prompts, and the model that answers them.

    Attributes:
        prompts: the prompts.
        answers: answers per prompt; a repeated text is kept once.
        model: a causal language model, served by vLLM in this process.
        engine: its serving options.
        server: an OpenAI-compatible or Anthropic model instead of `model`.
        wrap: the input of a model without a chat template, with `{prompt}` for the prompt. A model with a chat template
            does not use it.
        system: system turn.
        temperatures: of the answers to a prompt, in turn.
        top_p: nucleus sampling.
        max_tokens: limit of an answer.
        stop: texts that end an answer; not part of it.
        seed: of the sampling; each answer has its own seed, a function of this one, its prompt and its number.
    """

    prompts: Annotated[list[PromptConfig], Field(min_length=1)]
    answers: int = Field(4, ge=1)
    model: ModelConfig = ModelConfig(path="microsoft/phi-2")
    engine: EngineConfig = EngineConfig(max_model_len=2048)
    server: APIConfig | None = None
    wrap: str = Field("Instruct: {prompt}\nOutput:", pattern=r"\{prompt\}")
    system: str | None = None
    temperatures: Annotated[list[Temperature], Field(min_length=1)] = [0.3, 0.7, 1.0, 1.3]
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(256, ge=1)
    stop: list[str] = []
    seed: int = 17


class ScalarConfig(Strict):
    """The classic scalar head.

    Attributes:
        model: hub id or folder of an encoder or a causal language model.
        revision: revision on the hub.
        max_length: limit for prompt and answer together, in tokens, in training and wherever the head scores; saved with
            the head. Of a longer input the longer text is cut at its end; the reports count such inputs.
        margin: required lead of the better answer in the loss, in nats per rank between the answers, where the pairs
            come from ranks; 0: no margin.
        validation: held-out share of the prompts; all pairs of a prompt are on one side.
        patience: stop after this number of evaluations without a lower held-out loss, and keep the best weights; every
            checkpoint (`args.save_steps`) is evaluated.
        lora: `peft.LoraConfig` keys; the base is then frozen, the new head is trained without LoRA, and the adapter is
            merged at the end.
        args: `trl.RewardConfig` keys, passed through unchanged, such as `center_rewards_coefficient`.
    """

    model: str = "distilbert-base-uncased"
    revision: str | None = None
    max_length: int = Field(512, ge=8)
    margin: float = Field(0.0, ge=0)
    validation: float = Field(0.0, ge=0, lt=1)
    patience: int | None = Field(None, ge=1)
    lora: Arguments | None = None
    args: Arguments = {}

    @model_validator(mode="after")
    def _consistent(self) -> ScalarConfig:
        if self.patience is not None and not self.validation:
            raise ValueError("patience needs held-out prompts: set validation, for example 0.1")
        return self


class ScalarEvaluateConfig(Strict):
    """The answers that `reasongenrm scalar evaluate` scores.

    Attributes:
        answers: a file of answers, ranked or not: CSV or JSONL with `prompt`, `answer` and optionally `rank`; without
            this and `generate`, the held-out prompts of the training are scored.
        generate: settings to generate new answers.
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
    """Recipe of `reasongenrm scalar train` and `scalar evaluate`.

    Attributes:
        name: of the run folder, `runs/<name>`; the trained head is its folder `scalar`.
        seed: of the head's initial weights, the order of the pairs and the held-out prompts.
        sources: ranked answers, or pairs; read one after another.
        drop_sources: values of the source column whose rows are dropped.
        limit: use this number of rows, a share of every source.
        scalar: the head and its training.
        evaluate: the answers for the evaluation.
    """

    name: FolderName
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
