"""GRPO of a judge with TRL's GRPOTrainer: completions of two turns, rewarded by their verdicts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reasongenrm.chat.encoder import judge_encoder, load_tokenizer, template_text
from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.config.steps import GRPOStep
from reasongenrm.errors import ConfigError
from reasongenrm.train.arguments import RESERVED_BY_ALL
from reasongenrm.train.batches import PER_DEVICE, even_batch_sizes
from reasongenrm.train.grpo_rows import read_rows
from reasongenrm.train.grpo_trainer import trainer_class
from reasongenrm.train.model import load_policy, unpacked_attention
from reasongenrm.train.rewards import used_terms
from reasongenrm.train.rollouts import TwoTurns
from reasongenrm.train.trainer import DEFAULTS, inherited_args, process_count, trainer_config

RESERVED = (
    RESERVED_BY_ALL
    | dict.fromkeys(
        ("remove_unused_columns", "shuffle_dataset", "steps_per_generation", "generation_batch_size", "generation_kwargs",
         "chat_template_kwargs", "cache_implementation", "use_transformers_paged", "use_transformers_continuous_batching",
         "transformers_continuous_batching_config", "sync_ref_model"),
        "remove it here",
    )
    | dict.fromkeys(
        ("top_p", "top_k", "min_p", "repetition_penalty"),
        "remove it here: what is learned from has to be sampled from the judge itself",
    )
    | {"gradient_accumulation_steps": "set train.grpo.batch, the prompts of a step", "max_steps": "set train.grpo.steps",
       "num_train_epochs": "set train.grpo.steps", "num_generations": "set train.grpo.samples",
       "max_completion_length": "set train.grpo.max_tokens", "temperature": "set train.grpo.temperature",
       "reward_weights": "set train.grpo.rewards", "use_vllm": "set train.grpo.rollouts=vllm"}
)  # fmt: skip

GRPO_DEFAULTS: dict[str, Any] = {"learning_rate": 1.0e-5, "logging_steps": 1}
"""Ten times TRL's learning rate, as a LoRA adapter needs (Schulman et al., 2025, "LoRA Without Regret")."""


def step_args(recipe: Recipe, step: TrainStep) -> dict[str, Any]:
    """Return the `trl.GRPOConfig` keys of a step."""
    return GRPO_DEFAULTS | inherited_args(recipe, step) | recipe.train.grpo.args


def step_batch(recipe: Recipe, step: TrainStep, processes: int) -> tuple[int, int]:
    """Return the completions of a pass and the passes of a process per step; see `even_batch_sizes`."""
    settings = recipe.train.grpo
    per_device = step_args(recipe, step).get(PER_DEVICE)
    return even_batch_sizes(settings.batch, per_device, processes, "train.grpo.batch", settings.samples)


def build_trainer(recipe: Recipe, step: TrainStep, work: Path) -> Any:
    """Return TRL's trainer of a step of the kind `grpo`.

    With `beta` above 0 the reference is a frozen copy of the adapter that the step starts from.

    Args:
        recipe: the resolved recipe.
        step: which step.
        work: the folder for checkpoints.

    Raises:
        ConfigError: a setting that cannot be used with this number of processes, or vLLM without a GPU.
        DataError: there are no rows to train on, or one whose pair is missing.
    """
    from datasets import Dataset

    check_rollouts(recipe.train.grpo)
    tokenizer = load_tokenizer(recipe.model)
    template = recipe.judges[step.judge].template
    encoder = judge_encoder(recipe, template, tokenizer)
    tokenizer.chat_template = template_text(recipe.templates[template], key=f"templates.{template}")
    turns = TwoTurns.from_encoder(encoder, recipe.train.grpo.max_tokens)
    rows, counts = read_rows(recipe, step, encoder, turns)
    config = _config(recipe, step, work)
    return trainer_class()(
        settings=recipe.train.grpo,
        turns=turns,
        encoder=encoder,
        counts=counts,
        sampler=row_sampler(
            len(rows),
            recipe.train.grpo,
            recipe.seed,
            config.num_iterations,
            config.gradient_accumulation_steps,
            earlier=recipe.chain(step)[:-1].count("grpo"),
        ),
        model=load_policy(recipe, step, unpacked_attention(recipe)),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )


def check_rollouts(settings: GRPOStep) -> None:
    """Raise a ConfigError where vLLM cannot take the trained weights: its CPU build packs the weights of linear layers when it
    loads them, and keeps no copy that TRL could replace; the weights of a server travel by NCCL."""
    import torch

    if settings.rollouts == "vllm" and not torch.cuda.is_available():
        problem = "vLLM takes the trained weights only on a GPU, and none is visible"
        raise ConfigError(problem, location="train.grpo.rollouts", hint="set it to generate")


def _config(recipe: Recipe, step: TrainStep, work: Path) -> Any:
    from trl import GRPOConfig

    settings, args = recipe.train.grpo, DEFAULTS | step_args(recipe, step)
    updates, interval = args.get("num_iterations") or 1, args["save_steps"]
    if interval < 1:  # a share of all steps
        interval = math.ceil(interval * settings.steps)
    own = {
        "max_steps": settings.steps,
        # What TRL calls a group: the completions that are compared.
        "num_generations": settings.samples * (2 if settings.baseline == "pair" else 1),
        "max_completion_length": settings.max_tokens,
        "temperature": settings.temperature,
        "reward_weights": list(used_terms(settings.rewards).values()),
        "use_vllm": settings.rollouts == "vllm",
        # A resumed run samples anew: only where an undisturbed one does so, too.
        "save_steps": -(-interval // updates) * updates,
    }
    batch = step_batch(recipe, step, process_count())
    return trainer_config(GRPOConfig, "train.grpo.args", recipe, work, args, batch, own)


def training_summary(recipe: Recipe, trainer: Any) -> dict[str, Any]:
    """Return what `training.json` says of the prompts and the completions."""
    settings, steps = recipe.train.grpo, trainer.state.global_step
    rows = len(trainer.train_dataset)
    rollouts = -(-steps // trainer.num_iterations)
    return trainer.counts | {
        "batch": settings.batch,
        "samples": settings.samples,
        "steps": steps,
        "epochs": round(rollouts * settings.batch / rows, 4),
        "completions": rollouts * settings.batch * settings.samples,
        "tokens_seen": trainer.state.num_input_tokens_seen,
        "processes": trainer.args.world_size,
        "attention": trainer.model.config._attn_implementation,
        "packing": False,
    }


def batch_order(rows: int, settings: GRPOStep, seed: int) -> Iterator[list[int]]:
    """Yield the row numbers of one batch of prompts after the other, without end.

    All rows come once, in an order that depends on the seed and the pass, before any of them comes again. With both orders,
    rows 2i and 2i + 1 are the orders of one pair, and stay together.
    """
    import torch

    size = 2 if settings.both_orders else 1
    units: list[int] = []
    passes = 0
    while True:
        while len(units) * size < settings.batch:
            generator = torch.Generator().manual_seed(seed + passes)
            units += torch.randperm(rows // size, generator=generator).tolist()
            passes += 1
        batch, units = units[: settings.batch // size], units[settings.batch // size :]
        yield [unit * size + order for unit in batch for order in range(size)]


def row_sampler(
    rows: int, settings: GRPOStep, seed: int, updates: int, accumulation: int, *, earlier: int = 0
) -> Any:
    """Return a sampler of row numbers for the whole training, as one epoch, so that a resumed run only skips a part of it.

    As TRL expects, each row comes `samples` times, and each batch once for each pass that is computed from its completions.

    Args:
        rows: number of rows.
        settings: batch, samples and steps.
        seed: of the order.
        updates: optimizer steps per batch (`num_iterations`).
        accumulation: passes of a process per step.
        earlier: steps `grpo` of the judge before this one, which goes on in the order where they have ended.
    """
    from itertools import islice

    from torch.utils.data import Sampler

    batches = -(-settings.steps // updates)
    repeats = updates * accumulation

    class RowSampler(Sampler):
        def __iter__(self) -> Iterator[int]:
            order = batch_order(rows, settings, seed)
            for batch in islice(order, earlier * batches, (earlier + 1) * batches):
                completions = [row for row in batch for _ in range(settings.samples)]
                for _ in range(repeats):
                    yield from completions

        def __len__(self) -> int:
            return batches * repeats * settings.batch * settings.samples

    return RowSampler()
