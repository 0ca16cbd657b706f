"""The records of a step are the same on any number of processes, and so is its gradient."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.errors import ConfigError
from reasongenrm.train.batches import FILLER, batch_sizes, step_sampler

pytestmark = pytest.mark.unit
DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"


@cache
def demo() -> Recipe:
    return load_recipe(DEMO)


def sizes(batch: int, processes: int, together: int | None) -> tuple[int, int]:
    return batch_sizes(batch, together, processes, "train.batch")


def steps(
    lengths: list[int], batch: int, processes: int, together: int | None, epoch: int
) -> list[list[list[int]]]:
    """The passes of every step, those of all processes together."""
    _, accumulation = sizes(batch, processes, together)
    by_rank = []
    for rank in range(processes):
        sampler = step_sampler(
            lengths, batch, processes=processes, rank=rank, accumulation=accumulation, seed=3
        )
        sampler.set_epoch(epoch)
        passes = list(sampler)
        assert len(passes) == len(sampler), "the trainer counts steps by it"
        by_rank.append(passes)
    return [
        [one for passes in by_rank for one in passes[start : start + accumulation]]
        for start in range(0, len(by_rank[0]), accumulation)
    ]


SHAPES: dict[str, Any] = dict(
    batch=st.integers(1, 40), processes=st.integers(1, 9), together=st.integers(1, 12) | st.none()
)


@given(**SHAPES)
def test_a_pass_has_at_most_the_records_of_a_device(batch: int, processes: int, together: int | None) -> None:
    if batch < processes:
        with pytest.raises(ConfigError, match=rf"^train\.batch: {batch} records cannot be divided among"):
            sizes(batch, processes, together)
        return
    size, accumulation = sizes(batch, processes, together)
    assert 1 <= size <= (together or 8)
    assert size * accumulation * processes >= batch > (size - 1) * accumulation * processes
    assert (accumulation - 1) * processes * (together or 8) < batch, "no more passes than necessary"


@given(**SHAPES, lengths=st.lists(st.integers(2, 900), min_size=1, max_size=120), epoch=st.integers(0, 3))
@settings(max_examples=25)
def test_every_record_of_a_step_is_computed_once(
    batch: int, processes: int, together: int | None, lengths: list[int], epoch: int
) -> None:
    batch = max(batch, processes)
    alone = steps(lengths, batch, 1, 1, epoch)
    shared = steps(lengths, batch, processes, together, epoch)
    assert len(alone) == len(shared) == -(-len(lengths) // batch)
    records = []
    for one, other in zip(alone, shared, strict=True):
        real = [sorted(n for passed in step for n in passed if n < len(lengths)) for step in (one, other)]
        assert real[0] == real[1], "the same records on any number of processes"
        assert all(passed for passed in other) and {n for p in other for n in p} <= {*range(len(lengths) + 1)}
        records += real[0]
    assert sorted(records) == list(range(len(lengths))) and all(len(step) for step in shared)


def test_epochs_have_orders_of_their_own() -> None:
    first, again, second = (steps([5] * 40, 8, 2, 2, epoch) for epoch in (0, 0, 1))
    assert first == again != second


@pytest.mark.parametrize(("processes", "together"), [(1, 2), (3, 2), (3, 1), (5, 8)])
@pytest.mark.parametrize("packed", [True, False])
def test_processes_that_do_not_divide_a_batch_give_its_gradient(
    processes: int, together: int, packed: bool
) -> None:
    """A step of five records and one of two, some passes with FILLER alone. TRL multiplies the loss by the number of
    processes, and DDP and ZeRO divide the gradient by it, so the gradients of all passes add up."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    from reasongenrm.train.attention import PACKED, register_packed_attention

    register_packed_attention()
    torch.manual_seed(5)
    shape = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)  # fmt: skip
    model = Qwen2ForCausalLM._from_config(
        Qwen2Config(vocab_size=64, **shape), attn_implementation=PACKED if packed else "sdpa"
    )
    lengths = [4, 30, 9, 17, 5, 23, 8]
    ids = [torch.randint(64, (length,)).tolist() for length in lengths]
    rows = [{"input_ids": record, "labels": [-100] * 2 + record[2:]} for record in ids]
    rows.append(
        {"input_ids": FILLER["input_ids"], "labels": [-100] * sum(n == 0 for n in FILLER["completion_mask"])}
    )
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=packed)

    def gradient(step: list[list[int]]) -> Any:
        model.zero_grad()
        scored = sum(lengths[n] - 2 for passed in step for n in passed if n < len(lengths))
        for passed in step:
            batch = collate([rows[number] for number in passed])
            model(**batch, num_items_in_batch=scored).loss.backward()
        return torch.cat([weights.grad.flatten() for weights in model.parameters()])

    whole = steps(lengths, 5, 1, 8, 0)
    shared = steps(lengths, 5, processes, together, 0)
    assert [len(step) for step in whole] == [1, 1] and len(shared) == 2
    for one, other in zip(whole, shared, strict=True):
        torch.testing.assert_close(gradient(other), gradient(one), atol=1e-5, rtol=1e-4)
