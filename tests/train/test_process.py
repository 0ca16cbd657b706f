"""A chain of training steps, each in this process: what it leaves beside its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.encoder import judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.recipe import Recipe
from reasongenrm.demo.world import toy_pairs
from reasongenrm.reasons.records import grpo_row
from reasongenrm.records import SFTRecord
from reasongenrm.report.training_steps import chain_of, read_steps
from reasongenrm.store import read_jsonl, to_json, write_jsonl
from reasongenrm.train.process import train
from reasongenrm.train.tokens import tokenise
from reasongenrm.train.tracking import MEASURED, METRICS, steady_row
from support.training_runs import begin_run, demo_recipe, preference_row

STEPS = ["sft", "dpo", "grpo"]


def chain_recipe() -> Recipe:
    overrides = {
        "name": "chain",
        "judges": {"judge": {"template": "reason", "steps": STEPS}},
        "train.batch": 8,
        "train.tokens": None,
        "train.args": {
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "max_steps": 3,
            "learning_rate": 1e-4,
        },
        "train.dpo": {"batch": 8, "args": {"max_steps": 2}},
        "train.grpo": {"batch": 4, "samples": 2, "steps": 2, "max_tokens": 16},
    }
    return demo_recipe(overrides)


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toy_prompts: PromptFile) -> Path:
    """A run folder with the records of all three steps."""
    folder, pairs = begin_run("chain", tmp_path, monkeypatch), list(toy_pairs("train", 4, seed=2))
    prompts = [judge_prompt(pair, order, toy_prompts) for pair in pairs for order in ("AB", "BA")]
    sft = (
        SFTRecord(prompt.messages, "count it .", f"[[{prompt.winner}]]", prompt.id, "toy").to_row()
        for prompt in prompts
    )
    write_jsonl(folder / "sft.jsonl", sft)
    write_jsonl(folder / "dpo.jsonl", (preference_row(prompt, "count it .") for prompt in prompts))
    write_jsonl(folder / "grpo.jsonl", (grpo_row(prompt, 1, 2) for prompt in prompts))
    write_jsonl(folder / "pairs.jsonl", map(to_json, pairs))
    write_jsonl(folder / "prompts.jsonl", map(to_json, prompts))
    return folder


def train_step(recipe: Recipe, model: str) -> Path:
    """Train one step as stage 2 does, but in this process, and return its folder."""
    step, folder = recipe.trained[model], recipe.folder / "judges" / model
    work = folder.with_name(model + ".partial")
    if step.kind != "grpo":
        tokenise(recipe, step, judge_encoder(recipe, "reason", load_tokenizer(recipe.model)), work)
    train(recipe, step, work)
    (work / "final").rename(folder)
    return folder


@pytest.mark.engine
def test_every_step_leaves_its_metrics_curves_and_place_in_the_chain(records: Path) -> None:
    recipe = chain_recipe()
    folders = {model: train_step(recipe, model) for model in recipe.trained}
    assert list(folders) == ["judge", "judge@dpo", "judge@grpo"]
    own_keys = {
        "sft": {"mean_token_accuracy", "entropy"},
        "dpo": {"rewards/accuracies", "rewards/chosen"},
        "grpo": {
            "reward",
            "rewards/verdict/mean",
            "completions/mean_length",
            "entropy",
            "readable",
            "consistency",
        },
    }
    for (model, folder), steps in zip(folders.items(), (3, 2, 2), strict=True):
        step = recipe.trained[model]
        rows: list[dict[str, Any]] = list(read_jsonl(folder / METRICS))
        assert [row["step"] for row in rows] == list(range(1, steps + 1))
        for row in rows:
            assert {"loss", "learning_rate", "grad_norm", *MEASURED, *own_keys[step.kind]} <= row.keys(), (
                model
            )
            assert 0 < row["tokens_per_second"] < 1e6
        log = json.loads((folder / "loss.json").read_text(encoding="utf-8"))
        assert list(map(steady_row, rows)) == log
        assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
        training = json.loads((folder / "training.json").read_text(encoding="utf-8"))
        assert (training["model"], training["kind"], training["previous"]) == (
            model,
            step.kind,
            step.previous,
        )
        assert training["alarms"] == [] and training["settings"]["learning_rate"] > 0
    settings = json.loads((folders["judge@grpo"] / "training.json").read_text(encoding="utf-8"))["settings"]
    assert settings["num_generations"] == 2 and settings["rewards.verdict"] == 1.0
    known = read_steps(recipe.folder, list(recipe.judges))
    assert [step.model for step in chain_of(known, "judge@grpo")] == list(folders)
    count = sum(1 for _ in read_jsonl(records / "sft.jsonl"))
    assert [step.records or step.prompts for step in known.values()] == [count] * 3
    assert all(step.tokens_seen for step in known.values())
