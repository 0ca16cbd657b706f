"""`python -m MODULE …` as forks of a process that has imported the libraries: the processes of a training, without their imports.

The process tree, the environment, the streams and the end are those of real programs: a stage starts `accelerate launch`, which
starts the training processes, and each dies with its parent. Importing takes longer than most trainings of the tests.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any, ClassVar

import torch
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

from reasongenrm.processes import die_with_parent

LAUNCH = "accelerate.commands.launch"
LAUNCHERS = LAUNCH, "reasongenrm.cli"
"""Modules that start others."""
PR_SET_CHILD_SUBREAPER = 36


class ForkedProcess(subprocess.Popen[bytes]):
    """`Popen` whose `python -m MODULE …` is a fork made by the `spawner`; other commands are started as ever."""

    spawner: ClassVar[socket.socket]

    def _execute_child(self, args: Any, *rest: Any) -> None:  # the same arguments in Python 3.11 and 3.12
        words = [word for word in args if word != "-u"]
        if words[:2] != [sys.executable, "-m"]:
            super()._execute_child(args, *rest)  # type: ignore[misc]
            return
        folder, environment, pipes, new_session = rest[4], rest[5], rest[9:15], rest[-2]
        assert folder is None, "it starts in the folder of the spawner"
        streams = [own if pipe == -1 else pipe for own, pipe in enumerate((pipes[0], pipes[3], pipes[5]))]
        program = {"words": words[2:], "environment": dict(environment or os.environ), "session": new_session}
        socket.send_fds(self.spawner, [json.dumps(program).encode()], streams)
        self.pid = int(self.spawner.recv(99))
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]


def start_spawner() -> None:
    """Fork this process as it is now: what it starts later are forks of that one, without the threads and engines of this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    parent = os.getpid()
    # A fork of a fork whose parent has ended becomes a child of this process.
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    if os.fork() == 0:
        die_with_parent()
        ours.close()
        _spawn_programs(theirs, parent)
    theirs.close()
    ForkedProcess.spawner = ours
    subprocess.Popen = ForkedProcess  # type: ignore[misc]
    subprocess_handler.Popen = ForkedProcess  # type: ignore[misc]


def _spawn_programs(requests: socket.socket, parent: int) -> None:
    while True:
        message, streams, _, _ = socket.recv_fds(requests, 1 << 20, 3)
        if not message:
            os._exit(0)
        program = json.loads(message)
        if program["words"][0] == LAUNCH:
            _import_deepspeed()
        between = os.fork()
        if between == 0:
            if os.fork() == 0:
                with whole_program():
                    _become(program, streams, requests, parent)
            os._exit(0)
        os.waitpid(between, 0)
        for stream in streams:
            os.close(stream)


def _import_deepspeed() -> None:
    """Import it once for the launcher and all training processes, without what it prints. A stage itself must not have it."""
    kept = [os.dup(stream) for stream in (1, 2)]
    with open(os.devnull, "wb") as nowhere, suppress(ImportError):
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)
        for module in ("accelerate.utils.deepspeed", "deepspeed.launcher.runner"):
            import_module(module)
    for stream, copy in zip((1, 2), kept, strict=True):
        os.dup2(copy, stream)
        os.close(copy)


def _become(program: Mapping[str, Any], streams: Sequence[int], requests: socket.socket, parent: int) -> None:
    """Run a module as the program of this process, which is a child of `parent` as soon as the one between has ended."""
    while os.getppid() != parent:
        os.sched_yield()
    die_with_parent()
    for own, stream in enumerate(streams):
        os.dup2(stream, own)
    if program["session"]:
        os.setsid()
    requests.send(str(os.getpid()).encode())
    requests.close()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(program["environment"])
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))  # the library has read the variable of another process
    module, *arguments = program["words"]
    if module in LAUNCHERS:
        start_spawner()
    sys.argv = [module, *arguments]
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


@contextmanager
def whole_program() -> Iterator[None]:
    """End this process behind the program, with Python's exit code."""
    code: Any = 1
    try:
        yield
        code = 0
    except SystemExit as end:
        code = end.code or 0
        if not isinstance(code, int):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)
