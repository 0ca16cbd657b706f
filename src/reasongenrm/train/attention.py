"""Attention over records that are packed into one row: each record attends causally to itself alone."""

from __future__ import annotations

import inspect
from itertools import pairwise
from typing import Any

PACKED = "reasongenrm_packed"
"""Name of the packed attention in transformers' `AttentionInterface`."""

_UNSUPPORTED = ("softcap", "s_aux", "sinks", "position_bias")
"""Options with which some models change plain attention."""


def register_packed_attention() -> None:
    """Register `packed_attention`; it needs no mask, so none is registered."""
    from transformers import AttentionInterface

    AttentionInterface.register(PACKED, packed_attention)


def packed_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    dropout: float = 0.0,
    cu_seq_lens_q: Any = None,
    max_length_q: int | None = None,
    **options: Any,
) -> tuple[Any, None]:
    """Attend within each record: variable-length flash attention on a GPU, one call of PyTorch's attention per record
    on a CPU and in float32.

    Args:
        module: the attention layer, unused.
        query: (1, heads, tokens, width).
        key: (1, KV heads, tokens, width).
        value: (1, KV heads, tokens, width).
        attention_mask: None, since the row has no padding.
        scaling: factor of the scores.
        dropout: of the weights; must be 0.
        cu_seq_lens_q: int32 (records + 1,): where each record begins, and the number of tokens; TRL's padding-free
            collator gives it.
        max_length_q: tokens of the longest record.
        options: others of the model.

    Returns:
        The attended values (1, tokens, heads, width), and no weights.

    Raises:
        NotImplementedError: the model needs more than plain attention, or rows come with padding.
    """
    extra = [name for name in _UNSUPPORTED if options.get(name) is not None]
    extra += ["dropout"] * bool(dropout) + ["a mask"] * (attention_mask is not None)
    if extra or cu_seq_lens_q is None:
        raise NotImplementedError(f"packed attention with {', '.join(extra) or 'no record boundaries'}")
    if query.is_cuda and query.element_size() == 2:
        from torch.nn.attention.varlen import varlen_attn

        # Older releases of torch have no such option, and share KV heads without it.
        shared_heads = (
            {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
        )
        q, k, v = (part[0].transpose(0, 1).contiguous() for part in (query, key, value))
        ends, longest = cu_seq_lens_q, max_length_q
        out = varlen_attn(
            q, k, v, ends, ends, longest, longest, scale=scaling, window_size=(-1, 0), **shared_heads
        )
        return out.unsqueeze(0), None
    return _attend_per_record(query, key, value, cu_seq_lens_q.tolist(), scaling).transpose(1, 2), None


def _attend_per_record(query: Any, key: Any, value: Any, ends: list[int], scaling: float | None) -> Any:
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    records = []
    for start, end in pairwise(ends):
        q, k, v = (part[:, :, start:end] for part in (query, key, value))
        records.append(scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling, enable_gqa=True))
    return torch.cat(records, dim=2)


def supports_packing(config: Any, max_tokens: int) -> bool:
    """Return whether packed attention gives a model's own result for records of up to `max_tokens` tokens.

    Args:
        config: the model's text config.
        max_tokens: limit of a record.
    """
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    windows = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if not getattr(config, "use_sliding_window", True):
        windows = []
    plain = kinds <= {"full_attention", "sliding_attention", "chunked_attention"}
    return plain and not capped and all(window is None or window >= max_tokens for window in windows)
