"""Shared prompts: both attention functions equal plain attention of each row, and a whole model its own logits.

The function for CUDA calls `aten::_flash_attention_forward`, which has no CPU kernel. Here it runs on the reference of
`support/flash_attention.py`; on a machine with a GPU the same tests run the real op, in bfloat16.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.config.engines import ModelConfig
from reasongenrm.reasons import forward
from reasongenrm.reasons.student import Student
from support.flash_attention import flash_attention_on_cpu

unit = pytest.mark.unit

Sizes = Sequence[tuple[int, Sequence[int]]]
"""Per prompt, its length and the lengths of its reasons, in tokens."""

CASES: dict[str, Sizes] = {
    "one prompt": [(7, [3, 5])],
    "several prompts": [(7, [3, 5]), (20, [4]), (1, [9, 2, 6])],
    "prompts without reasons": [(4, []), (7, [3]), (5, []), (6, [2, 2]), (8, [])],
    "reasons of one token": [(5, [1]), (9, [1, 1])],
    "one reason of one token per prompt": [(5, [1]), (9, [1]), (2, [1])],
    "one reason of one token": [(5, [1]), (9, [])],
    "one token alone": [(1, [1])],
    "no reasons": [(3, []), (4, [])],
    "beyond a block of the kernel": [(300, [130, 1]), (129, [257])],
}

DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The device of the tensors; on a CPU the op runs on its reference."""
    if request.param == "cuda":
        yield "cuda"
    else:
        with flash_attention_on_cpu():
            yield "cpu"


def layout_of(sizes: Sizes, device: str) -> forward.PackedLayout:
    return forward.packed_layout([prompt for prompt, _ in sizes], [reasons for _, reasons in sizes], device)


def random_heads(tokens: int, heads: int, kv_heads: int, width: int, device: str) -> list[Any]:
    """Query, key and value (heads, tokens, width); scores are far from even, so that a wrong mask shows."""
    generator = torch.Generator().manual_seed(tokens)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    return [
        (2 * torch.randn(count, tokens, width, generator=generator)).to(device, dtype)
        for count in (heads, kv_heads, kv_heads)
    ]


def plain_attention(query: Any, key: Any, value: Any, sizes: Sizes, scale: float) -> Any:
    """Causal attention of every row (a prompt, or a prompt and one reason) alone, in float64; (tokens, heads, width)."""
    groups = len(query) // len(key)
    query, key, value = (
        part.double()
        for part in (query, key.repeat_interleave(groups, 0), value.repeat_interleave(groups, 0))
    )
    out = torch.full_like(query, torch.nan)
    prompt_start, start = 0, sum(prompt for prompt, _ in sizes)
    for prompt, reasons in sizes:
        places = list(range(prompt_start, prompt_start + prompt))
        prompt_start += prompt
        for length in (0, *reasons):
            row = places + list(range(start, start + length))
            scores = scale * query[:, row] @ key[:, row].mT
            visible = torch.ones(len(row), len(row), dtype=torch.bool, device=scores.device).tril()
            out[:, row] = scores.masked_fill(~visible, -torch.inf).softmax(-1) @ value[:, row]
            start += length
    return out.transpose(0, 1)


def check_attention(sizes: Sizes, heads: int, kv_heads: int, width: int, device: str) -> None:
    layout = layout_of(sizes, device)
    tokens = sum(prompt + sum(reasons) for prompt, reasons in sizes)
    query, key, value = random_heads(tokens, heads, kv_heads, width, device)
    scale = 0.5 / width**0.5
    expected = plain_attention(query, key, value, sizes, scale)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if device == "cpu" else {"rtol": 3e-2, "atol": 3e-2}
    on_cuda = forward._attend_on_cuda(query, key, value, layout, scale)
    torch.testing.assert_close(on_cuda.double(), expected, **tolerance)
    parts = [part.cpu().float() for part in (query, key, value)]
    on_cpu = forward._attend_on_cpu(*parts, layout, scale)
    torch.testing.assert_close(on_cpu.to(expected), expected, rtol=1e-4, atol=1e-5)


@unit
@pytest.mark.parametrize("sizes", CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 16), (4, 2, 32), (7, 1, 64)])
def test_both_attention_functions_equal_plain_attention_of_each_row(
    sizes: Sizes, heads: int, kv_heads: int, width: int, device: str
) -> None:
    check_attention(sizes, heads, kv_heads, width, device)


@unit
@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.lists(st.integers(1, 30), max_size=4)), min_size=1, max_size=5),
    st.sampled_from([(2, 2), (4, 2), (6, 1)]),
)
def test_attention_of_any_layout(sizes: Sizes, heads: tuple[int, int]) -> None:
    with flash_attention_on_cpu():
        check_attention(sizes, *heads, 16, "cpu")


@unit
def test_two_calls_compute_a_batch_on_cuda() -> None:
    sizes = CASES["prompts without reasons"]
    tokens = sum(prompt + sum(reasons) for prompt, reasons in sizes)
    with flash_attention_on_cpu() as calls:
        forward._attend_on_cuda(*random_heads(tokens, 4, 2, 16, "cpu"), layout_of(sizes, "cpu"), None)
    assert calls == [len(sizes) + 3, len(sizes)], "all segments; then all reasons of a prompt together"


@unit
@pytest.mark.parametrize("device", DEVICES)
def test_the_default_scale_is_that_of_the_width(device: str) -> None:
    sizes = CASES["several prompts"]
    tokens = sum(prompt + sum(reasons) for prompt, reasons in sizes)
    parts = random_heads(tokens, 4, 2, 16, device)
    with flash_attention_on_cpu():
        default, given_scale = (
            forward._attend_on_cuda(*parts, layout_of(sizes, device), scale) for scale in (None, 0.25)
        )
    torch.testing.assert_close(default, given_scale)


@unit
def test_the_reference_refuses_what_the_op_refuses() -> None:
    query, key, value = (torch.randn(5, heads, 16) for heads in (4, 2, 2))
    ends = torch.tensor([0, 2, 5], dtype=torch.int32)
    op = torch.ops.aten._flash_attention_forward
    with flash_attention_on_cpu():
        out, lse, *_ = op(query, key, value, ends, ends, 3, 3, 0.0, True, False, scale=None)
        assert (out.shape, lse.shape, lse.dtype) == ((5, 4, 16), (4, 5), torch.float32)
        single = torch.tensor([0, 1, 1], dtype=torch.int32)
        for bad in (
            (query, key, value, ends.long(), ends, 3, 3, 0.0, True, False),
            (query, key, value, ends, ends, 2, 3, 0.0, True, False),
            (query, key, value, ends, ends[:2], 3, 3, 0.0, True, False),
            (query[:1], key, value, single, ends, 1, 3, 0.0, False, False),
        ):
            with pytest.raises(RuntimeError, match="_flash_attention_forward"):
                op(*bad, scale=None)
    with pytest.raises(NotImplementedError):
        op(query, key, value, ends, ends, 3, 3, 0.0, True, False, scale=None)


@pytest.mark.engine
def test_the_cuda_function_gives_a_model_its_own_logits(
    student: ModelConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Student(student)._model
    rng = random.Random(1)

    def ids(length: int) -> list[int]:
        return [rng.randrange(3, 400) for _ in range(length)]

    trees: list[forward.Tree] = [
        (ids(prompt), [(ids(length), list(range(length))) for length in reasons])
        for prompt, reasons in [(13, (6, 2)), (5, ()), (30, (2,)), (1, (40, 3))]
    ]
    with torch.inference_mode():
        expected = forward.single_logprobs(model, trees)
        model.set_attn_implementation(forward.ATTENTION)
        monkeypatch.setattr(forward, "_attend_on_cpu", forward._attend_on_cuda)
        with flash_attention_on_cpu() as calls:
            values = forward.shared_logprobs(model, trees)
    assert len(calls) == 2 * model.config.num_hidden_layers
    for ours, theirs in zip(values, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@unit
@given(
    st.lists(st.tuples(st.integers(1, 60), st.lists(st.integers(1, 60), max_size=6)), min_size=1, max_size=8)
)
def test_a_layout_covers_the_packed_sequence_and_pads_little(sizes: Sizes) -> None:
    layout = layout_of(sizes, "cpu")
    covered = [place for start, length in layout.segments for place in range(start, start + length)]
    assert covered == list(range(sum(prompt + sum(reasons) for prompt, reasons in sizes)))
    assert sorted(i for bucket in layout.buckets for i in bucket) == list(range(len(layout.segments)))
    for bucket in layout.buckets:
        lengths = [layout.segments[i][1] for i in bucket]
        assert lengths == sorted(lengths) and len(lengths) * lengths[-1] <= forward.PADDED * sum(lengths)
    blocks = [(own[1], prompt) for own, prompt in layout.reason_blocks]
    assert blocks == [(sum(reasons), layout.segments[i]) for i, (_, reasons) in enumerate(sizes)]
    starts = [ends.tolist() for ends in layout.cu_seqlens]
    assert starts[0] == [start for start, _ in layout.segments] + [len(covered)]
    first = sum(prompt for prompt, _ in sizes)
    assert starts[1] == [own[0] - first for own, _ in layout.reason_blocks] + [len(covered) - first]
    assert starts[2] == [prompt[0] for _, prompt in layout.reason_blocks] + [first]
