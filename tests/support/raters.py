"""A LoRA of the tiny model that is fitted, in some seconds, to write given completions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from reasongenrm.config.engines import ModelConfig


def fitted_adapter(student: ModelConfig, rows: Sequence[tuple[list[int], list[int]]], folder: Path) -> Path:
    """Write an adapter that decodes the labels of every row greedily.

    Args:
        student: the tiny model.
        rows: token ids of prompt and completion, and as many labels; -100 where nothing is fitted.
        folder: a new one.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    longest = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows])
    labels = torch.tensor([own + [-100] * (longest - len(own)) for _, own in rows])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(17)
        base = AutoModelForCausalLM.from_pretrained(student.path, dtype=torch.float32)
        lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear")
        tuned = get_peft_model(base, lora)
        optimizer = torch.optim.AdamW([p for p in tuned.parameters() if p.requires_grad], lr=0.01)
        for _ in range(400):
            out = tuned(input_ids=ids, labels=labels)
            wrong = (out.logits.argmax(-1)[:, :-1] != labels[:, 1:]) & (labels[:, 1:] != -100)
            if not wrong.any():
                break
            out.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert not wrong.any(), "it says greedily what it is to say"
    tuned.save_pretrained(folder)
    return folder
