"""DPO: its rows, its reference, and TRL's trainer on the toy base."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.recipe import Recipe
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import PreferencePair
from reasongenrm.store import read_jsonl, write_jsonl
from reasongenrm.train.dpo import build_trainer, step_args, step_batch, training_summary
from reasongenrm.train.guards import WHOLE
from reasongenrm.train.tokens import preference_rows, tokenise
from reasongenrm.train.trainer import run_training
from support.training_runs import ROOT, begin_run, demo_recipe, preference_row

WORDS = ("apple", "bell", "coin", "drum")


def small_recipe(**settings: Any) -> Recipe:
    overrides = {
        "name": "small",
        "judges": {"judge": {"template": "reason", "steps": ["sft", "dpo"]}},
        "train.dpo.batch": 8,
        "train.dpo.args": {"max_steps": 2, "learning_rate": 0.0001},
        "train.args.per_device_train_batch_size": 2,
        "train.args.save_steps": 1,
        "train.args.logging_steps": 1,
        **settings,
    }
    return demo_recipe(overrides)


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_prompts: PromptFile) -> Path:
    """A folder with eight pairs of reasons, and the adapter that DPO starts from: random, so that it has an effect."""
    folder = begin_run("small", tmp_path, monkeypatch)
    rows = []
    for word in WORDS:
        pair = PreferencePair.make([{"role": "user", "content": f"say {word}"}], word, "no", "toy-chat")
        prompts = (judge_prompt(pair, "AB", toy_prompts), judge_prompt(pair, "BA", toy_prompts))
        rows += [preference_row(prompt, f"{{}} says {word} .") for prompt in prompts]
    write_jsonl(folder / "dpo.jsonl", rows)
    return folder


@pytest.fixture
def adapted(run_folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, set_seed

    set_seed(1)
    base = AutoModelForCausalLM.from_pretrained(ROOT / "data" / "toy-base")
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(run_folder / "judges" / "judge" / "adapter")
    return run_folder


def trained(recipe: Recipe, work: Path) -> Any:
    """Return a step's trainer after `run_training`, which resumes from the last whole checkpoint in `work`."""
    step = recipe.trained["judge@dpo"]
    tokenise(recipe, step, judge_encoder(recipe, "reason", load_tokenizer(recipe.model)), work)
    trainer = build_trainer(recipe, step, work)
    run_training(trainer, "train.dpo.args", lambda shown: None)
    return trainer


@pytest.mark.engine
def test_a_row_is_prompt_and_both_sides_as_the_judge_writes_them(run_folder: Path) -> None:
    recipe = small_recipe()
    encoder = judge_encoder(recipe, "reason", load_tokenizer(recipe.model))
    path = run_folder / "dpo.jsonl"
    for row, source in zip(preference_rows([path], encoder, 1000), read_jsonl(path), strict=True):
        assert row["prompt_ids"] == encoder.encode(source["prompt"], generation=True)
        for side in ("chosen", "rejected"):
            reason, verdict = (turn["content"] for turn in source[side])
            assert row[f"{side}_ids"] == encoder.completion(reason, verdict)
    longest = max(
        len(row["prompt_ids"]) + len(row["chosen_ids"]) for row in preference_rows([path], encoder, 1000)
    )
    with pytest.raises(DataError, match=r"dpo\.jsonl:\d: \d+ tokens, more than data\.max_tokens"):
        list(preference_rows([path], encoder, longest - 1))


@pytest.mark.engine
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": "[[A]]"}, "chosen is not a turn of the role reason and one of the role assistant"),
        (
            {"rejected": [{"role": "assistant", "content": "[[A]]"}]},
            "rejected is not a turn of the role reason",
        ),
        ({"prompt": []}, "`prompt` has no messages"),
    ],
)
def test_a_bad_row_is_located(run_folder: Path, change: dict[str, Any], message: str) -> None:
    path = run_folder / "dpo.jsonl"
    rows = list(read_jsonl(path))
    write_jsonl(path, [rows[0], rows[1] | change])
    recipe = small_recipe()
    encoder = judge_encoder(recipe, "reason", load_tokenizer(recipe.model))
    with pytest.raises(DataError) as caught:
        list(preference_rows([path], encoder, 1000))
    assert caught.value.location == f"{path}:2" and caught.value.problem.startswith(message)


@pytest.mark.unit
def test_memory_and_cadence_are_those_of_all_steps_and_the_rest_is_its_own() -> None:
    recipe = small_recipe(**{"train.args.weight_decay": 0.1, "train.dpo.args.save_steps": 7})
    args = step_args(recipe, recipe.trained["judge@dpo"])
    assert (args["beta"], args["save_steps"], args["logging_steps"]) == (0.1, 7, 1)
    assert "weight_decay" not in args and args["learning_rate"] == 0.0001
    assert step_batch(recipe, recipe.trained["judge@dpo"], 2) == (2, 2)
    with pytest.raises(
        ConfigError, match=r"^train\.dpo\.batch: 8 records .* 3 processes \(set train\.dpo\.batch=9\)"
    ):
        step_batch(recipe, recipe.trained["judge@dpo"], 3)


@pytest.mark.engine
def test_two_steps_and_a_resumed_second_one(adapted: Path, tmp_path: Path) -> None:
    import torch

    recipe = small_recipe()
    trainer = trained(recipe, tmp_path / "whole")
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["step"] for entry in log] == [1, 2]
    assert log[0]["loss"] == pytest.approx(math.log(2), abs=1e-5), "the policy starts as its reference"
    assert log[0]["rewards/margins"] == pytest.approx(0, abs=1e-5)
    assert log[1]["loss"] < log[0]["loss"] and log[1]["rewards/margins"] > 0
    summary = training_summary(recipe, trainer)
    assert (summary["records"], summary["steps"], summary["epochs"]) == (8, 2, 2.0)

    part = tmp_path / "part"
    shutil.copytree(tmp_path / "whole" / "tokens", part / "tokens")
    first = tmp_path / "whole" / "checkpoints" / "checkpoint-1"
    shutil.copytree(first, part / "checkpoints" / first.name)
    assert (first / WHOLE).exists()
    resumed = trained(recipe, part)
    weights, expected = (
        {name: value for name, value in one.model.named_parameters() if ".default." in name}
        for one in (resumed, trainer)
    )
    assert weights.keys() == expected.keys() and weights
    for name, value in weights.items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=0, msg=name)


@pytest.mark.engine
def test_the_base_may_be_the_reference(adapted: Path, tmp_path: Path) -> None:
    trainer = trained(small_recipe(**{"train.dpo.reference": "base"}), tmp_path / "work")
    first = next(entry for entry in trainer.state.log_history if "loss" in entry)
    assert "ref" not in trainer.accelerator.unwrap_model(trainer.model).peft_config
    assert abs(first["loss"] - math.log(2)) > 1e-3, "the policy starts elsewhere"
