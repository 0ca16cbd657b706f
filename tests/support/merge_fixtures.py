"""Adapters and models to merge, on the tiny model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROMPTS = Path(__file__).resolve().parents[2] / "configs" / "prompts"
MakeAdapter = Callable[..., Path]


def change_json(path: Path, **keys: Any) -> None:
    """Set keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))


@pytest.fixture(scope="session")
def make_adapter(
    tiny_model: Path, toy_tokenizer: Any, tmp_path_factory: pytest.TempPathFactory
) -> MakeAdapter:
    """`f(seed, r=4, **lora)`: a LoRA folder as training leaves it, with random weights that have an effect."""

    def make(seed: int, r: int = 4, **lora: Any) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        keys = {"lora_alpha": 8, "target_modules": "all-linear"} | lora
        tuned = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=r, **keys))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, weights in tuned.named_parameters():
                if "lora_" in name:
                    weights.copy_(torch.randn(weights.shape, generator=generator) * 0.3)
        folder = tmp_path_factory.mktemp("judge") / "adapter"
        tuned.save_pretrained(folder)
        toy_tokenizer.save_pretrained(folder)
        shutil.copy(PROMPTS / "toy.yaml", folder / "judge.yaml")
        return folder

    return make


@pytest.fixture(scope="session")
def make_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """`f(seed)`: the tiny model with noise on all of its weights, as further training leaves it."""

    def make(seed: int) -> Path:
        import torch
        from safetensors.torch import load_file, save_file

        folder = tmp_path_factory.mktemp("chat") / "model"
        shutil.copytree(tiny_model, folder)
        generator = torch.Generator().manual_seed(seed)
        weights = load_file(folder / "model.safetensors")
        noise = {n: torch.randn(w.shape, generator=generator) * 0.05 for n, w in weights.items()}
        save_file(
            {n: w + noise[n] for n, w in weights.items()}, folder / "model.safetensors", {"format": "pt"}
        )
        return folder

    return make
