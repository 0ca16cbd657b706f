"""`--dry-run` counts the rows of every source and shows two prompts; it writes nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.recipe import Recipe
from reasongenrm.demo.build import rewardbench_row, skywork_row
from reasongenrm.demo.world import toy_pairs
from reasongenrm.doctor.machine import Machine
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.run import Run, build_manifest
from reasongenrm.stages.preview import STEPS, preview
from reasongenrm.store import write_json, write_jsonl, write_text
from reasongenrm.train.launch import PROCESSES
from support.training_runs import begin_run, demo_recipe

pytestmark = pytest.mark.unit


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    write_jsonl(tmp_path / "train.jsonl", [*map(skywork_row, toy_pairs("train", 5, 17)), {}])
    (tmp_path / "ranked.csv").write_text(
        "prompt,answer,rank\nq,one,1\nq,two,2\nq,three,3\n", encoding="utf-8"
    )
    return Recipe.model_validate(
        {
            "name": "never-written",
            "model": {"path": "data/toy-base", "dtype": "float32"},
            "prompts": "configs/prompts/toy.yaml",
            "data": {
                "sources": [
                    {"path": str(tmp_path / "train.jsonl")},
                    {"path": str(tmp_path / "ranked.csv"), "kind": "ranked"},
                ]
            },
            "judges": {"reasongenrm": {}},
            "train": {"launch": str(Path("configs/accelerate/cpu-2proc.yaml").resolve())},
        }
    )


def test_every_row_is_counted(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    preview(recipe, "prepare")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "name: never-written" and "rows: 24" in lines
    assert {"  dropped: missing_column: 1", "  source ranked: 3", "  source toy-chat: 5"} <= set(lines)
    assert sum(line.startswith("--- prompt ") for line in lines) == 2
    assert "--- estimate" in lines and lines[-1].startswith("assumed: ")
    assert any(line.startswith("| GPUs | GiB each | weights | KV cache | KV tokens |") for line in lines)
    assert not recipe.folder.exists()


def test_steps_to_do_again_are_shown(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe.model_copy(update={"name": f"test-{os.getpid()}-preview"})
    write_jsonl(recipe.folder / "scored.jsonl", [])
    try:
        preview(recipe, "prepare", ["scores"])
        assert [str(path) for path in recipe.folder.rglob("*")] == [str(recipe.folder / "scored.jsonl")]
    finally:
        shutil.rmtree(recipe.folder)
    lines = capsys.readouterr().out.splitlines()
    start = lines.index("--- to do again, after the files before were moved to replaced/")
    assert lines[start + 1 : start + 4] == ["scores: scored.jsonl", "records: no files yet", "--- estimate"]
    with pytest.raises(ConfigError, match="there is no step 'score'"):
        preview(recipe, "prepare", ["score"])


def test_limit_counts_a_share_of_every_source(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    preview(recipe.model_copy(update={"limit": 4}), "prepare")
    lines = capsys.readouterr().out.splitlines()
    assert {"rows: 4", "  source ranked: 2", "  source toy-chat: 1", "  source toy-chat-hard: 1"} <= set(
        lines
    )


def test_missing_records_name_the_script_that_writes_them(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    preview(recipe, "train")
    output = capsys.readouterr().out
    assert f"{recipe.folder / 'sft.jsonl'}: not found; run 1_prepare.sh first" in output
    rows = sum(path.stat().st_size // 1000 for path in (tmp_path / "train.jsonl", tmp_path / "ranked.csv"))
    assert f"reasongenrm: assumed {rows} rows of 7,200 characters" in output


def test_records_with_a_text_prompt_are_shown(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = recipe.folder
    write_jsonl(folder / "sft.jsonl", [{"prompt": "which one?", "reason": "r", "response": "[[A]]"}])
    preview(recipe, "train")
    output = capsys.readouterr().out
    assert f"--- prompt {folder / 'sft.jsonl'}:1\nwhich one?\n" in output
    assert "--- estimate\nnone: model.path: directory not found: data/toy-base" in output  # of this folder
    write_jsonl(folder / "sft.jsonl", [{"prompt": 5, "reason": "r", "response": "[[A]]"}])
    with pytest.raises(DataError, match=r"sft\.jsonl:1: `prompt` is a number"):
        preview(recipe, "train")


@pytest.mark.parametrize("value", ["many", None])
def test_a_key_of_a_trainer_that_is_no_number_is_named(recipe: Recipe, value: str | None) -> None:
    chain = {"teachers": {"student": {"mode": "blind"}}, "records": {"dpo": {}}}
    for key in ("beta", "max_steps"):  # a float and an int of trl.DPOConfig
        args = {"steps": ["sft", "dpo"], "dpo": {"args": {key: value}}}
        values = recipe.model_dump(mode="json")
        wrong = Recipe.model_validate(values | chain | {"train": values["train"] | args})
        with pytest.raises(ConfigError, match=rf"train.dpo.args.{key}: .*not a number"):
            preview(wrong, "train")


def test_every_training_step_has_the_size_of_its_input(
    recipe: Recipe, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = {
        "model": {"path": "Qwen/Qwen2.5-7B-Instruct"},
        "teachers": {"student": {"mode": "blind"}},
        "records": {"dpo": {}, "grpo": {}},
        "train": {
            "launch": "configs/accelerate/zero2.yaml",
            "steps": ["sft", "round", "dpo", "grpo"],
            "dpo": {"args": {"num_train_epochs": 1}},
            "round": {"args": {"num_train_epochs": 1}},
            "grpo": {"steps": 1000, "batch": 10, "samples": 10},
        },
    }
    recipe = Recipe.model_validate(recipe.model_dump(mode="json") | chain)
    monkeypatch.setattr("reasongenrm.doctor.workload.read_machine", lambda: Machine((), {}, ""))
    root = Path.cwd()
    monkeypatch.chdir(tmp_path)
    for name in ("configs", "data"):
        (tmp_path / name).symlink_to(root / name)
    text, turn = "x" * 40_000, {"role": "user", "content": "x" * 40_000}  # 10,000 tokens
    sides = {side: [turn, {"role": "assistant", "content": ""}] for side in ("chosen", "rejected")}
    for name, rows, row in (
        ("sft", 100, {"prompt": text, "reason": text, "response": ""}),
        ("prompts", 300, {"id": "p", "messages": [turn], "winner": "A"}),
        ("dpo", 200, {"prompt": [turn], **sides}),
        ("grpo", 50, {"prompt": [turn], "winner": "A"}),
    ):
        write_jsonl(recipe.folder / f"{name}.jsonl", [row] * rows)
    preview(recipe, "train")
    output = capsys.readouterr().out
    assert "rows: 650" in output and "  prompts.jsonl: 300" in output
    rows = [line.strip("| ").split(" | ") for line in output.splitlines() if "1 × H200" in line]
    tokens = {row[0]: (row[9], row[10]) for row in rows}
    assert tokens == {
        "reasongenrm": ("0", "6"),  # 100 records of 20,000 tokens, three epochs
        "reasongenrm@round": ("0", "3"),  # 300 prompts; samples of 308 tokens
        "reasongenrm@dpo": ("0", "8"),  # 200 pairs of two sequences of 20,000 tokens
        "reasongenrm@grpo": ("31", "1,031"),  # 100,000 completions of 308 tokens, behind 10,000 tokens
        "all steps": ("–", "–"),
    }
    assert (
        "not ready: train.launch: configs/accelerate/zero2.yaml trains on GPUs, but none is visible" in output
    )


JUDGE = {"name": "small", "scalar": None, "train.launch": "configs/accelerate/cpu-2proc.yaml"}
CHAIN = {"judge": {"template": "reason", "steps": ["sft", "dpo"]}}


def listing(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("stage", "file", "change", "message", "word"),
    [
        ("prepare", "scored.jsonl", {"model.revision": "new"}, "model.revision changed from null to new", "pairs"),
        ("train", "judges/judge/x", {"train.args.learning_rate": 0.5}, "learning_rate changed from 0.001 to 0.5", "judges"),
        ("evaluate", "evaluate/toy/judge/completions.jsonl", {"evaluate.max_tokens": 99}, "evaluate.max_tokens changed from 96 to 99",
         "evaluate"),
    ],
)  # fmt: skip
def test_settings_that_the_stage_refuses_are_refused_with_the_same_words(
    stage: str, file: str, change: dict[str, Any], message: str, word: str,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    folder = begin_run("small", tmp_path, monkeypatch)
    write_jsonl(tmp_path / "build" / "toy" / "train.jsonl", map(skywork_row, toy_pairs("train", 2, 17)))
    write_jsonl(
        tmp_path / "build" / "toy" / "rewardbench.jsonl",
        [rewardbench_row(1, next(iter(toy_pairs("test", 1, 17))))],
    )
    keys = JUDGE | {"judges": {"judge": {"template": "reason"}}}
    sources = {"data.sources": [{"path": "build/toy/train.jsonl"}]}
    recipe = demo_recipe(keys | sources | {"train.args.learning_rate": 0.001})
    write_json(folder / "manifest" / f"{stage}.json", build_manifest(recipe, STEPS[stage](recipe)))
    write_text(folder / file, "x")
    changed = demo_recipe(keys | sources | {"train.args.learning_rate": 0.001} | change)
    before = listing(folder)
    with pytest.raises(ConfigError) as said:
        preview(changed, stage)
    assert message in said.value.problem and f"add --redo {word}" in said.value.hint
    preview(recipe, stage)
    capsys.readouterr()
    preview(changed, stage, [word])
    output = capsys.readouterr().out
    assert "--- to do again" in output and file.split("/")[0] in output
    assert listing(folder) == before, "a dry run writes nothing"
    with pytest.raises(ConfigError) as raised, Run(changed, stage).claim(STEPS[stage](changed)):
        pass
    assert str(raised.value) == str(said.value)


@pytest.fixture
def records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run with the files of stage 1, each of one row."""
    folder = begin_run("small", tmp_path, monkeypatch)
    row = {"prompt": "which one?", "reason": "r", "response": "[[A]]", "winner": "A"}
    for name in ("pairs", "sft", "dpo", "grpo"):
        write_jsonl(folder / f"{name}.jsonl", [row])
    write_jsonl(folder / "prompts.jsonl", [{"id": "p", "messages": [], "winner": "A"}])
    return folder


def test_processes_that_cannot_share_a_step_are_refused(records: Path) -> None:
    keys = JUDGE | {"judges": CHAIN, "train.dpo.batch": 4}
    preview(demo_recipe(keys), "train")
    with pytest.raises(ConfigError, match=r"^train\.dpo\.batch: 4 records cannot be divided evenly among 3"):
        preview(demo_recipe(keys | {"train.launch_args": "--num_processes 3"}), "train")


def test_a_step_without_records_or_reference_points_is_refused(records: Path) -> None:
    steps = {"judge": {"template": "reason", "steps": ["sft", "grpo"]}}
    keys = JUDGE | {"judges": steps, "train.grpo.rewards.rationale": 1, "train.grpo.max_tokens": 64}
    with pytest.raises(
        ConfigError, match=r"^train\.grpo\.rewards\.rationale: no row of runs/small/grpo\.jsonl"
    ):
        preview(demo_recipe(keys), "train")
    (records / "dpo.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"dpo\.jsonl: no records to train on"):
        preview(demo_recipe(JUDGE | {"judges": CHAIN}), "train")


def test_checkpoints_of_another_number_of_processes_are_refused(records: Path) -> None:
    work = records / "judges" / "judge.partial"
    (work / "checkpoints" / "checkpoint-3").mkdir(parents=True)
    write_json(work / PROCESSES, {"processes": 2})
    four = JUDGE | {"judges": CHAIN, "train.launch_args": "--num_processes 4"}
    with pytest.raises(ConfigError, match="the checkpoints of judge judge were written by 2 processes"):
        preview(demo_recipe(four), "train")
    preview(demo_recipe(four), "train", ["judges.judge"])
    preview(demo_recipe(JUDGE | {"judges": CHAIN}), "train")


def test_settings_of_stages_1_and_3_are_checked(recipe: Recipe, capsys: pytest.CaptureFixture[str]) -> None:
    values = recipe.model_dump(mode="json")
    for change, message in (
        ({"select": {"formula": "foo("}}, r"^select\.formula: "),
        (
            {"train": values["train"] | {"args": {"nothing": 1}}},
            r"^train\.args\.nothing: SFTConfig has no key",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            preview(Recipe.model_validate(values | change), "prepare")
    capsys.readouterr()
    teachers = {"student": {"model": {"path": "./none"}}}
    preview(Recipe.model_validate(values | {"teachers": teachers}), "prepare")
    assert "\nnot ready: teachers.student.model.path: directory not found: ./none" in capsys.readouterr().out
    lists = {"benchmarks": {"toy": {"kind": "rewardbench", "path": "x.jsonl", "mode": "ratings"}}}
    with pytest.raises(ConfigError, match=r"^evaluate\.benchmarks\.toy\.mode: .* has no key `rating`"):
        preview(Recipe.model_validate(values | {"evaluate": lists}), "evaluate")
    assert f"not ready: {recipe.weights('reasongenrm')}: directory not found (run 2_train.sh first)" in (
        capsys.readouterr().out
    )
