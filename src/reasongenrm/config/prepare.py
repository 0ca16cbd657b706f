"""Settings of stage 1: data sources, teachers, selection of reasons, records."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from reasongenrm.config.engines import APIConfig, ModelConfig, Strict
from reasongenrm.records import Selector


class DatasetConfig(Strict):
    """A dataset.

    Attributes:
        path: hub id, `.jsonl`, `.json`, `.parquet`, or a folder of `.jsonl` and `.parquet` files.
        split: split of a hub dataset.
        revision: revision of a hub dataset.
    """

    path: str
    split: str = "train"
    revision: str | None = None


class SourceConfig(DatasetConfig):
    """A source of preference pairs; ranked answers may also be a `.csv` file.

    Attributes:
        kind: `skywork` (columns chosen, rejected, source), `ranked` (columns prompt, answer, rank) or `helpsteer3` (see
            `data/helpsteer3.py`).
        weight: share of its rows to use, chosen by a hash of their content. Under `limit` the sources take turns: a
            source of weight 1 yields two rows for each row of a source of weight 0.5.
    """

    kind: Literal["skywork", "ranked", "helpsteer3"] = "skywork"
    weight: float = Field(1.0, gt=0, le=1)


class NearDuplicateConfig(Strict):
    """Definition of near-duplicates; the first of several near-duplicate pairs is kept.

    Attributes:
        threshold: smallest estimated Jaccard similarity of the word shingles of two near-duplicates.
        shingle: words per shingle.
        permutations: MinHash permutations; the standard error of the estimate is about 1 / sqrt(permutations).
    """

    threshold: float = Field(0.8, gt=0, le=1)
    shingle: int = Field(5, ge=1)
    permutations: int = Field(128, ge=16)


class DecontaminateConfig(Strict):
    """N-gram decontamination against the benchmarks of `evaluate` and those listed here.

    Attributes:
        against: further benchmarks, which must not overlap the training data.
        ngrams: sizes, in words, of the n-grams whose matches are listed.
        drop_prompt, drop_answer: smallest n-gram whose match in the prompt, or in an answer, drops the pair; null: matches
            are only listed.
        common: an n-gram in more than this many rows of a benchmark is boilerplate, and not a match.
    """

    against: list[DatasetConfig] = []
    ngrams: Annotated[list[Annotated[int, Field(ge=2)]], Field(min_length=1)] = [8, 13]
    drop_prompt: int | None = 13
    drop_answer: int | None = 13
    common: int = Field(10, ge=1)

    @model_validator(mode="after")
    def _known_sizes(self) -> DecontaminateConfig:
        for key in ("drop_prompt", "drop_answer"):
            size = getattr(self, key)
            if size is not None and size not in self.ngrams:
                raise ValueError(f"{key} is {size}, which is not in ngrams {self.ngrams}")
        return self


class DataConfig(Strict):
    """Sources of pairs, and the filters that they pass.

    Attributes:
        sources: in this order; under `limit`, in turn.
        drop_sources: values of the source column to leave out (magpie_ultra of Skywork v0.2 leaks its label).
        near_duplicates: definition of a near-duplicate; null keeps all near-duplicates.
        decontaminate: n-grams that a pair must not share with a benchmark; null skips the comparison.
        both_orders: make two judge prompts per pair, one per order, instead of one in a seeded order.
        max_tokens: limit for prompt, reason and verdict together; longer training records are dropped and listed.
    """

    sources: Annotated[list[SourceConfig], Field(min_length=1)]
    drop_sources: list[str] = ["magpie_ultra"]
    near_duplicates: NearDuplicateConfig | None = NearDuplicateConfig()
    decontaminate: DecontaminateConfig | None = DecontaminateConfig()
    both_orders: bool = False
    max_tokens: int = Field(6144, ge=32)


class TeacherConfig(Strict):
    """A teacher, and the sampling of its reasons.

    Attributes:
        mode: `hindsight` (the prompt contains the right verdict) or `blind` (the prompt is the student's).
        model: the teacher in this process, or the tokenizer for a server; null: the student.
        server: the teacher's server; null: vLLM in this process.
        samples: reasons per prompt.
        max_tokens: limit per reason; a prompt must leave as much room in the context.
        temperature, top_p: of sampling; vLLM accepts temperatures up to 2.
    """

    mode: Literal["hindsight", "blind"] = "hindsight"
    model: ModelConfig | None = None
    server: APIConfig | None = None
    samples: int = Field(4, ge=1)
    max_tokens: int = Field(1024, ge=1)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)


class SelectConfig(Strict):
    """Selection of the best reason of a prompt.

    Attributes:
        selector: see `reasons/select.py`.
        formula: R* as an expression of `reason` and `verdict`, the mean log-probabilities (nats per token) of the
            reason and of the right verdict under the student, with `exp` and `log`.
        rationale: a right reason is dropped unless it covers this share of the pair's `reference_points`; a pair without points has
            none to cover.
        threshold: `rstar` drops a reason unless its value is above this.
        verdict_tokens: the tokens of a verdict such as `[[A]]` whose log-probability is the formula's `verdict`: `all`, their
            mean, or `letter`, the token in which the two verdicts differ, after those before it.
        min_kept: the smallest share of the prompts that must keep a reason; fewer are an error.
        giveaway_words: a reason that states its verdict within its first words, this many, is dropped.
        scorer: `transformers`, or `vllm` for a student that does not fit on one device.
        batch_tokens: tokens per scoring batch, each prompt counted once; null: 32,768 on a GPU, where a 7B student in
            bfloat16 then takes 21 of 24 GB, and 16,384 on a CPU. It changes scores by rounding alone.
    """

    selector: Selector = "rstar"
    formula: str = "exp(reason) * (2 * exp(verdict) - 1)"
    rationale: float = Field(0.0, ge=0, le=1)
    threshold: float = 0.1
    verdict_tokens: Literal["all", "letter"] = "all"
    min_kept: float = Field(0.5, ge=0, le=1)
    giveaway_words: int = Field(8, ge=0)
    scorer: Literal["transformers", "vllm"] = "transformers"
    batch_tokens: int | None = Field(None, ge=1)


Corner = Literal["right_fluent", "right_disfluent", "wrong_fluent", "wrong_disfluent"]


class DPOConfig(Strict):
    """The two reasons of a prompt that make a DPO record; see `reasons/records.py`.

    Attributes:
        chosen, rejected: right or wrong, and fluent or disfluent under the student.
    """

    chosen: Corner = "right_fluent"
    rejected: Corner = "wrong_fluent"


class GRPOConfig(Strict):
    """Prompts for reinforcement learning, chosen by the student's solve rate.

    Attributes:
        above, below: bounds, both exclusive, of the share of right verdicts in the student's blind samples.
    """

    above: float = Field(0.0, ge=0, lt=1)
    below: float = Field(1.0, gt=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> GRPOConfig:
        if self.above >= self.below:
            raise ValueError(f"no solve rate is above {self.above:g} and below {self.below:g}")
        return self


class GeneralConfig(DatasetConfig):
    """General chat or reasoning data for the training of a judge; columns prompt, reason (optional), response, or messages.

    Attributes:
        weight: number of records to use, as a share of the number of judge records.
    """

    weight: float = Field(gt=0)


class RatingsConfig(Strict):
    """Ratings in the records of judges with the template `pointwise`; see `reasons/ratings.py`.

    The defaults are of the scale in `configs/prompts/judge.yaml`: 3 misses what matters, and 7 is good with small faults.

    Attributes:
        low: of an answer that is never preferred.
        high: of an answer that is always preferred.
    """

    low: int = Field(3, ge=1, le=10)
    high: int = Field(8, ge=1, le=10)

    @model_validator(mode="after")
    def _ordered(self) -> RatingsConfig:
        if self.low >= self.high:
            raise ValueError("low must be below high")
        return self


class RecordsConfig(Strict):
    """Training records besides `sft.jsonl` and `genrm.jsonl`.

    Attributes:
        dpo: settings of `dpo.jsonl`; null: not written.
        grpo: settings of `grpo.jsonl`, which needs the student as a blind teacher; null: not written.
        general: `general.jsonl`, for judges with `general: true` (the wGen models).
        ratings: of the answers in `pointwise.jsonl`, for judges with the template `pointwise`.
    """

    dpo: DPOConfig | None = None
    grpo: GRPOConfig | None = None
    general: list[GeneralConfig] = []
    ratings: RatingsConfig = RatingsConfig()
