"""Ranks of sampled tokens on vLLM's CPU build, without its compiled function.

vLLM counts the tokens that are at least as likely as the sampled one, wherever log-probabilities are requested. It compiles this one
function (`vllm/v1/sample/ops/logprobs.py`) at the first request, which takes seconds, and a C++ compiler; the counts here are the same.
"""

from __future__ import annotations

from typing import Any

ROWS = 64
"""Rows that are compared together: a comparison of a whole batch would take a quarter of its memory again."""


def use_plain_ranks() -> None:
    """Replace vLLM's function in this process."""
    from vllm.v1.sample import sampler

    sampler.batched_count_greater_than = count_at_least


def count_at_least(x: Any, values: Any) -> Any:
    """Return how many entries of each row are at least as large as the row's value.

    Args:
        x: (rows, entries).
        values: (rows, 1).

    Returns:
        (rows,), integers.
    """
    import torch

    parts = zip(x.split(ROWS), values.split(ROWS), strict=True)
    return torch.cat([(rows >= limits).sum(-1) for rows, limits in parts])
