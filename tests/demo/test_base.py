"""The shipped toy base is small, compares answers in its own wording, and is not a judge yet."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt, place
from reasongenrm.demo.world import FAMILIES, draw_task, explain, toy_pairs
from reasongenrm.records import Message

pytestmark = pytest.mark.engine
ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "data" / "toy-base"


@pytest.fixture(scope="module")
def base() -> tuple[Any, ChatEncoder]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    template = (ROOT / "configs" / "prompts" / "reason.jinja").read_text(encoding="utf-8")
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    return model, ChatEncoder(tokenizer, template)


def test_weights_are_small_and_safe() -> None:
    assert (BASE / "model.safetensors").stat().st_size <= 4 << 20
    assert not [path for path in BASE.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_chat_template_is_that_of_the_recipes(base: tuple[Any, ChatEncoder]) -> None:
    assert base[1].tokenizer.chat_template == base[1].template


@pytest.mark.parametrize("family", FAMILIES)
def test_base_compares_unseen_answers_in_its_own_wording(base: tuple[Any, ChatEncoder], family: str) -> None:
    model, encoder = base
    rng = random.Random(f"base test {family}")
    right = 0
    for _ in range(20):
        task = draw_task(rng, "test", family)
        first, second = (task.good, task.bad) if rng.random() < 0.5 else (task.bad, task.good)
        prompt = f"two people were asked : {task.question}\nfirst said : {first}\nsecond said : {second}\ncompare them ."
        turn: Message = {"role": "user", "content": prompt}
        # The header is spelled out: the shipped template opens a reason, this chat an answer.
        ids = encoder.encode([turn], generation=False) + encoder.structure("<|im_start|>assistant\n")
        expected = encoder.content(explain(task, first, second, ("first", "second")))
        right += _greedy(model, ids, len(expected)) == expected
    assert right >= 16, f"only {right} of 20 explanations are exactly right"


def _greedy(model: Any, ids: list[int], tokens: int) -> list[int]:
    import torch

    with torch.inference_mode():
        out = model.generate(
            torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    return [int(token) for token in out[0, len(ids) :]]


def test_base_does_not_reason_before_its_verdict(
    base: tuple[Any, ChatEncoder], toy_prompts: PromptFile
) -> None:
    """Training elicits the work before the verdict."""
    model, encoder = base
    greedy = partial(_greedy, model)
    worked = 0
    pairs = list(toy_pairs("test", 10, seed=3))
    for pair in pairs:
        prompt = judge_prompt(pair, place(pair.id, 3), toy_prompts)
        text = encoder.tokenizer.decode(greedy(encoder.encode(prompt.messages, generation=True), 60))
        worked += " has " in text
    assert worked <= len(pairs) // 4, f"it worked {worked} of {len(pairs)} times"
