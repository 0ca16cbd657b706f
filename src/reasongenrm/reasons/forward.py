"""Log-probabilities of given tokens under a transformers model, with each prompt computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from reasongenrm.reasons import forward as score_shared
from reasongenrm.reasons.score import batches

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


def _on_cpu(query: Any, key: Any, value: Any, location: Plan, scale: float | None) -> Any:
    """Query (heads, tokens, width) to (tokens, heads, width)."""
    import torch

    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    heads, tokens, width = query.shape
    groups = heads // key.shape[0]
    out = query.new_empty(tokens, heads, width)
    lse = torch.empty(tokens, heads, 1)
    for bucket in location.buckets:
        if len(bucket) == 1:
            start, length = location.segments[bucket[0]]
            at = slice(start, start + length)
            part, weight = flash(
                query[None, :, at], key[None, :, at], value[None, :, at], 0.0, True, scale=scale
            )
            out[at], lse[at, :, 0] = part[0].transpose(0, 1), weight[0].T
            continue
        longest = location.segments[bucket[-1]][1]
        starts = torch.tensor([location.segments[i][0] for i in bucket])
        lengths = torch.tensor([location.segments[i][1] for i in bucket])
        at = starts[:, None] + torch.arange(longest)
        real = torch.arange(longest) < lengths[:, None]
        at = at.clamp(max=tokens - 1)
        q, k, v = (part.transpose(0, 1)[at].transpose(1, 2) for part in (query, key, value))
        part, weight = flash(q, k, v, 0.0, True, scale=scale)
        out[at[real]] = part.transpose(1, 2)[real]
        lse[at[real], :, 0] = weight.transpose(1, 2)[real]
    for (start, length), (asked, prompt) in location.crossings:
        at, keys = slice(start, start + length), slice(asked, asked + prompt)
        # Query heads that share a KV head become further queries of it.
        folded = query[:, at].reshape(1, -1, groups * length, width)
        part, weight = flash(folded, key[None, :, keys], value[None, :, keys], 0.0, False, scale=scale)
        part = part.reshape(heads, length, width).transpose(0, 1)
        out[at] = _merge(out[at], lse[at], part, weight.reshape(heads, length).T[..., None])
    return out


def _on_cuda(query: Any, key: Any, value: Any, location: Plan, scale: float | None) -> Any:
    """Query (heads, tokens, width) to (tokens, heads, width): two calls of variable-length flash attention."""
    import torch

    flash = torch.ops.aten._flash_attention_forward
    q, k, v = (part.transpose(0, 1).contiguous() for part in (query, key, value))
    longest = max(length for _, length in location.segments)
    ends = location.ends["segments"]
    out, lse, *_ = flash(q, k, v, ends, ends, longest, longest, 0.0, True, False, scale=scale)
    first = location.segments[location.prompts][0]
    reasons, prompts = (max(part[1] for part in side) for side in zip(*location.crossings, strict=True))
    part, weight, *_ = flash(
        *(
            q[first:],
            k[:first],
            v[:first],
            location.ends["reasons"],
            location.ends["prompts"],
            reasons,
            prompts,
        ),
        *(0.0, False, False),
        scale=scale,
    )
    out[first:] = _merge(out[first:], lse[:, first:].T[..., None], part, weight.T[..., None])
    return out


Ids = Sequence[int]


Tree = tuple[Ids, Sequence[tuple[Ids, Sequence[int]]]]
"""A prompt's token ids, and its continuations: token ids and the places of the scored ones among them."""


Way = Callable[[Any, Sequence[Tree]], list[list[float]]]


def shared(model: Any, trees: Sequence[Tree]) -> list[list[float]]:
    """One packed sequence in which each prompt stands once; the model's attention must be `score_shared.NAME`."""
    import torch

    device = model.device
    prompts = [asked for asked, _ in trees]
    # A continuation's last token predicts nothing that is scored.
    written = [[ids[:-1] for ids, _ in lines] for _, lines in trees]
    plan = score_shared.plan(
        [len(asked) for asked in prompts], [[len(i) for i in g] for g in written], device.type
    )
    packed = [token for part in (*prompts, *(ids for group in written for ids in group)) for token in part]
    positions = [place for asked in prompts for place in range(len(asked))]
    at: list[int] = []
    targets: list[int] = []
    ends: list[int] = []
    end, start = -1, sum(map(len, prompts))
    first = start
    for asked, lines in trees:
        end += len(asked)
        ends.append(end)
        for ids, scored in lines:
            positions += range(len(asked), len(asked) + len(ids) - 1)
            at += [start + place - 1 if place else end for place in scored]
            targets += [ids[place] for place in scored]
            start += len(ids) - 1
    with _last_mlp_on(model, torch.tensor([*ends, *range(first, len(packed))], device=device), len(packed)):
        hidden = model.base_model(
            input_ids=torch.tensor([packed], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
            shared_plan=plan,
        ).last_hidden_state[0]
    return _apart(trees, token_logprobs(model, hidden[torch.tensor(at, device=device)], targets))


@contextmanager
def _last_mlp_on(model: Any, rows: Any, total: int) -> Iterator[None]:
    """Have the last layer's MLP compute the given rows alone, of `total` in the packed sequence: no other's output is read."""
    from torch import nn

    layers = getattr(model.base_model, "layers", None)
    mlp: Any = getattr(layers[-1], "mlp", None) if layers else None
    if not isinstance(getattr(mlp, "down_proj", None), nn.Linear):  # no dense MLP under its usual name
        yield
        return
    hooks = [
        mlp.register_forward_pre_hook(lambda _, given: (given[0][:, rows],)),
        mlp.register_forward_hook(
            lambda _, given, out: out.new_zeros(1, total, out.shape[2]).index_copy_(1, rows, out)
        ),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def padded(model: Any, trees: Sequence[Tree]) -> list[list[float]]:
    """One row per continuation, padded on the right; rows of like length together, no more tokens at a time than the
    trees hold."""
    import torch

    rows = [(asked, ids, scored) for asked, lines in trees for ids, scored in lines]
    found: list[list[float]] = [[] for _ in rows]
    limit = sum(len(asked) + sum(len(ids) for ids, _ in lines) for asked, lines in trees)
    for batch in batches([len(asked) + len(ids) for asked, ids, _ in rows], limit):
        chosen = [rows[i] for i in batch]
        longest = max(len(asked) + len(ids) for asked, ids, _ in chosen)
        inputs = torch.zeros((len(chosen), longest), dtype=torch.long)
        mask = torch.zeros_like(inputs)
        for number, (asked, ids, _) in enumerate(chosen):
            inputs[number, : len(asked) + len(ids)] = torch.tensor([*asked, *ids])
            mask[number, : len(asked) + len(ids)] = 1
        hidden = model.base_model(
            input_ids=inputs.to(model.device), attention_mask=mask.to(model.device), use_cache=False
        ).last_hidden_state
        owner = [number for number, (_, _, scored) in enumerate(chosen) for _ in scored]
        at = [len(asked) + place - 1 for asked, _, scored in chosen for place in scored]
        picked = hidden[torch.tensor(owner, device=model.device), torch.tensor(at, device=model.device)]
        targets = [ids[place] for _, ids, scored in chosen for place in scored]
        values = iter(token_logprobs(model, picked, targets))
        for index, (_, _, scored) in zip(batch, chosen, strict=True):
            found[index] = [next(values) for _ in scored]
    return found


def single(model: Any, trees: Sequence[Tree]) -> list[list[float]]:
    """One row at a time through the whole model, its own head included."""
    import torch

    found = []
    for asked, lines in trees:
        for ids, scored in lines:
            inputs = torch.tensor([[*asked, *ids]], device=model.device)
            logits = model(input_ids=inputs, use_cache=False).logits[0]
            at = torch.tensor([len(asked) + place for place in scored], device=model.device)
            logprobs = torch.log_softmax(logits[at - 1].float(), dim=-1).gather(1, inputs[0, at][:, None])
            found.append(logprobs[:, 0].tolist())
    return found


def _apart(trees: Sequence[Tree], flat: Sequence[float]) -> list[list[float]]:
    values: Iterator[float] = iter(flat)
    return [[next(values) for _ in scored] for _, lines in trees for _, scored in lines]


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
    goals = torch.tensor(targets, device=hidden.device)
    found = []
    for part, goal in zip(hidden.split(rows), goals.split(rows), strict=True):
        wanted = torch.linalg.vecdot(part, head.weight[goal])
        if head.bias is not None:
            wanted = wanted + head.bias[goal]
        sums = []
        for start in range(0, vocabulary, columns):
            bias = None if head.bias is None else head.bias[start : start + columns]
            logits = functional.linear(part, head.weight[start : start + columns], bias).float()
            # The log-sum-exp of each row, from the one operation that makes it in a single pass.
            sums.append(logits[:, 0] - torch.log_softmax(logits, dim=1)[:, 0])
        found.append(wanted.float() - torch.logsumexp(torch.stack(sums), dim=0))
    return torch.cat(found).clamp(max=0).tolist()
