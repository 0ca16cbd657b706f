"""Scoring reasons under the student: the plain way against `reasongenrm.reasons`, in one run.

    python bench/rstar.py [--quick] [--vllm] [--repeats 5]

Plain: one forward pass per prompt + reason, a log-softmax over the whole vocabulary at every position, batch 1.
Ours: `Student.score` on the same token ids. The models are untrained Qwen2s, built from a fixed seed in a temporary
folder. The two are timed in turn; a ratio is that of the fastest repeats, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

PROMPT, REASON, HEADER, VERDICT, SAMPLES = 1000, 200, 5, 3, 8
VOCABULARIES = (8_000, 151_936)
BATCH_TOKENS = 16_384


def build(folder: Path, vocabulary: int) -> Path:
    """Save an untrained Qwen2 (8 layers, 512 wide, 8 heads of 64, 2 KV heads, 2,048 in the middle, float32)."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(17)
    config = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder / str(vocabulary))
    return folder / str(vocabulary)


def make_group(vocabulary: int, samples: int, prompt: int, number: int = 0) -> Any:
    """Return one prompt with its reasons, of random tokens."""
    import torch

    from reasongenrm.reasons.score import Group, Line
    from reasongenrm.records import JudgePrompt, Reason

    generator = torch.Generator().manual_seed(number)

    def ids(length: int) -> tuple[int, ...]:
        return tuple(torch.randint(vocabulary, (length,), generator=generator).tolist())

    name = f"prompt-{number}"
    lines = tuple(
        Line(
            Reason(f"{name}#{n}", name, "", "A", None, REASON, "stop", "bench", "blind"),
            ids(REASON + HEADER + VERDICT),
            REASON,
            VERDICT,
        )
        for n in range(samples)
    )
    return Group(JudgePrompt(name, name, "AB", (), "A", "bench"), ids(prompt), lines)


def plain(model: Any, group: Any) -> list[tuple[float, float]]:
    """Mean log p of reason and verdict, the way one would write it down."""
    import torch

    found = []
    for line in group.lines:
        ids = torch.tensor([[*group.asked, *line.ids]])
        with torch.inference_mode():
            logprobs = torch.log_softmax(model(input_ids=ids, use_cache=False).logits[0], dim=-1)
        at = torch.tensor([len(group.asked) + place for place in line.scored])
        values = logprobs[at - 1, ids[0, at]]
        found.append((values[: line.said].mean().item(), values[line.said :].mean().item()))
    return found


def fastest(ways: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Seconds of each way's fastest repeat; they take turns, after one turn to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: min(taken) for name, taken in seconds.items()}


def difference(group: Any, scored: list[Any], expected: list[tuple[float, float]]) -> float:
    """Largest difference of a score, in nats per token."""
    ours = [(s.reason_logprob, s.verdict_logprob) for s in scored]
    return max(
        abs(a - b) for one, other in zip(ours, expected, strict=True) for a, b in zip(one, other, strict=True)
    )


def compare(student: Any, vocabulary: int, samples: int, prompt: int, repeats: int) -> str:
    """One row of a table."""
    group = make_group(vocabulary, samples, prompt)
    model = student._model
    gap = difference(group, student.score([group]), plain(model, group))
    taken = fastest({"plain": lambda: plain(model, group), "ours": lambda: student.score([group])}, repeats)
    row = PROMPT_ROW = REASON + HEADER + VERDICT
    limit = samples * (prompt + row) / (prompt + samples * row)
    return (
        f"| {vocabulary:,} | {samples} | {prompt:,} | {taken['plain']:.2f} | {taken['ours']:.2f} "
        f"| {taken['plain'] / taken['ours']:.2f}x | {limit:.2f}x | {gap:.1e} |"
    )
