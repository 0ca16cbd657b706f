"""Two steps of every trainer, in one process and in two: what they leave, and that the number of processes changes nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.chat.encoder import judge_encoder, load_tokenizer
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.config.recipe import Recipe, TrainStep
from reasongenrm.demo.world import toy_pairs
from reasongenrm.reasons.records import grpo_row
from reasongenrm.records import SFTRecord
from reasongenrm.report.training_steps import chain_of, read_steps
from reasongenrm.store import read_json, read_jsonl, to_json, write_jsonl
from reasongenrm.train.launch import launch_command, launch_environment, read_launch
from reasongenrm.train.tokens import refresh_folder, tokenise
from reasongenrm.train.tracking import MEASURED, METRICS, steady_row
from support.scripts import stage_server
from support.training_runs import ROOT, begin_run, demo_recipe, preference_row
from support.training_steps import train_step

ADAM = {"adam_epsilon": 1e-4}
"""Adam divides a gradient by its size, so that one of almost zero, which is a rounding error, moves a weight as far as any other; not
with this term. Else the processors of some machines leave two curves that are not the same, and other samples in GRPO."""

TWO_STEPS: dict[str, Any] = {
    "train.batch": 8,
    "train.tokens": None,
    "train.args": {
        "per_device_train_batch_size": 4,
        "logging_steps": 1,
        "max_steps": 2,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        **ADAM,
    },
    "train.round.max_tokens": 96,
    "train.dpo": {"batch": 8, "args": {"max_steps": 2, "learning_rate": 1e-4, **ADAM}},
    # Two processes halve the second of three pairs, whose orders are compared.
    "train.grpo": {
        "batch": 6,
        "samples": 2,
        "steps": 2,
        "max_tokens": 16,
        "baseline": "pair",
        "rewards": {"consistency": 1.0, "calibration": 0.5},
        "args": {"learning_rate": 1e-4, **ADAM},
    },
}
ALL = {"train.parameters": "all", "train.lora": {}, "train.grpo.args.beta": 1.0}
RECIPES: dict[str, tuple[list[str], dict[str, Any]]] = {
    "adapter": (["sft", "round", "dpo", "grpo"], {"train.margin": {}}),
    "all": (["sft", "dpo", "grpo"], ALL),
}
"""The steps of a judge and its settings, by the name of the recipe."""

CURVE: dict[str, Any] = {
    "train.args.max_steps": 30,
    "train.grpo.batch": 8,
    "train.grpo.samples": 4,
    "train.grpo.steps": 20,
    "train.grpo.baseline": "prompt",  # whose samples are often equally good: then the processes learn from unequally many
    "train.grpo.rewards": {},
    "train.grpo.args.learning_rate": 1e-3,
}
SAME = (
    "loss", "grad_norm", "margin", "margin_loss", "rewards/chosen", "rewards/rejected", "reward", "reward_std", "right",
    "readable", "consistency", "both_right",
)  # fmt: skip
"""Values of the log that do not depend on the number of processes. Entropy and KL of GRPO do: TRL logs the mean of the passes'."""


def write_records(recipe: Recipe, wording: PromptFile) -> None:
    """Write what stages 1 and 2 write before a launch."""
    folder, pairs = recipe.folder, list(toy_pairs("train", 8, seed=2))
    prompts = [judge_prompt(pair, order, wording) for pair in pairs for order in ("AB", "BA")]
    sft = [
        SFTRecord(prompt.messages, "count it .", f"[[{prompt.winner}]]", prompt.id, "toy").to_row()
        for prompt in prompts
    ]
    write_jsonl(folder / "sft.jsonl", sft)
    write_jsonl(folder / "dpo.jsonl", (preference_row(prompt, "count it .") for prompt in prompts))
    write_jsonl(folder / "grpo.jsonl", (grpo_row(prompt, 1, 2) for prompt in prompts))
    write_jsonl(folder / "pairs.jsonl", map(to_json, pairs))
    write_jsonl(folder / "prompts.jsonl", map(to_json, prompts))
    encoder = judge_encoder(recipe, "reason", load_tokenizer(recipe.model))
    for step in recipe.trained.values():
        if step.kind == "round":
            write_jsonl(refresh_folder(recipe, step) / "sft.jsonl", sft)
        if step.kind != "grpo":
            tokenise(
                recipe, step, encoder, (folder / "judges" / step.model).with_name(f"{step.model}.partial")
            )


def recipe_of(name: str, launch: str) -> Recipe:
    steps, changes = RECIPES.get(name) or (["sft", "grpo"], CURVE)
    fixed = {
        "name": name,
        "judges": {"judge": {"template": "reason", "steps": steps}},
        "train.launch": f"configs/accelerate/{launch}.yaml",
    }
    return demo_recipe(fixed | TWO_STEPS | changes)


def begin(
    names: Iterable[str],
    place: Path,
    patch: pytest.MonkeyPatch,
    wording: PromptFile,
    launch: str = "cpu-2proc",
) -> list[Recipe]:
    """Change to a new folder; return recipes whose runs in it wait for their training processes."""
    place.mkdir()
    begin_run("", place, patch)
    recipes = [recipe_of(name, launch) for name in names]
    for recipe in recipes:
        write_records(recipe, wording)
    return recipes


def train_here(names: Iterable[str], place: Path, wording: PromptFile) -> Path:
    """Train all steps of some recipes in this process, and return the folder of the runs."""
    with pytest.MonkeyPatch.context() as patch:
        for recipe in begin(names, place, patch, wording):
            for step in recipe.trained.values():
                train_step(recipe, step)
    return place / "runs"


def train_in_two(names: Iterable[str], place: Path, wording: PromptFile, launch: str) -> Path:
    """Train all steps of some recipes in the two processes of one launch, and return the folder of the runs."""
    with pytest.MonkeyPatch.context() as patch:
        recipes = begin(names, place, patch, wording, launch)
        files = [place / f"{recipe.name}.yaml" for recipe in recipes]
        for recipe, file in zip(recipes, files, strict=True):
            file.write_text(yaml.safe_dump(recipe.model_dump(mode="json")), encoding="utf-8")
        processes = read_launch(recipes[0].train)
        assert processes.processes == 2 and processes.zero
        command = launch_command(recipes[0].train, processes, "support.training_steps", *map(str, files))
        environment = launch_environment(processes)
        log = place / "log"
        done = stage_server().launch(command, log, folder=place, environment=environment, limit=800)
        assert done.code == 0, log.read_text()[-6000:]
    return place / "runs"


def weights_of(runs: Path, name: str, model: str) -> dict[str, Any]:
    from safetensors.torch import load_file

    [file] = (runs / name / "judges" / model).glob("*/*.safetensors")
    weights: dict[str, Any] = load_file(file)
    weights.pop("lm_head.weight", None)  # the embeddings again: without ZeRO-3 both are in the file
    return weights


def logged(runs: Path, name: str, model: str, rank: int) -> dict[str, Any]:
    """Return what the process of a rank wrote of a step: see `support.training_steps`."""
    record: dict[str, Any] = read_json(runs / name / "judges" / f"{model}.{rank}.json")
    return record


def curve(record: dict[str, Any]) -> list[dict[str, float]]:
    """Return the values of each step that do not depend on the number of processes."""
    rows = [
        {key: row[key] for key in ("step", *SAME) if key in row} for row in record["log"] if "loss" in row
    ]
    assert all(math.isfinite(value) for row in rows for value in row.values())
    return rows


def assert_same_curve(rows: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert row == pytest.approx(wanted, rel=1e-3, abs=1e-5), (row, wanted)


def start_of(runs: Path, name: str) -> dict[str, Any]:
    """Return the weights that the first step starts from; of an adapter, those that are zero."""
    from safetensors.torch import load_file

    if name == "all":
        return dict(load_file(ROOT / "data" / "toy-base" / "model.safetensors"))
    weights = weights_of(runs, name, "judge")
    return {key: value * 0 for key, value in weights.items() if "lora_B" in key}


def assert_same_way(weights: dict[str, Any], expected: dict[str, Any], before: dict[str, Any]) -> None:
    """Check that weights are as far from others as a thousandth of the way that they went; a single one, whose gradient is almost
    zero, may be farther: Adam makes all steps equally long."""
    apart, way = 0.0, 0.0
    for key, start in before.items():
        moved = float((expected[key] - start).abs().mean())
        assert moved > 1e-6, f"{key} was not trained"
        apart += float((weights[key] - expected[key]).abs().mean())
        way += moved
    assert apart < 1e-3 * way


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, toy_prompts: PromptFile) -> Path:
    """The runs of all recipes, trained in this process."""
    return train_here(RECIPES, tmp_path_factory.mktemp("alone") / "here", toy_prompts)


@pytest.mark.engine
@pytest.mark.parametrize(
    ("launch", "stage"), [("cpu-2proc", 2), pytest.param("cpu-2proc-zero3", 3, marks=pytest.mark.slow)]
)
def test_two_processes_train_what_one_does(
    launch: str, stage: int, alone: Path, tmp_path: Path, toy_prompts: PromptFile
) -> None:
    runs = train_in_two(RECIPES, tmp_path / "two", toy_prompts, launch)
    for name, (steps, _) in RECIPES.items():
        before = start_of(runs, name)
        for kind in steps:
            model = "judge" if kind == "sft" else f"judge@{kind}"
            first, second = (logged(runs, name, model, rank) for rank in (0, 1))
            assert first["zero"] == second["zero"] == stage and first["processes"] == 2
            assert first["weights"] == second["weights"] and first["weights"], (name, model)
            rows = curve(first)
            assert rows == curve(second) and [row["step"] for row in rows] == [1, 2]
            assert all(row["grad_norm"] > 0 for row in rows)
            assert_same_curve(rows, curve(logged(alone, name, model, 0)))
            weights, expected = (weights_of(side, name, model) for side in (runs, alone))
            assert weights.keys() == expected.keys()
            assert_same_way(weights, expected, before)
            before = weights
    distances = [row["kl"] for row in logged(runs, "all", "judge@grpo", 0)["log"] if "kl" in row]
    assert distances[0] == pytest.approx(0, abs=1e-6) and distances[1] > 1e-4, "from the model of DPO"


@pytest.mark.engine
@pytest.mark.slow
def test_the_curves_of_grpo_do_not_depend_on_the_number_of_processes(
    tmp_path: Path, toy_prompts: PromptFile
) -> None:
    """With ZeRO-2. ZeRO-3 samples without merged weights: within twenty steps a token may fall on the other side of a rounding error,
    and what follows is another sample; its first two steps are compared above."""
    here = train_here(["curve"], tmp_path / "one", toy_prompts)
    two = train_in_two(["curve"], tmp_path / "two", toy_prompts, "cpu-2proc")
    rows, expected = (curve(logged(runs, "curve", "judge@grpo", 0)) for runs in (two, here))
    assert len(rows) == 20 and len({row["reward"] for row in rows}) > 5
    assert_same_curve(rows, expected)


@pytest.mark.engine
def test_every_step_leaves_its_metrics_curves_and_place_in_the_chain(
    alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(alone.parent)
    recipe = recipe_of("adapter", "cpu-2proc")
    sft_keys = {"mean_token_accuracy", "entropy", "margin", "margin_loss"}
    own_keys = {
        "sft": sft_keys,
        "round": sft_keys,
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
    assert list(recipe.trained) == ["judge", "judge@round", "judge@dpo", "judge@grpo"]
    for step in recipe.trained.values():
        check_files(recipe, step, own_keys[step.kind])
    settings = read_json(recipe.folder / "judges" / "judge@grpo" / "training.json")["settings"]
    assert settings["num_generations"] == 4 and settings["rewards.verdict"] == 1.0
    known = read_steps(recipe.folder, list(recipe.judges))
    assert [step.model for step in chain_of(known, "judge@grpo")] == list(recipe.trained)
    count = sum(1 for _ in read_jsonl(recipe.folder / "sft.jsonl"))
    assert [step.records or step.prompts for step in known.values()] == [count] * 4
    assert all(step.tokens_seen for step in known.values())


def check_files(recipe: Recipe, step: TrainStep, own_keys: set[str]) -> None:
    """Check the files beside the weights of a step."""
    folder = recipe.folder / "judges" / step.model
    rows: list[dict[str, Any]] = list(read_jsonl(folder / METRICS))
    assert [row["step"] for row in rows] == [1, 2]
    for row in rows:
        assert {"loss", "learning_rate", "grad_norm", *MEASURED, *own_keys} <= row.keys(), step.model
        assert 0 < row["tokens_per_second"] < 1e6
    log = json.loads((folder / "loss.json").read_text(encoding="utf-8"))
    assert list(map(steady_row, rows)) == log
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    training = read_json(folder / "training.json")
    assert [training[key] for key in ("model", "kind", "previous")] == [step.model, step.kind, step.previous]
    assert training["alarms"] == [] and training["settings"]["learning_rate"] > 0
