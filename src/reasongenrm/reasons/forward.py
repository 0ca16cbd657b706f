"""Log-probabilities of given tokens under a transformers model, in two ways.

`shared_logprobs` computes each prompt once, in one packed sequence with its own attention function; `single_logprobs`
computes one row at a time, and makes no assumption about the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ATTENTION = "reasongenrm_shared"
"""Name of `packed_attention` in transformers' `AttentionInterface`."""

PADDED = 1.15
"""Causal segments are computed together while padding them to the longest costs at most this factor."""

_IGNORED_OPTIONS = frozenset(
    ("dropout", "sliding_window", "position_ids", "use_cache", "cache_position", "is_causal")
)
"""Options of attention without an effect here; the caller keeps sequences within the sliding window."""

Tree = tuple[Sequence[int], Sequence[tuple[Sequence[int], Sequence[int]]]]
"""A prompt's token ids, and its continuations: token ids, and the positions in them of the tokens to score."""

Span = tuple[int, int]
"""(start, length) in a packed sequence."""


@dataclass(frozen=True, slots=True)
class PackedLayout:
    """Positions of the parts of a packed sequence.

    Attributes:
        segments: spans that attend causally to themselves: prompts first, then reasons, without gaps.
        reason_blocks: per prompt, the span of all its reasons (of length 0 where it has none), and the prompt's span.
        buckets: indices of segments of similar length.
        cu_seqlens: int32, where the segments begin and end, then the same for the prompts' reasons, from the first reason
            on, and for the prompts.
    """

    segments: tuple[Span, ...]
    reason_blocks: tuple[tuple[Span, Span], ...]
    buckets: tuple[tuple[int, ...], ...]
    cu_seqlens: tuple[Any, Any, Any]


def packed_layout(prompts: Sequence[int], reasons: Sequence[Sequence[int]], device: Any) -> PackedLayout:
    """Return the layout for prompts of the given lengths (tokens) and, per prompt, its reasons' lengths."""
    import torch

    segments: list[Span] = []
    start = 0
    for length in [*prompts, *(length for group in reasons for length in group)]:
        segments.append((start, length))
        start += length
    blocks = []
    reason = sum(prompts)
    for prompt, group in zip(segments, reasons, strict=False):
        blocks.append(((reason, sum(group)), prompt))
        reason += sum(group)
    lengths = (
        [length for _, length in segments],
        [length for (_, length), _ in blocks],
        [length for _, (_, length) in blocks],
    )
    cu_seqlens = [torch.tensor([0, *values], device=device).cumsum(0).to(torch.int32) for values in lengths]
    return PackedLayout(tuple(segments), tuple(blocks), _buckets(segments), tuple(cu_seqlens))


def _buckets(segments: Sequence[Span]) -> tuple[tuple[int, ...], ...]:
    buckets: list[list[int]] = []
    total = 0
    for number in sorted(range(len(segments)), key=lambda i: (segments[i][1], segments[i][0])):
        length = segments[number][1]
        if buckets and (len(buckets[-1]) + 1) * length <= PADDED * (total + length):
            buckets[-1].append(number)
            total += length
        else:
            buckets.append([number])
            total = length
    return tuple(map(tuple, buckets))


def packed_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    packed_layout: PackedLayout | None = None,
    **options: Any,
) -> tuple[Any, None]:
    """Attend within segments, and from reasons to their prompt.

    Query is (1, heads, tokens, width), key and value (1, KV heads, tokens, width).

    Returns:
        The attended values (1, tokens, heads, width), and no weights.

    Raises:
        NotImplementedError: the model needs more than plain attention (a soft cap, sinks, a position bias).
    """
    unknown = [
        name for name, option in options.items() if option is not None and name not in _IGNORED_OPTIONS
    ]
    if unknown or attention_mask is not None or packed_layout is None:
        raise NotImplementedError(f"attention with {', '.join(unknown) or 'a mask'}")
    attend = _attend_on_cuda if query.is_cuda else _attend_on_cpu
    return attend(query[0], key[0], value[0], packed_layout, scaling).unsqueeze(0), None


def _merge(own: Any, own_lse: Any, other: Any, other_lse: Any) -> Any:
    """Join two softmax-weighted means over disjoint keys; the lse (…, 1) are the logs of their denominators."""
    import torch

    return torch.lerp(own, other, torch.sigmoid(other_lse - own_lse).to(own.dtype))


def _attend_on_cpu(query: Any, key: Any, value: Any, layout: PackedLayout, scale: float | None) -> Any:
    """Query (heads, tokens, width) to (tokens, heads, width): one call per bucket, and one per prompt with reasons."""
    import torch

    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    heads, tokens, width = query.shape
    groups = heads // key.shape[0]
    out = query.new_empty(tokens, heads, width)
    lse = torch.empty(tokens, heads, 1)
    for bucket in layout.buckets:
        starts = torch.tensor([layout.segments[i][0] for i in bucket])
        lengths = torch.tensor([layout.segments[i][1] for i in bucket])
        columns = torch.arange(layout.segments[bucket[-1]][1])
        real = columns < lengths[:, None]
        at = (starts[:, None] + columns).clamp(max=tokens - 1)
        q, k, v = (part.transpose(0, 1)[at].transpose(1, 2) for part in (query, key, value))
        part, weight = flash(q, k, v, 0.0, True, scale=scale)
        out[at[real]] = part.transpose(1, 2)[real]
        lse[at[real], :, 0] = weight.transpose(1, 2)[real]
    for (start, length), (prompt, prompt_length) in layout.reason_blocks:
        if not length:
            continue
        rows, keys = slice(start, start + length), slice(prompt, prompt + prompt_length)
        # Query heads that share a KV head become further queries of it.
        folded = query[:, rows].reshape(1, -1, groups * length, width)
        part, weight = flash(folded, key[None, :, keys], value[None, :, keys], 0.0, False, scale=scale)
        part = part.reshape(heads, length, width).transpose(0, 1)
        out[rows] = _merge(out[rows], lse[rows], part, weight.reshape(heads, length).T[..., None])
    return out


def _attend_on_cuda(query: Any, key: Any, value: Any, layout: PackedLayout, scale: float | None) -> Any:
    """Query (heads, tokens, width) to (tokens, heads, width): two calls of variable-length flash attention, which takes
    float16 and bfloat16."""
    q, k, v = (part.transpose(0, 1).contiguous() for part in (query, key, value))
    ends, reason_ends, prompt_ends = layout.cu_seqlens
    longest = max(length for _, length in layout.segments)
    longest_reasons, longest_prompt = (
        max(length for _, length in side) for side in zip(*layout.reason_blocks, strict=True)
    )
    out, lse = _flash(q, k, v, ends, ends, longest, longest, scale, causal=True)
    first = sum(length for _, (_, length) in layout.reason_blocks)
    if longest_reasons:
        part, weight = _flash(
            q[first:], k[:first], v[:first], reason_ends, prompt_ends, longest_reasons, longest_prompt, scale
        )
        out[first:] = _merge(out[first:], lse[:, first:].T[..., None], part, weight.T[..., None])
    return out


def _flash(
    query: Any, key: Any, value: Any, query_ends: Any, key_ends: Any, queries: int, keys: int,
    scale: float | None, *, causal: bool = False,
) -> tuple[Any, Any]:  # fmt: skip
    """Return the attended values (tokens, heads, width) and the log-sum-exp (heads, tokens) of PyTorch's op.

    `queries` and `keys` are the largest lengths. For a length of 1 the op expects exactly one query in every sequence, so
    it gets 2: a bound is enough.
    """
    import torch

    forward = torch.ops.aten._flash_attention_forward
    out, lse, *_ = forward(
        query, key, value, query_ends, key_ends, max(queries, 2), keys, 0.0, causal, False, scale=scale
    )
    return out, lse


def shared_logprobs(model: Any, trees: Sequence[Tree]) -> list[list[float]]:
    """Compute one packed sequence that holds each prompt once; `model` must use the attention `ATTENTION`.

    Returns:
        Per continuation, the log-probabilities (nats) of its scored tokens.
    """
    import torch

    device = model.device
    prompts = [prompt for prompt, _ in trees]
    # The last token of a continuation predicts nothing that is scored.
    inputs = [[ids[:-1] for ids, _ in continuations] for _, continuations in trees]
    layout = packed_layout(
        [len(prompt) for prompt in prompts], [[len(ids) for ids in group] for group in inputs], device
    )
    packed = [token for part in (*prompts, *(ids for group in inputs for ids in group)) for token in part]
    positions = [place for prompt in prompts for place in range(len(prompt))]
    rows: list[int] = []  # of the hidden states that predict the targets
    targets: list[int] = []
    end, start = -1, sum(map(len, prompts))
    for prompt, continuations in trees:
        end += len(prompt)
        for ids, scored in continuations:
            positions += range(len(prompt), len(prompt) + len(ids) - 1)
            rows += [start + place - 1 if place else end for place in scored]
            targets += [ids[place] for place in scored]
            start += len(ids) - 1
    hidden = model.base_model(
        input_ids=torch.tensor([packed], device=device),
        position_ids=torch.tensor([positions], device=device),
        use_cache=False,
        packed_layout=layout,
    ).last_hidden_state[0]
    values = iter(token_logprobs(model, hidden[torch.tensor(rows, device=device)], targets))
    return [[next(values) for _ in scored] for _, continuations in trees for _, scored in continuations]


def single_logprobs(model: Any, trees: Sequence[Tree]) -> list[list[float]]:
    """Compute one row at a time with the whole model, its own head included.

    Returns:
        Per continuation, the log-probabilities (nats) of its scored tokens.
    """
    import torch

    result = []
    for prompt, continuations in trees:
        for ids, scored in continuations:
            inputs = torch.tensor([[*prompt, *ids]], device=model.device)
            logits = model(input_ids=inputs, use_cache=False).logits[0]
            at = torch.tensor([len(prompt) + place for place in scored], device=model.device)
            logprobs = torch.log_softmax(logits[at - 1].float(), dim=-1).gather(1, inputs[0, at][:, None])
            result.append(logprobs[:, 0].tolist())
    return result


def token_logprobs(model: Any, hidden: Any, targets: Sequence[int]) -> list[float]:
    """Return log p of one target per hidden state (rows, width), never holding more than a block of logits.

    On a CPU a block stays in its cache, where the softmax costs little beside the matrix product; whole rows of a
    large vocabulary would spend more time in memory than in the product.
    """
    import torch
    from torch.nn import functional

    head = model.get_output_embeddings()
    vocabulary = head.weight.shape[0]
    rows, columns = (2048, 1024) if hidden.device.type == "cpu" else (1024, vocabulary)
    target_ids = torch.tensor(targets, device=hidden.device)
    logprobs = []
    for part, ids in zip(hidden.split(rows), target_ids.split(rows), strict=True):
        target_logits = torch.linalg.vecdot(part, head.weight[ids])
        if head.bias is not None:
            target_logits = target_logits + head.bias[ids]
        sums = []
        for start in range(0, vocabulary, columns):
            bias = None if head.bias is None else head.bias[start : start + columns]
            logits = functional.linear(part, head.weight[start : start + columns], bias).float()
            # The log-sum-exp of each row, from the one operation that computes it in a single pass.
            sums.append(logits[:, 0] - torch.log_softmax(logits, dim=1)[:, 0])
        logprobs.append(target_logits.float() - torch.logsumexp(torch.stack(sums), dim=0))
    return torch.cat(logprobs).clamp(max=0).tolist()
