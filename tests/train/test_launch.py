"""Processes of a launch, its environment, and the cause of one that failed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.config.recipe import TrainConfig
from reasongenrm.errors import ConfigError, EngineError
from reasongenrm.processes import cores
from reasongenrm.train.launch import (
    PROCESSES,
    Launch,
    launch_command,
    launch_environment,
    launch_failure,
    read_launch,
    record_failure,
    record_processes,
)

pytestmark = pytest.mark.unit
CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "accelerate"
NODE = Launch(processes=8, machines=1, rank=0, zero=True, gpus=True)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`f(count)`: let torch count that many GPUs."""
    import torch

    return lambda count: monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


@pytest.mark.parametrize(
    ("file", "args", "visible", "expected"),
    [
        ("cpu-2proc", "", 0, Launch(2, 1, 0, True, False)),
        ("cpu-2proc", "--num_processes 3", 0, Launch(3, 1, 0, True, False)),
        ("single-gpu", "", 8, Launch(1, 1, 0, False, True)),
        ("zero2", "", 1, Launch(1, 1, 0, True, True)),
        ("zero2", "", 5, Launch(5, 1, 0, True, True)),
        ("zero3", "--num_processes=4", 8, Launch(4, 1, 0, True, True)),
        ("multi-node", "--machine_rank 1", 8, Launch(16, 2, 1, True, True)),
        ("multi-node", "--num_machines 4 --machine_rank=3", 8, Launch(32, 4, 3, True, True)),
    ],
)
def test_processes_follow_from_arguments_file_and_gpus(
    file: str, args: str, visible: int, expected: Launch, gpus: Any
) -> None:
    gpus(visible)
    launch = read_launch(TrainConfig(launch=str(CONFIGS / f"{file}.yaml"), launch_args=args))
    assert launch == expected


def test_a_launch_on_gpus_without_a_gpu_names_the_key(gpus: Any) -> None:
    gpus(0)
    with pytest.raises(ConfigError, match=r"^train.launch: .*zero2.yaml trains on GPUs, but none is visible"):
        read_launch(TrainConfig(launch=str(CONFIGS / "zero2.yaml")))


@pytest.mark.parametrize(
    ("content", "problem"),
    [("- 1", "not an accelerate config"), ("a: [", "not valid YAML"), (b"\xff\xfe", "not valid YAML")],
)
def test_an_accelerate_config_that_cannot_be_read(content: Any, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "launch.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=problem):
        read_launch(TrainConfig(launch=str(path)))


@pytest.mark.parametrize("name", ["", "nowhere.yaml", "x" * 5000, "a\0b"])
def test_an_accelerate_config_that_does_not_exist(name: str) -> None:
    with pytest.raises(ConfigError, match=r"^train.launch: file not found"):
        read_launch(TrainConfig(launch=name))


def test_arguments_with_an_open_quote() -> None:
    with pytest.raises(ConfigError, match=r"^train.launch_args: not valid as a command line: No closing"):
        read_launch(TrainConfig(launch=str(CONFIGS / "cpu-2proc.yaml"), launch_args='"'))


@pytest.mark.parametrize(
    "args",
    ["--num_processes 0", "--num_machines x", "--machine_rank -1", "--machine_rank ²", "--num_processes"],
)
def test_arguments_that_are_not_numbers(args: str) -> None:
    with pytest.raises(ConfigError, match=r"^train.launch_args: --.* is not a number"):
        read_launch(TrainConfig(launch=str(CONFIGS / "cpu-2proc.yaml"), launch_args=args))


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_every_shipped_config_can_be_read(name: str, gpus: Any) -> None:
    gpus(2)
    launch = read_launch(TrainConfig(launch=str(CONFIGS / name)))
    assert launch.processes >= 1
    file = yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8"))
    assert launch.gpus is not file.get("use_cpu", False)


def test_the_number_of_processes_is_passed_on_unless_it_is_an_argument() -> None:
    command = launch_command(TrainConfig(launch="l.yaml"), NODE, "m", "--judge", "x")
    assert command[1:] == [
        "-m", "accelerate.commands.launch", "--config_file", "l.yaml", "--num_processes", "8", "-m", "m", "--judge", "x",
    ]  # fmt: skip
    for args in ("--num_processes 2", "--num_processes=2"):
        command = launch_command(TrainConfig(launch="l.yaml", launch_args=args), NODE, "m")
        assert sum(word.startswith("--num_processes") for word in command) == 1


def test_on_several_machines_each_starts_its_own_processes() -> None:
    """The other launchers of DeepSpeed write the whole environment, API keys included, to `.deepspeed_env`."""
    config = TrainConfig(launch="l.yaml", launch_args="--deepspeed_multinode_launcher pdsh")
    command = launch_command(config, NODE._replace(machines=2), "m")
    assert command[-4:] == ["--deepspeed_multinode_launcher", "standard", "-m", "m"]  # the last one counts
    assert "standard" not in launch_command(TrainConfig(launch="l.yaml"), NODE, "m")


def test_one_process_sees_one_gpu_and_several_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    one = launch_environment(NODE._replace(processes=1))
    assert one["CUDA_VISIBLE_DEVICES"] == "3" and one["OMP_NUM_THREADS"] == str(cores())
    two_machines = launch_environment(NODE._replace(processes=16, machines=2))
    assert two_machines["CUDA_VISIBLE_DEVICES"] == "3,5"
    assert two_machines["OMP_NUM_THREADS"] == str(max(1, cores() // 8))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert launch_environment(NODE._replace(processes=1))["CUDA_VISIBLE_DEVICES"] == "0"
    assert "CUDA_VISIBLE_DEVICES" not in launch_environment(NODE._replace(processes=1, gpus=False))


def test_zero_does_not_resume_with_another_number_of_processes(tmp_path: Path) -> None:
    record_processes(tmp_path, NODE, "mine")
    assert json.loads((tmp_path / PROCESSES).read_text()) == {"processes": 8}
    record_processes(tmp_path, NODE._replace(processes=4), "mine")  # no checkpoint yet
    (tmp_path / "checkpoints" / "checkpoint-50").mkdir(parents=True)
    with pytest.raises(ConfigError) as caught:
        record_processes(tmp_path, NODE, "mine")
    assert "written by 4 processes" in caught.value.problem and "with 8" in caught.value.problem
    assert "--num_processes 4" in caught.value.hint and "--redo judges.mine" in caught.value.hint
    record_processes(tmp_path, NODE._replace(zero=False), "mine")


def _fail(work: Path, error: Exception, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", str(rank))
    record_failure(work, error)


def test_the_cause_is_shown_and_not_what_follows_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    log = tmp_path / "x.log"
    log.touch()
    _fail(tmp_path, RuntimeError("NCCL communicator was aborted on rank 0"), 0, monkeypatch)
    _fail(tmp_path, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), 3, monkeypatch)
    failure = launch_failure(tmp_path, log, 0, 1)
    assert isinstance(failure, EngineError)
    assert (
        failure.problem == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB (in process 3)"
    )
    assert failure.location == "train.args.per_device_train_batch_size"
    assert "gradient_checkpointing" in failure.hint


@pytest.mark.parametrize(
    ("error", "location", "hint"),
    [
        (
            RuntimeError("CUDA error: invalid device ordinal"),
            "train.launch_args",
            "fewer GPUs than processes",
        ),
        (
            RuntimeError("NCCL error: unhandled system error"),
            "train.launch_args",
            "NCCL_SOCKET_IFNAME",
        ),
        (KeyError("labels"), "train", "see x.log; the same command resumes"),
        (ValueError("Unknown norm: foo"), "train", "if a setting is the cause, change it"),
    ],
)
def test_known_causes_name_the_key_to_change(
    error: Exception, location: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail(tmp_path, error, 0, monkeypatch)
    failure = launch_failure(tmp_path, Path("x.log"), 0, 1)
    assert failure is not None and failure.location == location and hint in failure.hint


LOG = """\
ValueError: of an earlier launch
{start}Traceback (most recent call last):
  File "x.py", line 1, in <module>
[rank1]: ModuleNotFoundError: No module named 'deepspeed'
W1128 elastic
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
subprocess.CalledProcessError: Command '[...]' returned non-zero exit status 1.
"""


def test_a_launch_that_recorded_nothing_shows_the_first_error_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    before, _, after = LOG.partition("{start}")
    log.write_text(before + after)
    failure = launch_failure(tmp_path, log, len(before), 1)
    assert failure is not None and failure.location == str(log)
    assert failure.problem == (
        "accelerate launch ended with code 1: ModuleNotFoundError: No module named 'deepspeed'"
    )
    assert launch_failure(tmp_path, log, 0, 0) is None


def test_a_killed_process_is_named(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("  Signal 9 (SIGKILL) received by PID 77\nValueError: later\n".replace("  ", ""))
    failure = launch_failure(tmp_path, log, 0, 1)
    assert failure is not None and "killed (signal 9)" in failure.problem and "memory" in failure.hint


BROKEN = """
import os
if os.environ.get("RANK") == "1":
    import torch

    def step(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    torch.distributed.barrier = step
"""

CHILD = """
import os, sys, torch.distributed as dist
from pathlib import Path
from reasongenrm.train.launch import record_failure
dist.init_process_group("gloo")
try:
    dist.barrier()
except Exception as error:
    record_failure(Path(os.environ["WORK"]), error)
    raise
"""


def test_the_error_of_the_second_of_two_real_processes_is_shown(tmp_path: Path) -> None:
    """`accelerate launch` ends the other process, whose own error, if it has one, is of communication."""
    (tmp_path / "sitecustomize.py").write_text(BROKEN)
    (tmp_path / "child.py").write_text(CHILD)
    log = tmp_path / "x.log"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "WORK": str(tmp_path)}
    command = [
        sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "cpu-2proc.yaml"),
        str(tmp_path / "child.py"),
    ]  # fmt: skip
    with log.open("w") as out:
        done = subprocess.run(command, env=environment, stdout=out, stderr=out, timeout=110)
    failure = launch_failure(tmp_path, log, 0, done.returncode)
    assert failure is not None, log.read_text()
    assert failure.problem.endswith("Tried to allocate 2.00 GiB (in process 1)")
    assert failure.location == "train.args.per_device_train_batch_size"
