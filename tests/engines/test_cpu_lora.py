"""LoRA products per adapter: those of vLLM's functions, token by token."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.engines.cpu_lora import (
    FUNCTIONS,
    adapter_products,
    bgmv_expand,
    bgmv_expand_slice,
    bgmv_shrink,
    sgmv_expand,
    sgmv_expand_slice,
    sgmv_shrink,
)

ADAPTERS, OUT, IN = 3, 5, 4


def drawn(tokens: int, seed: int) -> tuple[Any, Any]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(tokens, IN, generator=generator),
        torch.randn(ADAPTERS, 1, OUT, IN, generator=generator),
    )


@pytest.mark.unit
@given(st.lists(st.integers(-1, ADAPTERS - 1), min_size=1, max_size=9), st.integers(0, 99))
def test_each_token_has_the_product_of_its_adapter(adapters: list[int], seed: int) -> None:
    import torch

    inputs, weights = drawn(len(adapters), seed)
    products = adapter_products(inputs, weights, torch.tensor(adapters), torch.float64)
    for row, index in enumerate(adapters):
        expected = weights[index, 0].double().mv(inputs[row].double())
        torch.testing.assert_close(products[row], expected)


@pytest.mark.unit
def test_products_go_where_vllm_wants_them() -> None:
    import torch

    inputs, weights = drawn(2, 1)
    adapters = torch.tensor([2, 0])
    product = torch.stack([weights[2, 0] @ inputs[0], weights[0, 0] @ inputs[1]])
    out = torch.ones(2, 8)
    bgmv_shrink(inputs, weights, out, adapters, 0.5)
    torch.testing.assert_close(out, torch.cat([0.5 * product, torch.ones(2, 3)], dim=1))
    out = torch.ones(2, 4)
    bgmv_expand(inputs, weights, out, adapters)
    torch.testing.assert_close(out, 1 + product[:, :4])
    out = torch.ones(2, 8)
    bgmv_expand_slice(inputs, weights, out, adapters, 2, 5, add_inputs=False)
    torch.testing.assert_close(out, torch.cat([torch.ones(2, 2), product, torch.ones(2, 1)], dim=1))


@pytest.mark.unit
@given(st.lists(st.tuples(st.integers(0, ADAPTERS - 1), st.integers(1, 3)), min_size=1, max_size=4))
def test_sequences_have_the_products_of_their_tokens(runs: list[tuple[int, int]]) -> None:
    import torch

    each = torch.tensor([index for index, length in runs for _ in range(length)])
    inputs, weights = drawn(len(each), 2)
    indices, lengths = (torch.tensor(column) for column in zip(*runs, strict=True))
    metadata = (lengths.cumsum(0) - lengths, lengths, indices, len(runs), int(lengths.max()), len(each))
    outs = [torch.ones(len(each), 8) for _ in range(6)]
    bgmv_shrink(inputs, weights, outs[0], each, 0.5)
    sgmv_shrink(inputs, weights, outs[1], *metadata, 0.5)
    bgmv_expand(inputs, weights, outs[2], each)
    sgmv_expand(inputs, weights, outs[3], *metadata, add_inputs=True)
    bgmv_expand_slice(inputs, weights, outs[4], each, 2, 5, add_inputs=False)
    sgmv_expand_slice(inputs, weights, outs[5], *metadata, 2, 5)
    for single, sequences in zip(outs[::2], outs[1::2], strict=True):
        torch.testing.assert_close(single, sequences)
        assert (single != 1).any()


@pytest.mark.engine
def test_vllm_has_the_functions_that_are_replaced() -> None:
    import inspect

    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for ours in FUNCTIONS:
        for module in (lora_ops, punica_cpu):
            theirs = getattr(module, ours.__name__)
            assert list(inspect.signature(theirs).parameters) == list(inspect.signature(ours).parameters)
