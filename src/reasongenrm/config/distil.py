"""Settings of `reasongenrm distil`: a judge with a rubric, and the head that learns its judgements."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from reasongenrm.config.engines import APIConfig, FolderName, Seed, Strict
from reasongenrm.config.own_judge import OwnJudge
from reasongenrm.config.rubric import Rubric
from reasongenrm.config.scalar import HeadConfig

Objective = Literal["regression", "dimensions", "ordinal", "pairs"]


class Prices(Strict):
    """Prices of a server, for the estimate of costs and the true costs: those of single calls, of which Anthropic's batches
    cost half.

    Attributes:
        input, output: per million tokens, in any currency.
        cached_input, cache_write: of input tokens that the server has in its cache, and that it puts there; null: as `input`.
    """

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(None, ge=0)
    cache_write: float | None = Field(None, ge=0)


class RubricJudge(Strict):
    """A judge that scores replies by a rubric: exactly one of `server` and `judge`.

    Attributes:
        rubric: the criteria.
        server: an OpenAI-compatible server, or Anthropic's API; it answers in JSON by the rubric's schema.
        judge: a judge of this suite instead; it rates each criterion with its own wording for ratings.
        prompt: Jinja2 file with the wording for a server; see `chat.rubric_prompt.RubricPrompt`.
        samples: judgements per reply; their mean is the score.
        temperature: of sampling.
        max_tokens: limit of a judgement.
        prices: of the server; null: tokens are counted, but no costs.
    """

    rubric: Rubric
    server: APIConfig | None = None
    judge: OwnJudge | None = None
    prompt: str = "configs/distil/prompt.jinja"
    samples: int = Field(1, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    max_tokens: int = Field(1024, ge=1)
    prices: Prices | None = None

    @model_validator(mode="after")
    def _one_judge(self) -> RubricJudge:
        if (self.server is None) == (self.judge is None):
            raise ValueError("give server or judge, one of the two")
        if self.samples > 1 and not self.temperature:
            raise ValueError("samples of temperature 0 are all equal: set temperature, for example 0.7")
        if self.server is not None and self.server.kind == "openai" and self.server.api != "chat":
            raise ValueError("a judge with a rubric takes messages: set server.api to chat")
        if self.server is not None and self.server.kind == "anthropic" and self.temperature > 1:
            raise ValueError("temperature is above 1, Anthropic's maximum")
        return self


class Shares(Strict):
    """Shares of the conversations that are held out; all rows of a conversation are on one side.

    Attributes:
        validation: to stop training early.
        test: for `distil evaluate` alone.
    """

    validation: float = Field(0.15, ge=0, lt=1)
    test: float = Field(0.2, gt=0, lt=1)

    @model_validator(mode="after")
    def _something_left(self) -> Shares:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test leave nothing to train on")
        return self


class DistilRecipe(Strict):
    """Recipe of `reasongenrm distil`.

    Attributes:
        name: of the run folder, `runs/<name>`; the trained head is its folder `scalar`.
        seed: of the split, the samples and the head.
        conversations: JSON or JSONL file; see docs/data-format.md.
        judge: the judge; in a YAML file it may be the path of a file with these keys.
        split: held-out shares.
        objective: what the head learns: the weighted score (`regression`), one score per criterion (`dimensions`), the
            weighted score as ordered levels (`ordinal`), or which of two replies scores higher (`pairs`).
        huber: width of the quadratic part of Huber's loss in standard deviations, for `regression` and `dimensions`; null: mean
            squared error.
        levels: number of ordered levels of `ordinal`.
        gap: least difference of the weighted scores of a pair, for `pairs`.
        head: the head and its training.
        people: JSONL file with scores that people gave, to compare with: `id` of a conversation and `score`, on any scale; several
            lines of one id are averaged.
    """

    name: FolderName
    seed: Seed = 17
    conversations: str
    judge: RubricJudge
    split: Shares = Shares()
    objective: Objective = "regression"
    huber: float | None = Field(None, gt=0)
    levels: int = Field(5, ge=2)
    gap: float = Field(0.1, gt=0, le=1)
    head: HeadConfig = HeadConfig()
    people: str | None = None

    @model_validator(mode="after")
    def _patience_has_rows(self) -> DistilRecipe:
        if self.head.patience is not None and not self.split.validation:
            raise ValueError(
                "head.patience needs held-out conversations: set split.validation, for example 0.15"
            )
        return self

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path("runs") / self.name
