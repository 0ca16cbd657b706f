"""LoRA products of vLLM's CPU build, computed once per adapter instead of once per token.

vLLM's own functions (`vllm/lora/ops/torch_ops/lora_ops.py`) copy the adapter's weights for every token of a batch: a judge of the demo is
then ten times slower than its base. The products here are the same sums, one matrix product per adapter of a batch. Where a batch has one
adapter, it is not looked up for every token either: that took a sixth of a small step.
"""

from __future__ import annotations

from typing import Any


def use_matrix_products() -> None:
    """Replace vLLM's products in this process."""
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for function in FUNCTIONS:
        setattr(lora_ops, function.__name__, function)
        setattr(punica_cpu, function.__name__, function)


def adapter_products(inputs: Any, weights: Any, adapters: Any, dtype: Any) -> Any:
    """Return each token's product with the weights of its adapter.

    Args:
        inputs: (tokens, in).
        weights: (adapters, out, in), or (adapters, 1, out, in).
        adapters: (tokens,): index of each token's adapter, or (1,): that of all; a negative one counts from the end, as in vLLM.
        dtype: of the result.

    Returns:
        (tokens, out).
    """
    if weights.dim() == 4:
        weights = weights.squeeze(1)
    inputs = inputs.to(dtype)
    indices = (adapters.unique() if len(adapters) > 1 else adapters).tolist()
    if len(indices) == 1:
        return inputs @ weights[indices[0]].to(dtype).T
    products = inputs.new_zeros(len(inputs), weights.shape[1])
    for index in indices:
        rows = adapters == index
        products[rows] = inputs[rows] @ weights[index].to(dtype).T
    return products


def bgmv_shrink(
    inputs: Any, lora_b_weights: Any, output_tensor: Any, lora_indices_tensor: Any, scaling: float = 1.0
) -> None:
    """Write the scaled products with the matrices A into the first columns of the output."""
    products = adapter_products(inputs, lora_b_weights, lora_indices_tensor, output_tensor.dtype)
    output_tensor[:, : products.shape[1]] = scaling * products


def bgmv_expand(
    inputs: Any, lora_b_weights: Any, output_tensor: Any, lora_indices_tensor: Any, add_inputs: bool = True
) -> None:
    """Add the products with the matrices B to the output, or write them there."""
    products = adapter_products(inputs, lora_b_weights, lora_indices_tensor, output_tensor.dtype)
    width = min(products.shape[1], output_tensor.shape[1])  # they may be padded differently
    _put(products[:, :width], output_tensor[:, :width], add_inputs)


def bgmv_expand_slice(
    inputs: Any, lora_b_weights: Any, output_tensor: Any, lora_indices_tensor: Any, slice_offset: int,
    slice_size: int, add_inputs: bool = True,
) -> None:  # fmt: skip
    """Add the products with the matrices B to some columns of the output, or write them there."""
    products = adapter_products(inputs, lora_b_weights, lora_indices_tensor, output_tensor.dtype)
    _put(products, output_tensor[:, slice_offset : slice_offset + slice_size], add_inputs)


def _put(products: Any, target: Any, add_inputs: bool) -> None:
    if add_inputs:
        target += products
    else:
        target[:] = products


def sgmv_shrink(
    inputs: Any, lora_a_weights: Any, output_tensor: Any, b_seq_start_loc: Any, seq_len_tensor: Any,
    lora_indices_tensor: Any, batches: int, max_seq_length: int, token_nums: int, scaling: float,
) -> None:  # fmt: skip
    """Do `bgmv_shrink` for sequences."""
    adapters = _of_tokens(lora_indices_tensor, seq_len_tensor)
    bgmv_shrink(inputs, lora_a_weights, output_tensor, adapters, scaling)


def sgmv_expand(
    inputs: Any, lora_b_weights: Any, output_tensor: Any, b_seq_start_loc: Any, seq_len_tensor: Any,
    lora_indices_tensor: Any, batches: int, max_seq_length: int, token_nums: int, add_inputs: bool = False,
) -> None:  # fmt: skip
    """Do `bgmv_expand` for sequences."""
    adapters = _of_tokens(lora_indices_tensor, seq_len_tensor)
    bgmv_expand(inputs, lora_b_weights, output_tensor, adapters, add_inputs)


def sgmv_expand_slice(
    inputs: Any, lora_b_weights: Any, output_tensor: Any, b_seq_start_loc: Any, seq_len_tensor: Any,
    lora_indices_tensor: Any, batches: int, max_seq_length: int, token_nums: int, slice_offset: int,
    slice_size: int, add_inputs: bool = False,
) -> None:  # fmt: skip
    """Do `bgmv_expand_slice` for sequences."""
    adapters = _of_tokens(lora_indices_tensor, seq_len_tensor)
    bgmv_expand_slice(inputs, lora_b_weights, output_tensor, adapters, slice_offset, slice_size, add_inputs)


def _of_tokens(adapters: Any, lengths: Any) -> Any:
    """Return the adapter of each token of sequences; vLLM joins neighbours with the same adapter, so that one stands for all tokens."""
    return adapters if len(adapters) == 1 else adapters.repeat_interleave(lengths)


FUNCTIONS = (bgmv_shrink, bgmv_expand, bgmv_expand_slice, sgmv_shrink, sgmv_expand, sgmv_expand_slice)
