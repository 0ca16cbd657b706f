"""Ranks of tokens without vLLM's compiler: the same counts, and no compilation while a judge is asked."""

from __future__ import annotations

import pytest

from reasongenrm.engines.base import Request
from reasongenrm.engines.cpu_ranks import ROWS, count_at_least
from reasongenrm.engines.vllm import VLLMEngine

pytestmark = pytest.mark.engine


@pytest.mark.parametrize("rows", [1, ROWS, ROWS + 1, 3 * ROWS])
def test_counts_are_those_of_vllm(rows: int) -> None:
    import torch
    from vllm.v1.sample.ops.logprobs import batched_count_greater_than

    torch.manual_seed(rows)
    x = torch.randint(9, (rows, 40)).float()  # with ties
    x[:, ::7] = -torch.inf  # of tokens that are not allowed
    values = x.gather(1, torch.randint(40, (rows, 1)))
    expected = batched_count_greater_than._torchdynamo_orig_callable(x, values)
    counts = count_at_least(x, values)
    assert counts.dtype == expected.dtype and counts.tolist() == expected.tolist()
    assert len(set(counts.tolist())) > 1 or rows == 1


def test_no_function_is_compiled_for_a_request(engine: VLLMEngine) -> None:
    from torch._dynamo.utils import counters

    before = counters["stats"]["calls_captured"]
    request = Request("r", (5, 6, 7), max_tokens=2, ignore_eos=True, allowed=(8, 9), logprob_token_ids=(8, 9))
    [completion] = engine.complete([request])
    assert len(completion.logprobs) == 2
    assert counters["stats"]["calls_captured"] == before
