"""The 7B recipe's training arguments on tiny weights: bf16, checkpointing, r 64, packed records, ZeRO-3 on two and ZeRO-2 on
three CPU processes, killed and resumed. The recipe file itself is loaded; model, data and sizes alone are other ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.loading import load_recipe
from reasongenrm.demo.world import toy_pairs
from reasongenrm.reasons.records import direct_record
from reasongenrm.store import to_json, write_jsonl
from support.scripts import EVALUATE, PREPARE, TRAIN, Bench, kill_at, lines, rows_of, value_of
from support.servers import ReceivedRequest, Reply, serving

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

RECORDS = 16
STEPS, SAVED = 5, 3
"""Of two steps per epoch; the checkpoint is in the middle of the second epoch."""

RECIPE = "configs/qwen2.5-7b.yaml"
RECORD_FILES = {"reasongenrm": "sft.jsonl", "genrm": "genrm.jsonl"}
"""Judges of the recipe -> their records."""

LAUNCH = {"zero2": "configs/accelerate/cpu-2proc.yaml", "zero3": "configs/accelerate/cpu-2proc-zero3.yaml"}


@pytest.fixture(scope="module")
def bf16_model(taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model in the recipes' dtype."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("bf16-model")
    AutoModelForCausalLM.from_pretrained(taught_model, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(taught_model).save_pretrained(folder)
    return folder


def write_stage_1(folder: Path, prompts: PromptFile) -> None:
    """Write what stage 2 reads of stage 1; the reasons have different lengths."""
    pairs = list(islice(toy_pairs("train", 80, seed=4), RECORDS))
    direct = [
        direct_record(judge_prompt(pair, "AB" if number % 2 else "BA", prompts), prompts.verdict)
        for number, pair in enumerate(pairs)
    ]
    reasoned = [
        replace(record, reason=" . ".join([f"{pair.chosen} , right"] * (1 + number % 5)))
        for number, (record, pair) in enumerate(zip(direct, pairs, strict=True))
    ]
    write_jsonl(folder / "pairs.jsonl", map(to_json, pairs))
    write_jsonl(folder / "sft.jsonl", (record.to_row() for record in reasoned))
    write_jsonl(folder / "genrm.jsonl", (record.to_row() for record in direct))


@pytest.fixture(scope="module")
def overrides(bf16_model: Path) -> list[str]:
    """Model, data and sizes; a batch of 8, by 2 passes of at most 2 records on each process."""
    return [
        f"model.path={bf16_model}",
        "prompts=configs/prompts/toy.yaml",
        "data.max_tokens=512",
        "train.batch=8",
        "scalar=null",
        f"train.args.max_steps={STEPS}",
        f"train.args.save_steps={SAVED}",
        "train.args.logging_steps=1",
        "train.args.warmup_steps=1",
    ]


def adapter_weights(folder: Path, judge: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "judges" / judge / "adapter" / "adapter_model.safetensors")


@pytest.mark.parametrize(("judge", "launch", "processes"), [("reasongenrm", "zero3", 2)])
def test_a_7b_recipe_trains_and_resumes_after_a_kill(
    bench: Callable[[str, Sequence[str]], Bench],
    overrides: list[str],
    toy_prompts: PromptFile,
    judge: str,
    launch: str,
    processes: int,
) -> None:
    import torch

    one = f"judges={{{judge}: {{template: {load_recipe(RECIPE).judges[judge].template}}}}}"
    launch_words = [f"train.launch={LAUNCH[launch]}", f"train.launch_args=--num_processes {processes}"]
    made = bench(f"{judge}-{launch}", [*overrides, one, *launch_words])
    made.recipe = RECIPE
    for run in ("calm", "killed"):
        write_stage_1(made.folder(run), toy_prompts)
    made.good(TRAIN, "calm")
    work = made.folder("killed") / "judges" / f"{judge}.partial"
    whole = work / "checkpoints" / f"checkpoint-{SAVED}" / "whole"
    kill_at(made.fork(TRAIN, "killed"), whole.exists, 0.3, group=True, seed=9)
    assert not (made.folder("killed") / "judges" / judge).exists()
    made.good(TRAIN, "killed")

    calm, killed = (made.folder(run) / "judges" / judge for run in ("calm", "killed"))
    summary = value_of(calm / "training.json")
    assert summary == value_of(killed / "training.json")
    assert (summary["batch"], summary["processes"], summary["steps"]) == (8, processes, STEPS)
    assert (
        summary["packing"]
        and summary["records"] == lines(made.folder("calm") / RECORD_FILES[judge]) == RECORDS
    )
    config = value_of(calm / "adapter" / "adapter_config.json")
    assert (config["r"], config["lora_alpha"], config["lora_dropout"]) == (64, 128, 0.05)

    losses, resumed = (value_of(folder / "loss.json") for folder in (calm, killed))
    assert (
        [entry["step"] for entry in losses]
        == [entry["step"] for entry in resumed]
        == list(range(1, STEPS + 1))
    )
    for entry, other in zip(losses, resumed, strict=True):
        assert entry["loss"] == pytest.approx(other["loss"], rel=1e-4)
    ours, theirs = (adapter_weights(made.folder(run), judge) for run in ("killed", "calm"))
    assert ours.keys() == theirs.keys() and len(ours) == 2 * 7 * 2, "both halves of all linear layers"
    for key, weights in ours.items():
        assert 64 in weights.shape and bool(weights.any()), f"{key} was not trained, or not gathered"
        torch.testing.assert_close(weights, theirs[key], rtol=1e-3, atol=1e-5)


BEST = "configs/qwen2.5-7b-best.yaml"


def thinking_teacher(received: ReceivedRequest) -> Reply:
    """Answer as a model that thinks between tags, with both verdicts in turn."""
    verdict = "AB"[received.body["seed"] % 2]
    text = f"<think>\nis {verdict} better ? i count .\n</think>\n\nso {verdict} is better .\n\n[[{verdict}]]"
    usage = {"prompt_tokens": 9, "completion_tokens": 20, "total_tokens": 29}
    choice = {"index": 0, "text": text, "finish_reason": "stop"}
    return 200, {"id": "c", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def test_the_strongest_plan_runs_from_stage_1_to_stage_3(
    bench: Callable[[str, Sequence[str]], Bench], bf16_model: Path, toy_data: Path
) -> None:
    sizes = [
        f"model.path={bf16_model}",
        f"teachers.qwen3.model.path={bf16_model}",
        "prompts=configs/prompts/toy.yaml",
        f"data.sources=[{{path: {toy_data / 'train.jsonl'}}}]",
        "engine={max_model_len: 512, max_num_seqs: 8}",
        "data.max_tokens=512",
        "teachers.qwen3.max_tokens=48",
        "teachers.student.max_tokens=48",
        "teachers.student.samples=4",
        "select.threshold=-1",
        "select.min_kept=0.2",
        "select.giveaway_words=0",
        f"train.launch={LAUNCH['zero2']}",
        "train.batch=8",
        "train.args.max_steps=2",
        "train.round={samples: 4, max_tokens: 48, args: {max_steps: 2}}",
        "train.grpo.batch=4",
        "train.grpo.samples=4",
        "train.grpo.max_tokens=48",
        "train.grpo.steps=2",
        "train.grpo.rollouts=generate",
        f"evaluate.benchmarks={{toy: {{kind: rewardbench, path: {toy_data / 'rewardbench.jsonl'}}}}}",
        "evaluate.max_tokens=16",
        "evaluate.votes=2",
    ]
    made = bench("best", sizes)
    made.recipe = BEST
    with serving(thinking_teacher) as server:
        made.good(PREPARE, "whole", f"teachers.qwen3.server.urls=['{server.url}/v1']")
    folder = made.folder("whole")
    traces = rows_of(folder / "reasons" / "qwen3.jsonl")
    assert {row["verdict"] for row in traces} == {"A", "B"} and "<think>" not in json.dumps(traces)
    assert 0 < lines(folder / "grpo.jsonl") < lines(folder / "prompts.jsonl")
    made.good(TRAIN, "whole")
    models = ("reasongenrm", "reasongenrm@round", "reasongenrm@grpo")
    for model, steps in zip(models, (2, 2, 2), strict=True):
        summary = value_of(folder / "judges" / model / "training.json")
        assert (summary["steps"], summary["processes"]) == (steps, 2)
    rewards = [
        row
        for row in rows_of(folder / "judges" / models[-1] / "metrics.jsonl")
        if "rewards/consistency/mean" in row
    ]
    assert len(rewards) == 2, "verdict and consistency are rewarded"
    made.good(EVALUATE, "whole")
    rows = lines(toy_data / "rewardbench.jsonl") - 1  # one of them is bad
    for model in models:
        assert lines(folder / "evaluate" / "toy" / model / "results.jsonl") == rows


def test_the_arguments_that_these_runs_use_are_those_of_the_recipe(overrides: list[str]) -> None:
    sizes = {"max_steps", "save_steps", "logging_steps", "warmup_steps"}
    file, tiny = (load_recipe(RECIPE, own) for own in ((), overrides))
    assert {key: value for key, value in tiny.train.args.items() if key not in sizes} == {
        key: value for key, value in file.train.args.items() if key not in sizes
    }
    assert json.dumps(tiny.train.lora) == json.dumps(file.train.lora) and file.train.batch == 128
    assert tiny.train.args["gradient_checkpointing"] and tiny.model.dtype == "bfloat16"
    assert not any(judge.args for judge in file.judges.values())
