"""Stage 2 follows its training processes, and raises their errors."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.loading import load_recipe
from reasongenrm.console import TrainingStep
from reasongenrm.errors import ConfigError, EngineError
from reasongenrm.stages import train
from reasongenrm.train.launch import Launch

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


def test_a_machine_that_follows_moves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launch_file = DEMO.parent / "accelerate" / "cpu-2proc.yaml"
    args = "--num_processes 2 --num_machines 2 --machine_rank 1"
    recipe = load_recipe(DEMO, [f"train.launch={launch_file}", f"train.launch_args={args}"])
    monkeypatch.chdir(tmp_path)
    for name in ("pairs", "sft", "genrm", "general"):
        recipe.folder.mkdir(parents=True, exist_ok=True)
        (recipe.folder / f"{name}.jsonl").touch()
    with pytest.raises(ConfigError, match="--redo: machine 0 alone moves files"):
        train.train(recipe, ["judges"])
