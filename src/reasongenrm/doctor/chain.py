"""Memory and hours of the training steps (SFT, rounds, DPO, GRPO): tokens sampled and tokens trained, from formulas.

A step of rejection sampling samples like stage 1. DPO and GRPO train on a sequence like SFT, and pass forward over it again
for the reference (Rafailov et al. 2023, arXiv 2305.18290, equation 7; Shao et al. 2024, arXiv 2402.03300, equation 3) and, for
rollouts of another engine, for the probabilities under the trained model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from reasongenrm.config.recipe import VERDICT_ONLY, Recipe, TrainStep
from reasongenrm.doctor.estimate import (
    ASSUMED,
    CHARACTERS_PER_TOKEN,
    VERDICT_TOKENS,
    TrainingMemory,
    Work,
    hours,
    reason_tokens,
    training_memory,
    zero_stage,
)
from reasongenrm.doctor.geometry import Geometry
from reasongenrm.metrics.flops import Card
from reasongenrm.report.tables import MISSING, TextTable
from reasongenrm.train.batches import PER_DEVICE, even_batch_sizes
from reasongenrm.train.process import KINDS
from reasongenrm.train.tokens import is_on_policy
from reasongenrm.train.trainer import DEFAULTS

VLLM_SHARE = 0.3
"""Share of a GPU for vLLM in a training process, where `vllm_gpu_memory_utilization` is not set (TRL's default)."""

HUB_ROWS = 100_000
"""Rows of a hub dataset (assumed; Skywork's 80K has 77,000)."""

PROMPT_TOKENS = 1500
"""Tokens of a judge prompt, before stage 1 has written any (assumed)."""

CHAIN_ASSUMED = (
    f"{ASSUMED}; each prompt of a round gives a record; GRPO samples in the training processes, all completions of a step at "
    "once, and trains on all of them (skip_equal trains on fewer); loading of models and synchronisation of weights are left out"
)


class Input(NamedTuple):
    """Size of the file that a step reads: records, or judge prompts where it samples its records.

    Attributes:
        rows: number of records, pairs or prompts.
        characters: of all of them together; of a pair with its prompt twice.
    """

    rows: int
    characters: int


def assumed_prompts(recipe: Recipe) -> int:
    """Return about how many judge prompts the sources give, before any is dropped: from the sizes of files, and HUB_ROWS for
    a hub id."""

    def rows(path: str) -> int:
        file = Path(path)
        if file.is_file():
            return file.stat().st_size // 1000
        return 0 if file.suffix in (".csv", ".json", ".jsonl", ".parquet") else HUB_ROWS

    pairs = round(sum(rows(source.path) * source.weight for source in recipe.data.sources))
    return min(pairs, recipe.limit or pairs) * (1 + recipe.data.both_orders)


def assumed_inputs(recipe: Recipe) -> dict[str, Input]:
    """Return the size of each step's input before stage 1: a record of every judge prompt, with a reason of the teachers."""
    prompts, length = assumed_prompts(recipe), PROMPT_TOKENS * CHARACTERS_PER_TOKEN
    teachers = recipe.teachers.values()
    reason = max(reason_tokens(teacher.max_tokens) for teacher in teachers) * CHARACTERS_PER_TOKEN
    inputs = {}
    for model, step in recipe.trained.items():
        template = recipe.judges[step.judge].template
        reasoned = not is_on_policy(recipe, step) and step.kind != "grpo" and template not in VERDICT_ONLY
        record = (1 + (step.kind == "dpo" and reasoned)) * (length + reason * reasoned)
        inputs[model] = Input(prompts, prompts * record)
    return inputs


def step_args(recipe: Recipe, step: TrainStep) -> dict[str, Any]:
    """Return the trainer's keys of a step."""
    return KINDS[step.kind].args(recipe, step)


def chain_works(recipe: Recipe, inputs: Mapping[str, Input]) -> dict[str, list[Work]]:
    """Return the work of each training step with an input, by model.

    Args:
        recipe: the resolved recipe.
        inputs: size of each step's input, by model.
    """
    works = {}
    for model, step in recipe.trained.items():
        size = inputs.get(model, Input(0, 0))
        if size.rows:
            make = {"sft": _sft_works, "round": _sft_works, "dpo": _dpo_works, "grpo": _grpo_works}[step.kind]
            works[model] = make(recipe, step, size)
    return works


def _sft_works(recipe: Recipe, step: TrainStep, size: Input) -> list[Work]:
    settings, length = recipe.train.round, _length(recipe, step, size)
    training = Work(f"training {step.model}", "training", round(_seen(recipe, step, size)), length)
    votes = _votes(step, size, settings.samples, settings.max_tokens)
    return [*votes, training] if step.kind == "round" else [training]


def _dpo_works(recipe: Recipe, step: TrainStep, size: Input) -> list[Work]:
    settings = recipe.train.dpo
    pairs = _seen(recipe, step, size)
    length = _length(recipe, step, size)
    votes = _votes(step, size, settings.refresh, recipe.train.round.max_tokens)
    return [*votes, *_trained(step, 2 * pairs, length, forwards=1)]


def _grpo_works(recipe: Recipe, step: TrainStep, size: Input) -> list[Work]:
    settings = recipe.train.grpo
    prompts, prompt_tokens = (
        settings.steps * settings.batch,
        size.characters / size.rows / CHARACTERS_PER_TOKEN,
    )
    new = reason_tokens(settings.max_tokens) + VERDICT_TOKENS
    sampling = Work(f"sampling by {step.model}", "rollouts", prompts, prompt_tokens, settings.samples, new)
    forwards = _has_reference(recipe, step) + (settings.rollouts == "vllm")
    votes = _votes(step, size, settings.refresh, settings.max_tokens)
    return [
        *votes,
        sampling,
        *_trained(step, prompts * settings.samples, prompt_tokens + new, forwards=forwards),
    ]


def _trained(step: TrainStep, sequences: float, length: float, *, forwards: int) -> list[Work]:
    passes = Work(f"forward passes of {step.model}", "scoring", round(sequences * forwards), length)
    return [Work(f"training {step.model}", "training", round(sequences), length), *[passes] * (forwards > 0)]


def _votes(step: TrainStep, size: Input, votes: int | None, max_tokens: int) -> list[Work]:
    """Return the sampling of a step by the judge that it starts from; none without votes."""
    if votes is None:
        return []
    new = reason_tokens(max_tokens) + VERDICT_TOKENS
    prompt_tokens = size.characters / size.rows / CHARACTERS_PER_TOKEN
    return [Work(f"sampling by {step.previous}", "sampling", size.rows, prompt_tokens, votes, new)]


def _length(recipe: Recipe, step: TrainStep, size: Input) -> float:
    """Return the mean tokens of a sequence that a step trains on."""
    mean = size.characters / size.rows / CHARACTERS_PER_TOKEN
    if is_on_policy(recipe, step):  # the input has prompts alone
        return mean + reason_tokens(recipe.train.round.max_tokens) + VERDICT_TOKENS
    return mean / 2 if step.kind == "dpo" else mean


def _seen(recipe: Recipe, step: TrainStep, size: Input) -> float:
    """Return how many records or pairs a step trains on, those of all epochs."""
    train = recipe.train
    limit = {"sft": train.tokens, "round": train.round.tokens}.get(step.kind)
    if limit:
        return limit / _length(recipe, step, size)
    args = step_args(recipe, step)
    if (steps := args.get("max_steps", -1)) > 0:
        return float(steps) * (train.dpo.batch if step.kind == "dpo" else train.batch)
    return size.rows * float(args.get("num_train_epochs", 3))


def checkpoint_count(recipe: Recipe, step: TrainStep, size: Input) -> int:
    """Return about how many checkpoints a step writes, those that are removed again included."""
    args = DEFAULTS | step_args(recipe, step)
    strategy, train = str(args.get("save_strategy", "steps")), recipe.train
    if strategy == "no" or not size.rows:
        return 0
    if step.kind == "grpo":
        steps: float = train.grpo.steps
    else:
        seen = _seen(recipe, step, size)
        if strategy == "epoch":
            return math.ceil(seen / size.rows)
        steps = seen / (train.dpo.batch if step.kind == "dpo" else train.batch)
    every = args["save_steps"]
    if every < 1:  # a share of all steps
        every *= steps
    return math.ceil(steps / max(1, every))


class StepMemory(NamedTuple):
    """Memory of one process of a training step, in GiB.

    Attributes:
        training: of the trainer.
        sampler: of vLLM in the same process.
    """

    training: TrainingMemory
    sampler: float

    @property
    def total(self) -> float:
        """Of both."""
        return self.training.total + self.sampler


def pass_tokens(recipe: Recipe, step: TrainStep, processes: int) -> tuple[int, int]:
    """Return the largest number of tokens that a process computes together, and for how many it computes logits.

    GRPO: prompts leave room for the longest reason of a teacher, and only completions have logits. Where the processes do not
    divide the pairs or completions of a step, which the step refuses, the pass is that of fewer processes.
    """
    if step.kind != "grpo":
        batch = recipe.train.dpo.batch if step.kind == "dpo" else recipe.train.batch
        records = KINDS[step.kind].batch(recipe, step, _divisible(batch, processes, step))[0]
        tokens = records * (1 + (step.kind == "dpo")) * recipe.data.max_tokens
        return tokens, tokens
    settings = recipe.train.grpo
    together, per_device = settings.batch * settings.samples, step_args(recipe, step).get(PER_DEVICE)
    processes = _divisible(together, processes, step)
    completions = even_batch_sizes(together, per_device, processes, "train.grpo.batch")[0]
    new = settings.max_tokens + VERDICT_TOKENS
    room = recipe.engine.max_model_len - max(teacher.max_tokens for teacher in recipe.teachers.values())
    return completions * (min(room, recipe.data.max_tokens) + new), completions * new


def _divisible(records: int, processes: int, step: TrainStep) -> int:
    """Return the largest number of processes, of so many, that can share the records of a step."""
    if step.kind in ("sft", "round"):  # their passes need not have equally many
        return min(processes, records)
    return max(count for count in range(1, processes + 1) if records % count == 0)


def step_memory(
    geometry: Geometry, recipe: Recipe, step: TrainStep, card: Card, processes: int
) -> StepMemory:
    """Return the memory of one process of a step on one GPU."""
    tokens, logit_tokens = pass_tokens(recipe, step, processes)
    training = training_memory(
        geometry, recipe, tokens=tokens, logit_tokens=logit_tokens, processes=processes, stage=zero_stage(recipe.train.launch),
        checkpointing=bool(step_args(recipe, step).get("gradient_checkpointing", False)),
    )  # fmt: skip
    if recipe.train.parameters == "all" and _has_reference(recipe, step):
        training = replace(
            training, weights=2 * training.weights
        )  # a frozen copy of what the step starts from
    settings = recipe.train.grpo
    colocated = (
        step.kind == "grpo" and settings.rollouts == "vllm" and settings.args.get("vllm_mode") != "server"
    )
    return StepMemory(training, card.memory_gib * vllm_share(recipe) if colocated else 0.0)


def _has_reference(recipe: Recipe, step: TrainStep) -> bool:
    return step.kind == "dpo" or (step.kind == "grpo" and float(recipe.train.grpo.args.get("beta", 0)) > 0)


def vllm_share(recipe: Recipe) -> float:
    """Return the share of a GPU that vLLM may use in a training process."""
    return float(recipe.train.grpo.args.get("vllm_gpu_memory_utilization", VLLM_SHARE))


def step_hours(
    works: Sequence[Work], geometry: Geometry, recipe: Recipe, step: TrainStep, card: Card, gpus: int
) -> tuple[float | None, float | None]:
    """Return the hours of sampling and of training of a step on GPUs that each hold the whole model; None where vLLM does
    not fit."""
    together = -(-recipe.train.grpo.batch * recipe.train.grpo.samples // gpus)
    changes: dict[str, Any] = {"max_num_seqs": min(recipe.engine.max_num_seqs or together, together)}
    if recipe.train.grpo.rollouts == "vllm":
        changes["gpu_memory_utilization"] = vllm_share(recipe)
    in_training = recipe.model_copy(update={"engine": recipe.engine.model_copy(update=changes)})
    args = recipe.train.args | {
        key: value for key, value in step_args(recipe, step).items() if key == "gradient_checkpointing"
    }
    train = recipe.train.model_copy(update={"args": args})
    training = recipe.model_copy(update={"train": train})
    recipes = {"sampling": recipe, "rollouts": in_training, "training": training, "scoring": training}

    def total(*kinds: str) -> float | None:
        times = [hours(work, geometry, recipes[work.kind], card, 1) for work in works if work.kind in kinds]
        return None if None in times else sum(time or 0.0 for time in times) / gpus

    return total("sampling", "rollouts"), total("training", "scoring")


def chain_table(
    recipe: Recipe, geometry: Geometry, works: Mapping[str, Sequence[Work]], cards: Sequence[tuple[Card, int]]
) -> TextTable:
    """Return memory and hours of every training step, one row per step and kind of GPU.

    Args:
        recipe: the resolved recipe.
        geometry: of the student.
        works: of each step, by model; see `chain_works`.
        cards: GPUs, and how many of each.
    """
    parts = ("base", "optimizer", "activations", "logits", "vLLM", "needed")
    headings = (
        "step",
        "GPUs",
        "GiB each",
        *parts,
        "M tokens sampled",
        "M tokens trained",
        "h sampling",
        "h training",
    )
    rows: list[tuple[str, ...]] = []
    for card, count in cards:
        gpus, times = f"{count} × {card.name}", []
        for model, step in recipe.trained.items():
            own, need = works.get(model, ()), step_memory(geometry, recipe, step, card, count)
            fits = need.total <= card.memory_gib
            times.append(step_hours(own, geometry, recipe, step, card, count) if fits else (None, None))
            tokens = [f"{count / 1e6:,.0f}" for count in (sampled_tokens(own), trained_tokens(own))]
            rows.append(
                (
                    model,
                    gpus,
                    f"{card.memory_gib:.0f}",
                    *_memory_cells(need, fits),
                    *tokens,
                    *map(_hours, times[-1]),
                )
            )
        if len(recipe.trained) > 1:
            sums = (None if None in column else sum(column) for column in zip(*times, strict=True))
            rows.append(("all steps", gpus, *[MISSING] * 9, *map(_hours, sums)))
    return TextTable(headings, tuple(rows), text_columns=2, notes=(CHAIN_ASSUMED,))


def _memory_cells(need: StepMemory, fits: bool) -> list[str]:
    parts = (need.training.weights, need.training.optimizer, need.training.activations, need.training.logits)
    return [*(f"{size:.1f}" for size in (*parts, need.sampler)), f"{need.total:.1f}{'' if fits else '!'}"]


def _hours(time: float | None) -> str:
    return "does not fit" if time is None else f"{time:.2f}"


def sampled_tokens(works: Sequence[Work]) -> float:
    """Return the tokens that a step samples."""
    return sum(
        work.prompts * work.continuations * work.new_tokens
        for work in works
        if work.kind in ("sampling", "rollouts")
    )


def trained_tokens(works: Sequence[Work]) -> float:
    """Return the tokens of the sequences that a step trains on."""
    return sum(work.prompts * work.prompt_tokens for work in works if work.kind == "training")
