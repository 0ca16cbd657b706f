"""Settings of stage 3: benchmarks, and how judges are asked."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, model_validator

from reasongenrm.config.engines import AnthropicConfig, ModelConfig, OpenAIConfig, Strict, VLLMServerConfig

BenchmarkKind = Literal[
    "rewardbench", "rewardbench2", "rmbench", "judgebench", "llmbar", "ppe", "rmb", "pairs"
]


HUB_IDS: dict[BenchmarkKind, str] = {
    "rewardbench": "allenai/reward-bench",
    "rewardbench2": "allenai/reward-bench-2",
    "rmbench": "THU-KEG/RM-Bench",
    "judgebench": "ScalerLab/JudgeBench",
    "ppe": "lmarena-ai/PPE-Human-Preference-V1",
}
"""Where each kind is published; LLMBar and RMB are files on GitHub, and `pairs` are one's own."""


class BenchmarkConfig(Strict):
    """One benchmark; see docs/benchmarks.md for the columns of each kind.

    Attributes:
        kind: its format and its metric.
        path: hub id or local file; the kind's own hub dataset when not given.
        split: split of a hub dataset; the kind's own when not given.
        revision: revision of a hub dataset.
        limit: use only the first N rows.
        mode: `pairs`: a judge compares two answers; `ratings`: it rates each answer alone on a scale of 1 to 10, with
            the wording `rating` of the prompt file.
        prior_sets: of RewardBench, judge the prior sets too, as a fifth section of half weight.
        prior_path: where they are; `allenai/pref-test-sets` when not given.
    """

    kind: BenchmarkKind = "rewardbench"
    path: str | None = None
    split: str | None = None
    revision: str | None = None
    limit: int | None = Field(None, ge=1)
    mode: Literal["pairs", "ratings"] = "pairs"
    prior_sets: bool = False
    prior_path: str | None = None

    @model_validator(mode="after")
    def _has_data(self) -> BenchmarkConfig:
        if self.kind not in HUB_IDS and self.path is None:
            raise ValueError(f"a benchmark of kind {self.kind} wants a path")
        if self.prior_sets and self.kind != "rewardbench":
            raise ValueError(f"prior_sets are RewardBench's; a benchmark of kind {self.kind} has none")
        return self

    @property
    def location(self) -> str:
        """The file, or the hub id."""
        return self.path or HUB_IDS[self.kind]


class JudgingConfig(Strict):
    """How a judge is asked.

    Attributes:
        both_orders: judge every pair in both orders (else in one seeded order).
        max_tokens: limit per completion.
        temperature: 0 is greedy.
        votes: completions per prompt; more than one want a temperature above 0.
        combine: `mean` takes the mean P(A) of the votes, `majority` counts their letters.
        margin: a verdict whose P(A) is less than this from 0.5 is a tie.
        rescue: ask a completion that cannot be read for the verdict alone.
        server: vLLM servers that are started for the judge; vLLM in this process when not given.
    """

    both_orders: bool = True
    max_tokens: int = Field(1024, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    votes: int = Field(1, ge=1)
    combine: Literal["mean", "majority"] = "mean"
    margin: float = Field(0.0, ge=0, lt=0.5)
    rescue: bool = True
    server: VLLMServerConfig | None = None

    @model_validator(mode="after")
    def _votes_differ(self) -> JudgingConfig:
        if self.votes > 1 and self.temperature == 0:
            raise ValueError("votes above 1 want a temperature above 0: greedy votes are all the same")
        return self


class OtherJudge(Strict):
    """A judge that is not trained here, measured beside those that are.

    Attributes:
        server: where it is served.
        model: whose tokenizer a server of the completions API is asked with.
        template: the chat template for it.
        max_model_len: tokens of prompt and completion together.
    """

    server: Annotated[OpenAIConfig | AnthropicConfig, Field(discriminator="kind")]
    model: ModelConfig | None = None
    template: Literal["reason", "think", "direct"] = "reason"
    max_model_len: int = Field(32768, ge=64)


class EvaluateConfig(JudgingConfig):
    """The benchmarks, and how the judges are asked.

    Attributes:
        benchmarks: what the judges are measured on, by name.
        base: also judge with the untouched base.
        others: further judges, by name.
    """

    benchmarks: dict[str, BenchmarkConfig] = Field({"rewardbench": BenchmarkConfig()}, min_length=1)
    base: bool = True
    others: dict[str, OtherJudge] = Field({})

    @model_validator(mode="after")
    def _names_are_folders(self) -> EvaluateConfig:
        for name in (*self.benchmarks, *self.others):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
                raise ValueError(f"name {name!r}: use letters, digits, '_', '-' and '.'")
        return self
