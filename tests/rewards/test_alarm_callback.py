"""The alarm's callback in TRL's GRPO trainer: it measures, resumes, and leaves the training as it is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reasongenrm.config.recipe import TrainConfig
from reasongenrm.errors import ConfigError
from reasongenrm.rewards.alarm import HackingWatch
from reasongenrm.rewards.alarm_callback import alarm_callback
from reasongenrm.store import read_json
from reasongenrm.train.launch import launch_command, launch_environment, read_launch
from support.scripts import stage_server
from support.watched_training import Pleased


@pytest.mark.e2e
@pytest.mark.slow
def test_a_watched_training_learns_the_same_and_a_killed_one_ends_with_the_same_checks(
    tiny_model: Path, tmp_path: Path
) -> None:
    environment = os.environ | {"PYTHONPATH": "tests", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, "-m", "support.killed_training", str(tiny_model), str(tmp_path)]
    with (tmp_path / "log").open("w") as log:
        subprocess.run(command, env=environment, stdout=log, stderr=log, timeout=600, check=True)
    killed = [["killed", kill, -signal.SIGKILL] for kill in ("judge 3", "step 5", "judge 7")]
    ends = [["plain", "", 0], ["whole", "", 0], *killed, ["killed", "", 0]]
    assert read_json(tmp_path / "ends.json") == ends, (tmp_path / "log").read_text()[-6000:]
    plain, whole, continued = (read_json(tmp_path / f"{way}.json") for way in ("plain", "whole", "killed"))
    assert plain == whole == continued

    content = (tmp_path / "whole/alarm/alarm.jsonl").read_bytes()
    rows = [json.loads(line) for line in content.splitlines()]
    assert [row["step"] for row in rows] == [0, 3, 6, 7], "before, every third step, and at the end"
    assert [[step for step, _ in row["rewards"]] for row in rows] == [[], [1, 2], [3, 4, 5], [6]]
    assert all(len(row["answers"]) == 4 for row in rows) and rows[0]["answers"] != rows[-1]["answers"]
    assert (tmp_path / "killed/alarm/alarm.jsonl").read_bytes() == content
    report = (tmp_path / "whole/alarm/alarm.md").read_bytes()
    assert (tmp_path / "killed/alarm/alarm.md").read_bytes() == report


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.parametrize(
    ("launch", "stage", "ways"),
    [
        ("cpu-2proc", 2, ["plain", "whole", "again", "refused", "broken"]),
        ("cpu-2proc-zero3", 3, ["plain", "whole", "again", "parts"]),
    ],
)
def test_two_processes_share_the_sampling_and_one_of_them_judges(
    launch: str, stage: int, ways: list[str], tiny_model: Path, toy_tokenizer: Any, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    toy_tokenizer.save_pretrained(model)
    config = TrainConfig(launch=f"configs/accelerate/{launch}.yaml")
    processes = read_launch(config)
    command = launch_command(config, processes, "support.watched_training", str(model), str(tmp_path), *ways)
    environment = launch_environment(processes) | {"PYTHONPATH": "tests"}
    log = tmp_path / "log"  # processes that wait for each other end by the time limit
    done = stage_server().launch(command, log, environment=environment, limit=900)
    said = log.read_text()
    assert done.code == 0, said[-6000:]

    def record(way: str, rank: int) -> dict[str, Any]:
        read: dict[str, Any] = read_json(tmp_path / f"{way}.{rank}.json")
        return read

    problem = "OSError: the line is cut"
    for way, kinds, problems in (
        ("refused", ["EngineError", "EngineError"], ["no such judge", "no such judge"]),
        ("broken", ["OSError", "EngineError"], ["the line is cut", f"the first process failed in a check: {problem}"]),
    ):  # fmt: skip
        if way not in ways:
            continue
        ends = [record(way, rank) for rank in (0, 1)]
        assert [end["kind"] for end in ends] == kinds and [end["problem"] for end in ends] == problems
        assert [end["step"] for end in ends] == [2, 2], "none goes on, and none waits"
        rows = (tmp_path / way / "alarm/alarm.jsonl").read_text().splitlines()
        assert [json.loads(row)["step"] for row in rows] == [0, 1]

    for way in {*ways} - {"refused", "broken"}:
        first, second = record(way, 0), record(way, 1)
        assert first["zero"] == stage and first["weights"] == second["weights"]
        if way != "again":
            assert first["weights"] == record("plain", 0)["weights"], "what is watched learns the same"
        assert (second["judged"], second["checks"], second["alarms"]) == (0, [], []), (
            "the first process alone"
        )
    for way in {"whole", "parts"} & {*ways}:
        first = record(way, 0)
        assert (first["judged"], first["checks"]) == (6, [0, 1, 2, 3, 4, 5])
        [alarm] = first["alarms"]
        trainings = 2 if way == "whole" else 1
        assert "agreement" in alarm and said.count(f"ALARM {alarm}; see {tmp_path / way}") == trainings
        rows = [json.loads(line) for line in (tmp_path / way / "alarm/alarm.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]
        assert all(len(row["answers"]) == 9 for row in rows)
        assert not (tmp_path / way / "other-machine").exists()
    resumed = record("again", 0)
    assert resumed["checks"] == [0, 1, 2, 3, 4, 5], "from step 4 on, which was checked"
    assert resumed["judged"] <= 1 and resumed["alarms"] == record("whole", 0)["alarms"]


@pytest.mark.unit
@pytest.mark.parametrize(
    ("change", "location"),
    [
        ({"every": 2.5}, "every"),
        ({"every": "a"}, "every"),
        ({"every": 0}, "every"),
        ({"trainer": None}, "trainer"),
        ({"watch": None}, "watch"),
        (
            {
                "trainer": SimpleNamespace(
                    accelerator=None, model=None, processing_class=None, is_fsdp_enabled=True
                )
            },
            "trainer",
        ),
    ],
)
def test_what_a_callback_cannot_use_is_refused(change: dict[str, Any], location: str, tmp_path: Path) -> None:
    watch = HackingWatch(tmp_path, judge=Pleased(), prompts=["say no"], references=["no"])
    model = SimpleNamespace(accelerator=None, model=None, processing_class=None)
    good = {"watch": watch, "trainer": model, "every": 2}
    assert alarm_callback(**good), "the rest is accepted"
    with pytest.raises(ConfigError) as caught:
        alarm_callback(**(good | change))
    assert caught.value.location == location and caught.value.hint
