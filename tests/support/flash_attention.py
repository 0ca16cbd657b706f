"""`aten::_flash_attention_forward` for CPU tensors: what the CUDA op computes on sequences of variable length.

The op's arguments, their order and its results are the same in torch 2.11 and 2.13 (2.12 has added `block_table` and
`num_splits`, after the others). Registered as the CPU kernel of the real op, so PyTorch checks every call against its schema.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch


def flash_attention_forward(
    query: Any, key: Any, value: Any, cum_seq_q: Any, cum_seq_k: Any, max_q: int, max_k: int,
    dropout_p: float, is_causal: bool, return_debug_mask: bool, *, scale: float | None = None, **others: Any,
) -> tuple[Any, Any, Any, Any, Any]:  # fmt: skip
    """Attend within sequences, in float64.

    Query is (tokens, heads, width), key and value (tokens, KV heads, width); `cum_seq_q` and `cum_seq_k` (sequences + 1) say
    where the sequences begin and end, `max_q` and `max_k` bound their lengths.

    Returns:
        The attended values (tokens, heads, width), the log-sum-exp (heads, tokens) in float32, and three tensors that only
        a backward pass reads.

    Raises:
        RuntimeError: the CUDA op refuses the arguments, too (`mha_varlen_fwd` in flash_api.cpp), or would read beyond them.
    """
    tokens, heads, width = query.shape
    kv_heads, sequences = key.shape[1], len(cum_seq_q) - 1
    for ends, part, limit in ((cum_seq_q, query, max_q), (cum_seq_k, key, max_k)):
        lengths = ends.diff()
        demand(ends.dtype == torch.int32 and ends.is_contiguous(), "int32, contiguous")
        demand(int(ends[0]) == 0 and int(ends[-1]) <= len(part), "within the tokens")
        demand(bool((lengths >= 0).all()) and int(lengths.max()) <= limit, "lengths up to the largest")
    demand(len(cum_seq_k) == sequences + 1 and sequences > 0, "as many sequences of keys as of queries")
    demand(key.shape == value.shape and heads % kv_heads == 0 and width % 8 == 0 and width <= 256, "shapes")
    demand(all(part.stride(-1) == 1 for part in (query, key, value)), "contiguous heads")
    demand(query.dtype == key.dtype == value.dtype, "one type")
    demand(
        dropout_p == 0 and not return_debug_mask and not any(v is not None for v in others.values()), "plain"
    )
    if (
        max_q == 1 and heads > kv_heads and not is_causal
    ):  # then the op takes the heads of a group for queries
        demand(tokens == sequences, "one query in every sequence")
    out = torch.full_like(query, math.nan)  # what belongs to no sequence stays unwritten
    lse = torch.full((heads, tokens), math.nan)
    for (q0, q1), (k0, k1) in zip(pairwise(cum_seq_q.tolist()), pairwise(cum_seq_k.tolist()), strict=True):
        if q0 == q1:
            continue
        q, k, v = (part.double().transpose(0, 1) for part in (query[q0:q1], key[k0:k1], value[k0:k1]))
        k, v = (part.repeat_interleave(heads // kv_heads, dim=0) for part in (k, v))
        scores = q @ k.mT * (width**-0.5 if scale is None else scale)
        if is_causal:  # aligned at the end: the last query sees all keys
            visible = torch.ones(scores.shape[1:], dtype=torch.bool).tril(scores.shape[2] - scores.shape[1])
            scores = scores.masked_fill(~visible, -math.inf)
        out[q0:q1] = (scores.softmax(dim=-1) @ v).transpose(0, 1).to(out.dtype)
        lse[:, q0:q1] = scores.logsumexp(dim=-1).float()
    return out, lse, torch.empty(2, dtype=torch.uint64), torch.empty((), dtype=torch.uint64), torch.empty(0)


def demand(condition: bool, name: str) -> None:
    """Fail as the op's own checks do."""
    if not condition:
        raise RuntimeError(f"_flash_attention_forward: {name}")


@contextmanager
def flash_attention_on_cpu() -> Iterator[list[int]]:
    """Register the reference; yields a list that gets the number of sequences of every call."""
    calls: list[int] = []

    def kernel(*args: Any, **options: Any) -> tuple[Any, ...]:
        calls.append(len(args[3]) - 1)
        return flash_attention_forward(*args, **options)

    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", kernel, "CPU")
        yield calls
