"""Stage 2 follows its training processes, and raises their errors."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import TrainingStep
from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.run import build_manifest
from reasongenrm.stages import train
from reasongenrm.stages.fingerprints import prepare_steps
from reasongenrm.store import write_json
from reasongenrm.train import builds
from reasongenrm.train.launch import Launch
from support.training_runs import begin_run, demo_recipe

pytestmark = pytest.mark.unit
LAUNCH = Launch(processes=2, machines=1, rank=0, zero=True, gpus=False)
DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"
WRITER = """
import json, sys, time
with open(sys.argv[1], "w") as out:
    for step in (6, 7):
        line = json.dumps({"step": step, "total": 7, "loss": step / 2, "tokens_per_second": None}) + "\\n"
        for part in (line[:9], line[9:]):  # a line may be read before all of it is written
            out.write(part)
            out.flush()
            time.sleep(0.3)
"""


def test_steps_are_shown_as_they_are_written_and_none_is_lost_at_the_end(tmp_path: Path) -> None:
    steps: list[TrainingStep] = []
    path = tmp_path / "progress.jsonl"
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)])
    train._show_steps(process, path, steps.append)
    assert process.returncode == 0
    assert steps == [TrainingStep(6, 7, 3.0), TrainingStep(7, 7, 3.5)]


def test_rollouts_of_vllm_without_a_gpu_are_an_error_before_any_step(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    recipe = load_recipe(DEMO.with_name("demo-rl.yaml"), ["train.grpo.rollouts=vllm"])
    with pytest.raises(ConfigError, match=r"^train.grpo.rollouts: "):
        train.check_settings(recipe)


def test_a_step_that_is_done_again_needs_its_reference_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ["train.grpo.rewards.rationale=1", "name=again"]
    recipe = load_recipe(DEMO.with_name("demo-rl.yaml"), overrides)
    monkeypatch.chdir(tmp_path)
    model = "reasongenrm@grpo"
    (recipe.folder / "judges" / model).mkdir(parents=True)
    (recipe.folder / "grpo.jsonl").write_text('{"id": "p"}\n', encoding="utf-8")
    train.check_records(recipe, recipe.trained[model])
    with pytest.raises(ConfigError, match="has reference points"):
        train.check_records(recipe, recipe.trained[model], [f"judges.{model}"])


@pytest.mark.parametrize(
    ("script", "kind", "message"),
    [
        (
            "print('it broke'); sys.exit(3)",
            EngineError,
            r"logs/x.log: accelerate launch ended with code 3.*it broke",
        ),
        (
            "open('work/error.1.json', 'w').write(ERROR)",
            ConfigError,
            r"train.args: no such key \(remove it\)",
        ),
    ],
)
def test_errors_of_the_training_process_are_raised(
    script: str, kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    error = {"kind": "ConfigError", "problem": "no such key", "location": "train.args", "hint": "remove it"}
    error |= {"rank": 1, "time": 0.0}
    start = subprocess.Popen

    def fake(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        assert command[1:3] == ["-m", "accelerate.commands.launch"]
        return start(
            [sys.executable, "-c", f"import sys\nERROR = {json.dumps(error)!r}\n{script}"], **options
        )

    monkeypatch.setattr(train.subprocess, "Popen", fake)
    recipe = load_recipe(DEMO)
    with pytest.raises(kind, match=f"(?s){message}"):
        train._launch(recipe, recipe.trained["genrm"], Path("work"), Path("logs/x.log"), LAUNCH)


def test_an_interrupt_ends_the_training_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    start = subprocess.Popen

    def fake(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        processes.append(start([sys.executable, "-c", "import time; time.sleep(60)"], **options))
        return processes[0]

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train.subprocess, "Popen", fake)
    monkeypatch.setattr(train, "_show_steps", interrupted)
    recipe = load_recipe(DEMO)
    with pytest.raises(KeyboardInterrupt):
        train._launch(recipe, recipe.trained["genrm"], Path("work"), Path("logs/x.log"), LAUNCH)
    assert processes[0].returncode == -9


ERROR = {
    "kind": "EngineError",
    "problem": "no op.so",
    "location": "train",
    "hint": "see the log",
    "rank": 0,
    "time": 0.0,
}

BUILD = """
import os, runpy, signal, sys
from importlib.util import find_spec
signal.alarm(30)  # torch would wait for ever
[torch] = find_spec("torch").submodule_search_locations  # whose import takes seconds
FileBaton = runpy.run_path(torch + "/utils/file_baton.py")["FileBaton"]
folder, work, role = sys.argv[1:]
baton, library = FileBaton(folder + "/lock"), folder + "/op.so"
if baton.try_acquire():
    if role == "other":
        open(work + "/locked", "w").close()
        signal.pause()
    open(library, "w").close()
    baton.release()
else:
    open(work + "/waits", "w").close()
    baton.wait()
print("loads", os.path.exists(library), flush=True)
open(library).close()
"""
"""As torch builds and loads an extension."""


@pytest.mark.parametrize("machines", [1, 2])
def test_a_training_does_not_wait_for_a_build_that_is_killed(
    machines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Another run begins to build after the launch has looked for locks, and is killed while the training waits."""
    folder, work, log = tmp_path / "extensions" / "op", tmp_path / "work", tmp_path / "logs" / "x.log"
    folder.mkdir(parents=True)
    work.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder.parent))
    monkeypatch.setattr(builds, "WATCH_SECONDS", 0.2)
    monkeypatch.setattr(builds, "_is_local", lambda path: True)
    start, launched = subprocess.Popen, 0

    def wait_for(path: Path) -> None:
        end = time.monotonic() + 60
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.05)
        assert path.exists()

    def launch(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        nonlocal launched
        launched += 1
        build = [sys.executable, "-c", BUILD, str(folder), str(work)]
        if launched == 1:
            other = start([*build, "other"])
            wait_for(work / "locked")
        training = start([*build, "training"], **options)
        if launched == 1:
            wait_for(work / "waits")
            (work / "error.0.json").write_text(json.dumps(ERROR))
            other.kill()
            other.wait()
        return training

    monkeypatch.setattr(train.subprocess, "Popen", launch)
    recipe = load_recipe(DEMO)
    arguments = (recipe, recipe.trained["genrm"], work, log, LAUNCH._replace(machines=machines))
    if machines > 1:  # the other machines wait for this one in vain
        with pytest.raises(EngineError, match=r"no op\.so"):
            train._launch(*arguments)
        return
    train._launch(*arguments)
    assert launched == 2
    assert [line for line in log.read_text().splitlines() if line.startswith("loads")] == [
        "loads False",
        "loads True",
    ]
    assert "genrm: starting again: a build that it waited for was killed" in capfd.readouterr().err


def test_a_machine_that_follows_moves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch_file = DEMO.parent / "accelerate" / "cpu-2proc.yaml"
    args = "--num_processes 2 --num_machines 2 --machine_rank 1"
    recipe = load_recipe(DEMO, [f"train.launch={launch_file}", f"train.launch_args={args}"])
    monkeypatch.chdir(tmp_path)
    for name in ("pairs", "sft", "genrm", "general"):
        recipe.folder.mkdir(parents=True, exist_ok=True)
        (recipe.folder / f"{name}.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="--redo: machine 0 alone moves files"):
        train.train(recipe, ["judges"])


def begin_stage_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """Return the recipe of a run whose stage 1 has written records for SFT, and none for DPO."""
    folder = begin_run("small", tmp_path, monkeypatch)
    recipe = demo_recipe({
        "name": "small", "judges": {"judge": {"template": "reason", "steps": ["sft", "dpo"]}}, "scalar": None,
    })  # fmt: skip
    write_json(folder / "manifest" / "prepare.json", build_manifest(recipe, prepare_steps(recipe)))
    for name, text in (("pairs", "{}\n"), ("prompts", "{}\n"), ("sft", "{}\n"), ("dpo", "")):
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return recipe


def test_a_step_without_records_fails_before_the_first_one_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = begin_stage_2(tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"dpo\.jsonl: no records to train on \(leave out the step dpo"):
        train.train(recipe)
    assert not (recipe.folder / "judges").exists()


def test_a_reward_that_no_prompt_can_earn_fails_before_the_first_step_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin_stage_2(tmp_path, monkeypatch)
    judges = {"judge": {"template": "reason", "steps": ["sft", "grpo"]}}
    recipe = demo_recipe({
        "name": "small", "judges": judges, "scalar": None, "train.grpo.rewards.rationale": 1, "train.grpo.max_tokens": 64,
    })  # fmt: skip
    (recipe.folder / "grpo.jsonl").write_text('{"winner": "A", "reference_points": []}\n', encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"^train\.grpo\.rewards\.rationale: no row of runs/small/grpo\.jsonl"
    ):
        train.train(recipe)
    assert not (recipe.folder / "judges").exists()
    (recipe.folder / "judges" / "judge@grpo").mkdir(parents=True)  # a step that is done stays as it is
    (recipe.folder / "dpo.jsonl").write_text("", encoding="utf-8")
    later = demo_recipe({
        "name": "small", "judges": {"judge": {"template": "reason", "steps": ["sft", "grpo", "dpo"]}}, "scalar": None,
        "train.grpo.rewards.rationale": 1, "train.grpo.max_tokens": 64,
    })  # fmt: skip
    with pytest.raises(DataError, match=r"dpo\.jsonl: no records to train on"):
        train.train(later)


def test_another_prompt_file_than_that_of_stage_1_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = begin_stage_2(tmp_path, monkeypatch)
    (recipe.folder / "dpo.jsonl").write_text("{}\n", encoding="utf-8")
    path = tmp_path / "other.yaml"
    path.write_text(Path(recipe.prompts).read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"other\.yaml: not the prompt file that stage 1 has used"):
        train.train(recipe.model_copy(update={"prompts": str(path)}))
