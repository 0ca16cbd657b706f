"""Settings of the scalar head: training, evaluation, and the generation of answers to rank."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from reasongenrm.config.arguments import Arguments
from reasongenrm.config.engines import APIConfig, EngineConfig, FolderName, ModelConfig, Seed, Strict
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


class VLLMConfig(EngineConfig):
    """vLLM in this process; see `EngineConfig`.

    Attributes:
        kind: `vllm`.
    """

    kind: Literal["vllm"] = "vllm"


class TransformersConfig(Strict):
    """Plain transformers in this process: no vLLM is needed, and a CPU is enough for a small model.

    Attributes:
        kind: `transformers`.
        max_model_len: tokens of prompt and answer together.
        batch_size: answers that are sampled together. With 1, an answer is a function of its prompt, settings and seed alone; more
            are faster, and change few answers by rounding.
    """

    kind: Literal["transformers"]
    max_model_len: int = Field(2048, ge=64)
    batch_size: int = Field(1, ge=1)


def _engine_kind(engine: Any) -> Any:
    """Return the key `kind`, which vLLM's options need not have."""
    return engine.get("kind", "vllm") if isinstance(engine, Mapping) else getattr(engine, "kind", "vllm")


LocalEngine = Annotated[
    Annotated[VLLMConfig, Tag("vllm")] | Annotated[TransformersConfig, Tag("transformers")],
    Discriminator(_engine_kind),
]
"""Options of the engine that serves a model in this process."""


class SamplerConfig(Strict):
    """A model that answers, and how its answers are sampled.

    Attributes:
        model: a causal language model, served in this process.
        engine: how it is served: vLLM's options, or `{kind: transformers}`.
        server: an OpenAI-compatible or Anthropic model instead of `model`.
        wrap: the input of a model without a chat template, with `{prompt}` for the prompt. A model with a chat template
            does not use it.
        system: system turn.
        top_p: nucleus sampling.
        max_tokens: limit of an answer.
        stop: texts that end an answer; not part of it.
        seed: of the sampling; each answer has its own seed, a function of this one, its prompt and its number.
    """

    model: ModelConfig = ModelConfig(path="microsoft/phi-2")
    engine: LocalEngine = VLLMConfig(max_model_len=2048)
    server: APIConfig | None = None
    wrap: str = Field("Instruct: {prompt}\nOutput:", pattern=r"\{prompt\}")
    system: str | None = None
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(256, ge=1)
    stop: list[str] = []
    seed: Seed = 17

    def sampling(self) -> dict[str, Any]:
        """Return the settings that an answer depends on, besides its prompt, model, temperature and seed."""
        values = self.model_dump(mode="json", include={"wrap", "system", "top_p", "max_tokens", "stop"})
        if self.server is None and self.engine.kind == "transformers":
            values["engine"] = "transformers"  # its samples are others than vLLM's
        return values


class AnswersConfig(SamplerConfig):
    """Prompts, and the model that answers them.

    Attributes:
        prompts: the prompts.
        answers: answers per prompt; a repeated text is kept once.
        temperatures: of the answers to a prompt, in turn.
    """

    prompts: Annotated[list[PromptConfig], Field(min_length=1)]
    answers: int = Field(4, ge=1)
    temperatures: Annotated[list[Temperature], Field(min_length=1)] = [0.3, 0.7, 1.0, 1.3]


class BestOfNConfig(SamplerConfig):
    """Conversations, and the model of whose replies the best is chosen.

    Attributes:
        conversations: file whose contexts and messages are answered; its replies are not read. See docs/data-format.md.
        limit: use this number of messages, the first ones.
        n: replies to each message, all samples of one distribution; equal ones stay.
        temperature: of the sampling.
        batch_size: replies per forward pass of the head.
    """

    conversations: str
    limit: int | None = Field(None, ge=1)
    n: int = Field(16, ge=1, le=1024)
    temperature: float = Field(1.0, gt=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    batch_size: int = Field(32, ge=1)


class HeadConfig(Strict):
    """A scalar head and its training, whatever it learns from.

    Attributes:
        model: hub id or folder of an encoder or a causal language model.
        revision: revision on the hub.
        max_length: limit for prompt and answer together, in tokens, in training and wherever the head scores; saved with
            the head. Of a longer input the longer text is cut at its end; the reports count such inputs.
        patience: stop after this number of evaluations without a lower held-out loss, and keep the best weights; every
            checkpoint (`args.save_steps`) is evaluated.
        lora: `peft.LoraConfig` keys; the base is then frozen, the new head is trained without LoRA, and the adapter is
            merged at the end.
        args: keys of the trainer, passed through unchanged: `trl.RewardConfig` for pairs, such as
            `center_rewards_coefficient`; `transformers.TrainingArguments` for scores.
    """

    model: str = "distilbert-base-uncased"
    revision: str | None = None
    max_length: int = Field(512, ge=8)
    patience: int | None = Field(None, ge=1)
    lora: Arguments | None = None
    args: Arguments = {}


class ScalarConfig(HeadConfig):
    """The classic scalar head, which learns from pairs.

    Attributes:
        margin: required lead of the better answer in the loss, in nats per rank between the answers, where the pairs
            come from ranks; 0: no margin.
        validation: held-out share of the prompts; all pairs of a prompt are on one side.
    """

    margin: float = Field(0.0, ge=0)
    validation: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _consistent(self) -> ScalarConfig:
        if self.patience is not None and not self.validation:
            raise ValueError("patience needs held-out prompts: set validation, for example 0.1")
        return self


class ScalarEvaluateConfig(Strict):
    """The answers that `reasongenrm scalar evaluate` scores.

    Attributes:
        held_out: score the prompts that the training held out, which have ranks; they are scored anyway where nothing else is.
        answers: a file of answers, ranked or not: CSV or JSONL with `prompt`, `answer` and optionally `rank`.
        generate: settings to generate new answers.
        leave_one_out: train one head per prompt of the sources, without this prompt, and let it score the prompt's answers, instead
            of the trained head and all of the above; for up to 100 prompts.
        batch_size: answers scored together.
    """

    held_out: bool = False
    answers: str | None = None
    generate: AnswersConfig | None = None
    leave_one_out: bool = False
    batch_size: int = Field(32, ge=1)

    @model_validator(mode="after")
    def _one(self) -> ScalarEvaluateConfig:
        if self.answers is not None and self.generate is not None:
            raise ValueError("give answers or generate, not both: set the other one to null")
        return self

    @property
    def scores_held_out(self) -> bool:
        """Whether the held-out prompts are scored."""
        return self.held_out or (self.answers is None and self.generate is None)


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
    seed: Seed = 17
    sources: Annotated[list[SourceConfig], Field(min_length=1)]
    drop_sources: list[str] = ["magpie_ultra"]
    limit: int | None = Field(None, ge=1)
    scalar: ScalarConfig = ScalarConfig()
    evaluate: ScalarEvaluateConfig = ScalarEvaluateConfig()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path("runs") / self.name
