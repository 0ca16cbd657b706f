"""LoRA products of vLLM's CPU build, computed once per adapter instead of once per token.

vLLM's own functions (`vllm/lora/ops/torch_ops/lora_ops.py`) copy the adapter's weights for every token of a batch: a judge of the demo is
then ten times slower than its base. The products here are the same sums, one matrix product per adapter of a batch.
"""

from __future__ import annotations

from typing import Any


def use_matrix_products() -> None:
    """Replace vLLM's three products in this process."""
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    for function in (bgmv_shrink, bgmv_expand, bgmv_expand_slice):
        # Its functions for prompts call those for single tokens by their names in the first module.
        setattr(lora_ops, function.__name__, function)
        setattr(punica_cpu, function.__name__, function)


def adapter_products(inputs: Any, weights: Any, adapters: Any, dtype: Any) -> Any:
    """Return each token's product with the weights of its adapter.

    Args:
        inputs: (tokens, in).
        weights: (adapters, out, in), or (adapters, 1, out, in).
        adapters: (tokens,): index of each token's adapter; a negative one counts from the end, as in vLLM.
        dtype: of the result.

    Returns:
        (tokens, out).
    """
    if weights.dim() == 4:
        weights = weights.squeeze(1)
    inputs = inputs.to(dtype)
    indices = adapters.unique().tolist()
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
