"""Packed attention: the same loss and gradients as records of their own, and models that it does not fit."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.train.attention import (
    PACKED,
    packed_attention,
    register_packed_attention,
    supports_packing,
)

pytestmark = pytest.mark.unit

SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)


@cache
def _models() -> tuple[Any, Any]:
    """A tiny Qwen2 with PyTorch's attention, and one of the same weights with the packed one."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    register_packed_attention()
    torch.manual_seed(3)
    plain = Qwen2ForCausalLM._from_config(Qwen2Config(**SIZES), attn_implementation="sdpa")
    packed = Qwen2ForCausalLM._from_config(Qwen2Config(**SIZES), attn_implementation=PACKED)
    packed.load_state_dict(plain.state_dict())
    return plain, packed


def _loss_and_gradients(model: Any, batch: dict[str, Any], scored: int) -> tuple[float, Any]:
    import torch

    model.zero_grad()
    loss = model(**batch, num_items_in_batch=scored).loss
    loss.backward()
    return loss.item(), torch.cat([weights.grad.flatten() for weights in model.parameters()])


@given(
    records=st.lists(
        st.tuples(st.lists(st.integers(0, 63), min_size=2, max_size=40), st.integers(1, 39)),
        min_size=1,
        max_size=5,
    )
)
@settings(max_examples=40, deadline=None)
def test_packed_records_give_the_loss_and_gradients_of_padded_ones(
    records: list[tuple[list[int], int]],
) -> None:
    import torch
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    examples, scored = [], 0
    for ids, cut in records:
        prompt = min(cut, len(ids) - 1)
        examples.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
        scored += len(ids) - prompt
    plain, packed = _models()
    padded_batch = DataCollatorForLanguageModeling(pad_token_id=0)(examples)
    packed_batch = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)(examples)
    loss, gradients = _loss_and_gradients(plain, padded_batch, scored)
    packed_loss, packed_gradients = _loss_and_gradients(packed, packed_batch, scored)
    assert packed_loss == pytest.approx(loss, abs=1e-5)
    torch.testing.assert_close(packed_gradients, gradients, atol=1e-5, rtol=1e-4)


def test_a_record_does_not_see_the_one_before_it() -> None:
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    last = {"input_ids": [5, 6, 7, 8]}
    rows = [collate([{"input_ids": first}, last]) for first in ([1, 2, 3], [30, 31, 32])]
    _, packed = _models()
    logits, other = (packed(**{k: v for k, v in row.items() if k != "labels"}).logits[0] for row in rows)
    assert (logits[3:] - other[3:]).abs().max() < 1e-6
    assert (logits[:3] - other[:3]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"softcap": 30.0}, "softcap"),
        ({"s_aux": object()}, "s_aux"),
        ({"dropout": 0.1}, "dropout"),
        ({"attention_mask": object()}, "a mask"),
        ({"cu_seq_lens_q": None}, "no record boundaries"),
    ],
)
def test_what_plain_attention_lacks_is_an_error(options: dict[str, Any], reason: str) -> None:
    import torch

    rows = torch.zeros(1, 2, 4, 8)
    arguments = {"attention_mask": None, "cu_seq_lens_q": torch.tensor([0, 4]), "max_length_q": 4} | options
    with pytest.raises(NotImplementedError, match=reason):
        packed_attention(None, rows, rows, rows, **arguments)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, True),
        ({"sliding_window": 4096}, True),
        ({"sliding_window": 1024}, False),
        ({"sliding_window": 1024, "use_sliding_window": False}, True),
        ({"attention_chunk_size": 1024}, False),
        ({"attn_logit_softcapping": 50.0}, False),
        ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8192}, True),
        ({"layer_types": ["full_attention", "linear_attention"]}, False),
    ],
)
def test_models_that_can_be_packed(config: dict[str, Any], expected: bool) -> None:
    assert supports_packing(SimpleNamespace(**config), max_tokens=2048) is expected


def test_flash_attention_on_a_gpu_gives_the_result_of_one_call_per_record() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    generator = torch.Generator("cuda").manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, 100, 64, dtype=torch.bfloat16, device="cuda", generator=generator)
        for heads in (8, 2, 2)
    )
    ends = torch.tensor([0, 7, 60, 100], dtype=torch.int32, device="cuda")
    boundaries = {"cu_seq_lens_q": ends, "max_length_q": 53}
    half, _ = packed_attention(None, query, key, value, None, **boundaries)
    full, _ = packed_attention(None, query.float(), key.float(), value.float(), None, **boundaries)
    torch.testing.assert_close(half.float(), full, atol=2e-2, rtol=2e-2)
