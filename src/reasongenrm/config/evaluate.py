"""EvaluationSettings of stage 3: benchmarks, judging, and judges that are not trained here."""

from __future__ import annotations

from typing import Literal, Protocol

from pydantic import Field, model_validator

from reasongenrm.config.engines import APIConfig, FolderName, ModelConfig, Strict

BenchmarkKind = Literal[
    "rewardbench", "rewardbench2", "rmbench", "judgebench", "llmbar", "ppe", "rmb", "mrewardbench", "contextualjudgebench",
    "ifrewardbench", "rubricbench", "helpsteer3", "pairs",
]  # fmt: skip


HUB_IDS: dict[BenchmarkKind, str] = {
    "rewardbench": "allenai/reward-bench",
    "rewardbench2": "allenai/reward-bench-2",
    "rmbench": "THU-KEG/RM-Bench",
    "judgebench": "ScalerLab/JudgeBench",
    "ppe": "lmarena-ai/PPE-Human-Preference-V1",
    "mrewardbench": "CohereLabsCommunity/multilingual-reward-bench",
    "contextualjudgebench": "Salesforce/ContextualJudgeBench",
    "rubricbench": "DonJoey/rubricbench",
    "helpsteer3": "Qwen/RationaleRM:test",
}
"""Default path of each kind; LLMBar, RMB and IF-RewardBench are files on GitHub, and `pairs` are local files."""


class BenchmarkConfig(Strict):
    """One benchmark; see docs/benchmarks.md for the columns of each kind.

    Attributes:
        kind: the format and the metric.
        path: hub id or local file; by default the hub dataset of the kind.
        split: split of a hub dataset; by default that of the kind.
        revision: revision of a hub dataset.
        limit: use only the first N rows.
        mode: `pairs`: a judge compares two answers; `ratings`: it rates each answer from 1 to 10, with the key `rating`
            of the prompt file;
            `fourway`: RewardBench 2 only: one prompt with all four answers of a row in a seeded order, with the key
            `listwise`, as upstream judges; the answers of Ties are rated.
        prior_sets: RewardBench only: also judge the prior sets, as a fifth section of half weight.
        prior_path: the prior sets; by default `allenai/pref-test-sets`.
        max_messages: RewardBench only: leave out conversations with more messages, the answer included; null judges all,
            4 judges what upstream's generative runner judges.
        safety: RM-Bench only: `pooled` gives every row of the domain safety the same weight, as upstream does; `halves`
            is the mean of its two subsets.
    """

    kind: BenchmarkKind = "rewardbench"
    path: str | None = None
    split: str | None = None
    revision: str | None = None
    limit: int | None = Field(None, ge=1)
    mode: Literal["pairs", "ratings", "fourway"] = "pairs"
    prior_sets: bool = False
    prior_path: str | None = None
    max_messages: int | None = Field(None, ge=2)
    safety: Literal["pooled", "halves"] = "pooled"

    @model_validator(mode="after")
    def _has_data(self) -> BenchmarkConfig:
        if self.kind not in HUB_IDS and self.path is None:
            raise ValueError(f"a benchmark of kind {self.kind} needs a path")
        for key, owner, used in (
            ("prior_sets", "rewardbench", self.prior_sets),
            ("max_messages", "rewardbench", self.max_messages is not None),
            ("safety", "rmbench", self.safety != "pooled"),
            ("mode: fourway", "rewardbench2", self.mode == "fourway"),
        ):
            if used and self.kind != owner:
                raise ValueError(f"only the kind {owner} has {key}, not {self.kind}")
        return self

    @property
    def location(self) -> str:
        """The file, or the hub id."""
        return self.path or HUB_IDS[self.kind]


class JudgingConfig(Strict):
    """Orders, sampling and votes of a judge.

    Attributes:
        both_orders: judge every pair in both orders; false: in one seeded order.
        max_tokens: token limit of a reason; of a chat API, of reason and verdict together.
        temperature: of sampling; 0 is greedy.
        votes: completions per prompt; more than one need a temperature above 0.
        combine: `mean` takes the mean P(A) of the votes, `majority` counts their letters, `meta` takes the mean of the
            better half of the votes, by the scores of the judge of judges.
        meta: folder of the judge of judges; in a recipe with the section `meta`, by default the one that stage 2 trains.
        margin: a verdict whose P(A) differs from 0.5 by less than this is a tie.
        rescue: after a completion that cannot be read, request only the verdict.
    """

    both_orders: bool = True
    max_tokens: int = Field(1024, ge=1)
    temperature: float = Field(0.0, ge=0, le=2)
    votes: int = Field(1, ge=1)
    combine: Literal["mean", "majority", "meta"] = "mean"
    meta: str | None = None
    margin: float = Field(0.0, ge=0, lt=0.5)
    rescue: bool = True

    @model_validator(mode="after")
    def _votes_differ(self) -> JudgingConfig:
        if self.votes > 1 and self.temperature == 0:
            raise ValueError("votes above 1 need a temperature above 0: greedy votes are all equal")
        return self


class OtherJudge(Strict):
    """A judge that is not trained here, evaluated with the trained ones.

    Attributes:
        server: its server.
        model: for the tokenizer, which requests to a completions API need.
        template: its chat template; `own` is that of its tokenizer. A chat API always uses its own.
        reasons: whether it writes a reason before its verdict; the templates `reason`, `think` and `direct` decide that
            themselves.
        max_model_len: tokens of prompt and completion together.
    """

    server: APIConfig
    model: ModelConfig | None = None
    template: Literal["own", "reason", "think", "direct"] = "own"
    reasons: bool = True
    max_model_len: int = Field(32768, ge=64)


class EvaluateConfig(JudgingConfig):
    """Benchmarks, judging, and judges besides the trained ones.

    Attributes:
        benchmarks: by name.
        base: also judge with the untrained base, in its own chat template: with reasons (`base`) and without
            (`base-direct`).
        others: further judges, by name.
    """

    benchmarks: dict[FolderName, BenchmarkConfig] = Field({"rewardbench": BenchmarkConfig()}, min_length=1)
    base: bool = True
    others: dict[FolderName, OtherJudge] = {}


class EvaluationSettings(Protocol):
    """What an evaluation reads of a recipe (`Recipe`, or `ModelsRecipe` without a training)."""

    @property
    def name(self) -> str: ...
    @property
    def seed(self) -> int: ...
    @property
    def limit(self) -> int | None: ...
    @property
    def prompts(self) -> str: ...
    @property
    def evaluate(self) -> EvaluateConfig: ...
    @property
    def judging(self) -> EvaluateConfig: ...
