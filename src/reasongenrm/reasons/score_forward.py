"""Log-probabilities of given tokens under a transformers model: three ways through it, from the fastest to the plainest.

Each takes prompts with what follows them (`Tree`) and returns, for each continuation in order, the log-probabilities
(nats) of its scored tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from reasongenrm.reasons import score_shared
from reasongenrm.reasons.score import batches

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
