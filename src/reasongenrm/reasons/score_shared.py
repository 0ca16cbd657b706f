"""Attention over packed prompt groups: each prompt stands once, and its reasons attend to it and to themselves.

The sequence is `U1 U2 … R11 R12 … R21 …`, without padding: every prompt of the batch, then every reason (with header
and verdict) of every prompt. A prompt's queries see their own prompt; a reason's queries see the reason's earlier
tokens and the whole of its prompt. The two parts of a reason's attention are computed apart, over keys that are read
where they lie, and merged by their log-sum-exp, as flash attention merges its blocks (Dao et al. 2022, section 3.1).
Nothing is masked, copied per reason, or computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NAME = "reasongenrm_shared"
"""What the attention is called in transformers' `AttentionInterface`."""

PADDED = 1.15
"""Causal segments are computed together while padding them to the longest costs at most this factor."""

_HARMLESS = frozenset(
    ("dropout", "sliding_window", "position_ids", "use_cache", "cache_position", "is_causal")
)
"""What models tell their attention that changes nothing here; the caller keeps sequences within the window."""


class Unsupported(Exception):
    """The model's attention wants something that this one does not do (a soft cap, sinks, a position bias)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the parts of a packed sequence lie.

    Attributes:
        segments: (start, length) of what attends causally to itself: prompts first, then reasons, without gaps.
        prompts: how many of them are prompts.
        crossings: (start, length) of all reasons of one prompt, and (start, length) of that prompt.
        buckets: segments of like length, by index.
        ends: on CUDA, the running sums of the lengths of segments, of all reasons per prompt, and of prompts.
    """

    segments: tuple[tuple[int, int], ...]
    prompts: int
    crossings: tuple[tuple[tuple[int, int], tuple[int, int]], ...]
    buckets: tuple[tuple[int, ...], ...]
    ends: dict[str, Any]


def plan(prompts: Sequence[int], reasons: Sequence[Sequence[int]], device: str) -> Plan:
    """Lay out prompts of the given lengths (tokens) and, per prompt, its reasons' lengths."""
    segments: list[tuple[int, int]] = []
    start = 0
    for length in [*prompts, *(length for group in reasons for length in group)]:
        segments.append((start, length))
        start += length
    crossings = []
    first = len(prompts)
    for number, group in enumerate(reasons):
        if group:
            crossings.append(((segments[first][0], sum(group)), segments[number]))
        first += len(group)
    ends: dict[str, Any] = {}
    if device == "cuda":
        import torch

        def summed(lengths: Sequence[int]) -> Any:
            return torch.tensor([0, *lengths], device=device).cumsum(0).to(torch.int32)

        ends["segments"] = summed([length for _, length in segments])
        ends["reasons"] = summed([length for (_, length), _ in crossings])
        ends["prompts"] = summed([length for _, (_, length) in crossings])
    return Plan(tuple(segments), len(prompts), tuple(crossings), _buckets(segments), ends)


def _buckets(segments: Sequence[tuple[int, int]]) -> tuple[tuple[int, ...], ...]:
    made: list[list[int]] = []
    total = 0
    for number in sorted(range(len(segments)), key=lambda i: (segments[i][1], segments[i][0])):
        length = segments[number][1]
        if made and (len(made[-1]) + 1) * length <= PADDED * (total + length):
            made[-1].append(number)
            total += length
        else:
            made.append([number])
            total = length
    return tuple(map(tuple, made))


def register() -> None:
    """Make the attention known to transformers; it wants no mask, so none is registered."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, shared_attention)


def shared_attention(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    scaling: float | None = None,
    shared_plan: Plan | None = None,
    **options: Any,
) -> tuple[Any, None]:
    """Attend as the plan says: query (1, heads, tokens, width), key and value (1, KV heads, tokens, width).

    Returns:
        the attended values (1, tokens, heads, width), and no weights.

    Raises:
        Unsupported: the model asks for more than plain attention.
    """
    unknown = [name for name, given in options.items() if given is not None and name not in _HARMLESS]
    if unknown or attention_mask is not None or shared_plan is None:
        raise Unsupported(f"attention with {', '.join(unknown) or 'a mask'}")
    attend = _on_cuda if query.is_cuda else _on_cpu
    return attend(query[0], key[0], value[0], shared_plan, scaling).unsqueeze(0), None


def _merge(own: Any, own_lse: Any, other: Any, other_lse: Any) -> Any:
    """Join two softmax-weighted means over disjoint keys; the lse (…, 1) are the logs of their denominators."""
    import torch

    return torch.lerp(own, other, torch.sigmoid(other_lse - own_lse).to(own.dtype))


def _on_cpu(query: Any, key: Any, value: Any, where: Plan, scale: float | None) -> Any:
    """Query (heads, tokens, width) to (tokens, heads, width)."""
    import torch

    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    heads, tokens, width = query.shape
    groups = heads // key.shape[0]
    out = query.new_empty(tokens, heads, width)
    lse = torch.empty(tokens, heads, 1)
    for bucket in where.buckets:
        if len(bucket) == 1:
            start, length = where.segments[bucket[0]]
            at = slice(start, start + length)
            part, weight = flash(
                query[None, :, at], key[None, :, at], value[None, :, at], 0.0, True, scale=scale
            )
            out[at], lse[at, :, 0] = part[0].transpose(0, 1), weight[0].T
            continue
        longest = where.segments[bucket[-1]][1]
        starts = torch.tensor([where.segments[i][0] for i in bucket])
        lengths = torch.tensor([where.segments[i][1] for i in bucket])
        at = starts[:, None] + torch.arange(longest)
        real = torch.arange(longest) < lengths[:, None]
        at = at.clamp(max=tokens - 1)
        q, k, v = (part.transpose(0, 1)[at].transpose(1, 2) for part in (query, key, value))
        part, weight = flash(q, k, v, 0.0, True, scale=scale)
        out[at[real]] = part.transpose(1, 2)[real]
        lse[at[real], :, 0] = weight.transpose(1, 2)[real]
    for (start, length), (asked, prompt) in where.crossings:
        at, keys = slice(start, start + length), slice(asked, asked + prompt)
        # Query heads that share a KV head become further queries of it.
        folded = query[:, at].reshape(1, -1, groups * length, width)
        part, weight = flash(folded, key[None, :, keys], value[None, :, keys], 0.0, False, scale=scale)
        part = part.reshape(heads, length, width).transpose(0, 1)
        out[at] = _merge(out[at], lse[at], part, weight.reshape(heads, length).T[..., None])
    return out


def _on_cuda(query: Any, key: Any, value: Any, where: Plan, scale: float | None) -> Any:
    """Query (heads, tokens, width) to (tokens, heads, width): two calls of variable-length flash attention."""
    import torch

    flash = torch.ops.aten._flash_attention_forward
    q, k, v = (part.transpose(0, 1).contiguous() for part in (query, key, value))
    longest = max(length for _, length in where.segments)
    ends = where.ends["segments"]
    out, lse, *_ = flash(q, k, v, ends, ends, longest, longest, 0.0, True, False, scale=scale)
    first = where.segments[where.prompts][0]
    reasons, prompts = (max(part[1] for part in side) for side in zip(*where.crossings, strict=True))
    part, weight, *_ = flash(
        *(q[first:], k[:first], v[:first], where.ends["reasons"], where.ends["prompts"], reasons, prompts),
        *(0.0, False, False),
        scale=scale,
    )
    out[first:] = _merge(out[first:], lse[:, first:].T[..., None], part, weight.T[..., None])
    return out
