"""Training of all weights with ZeRO-3 and a verdict margin: killed, resumed, continued by DPO, and judged by stage 3."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from support.scripts import EVALUATE, TRAIN, Bench, Chain, kill_at, rows_of, value_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

STAGE_1 = ("pairs.jsonl", "prompts.jsonl", "sft.jsonl", "dpo.jsonl")
JUDGE, AFTER_DPO = "reasongenrm", "reasongenrm@dpo"


@pytest.fixture
def start(
    chain: Chain, bench: Callable[[str, Sequence[str]], Bench], toy_overrides: list[str]
) -> Callable[..., tuple[Bench, Path]]:
    """`f(run, *overrides)`: a bench for training all weights, and the run's folder with the records of the chain."""

    def make(run: str, *overrides: str) -> tuple[Bench, Path]:
        recipe = ["scalar=null", "train.parameters=all", "train.lora={}", "train.margin={}"]
        recipe += ["train.args.learning_rate=0.0005", "train.args.logging_steps=1", *overrides]
        made = bench("all", [*toy_overrides, *recipe])
        folder = made.folder(run)
        folder.mkdir(parents=True)
        for name in STAGE_1:
            shutil.copy(chain.folder / name, folder / name)
        return made, folder

    return make


def weights_of(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    found: dict[str, Any] = load_file(folder / "model" / "model.safetensors")
    return found


def test_all_weights_are_trained_resumed_continued_and_judged(
    start: Callable[..., tuple[Bench, Path]], taught_model: Path
) -> None:
    import torch
    from safetensors.torch import load_file

    steps = f"judges={{{JUDGE}: {{template: reason, steps: [sft, dpo]}}}}"
    dpo = "train.dpo={batch: 4, args: {max_steps: 2, learning_rate: 0.001}}"
    made, folder = start("split", steps, dpo, "train.launch=configs/accelerate/cpu-2proc-zero3.yaml")
    checkpoint = folder / "judges" / f"{JUDGE}.partial" / "checkpoints" / "checkpoint-3"
    kill_at(made.fork(TRAIN, "split"), (checkpoint / "whole").exists, 0.3, group=False, seed=8)
    made.good(TRAIN, "split")

    one_step = f"judges={{{JUDGE}: {{template: reason, steps: [sft]}}}}"
    alone, other = start("alone", one_step, "train.launch_args=--num_processes 1")
    alone.good(TRAIN, "alone")

    judges = folder / "judges"
    base = load_file(taught_model / "model.safetensors")
    ours, theirs = weights_of(judges / JUDGE), weights_of(other / "judges" / JUDGE)
    theirs.pop("lm_head.weight", None)  # the embeddings again: ZeRO-2 hands both to the file
    assert ours.keys() == theirs.keys() == base.keys()
    for name, weights in ours.items():
        torch.testing.assert_close(weights, theirs[name], rtol=1e-3, atol=1e-4)
        assert not torch.equal(weights, base[name]), f"{name} was not trained"
    losses, expected = (value_of(side / "judges" / JUDGE / "loss.json") for side in (folder, other))
    assert len(losses) == len(expected) > 5
    for entry, wanted in zip(losses, expected, strict=True):
        for key in ("loss", "margin", "margin_loss"):
            assert entry[key] == pytest.approx(wanted[key], rel=1e-3, abs=1e-3), (key, entry, wanted)
    later = weights_of(judges / AFTER_DPO)
    moved = max(float((later[name] - weights).abs().max()) for name, weights in ours.items())
    assert 1e-4 < moved < 0.05, "two steps of DPO from the model of SFT"
    for name in (JUDGE, AFTER_DPO):
        files = {path.name for path in (judges / name / "model").iterdir()}
        assert {"config.json", "tokenizer.json", "chat_template.jinja", "judge.yaml"} <= files
        assert not any(file.endswith((".bin", ".pt")) or file.startswith("adapter") for file in files)
        assert not (judges / name / "adapter").exists()
        assert "packed" not in (judges / name / "model" / "config.json").read_text()

    made.good(EVALUATE, "split", "evaluate.benchmarks.toy.limit=4")
    models = value_of(folder / "scores.json")["benchmarks"]["toy"]["models"]
    assert list(models) == ["base", "base-direct", JUDGE, AFTER_DPO]
    written = {
        name: [row["token_ids"] for row in rows_of(folder / "evaluate/toy" / name / "completions.jsonl")]
        for name in (JUDGE, AFTER_DPO)
    }
    assert written[JUDGE] != written[AFTER_DPO], "each model has its own engine"
    calm = made.good(EVALUATE, "split", "evaluate.benchmarks.toy.limit=4")
    assert "vLLM" not in calm.stderr, "nothing is judged again"
