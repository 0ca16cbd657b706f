"""A run folder on a file system without `flock`: a file that names its holder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.lock import HOLDER, LOCK, hold, open_locked

pytestmark = pytest.mark.unit

PROGRAM = """
import errno, fcntl, sys
from pathlib import Path

def no_flock(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")

fcntl.flock = no_flock
from reasongenrm.lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder by a lock file."""
    command = [sys.executable, "-c", PROGRAM, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_lock_file_stands_in_and_is_gone_at_the_end(
    code: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold(folder):
        holder = json.loads((folder / HOLDER).read_text())
        assert (holder["host"], holder["process"]) == (socket.gethostname(), os.getpid())
    assert names(folder) == {LOCK}
    assert f"the file system has no file locks ({os.strerror(code)})" in capsys.readouterr().err
    with pytest.raises(RuntimeError), hold(folder):
        raise RuntimeError
    assert names(folder) == {LOCK}


def test_the_holder_is_named(no_flock: None, folder: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(ConfigError) as caught, hold(folder):
        pass
    assert (
        f"process {holder.pid} on {socket.gethostname()} has worked in this run folder since 2"
        in caught.value.problem
    )
    assert caught.value.hint == f"wait for it to end; if it was killed there, move {folder / HOLDER} away"
    assert names(folder) == {LOCK, HOLDER, f"{HOLDER}.{socket.gethostname()}.{holder.pid}"}
    assert holder.stdin is not None
    holder.stdin.close()
    assert holder.wait(timeout=30) == 0
    with hold(folder):
        pass
    assert names(folder) == {LOCK}


def test_the_file_of_a_killed_process_is_replaced(
    no_flock: None, folder: Path, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    while psutil.Process(holder.pid).status() != psutil.STATUS_ZOMBIE:  # a kill takes a moment
        time.sleep(0.01)
    with hold(folder):  # before its parent has looked, and after
        pass
    holder.wait(timeout=30)
    with hold(folder):
        assert json.loads((folder / HOLDER).read_text())["process"] == os.getpid()


def write_holder(folder: Path, **changes: Any) -> None:
    folder.mkdir(exist_ok=True)
    own = {"host": socket.gethostname(), "process": os.getpid(), "process_start": "1", "since": "2026"}
    (folder / HOLDER).write_text(json.dumps(own | changes))


def test_another_process_with_the_same_number_is_not_the_holder(no_flock: None, folder: Path) -> None:
    write_holder(folder)  # this process has started later than at tick 1
    with hold(folder):
        assert json.loads((folder / HOLDER).read_text())["process_start"] != "1"


def test_a_process_of_another_machine_may_still_work(no_flock: None, folder: Path) -> None:
    write_holder(folder, host="elsewhere", process=2**22 + 1)
    with (
        pytest.raises(ConfigError, match="on elsewhere has worked in this run folder since 2026"),
        hold(folder),
    ):
        pass


def test_of_two_that_replace_a_dead_one_the_second_loses(
    no_flock: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_holder(folder)
    rename = Path.rename

    def after_the_other(path: Path, target: Path) -> Path:
        if path.name == HOLDER:
            write_holder(folder, host="elsewhere")  # another machine was quicker
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", after_the_other)
    with pytest.raises(ConfigError, match="on elsewhere"), hold(folder):
        pass
    assert json.loads((folder / HOLDER).read_text())["host"] == "elsewhere", "its file is back"
    assert names(folder) == {LOCK, HOLDER}


def test_other_errors_of_a_lock_are_errors(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(ConfigError, match=r"cannot be locked: Input/output error \(set name=… to a folder"),
        hold(folder),
    ):
        pass


def test_a_locked_file_is_opened_once(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("as before")
    with open_locked(path, location=path):
        assert path.read_text() == "as before"
        with pytest.raises(DataError, match="another process is writing this file"):
            open_locked(path, location=path)
    open_locked(path, location=path).close()


def test_whoever_waits_for_a_file_gets_the_one_of_that_name(tmp_path: Path) -> None:
    path = tmp_path / "x"
    holder = open_locked(path, location=path)
    path.rename(tmp_path / "finished")
    with open_locked(path, location=path) as other:  # the renamed file is still locked
        assert os.fstat(other.fileno()).st_ino == path.stat().st_ino != os.fstat(holder.fileno()).st_ino
    holder.close()


def test_without_locks_a_file_can_be_written(
    no_flock: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        open_locked(tmp_path / "x", location=tmp_path / "x").close()
    assert capsys.readouterr().err.count("let only one command write a file there") == 1
