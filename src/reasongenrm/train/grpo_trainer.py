"""TRL's GRPOTrainer for judges: its completions are sampled and read here, and prompts that teach nothing are left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.verdict import read_completion
from reasongenrm.config.steps import GRPOStep
from reasongenrm.records import REFERENCE_POINTS, JudgePrompt, Letter
from reasongenrm.train.rewards import Judgement, reward_functions
from reasongenrm.train.rollouts import GenerateSampler, Rollout, Sampler, TwoTurns
from reasongenrm.train.vllm_rollouts import VLLMSampler

COUNTS_TOKENS = ("dapo", "cispo")
"""Values of `loss_type` that divide by the tokens of all processes, so that completions can be left out."""
NO_ADVANTAGE = 5e-3
"""Smaller advantages come from rounding: TRL divides by the standard deviation plus 1e-4."""


def trainer_class() -> Any:
    """Return the class; it is built here because TRL takes seconds to load."""
    from trl import GRPOTrainer

    class JudgeTrainer(GRPOTrainer):
        """GRPO of a judge.

        Args:
            settings: of the step.
            turns, encoder: of the judge.
            counts: of the rows, for `training.json`.
            sampler: of row numbers.
            options: of TRL's trainer.
        """

        def __init__(
            self, *, settings: GRPOStep, turns: TwoTurns, encoder: ChatEncoder, counts: dict[str, Any], sampler: Any,
            **options: Any,
        ) -> None:  # fmt: skip
            self.settings, self.turns, self.encoder, self.counts = settings, turns, encoder, counts
            self._row_sampler = sampler
            self._rows: list[dict[str, Any]] = []  # of the batch that is sampled
            self.rollouts: Sampler = (
                VLLMSampler(turns, settings.samples)
                if settings.rollouts == "vllm"
                else GenerateSampler(turns, settings.temperature)
            )
            super().__init__(
                reward_funcs=reward_functions(settings.rewards), rollout_func=self._roll_out, **options
            )

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return self._row_sampler

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            self._rows = inputs  # TRL gives the rollouts no more of a row than its prompt
            batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
            loss_is_exact = self.loss_type in COUNTS_TOKENS and self.beta == 0 and not self.args.entropy_coef
            if self.settings.skip_equal and loss_is_exact:
                # TRL gathers values of every completion of a pass: all processes keep equally many.
                most = max(gather_numbers([informative_count(batch)]))
                batch = keep_informative(batch, self.args.steps_per_generation, most)
                tokens = learned_tokens(batch)
                batch["num_items_in_batch"] = self.accelerator.gather(tokens).sum()
            return batch

        def _roll_out(self, prompts: list[Any], trainer: Any) -> dict[str, Any]:
            rows, samples = self._rows, self.settings.samples
            first = self.accelerator.process_index * len(rows)
            keys = [
                f"{self.args.seed} {self.state.global_step} {number}"
                for number in range(first, first + len(rows))
            ]
            rollouts = self.rollouts.sample(self, [row["ids"] for row in rows], keys)
            judgements = [
                read_rollout(row, rollout, self.encoder, self.turns)
                for row, rollout in zip(rows, rollouts, strict=True)
            ]
            every = gather_numbers([verdict_number(one) for one in judgements])
            if self.settings.both_orders:
                judgements = with_other_order(judgements, every, first, samples)
            for name, value in verdict_metrics(every, samples, self.settings.both_orders).items():
                self._metrics["train"][name].append(value)
            logprobs = [rollout.logprobs for rollout in rollouts]
            return {
                "prompt_ids": [list(row["ids"]) for row in rows],
                "completion_ids": [list(rollout.completion.token_ids) for rollout in rollouts],
                "logprobs": None if None in logprobs else logprobs,
                "env_mask": [list(rollout.written) for rollout in rollouts],
                "judgement": judgements,
            }

        def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
            return super()._compute_loss(model, without_padding(inputs))

    return JudgeTrainer


def read_rollout(row: dict[str, Any], rollout: Rollout, encoder: ChatEncoder, turns: TwoTurns) -> Judgement:
    """Return what a completion of a row's prompt says."""
    winner: Letter = row["winner"]
    prompt = JudgePrompt(row["id"], row["pair_id"], "", tuple(row["prompt"]), winner, row["source"])
    verdict = read_completion(prompt, rollout.completion, encoder, turns.tokens)
    prob_right = verdict.prob_a
    if prob_right is not None and winner == "B":
        prob_right = 1 - prob_right
    letter: Letter | None = verdict.winner if verdict.winner in ("A", "B") else None
    written, points = sum(rollout.written), tuple(row[REFERENCE_POINTS])
    return Judgement(winner, letter, prob_right, verdict.reason, written, points=points)


def verdict_metrics(verdicts: Sequence[int], samples: int, both_orders: bool) -> dict[str, float]:
    """Return the shares that are logged.

    Args:
        verdicts: `verdict_number` of all processes.
        samples: per prompt.
        both_orders: whether both orders of each pair are there.

    Returns:
        `readable`, `right`, and of both orders what `agreement` returns.
    """
    shares = {
        "readable": sum(map(abs, verdicts)) / len(verdicts),
        "right": sum(one == 1 for one in verdicts) / len(verdicts),
    }
    return shares | (agreement(verdicts, samples) if both_orders else {})


def gather_numbers(numbers: list[int]) -> list[int]:
    """Return the numbers of all processes, in the order of the processes."""
    from accelerate.utils import gather_object

    every: list[int] = gather_object(numbers)
    return every


def verdict_number(judgement: Judgement) -> int:
    """Return 1 for a right verdict, -1 for a wrong one, and 0 for none."""
    if judgement.verdict is None:
        return 0
    return 1 if judgement.is_right else -1


def other_order(number: int, samples: int) -> int:
    """Return the number of the completion with the same sample number on the other order of its pair.

    Completions are numbered over all processes: all samples of a prompt, then those of its other order.
    """
    group, sample = divmod(number, samples)
    return (group ^ 1) * samples + sample


def with_other_order(
    judgements: Sequence[Judgement], verdicts: Sequence[int], first: int, samples: int
) -> list[Judgement]:
    """Return judgements that know the verdicts on the other order of their pairs.

    Args:
        judgements: of this process.
        verdicts: `verdict_number` of all processes.
        first: number of the first completion of this process.
        samples: per prompt.
    """
    known = []
    for number, judgement in enumerate(judgements, first):
        start = other_order(number, samples) // samples * samples
        known.append(replace(judgement, others=tuple(v == 1 for v in verdicts[start : start + samples])))
    return known


def agreement(verdicts: Sequence[int], samples: int) -> dict[str, float]:
    """Return how the verdicts on both orders agree.

    Args:
        verdicts: `verdict_number` of all completions of a batch.
        samples: per prompt.

    Returns:
        `consistency`, the share of samples that name the same answer as the sample of the same number on the other order,
        and `both_right`, the share of samples where both name the right one.
    """
    pairs = [(one, verdicts[other_order(number, samples)]) for number, one in enumerate(verdicts)]
    return {
        "consistency": sum(one == other != 0 for one, other in pairs) / len(pairs),
        "both_right": sum(one == other == 1 for one, other in pairs) / len(pairs),
    }


def learned_tokens(batch: dict[str, Any]) -> Any:
    """Return the number of tokens that the judge wrote in completions with an advantage (DAPO divides the loss by it)."""
    informative = batch["advantages"].abs() > NO_ADVANTAGE
    return (batch["completion_mask"] * batch["tool_mask"])[informative].sum()


def informative_count(batch: dict[str, Any]) -> int:
    """Return the number of completions with an advantage."""
    return int((batch["advantages"].abs() > NO_ADVANTAGE).sum())


def keep_informative(batch: dict[str, Any], passes: int, least: int = 0) -> dict[str, Any]:
    """Return a batch without completions that have no advantage: those of prompts whose completions are all equally good.

    They change no gradient, but cost as much as the others. Some are kept where the passes could not be equally large.

    Args:
        batch: TRL's, with one row per completion.
        passes: into which it is divided.
        least: keep so many at least, of those that are there.
    """
    import torch

    advantages = batch["advantages"].abs()
    informative = max(least, informative_count(batch))
    kept = max(1, -(-informative // passes)) * passes
    rows = torch.sort(torch.topk(advantages, kept).indices).values
    return {
        name: value[rows] if torch.is_tensor(value) and value.ndim and len(value) == len(advantages) else value
        for name, value in batch.items()
    }  # fmt: skip


def without_padding(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the inputs of a pass without columns that are padding in every row: prompts are padded on the left."""
    import torch

    first = int(inputs["prompt_mask"].any(0).int().argmax())
    width = inputs["completion_mask"].shape[1]
    end = int(inputs["completion_mask"].any(0).nonzero().max()) + 1
    trimmed = {}
    for name, value in inputs.items():
        if name in ("prompt_ids", "prompt_mask"):
            value = value[:, first:]
        elif torch.is_tensor(value) and value.ndim == 2 and value.shape[1] == width:
            value = value[:, :end]
        trimmed[name] = value
    return trimmed
