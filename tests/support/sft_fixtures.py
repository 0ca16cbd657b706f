"""A real SFT trainer on the tiny model, for tests of what surrounds a training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.demo.world import toy_pairs

MakeTrainer = Callable[..., Any]


@pytest.fixture(scope="session")
def make_trainer(tiny_model: Path, encoder: ChatEncoder, toy_prompts: PromptFile) -> MakeTrainer:
    """Return a function: (work folder, keys of `trl.SFTConfig`) -> TRL's trainer on toy records; of a LoRA adapter, or with
    `whole=True` of all weights."""
    rows = []
    for number, pair in enumerate(toy_pairs("train", 4, seed=2)):
        prompt = judge_prompt(pair, "AB" if number % 2 else "BA", toy_prompts)
        before, after = encoder.record(prompt.messages, "count it .", f"[[{prompt.winner}]]")
        rows.append({"input_ids": before + after, "labels": [-100] * len(before) + after})

    def make(work: Path, whole: bool = False, **options: Any) -> Any:
        from datasets import Dataset
        from peft import LoraConfig
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import SFTConfig, SFTTrainer

        settings = {
            "learning_rate": 0.01, "lr_scheduler_type": "constant", "warmup_steps": 0, "max_steps": 8, "logging_steps": 1,
            "save_steps": 3, "save_total_limit": 3, "per_device_train_batch_size": 4, "logging_nan_inf_filter": False,
        }  # fmt: skip
        lora = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules="all-linear")
        config = SFTConfig(
            output_dir=str(work / "checkpoints"), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True,
            max_length=None, seed=3, **settings | options,
        )  # fmt: skip
        return SFTTrainer(
            model=AutoModelForCausalLM.from_pretrained(tiny_model), args=config,
            train_dataset=Dataset.from_list(rows), processing_class=AutoTokenizer.from_pretrained(tiny_model),
            peft_config=None if whole else lora,
        )  # fmt: skip

    return make
