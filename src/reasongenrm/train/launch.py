"""`accelerate launch`: its processes and environment, and the cause of a launch that failed."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from reasongenrm import errors
from reasongenrm.config.recipe import TrainConfig
from reasongenrm.errors import ConfigError, EngineError, ReasonGenRMError, first_line
from reasongenrm.processes import cores
from reasongenrm.store import read_json, write_json

STAGE_PROCESS = "REASONGENRM_STAGE_PROCESS"
"""Environment variable with the process id of the stage that launched a training process."""

PROCESSES = "processes.json"
"""File in a judge's work folder with the number of processes that write its checkpoints."""

ONE_PROCESS_KINDS = ("NO", "MULTI_CPU")
"""Values of accelerate's `distributed_type` with which the config file itself says how many processes there are."""

_TRACEBACK_END = re.compile(r"^(?:\[rank\d+\]: *)?([A-Za-z_][\w.]*(?:Error|Exception|Interrupt)): (.+)")
_SUMMARY = ("ChildFailedError", "CalledProcessError", "SignalException")
_RESUME = "the same command resumes from the last checkpoint"


class Launch(NamedTuple):
    """How many processes train, and on how many machines.

    Attributes:
        processes: of all machines together.
        machines: number of machines.
        rank: number of this machine, from 0.
        zero: whether DeepSpeed splits the optimizer, so that a checkpoint needs the same number of processes.
        gpus: whether the processes compute on GPUs.
    """

    processes: int
    machines: int
    rank: int
    zero: bool
    gpus: bool


class NoGPUError(ConfigError):
    """The launch file trains on GPUs, and none is visible here."""


def read_launch(config: TrainConfig) -> Launch:
    """Return the processes of a training from the accelerate config, its further arguments and the visible GPUs.

    Raises:
        ConfigError: the file does not exist or is not a mapping, or an argument cannot be read.
        NoGPUError: there is no GPU.
    """
    path = Path(config.launch)
    if not os.path.isfile(path):  # False also for a name that is too long
        raise ConfigError(f"file not found: {path}", location="train.launch", hint="see configs/accelerate/")
    try:
        file = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"not valid YAML: {first_line(error)}", location=str(path), hint="see configs/accelerate/"
        ) from None
    if not isinstance(file, dict):
        raise ConfigError("not an accelerate config", location=str(path), hint="see configs/accelerate/")
    arguments = _numbers(config.launch_args)
    machines = arguments.get("num_machines", int(file.get("num_machines") or 1))
    kind = str(file.get("distributed_type") or "NO")
    on_gpus = not file.get("use_cpu")
    processes = arguments.get("num_processes")
    if processes is None and (kind in ONE_PROCESS_KINDS or not on_gpus):
        processes = int(file.get("num_processes") or 1)
    elif processes is None:
        processes = machines * _visible_gpus(config.launch)
    return Launch(processes, machines, arguments.get("machine_rank", 0), kind == "DEEPSPEED", on_gpus)


def _numbers(launch_args: str) -> dict[str, int]:
    """Return the arguments that count processes and machines."""
    try:
        words = shlex.split(launch_args.replace("=", " "))
    except ValueError as error:
        raise ConfigError(
            f"not valid as a command line: {first_line(error)}",
            location="train.launch_args",
            hint="close every quote",
        ) from None
    values = dict(pairwise([*words, ""]))
    numbers = {}
    for name, least in {"num_processes": 1, "num_machines": 1, "machine_rank": 0}.items():
        value = values.get(f"--{name}")
        if value is None:
            continue
        if not (value.isascii() and value.isdecimal() and int(value) >= least):
            hint = "count from 0" if least == 0 else "give 1 or more"
            raise ConfigError(f"--{name} {value!r} is not a number", location="train.launch_args", hint=hint)
        numbers[name] = int(value)
    return numbers


def _visible_gpus(launch: str) -> int:
    import torch

    count = torch.cuda.device_count()
    if not count:
        raise NoGPUError(
            f"{launch} trains on GPUs, but none is visible",
            location="train.launch",
            hint="set train.launch=configs/accelerate/cpu-2proc.yaml, or check CUDA_VISIBLE_DEVICES and the driver",
        )
    return count


def check_processes(work: Path, launch: Launch, judge: str) -> None:
    """Compare the number of processes with that of the checkpoints in a judge's work folder.

    Raises:
        ConfigError: checkpoints of ZeRO are there, written by another number of processes.
    """
    path = work / PROCESSES
    if launch.zero and path.exists() and any(work.glob("checkpoints/checkpoint-*")):
        before = read_json(path)["processes"]
        if before != launch.processes:
            raise ConfigError(
                f"the checkpoints of judge {judge} were written by {before} processes, and ZeRO cannot resume with "
                f"{launch.processes}",
                location="train.launch_args",
                hint=f'set train.launch_args="--num_processes {before}" to resume, or add --redo judges.{judge} '
                "to train it from the start",
            )


def record_processes(work: Path, launch: Launch, judge: str) -> None:
    """Record the number of processes in a judge's work folder; see `check_processes`."""
    check_processes(work, launch, judge)
    write_json(work / PROCESSES, {"processes": launch.processes})


def launch_command(config: TrainConfig, launch: Launch, module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module in every process."""
    words = shlex.split(config.launch_args)
    names = {word.partition("=")[0] for word in words}
    if "--num_processes" not in names:
        words += ["--num_processes", str(launch.processes)]
    if launch.zero and launch.machines > 1:
        # Each machine starts its own processes. The other launchers do it over ssh, and write the environment, keys
        # included, to a file.
        words += ["--deepspeed_multinode_launcher", "standard"]
    program = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config.launch]
    return [*program, *words, "-m", module, *arguments]


def launch_environment(launch: Launch) -> dict[str, str]:
    """Return the environment of the processes: threads, and one GPU where one process would take all."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", STAGE_PROCESS: str(os.getpid())}
    here = max(1, launch.processes // launch.machines)
    environment.setdefault("OMP_NUM_THREADS", str(max(1, cores() // here)))
    if launch.gpus and here == 1:
        # With several visible GPUs the trainer of a single process would copy the model to each (DataParallel).
        environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    return environment


def record_failure(work: Path, error: Exception) -> None:
    """Write the error of a training process, so that the stage can show it: `error.<rank>.json`."""
    if isinstance(error, ReasonGenRMError):
        failure = {"kind": type(error).__name__, **vars(error)}
    else:
        failure = {"kind": "EngineError", **explain_failure(error)}
    rank = os.environ.get("RANK", "0")
    write_json(work / f"error.{rank}.json", {"rank": int(rank), "time": time.time(), **failure})


def explain_failure(error: Exception) -> dict[str, Any]:
    """Return problem, location and hint of an error that a library raised while training; `communication` is true where
    it may only follow from the end of another process."""
    import torch

    text, problem = str(error), f"{type(error).__name__}: {first_line(error)}"
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "out of memory" in text:
        return {
            "problem": problem,
            "location": "train.args.per_device_train_batch_size",
            "hint": "lower it (train.batch, the records of a step, stays), set train.args.gradient_checkpointing=true, "
            "or split the weights too: train.launch=configs/accelerate/zero3.yaml",
        }
    if "invalid device ordinal" in text:
        return {
            "problem": problem,
            "location": "train.launch_args",
            "hint": "there are fewer GPUs than processes: lower --num_processes, or leave it out",
        }
    if "NCCL" in text or "gloo" in text.lower() or isinstance(error, torch.distributed.DistError):
        return {
            "communication": True,
            "problem": problem,
            "location": "train.launch_args",
            "hint": "the processes cannot reach each other, or one of them has ended: see the log of every machine; set "
            "NCCL_SOCKET_IFNAME to their network, and NCCL_DEBUG=INFO for more",
        }
    if isinstance(error, TypeError | ValueError | NotImplementedError):
        hint = f"if a setting is the cause, change it; else see the log; {_RESUME}"
        return {"problem": problem, "location": "train", "hint": hint}
    return {"problem": problem, "location": "train", "hint": f"see the log; {_RESUME}"}


def launch_failure(work: Path, log: Path, start: int, code: int) -> ReasonGenRMError | None:
    """Return why a launch failed, whatever rank the cause was on; None where it did not fail.

    When one process fails, the others fail soon after it in communication; those errors are not the cause.

    Args:
        work: the judge's work folder, with the errors that processes recorded.
        log: the log of the launch.
        start: number of bytes in the log before this launch.
        code: exit code of `accelerate launch`.
    """
    failures = [read_json(path) for path in work.glob("error.*.json")]
    if failures:
        first = min(failures, key=lambda failure: ("communication" in failure, failure["time"]))
        return _as_error(first, log)
    if code == 0:
        return None
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    problem = f"accelerate launch ended with code {code}"
    if any("Signal 9 (SIGKILL)" in line for line in lines):
        hint = f"most likely the system ran out of memory; {_RESUME}"
        return EngineError(f"{problem}: a process was killed (signal 9)", location=str(log), hint=hint)
    causes = [match for line in lines if (match := _TRACEBACK_END.match(line))]
    causes = [match for match in causes if not match[1].endswith(_SUMMARY)]
    if causes:
        return EngineError(f"{problem}: {causes[0][1]}: {causes[0][2]}", location=str(log), hint=_RESUME)
    tail = "\n".join(lines[-15:])
    return EngineError(f"{problem}; the end of its log:\n{tail}\n", location=str(log), hint=_RESUME)


def _as_error(failure: dict[str, Any], log: Path) -> ReasonGenRMError:
    kind, problem = failure["kind"], failure["problem"]
    if kind == "EngineError" and failure["rank"]:
        problem += f" (in process {failure['rank']})"
    hint = failure["hint"].replace("see the log;", f"see {log};")
    error: ReasonGenRMError = getattr(errors, kind)(problem, location=failure["location"], hint=hint)
    return error
