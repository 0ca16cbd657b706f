"""The records of an optimizer step: how many passes they take, and which of them a process computes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from reasongenrm.errors import ConfigError

PER_DEVICE = "per_device_train_batch_size"
LARGEST_PASS = 8
"""Records that a process computes together where `per_device_train_batch_size` is not set."""

FILLER: dict[str, list[int]] = {"input_ids": [0, 0], "completion_mask": [0, 0]}
"""A row without a learned token, for a pass without records; its loss and its gradient are zero."""


def batch_sizes(batch: int, per_device: int | None, processes: int, location: str) -> tuple[int, int]:
    """Return the records of a pass, on average and rounded up, and the passes of a process per step (accumulation).

    The processes need not divide the batch: then some passes have fewer records.

    Args:
        batch: records of a step.
        per_device: most records that a process computes together; None for LARGEST_PASS.
        processes: of all machines together.
        location: dotted key of the batch.

    Raises:
        ConfigError: there are more processes than records of a step.
    """
    if batch < processes:
        raise ConfigError(
            f"{batch} records cannot be divided among {processes} processes", location=location,
            hint=f'set {location}={processes} or more, or train.launch_args="--num_processes {batch}"',
        )  # fmt: skip
    accumulation = -(-batch // (processes * (per_device or LARGEST_PASS)))
    return -(-batch // (processes * accumulation)), accumulation


def even_batch_sizes(
    batch: int, per_device: int | None, processes: int, location: str, samples: int = 1
) -> tuple[int, int]:
    """Return the records of a pass and the passes of a process per step, where every pass has equally many records.

    Args:
        batch, per_device, processes, location: see `batch_sizes`.
        samples: records for each of the batch: the completions of a prompt.

    Raises:
        ConfigError: the processes do not divide the records.
    """
    records = batch * samples
    if records % processes:
        multiple = processes // math.gcd(processes, samples)
        if samples > 1:
            multiple = math.lcm(multiple, 2)  # both orders of a pair
        raise ConfigError(
            f"{records} records cannot be divided evenly among {processes} processes", location=location,
            hint=f"set {location}={-(-batch // multiple) * multiple}",
        )  # fmt: skip
    own = records // processes
    size = max(size for size in range(1, (per_device or LARGEST_PASS) + 1) if own % size == 0)
    return size, own // size


def step_sampler(
    lengths: Sequence[int], batch: int, *, processes: int, rank: int, accumulation: int, seed: int
) -> Any:
    """Return a sampler that yields the passes of one process: lists of record numbers.

    On all processes together, every step has exactly `batch` records (the last one of an epoch has the rest), each of them
    once, whatever the number of processes and passes; their order depends on the seed and on the attribute `epoch` alone.
    transformers' sampler groups the records of a step into passes of similar cost. A pass that gets no record has FILLER,
    whose number is `len(lengths)`.

    Args:
        lengths: tokens of each record.
        batch: records of a step.
        processes: of all machines together.
        rank: number of this process, from 0.
        accumulation: passes of each process per step.
        seed: of the order.
    """
    import torch
    from transformers.trainer_pt_utils import BatchRebalanceSampler

    passes = processes * accumulation

    class StepSampler(BatchRebalanceSampler):
        def __iter__(self) -> Iterator[list[int]]:
            generator = torch.Generator().manual_seed(seed + self.epoch)
            order = torch.randperm(len(lengths), generator=generator).tolist()
            for start in range(0, len(order), batch):
                records = order[start : start + batch]
                yield from self._yield_global_batch(records + [len(lengths)] * (passes - len(records)))

        def __len__(self) -> int:
            return -(-len(lengths) // batch) * accumulation

    with_filler = [*lengths, len(FILLER["input_ids"])]
    return StepSampler(with_filler, max(batch, passes), processes, accumulation, rank=rank)


def epoch_callback(sampler: Any) -> Any:
    """Return a trainer callback that gives every epoch an order of its own; accelerate hides the sampler from the trainer,
    which would repeat the first order."""
    from transformers import TrainerCallback

    class Epoch(TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            sampler.set_epoch(int((state.epoch or 0) + 1e-6))

    return Epoch()
