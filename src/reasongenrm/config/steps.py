"""Settings of the training steps after the first: margin, DPO, GRPO, rounds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from reasongenrm.config.arguments import Arguments
from reasongenrm.config.engines import Strict

StepKind = Literal["sft", "dpo", "grpo", "round"]

MEMORY_ARGS = (
    "per_device_train_batch_size", "gradient_checkpointing", "gradient_checkpointing_kwargs", "dataloader_num_workers",
    "dataloader_pin_memory", "dataloader_persistent_workers", "dataloader_prefetch_factor", "dataset_num_proc",
    "ddp_find_unused_parameters", "ddp_timeout",
)  # fmt: skip
CADENCE_ARGS = (
    "logging_steps", "logging_strategy", "logging_first_step", "save_steps", "save_strategy", "save_total_limit",
    "log_level", "disable_tqdm",
)  # fmt: skip
"""Keys of a trainer that change no result; those in `train.args` hold for all steps of a judge."""


class MarginConfig(Strict):
    """A hinge loss beside that of SFT, at the letter of the verdict alone; see `train/margin.py`.

    Attributes:
        gamma: logits by which the right letter has to exceed the wrong one.
        weight: factor of the hinge loss.
    """

    gamma: float = Field(10.0, gt=0)
    weight: float = Field(1.0, gt=0)


class DPOStep(Strict):
    """Direct preference optimisation on `dpo.jsonl` with TRL's DPOTrainer.

    Attributes:
        batch: pairs of an optimizer step, on all devices together.
        reference: `previous`, the adapter that the step starts from, or `base`, the model with its adapter disabled.
        refresh: samples per prompt by the judge that the step starts from, from which new pairs are made, with the limit and
            the temperature of `round`; null: the pairs of stage 1.
        args: `trl.DPOConfig` keys, such as `beta`, `loss_type` (sigmoid, ipo, apo_zero, …) and `ld_alpha`.
    """

    batch: int = Field(32, ge=1)
    reference: Literal["previous", "base"] = "previous"
    refresh: int | None = Field(None, ge=2)
    args: Arguments = {}


class RewardWeights(Strict):
    """Weights of the reward's terms; a term of weight 0 is not computed. See `train/rewards.py`.

    Attributes:
        verdict: the verdict is right (1) or wrong (-1).
        unreadable: the term `verdict` of a completion without a readable verdict; below that of a right one.
        consistency: of a right verdict, the share of right verdicts on the other order of its pair.
        format: the completion has a reason and a verdict, and ends with its turn.
        length: cost per token beyond `length_free` tokens.
        length_free: tokens without a cost.
        calibration: 1 minus the Brier score of P(right letter).
        rationale: of a right verdict, the share of the pair's `reference_points` that the reason covers; some rows have to have them.
    """

    verdict: float = Field(1.0, ge=0)
    unreadable: float = Field(-1.5, lt=1)
    consistency: float = Field(0.0, ge=0)
    format: float = Field(0.0, ge=0)
    length: float = Field(0.0, ge=0)
    length_free: int = Field(0, ge=0)
    calibration: float = Field(0.0, ge=0)
    rationale: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _rewards_something(self) -> RewardWeights:
        if not any(
            (self.verdict, self.consistency, self.format, self.length, self.calibration, self.rationale)
        ):
            raise ValueError("all weights are 0, so that every completion earns the same; set verdict: 1")
        return self


class GRPOStep(Strict):
    """Group-relative policy optimisation on `grpo.jsonl` with TRL's GRPOTrainer.

    Attributes:
        batch: judge prompts of an optimizer step, on all devices together.
        samples: completions per prompt.
        both_orders: put both orders of a pair into one batch; the reward `consistency` needs it.
        baseline: the rewards that a completion's is compared with: those of its prompt, or those of both orders of its pair,
            which the reward `consistency` needs.
        refresh: samples per prompt by the judge that the step starts from, which give each pair a new solve rate, with the limit and the
            temperature of this step; null: the solve rates of stage 1, which are those of the untrained student.
        skip_equal: leave out the prompts whose completions are all equally good: their gradient is zero, and the mean of
            the loss is over the others. It needs `beta` 0 and the loss type dapo or cispo, and does nothing otherwise.
        max_tokens: limit of a reason.
        temperature: of sampling.
        steps: optimizer steps.
        rewards: weights of the reward's terms.
        rollouts: who samples: `generate` (transformers, on any device) or `vllm` (in the training processes).
        args: `trl.GRPOConfig` keys, such as `beta` (KL), `epsilon_high` (clip-higher) and `learning_rate`.
    """

    batch: int = Field(8, ge=1)
    samples: int = Field(8, ge=2)
    both_orders: bool = True
    baseline: Literal["prompt", "pair"] = "prompt"
    refresh: int | None = Field(None, ge=2)
    skip_equal: bool = True
    max_tokens: int = Field(1024, ge=1)
    temperature: float = Field(1.0, ge=0.01, le=2)
    steps: int = Field(200, ge=1)
    rewards: RewardWeights = RewardWeights()
    rollouts: Literal["generate", "vllm"] = "generate"
    args: Arguments = {}

    @model_validator(mode="after")
    def _pairs_are_whole(self) -> GRPOStep:
        if self.rewards.consistency and not self.both_orders:
            raise ValueError("rewards.consistency needs both_orders: true")
        scaled = self.args.get("scale_rewards", "group") in ("group", True)
        if self.rewards.consistency and self.baseline == "prompt" and scaled:
            raise ValueError(
                "rewards.consistency needs baseline: pair; among the samples of one prompt it only scales the right verdicts, "
                "which the scaling of a group undoes (args.scale_rewards: none keeps it)"
            )
        if self.baseline == "pair" and not self.both_orders:
            raise ValueError("baseline: pair needs both_orders: true")
        if self.both_orders and self.batch % 2:
            raise ValueError("batch counts judge prompts: with both_orders it must be even")
        return self


class RoundStep(Strict):
    """A round of rejection sampling: the judge samples reasons blind, the right ones are selected, and it is trained on them.

    Attributes:
        samples: reasons per prompt.
        max_tokens: limit of a reason.
        temperature: of sampling.
        rationale: a right reason is not used unless it covers this share of the pair's `reference_points`.
        fill: a pair without a right vote in each of its orders keeps its records of stage 1, if it has one for each order.
        tokens: stop after about this many training tokens; null: the epochs or steps in `args` decide.
        args: `trl.SFTConfig` keys that override `train.args` in this step.
    """

    samples: int = Field(4, ge=1)
    max_tokens: int = Field(1024, ge=1)
    temperature: float = Field(1.0, gt=0, le=2)
    rationale: float = Field(0.0, ge=0, le=1)
    fill: bool = False
    tokens: int | None = Field(None, ge=1)
    args: Arguments = {}
