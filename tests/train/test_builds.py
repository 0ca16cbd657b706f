"""The lock of a killed build is removed, that of a living one is waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reasongenrm.train import builds
from support.app import wait_until

pytestmark = pytest.mark.unit

BUILDER = """
import sys, time
from torch.utils.file_baton import FileBaton
baton = FileBaton(sys.argv[1])
assert baton.try_acquire()
print("locked", flush=True)
sys.stdin.readline()
baton.release()
"""


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    folder = tmp_path / "cpu_adam"
    folder.mkdir()
    (folder / "cpu_adam.o").write_bytes(b"compiled")
    return folder / "lock"


@pytest.fixture
def builder(lock: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds torch's own lock."""
    with subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "locked\n"
        yield process
        process.kill()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(builds, "say", lines.append)
    return lines


def test_the_folder_is_that_of_torch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from torch.utils.cpp_extension import get_default_build_root

    monkeypatch.delenv("TORCH_EXTENSIONS_DIR", raising=False)
    for cache in ("", str(tmp_path)):
        monkeypatch.setenv("XDG_CACHE_HOME", cache) if cache else monkeypatch.delenv(
            "XDG_CACHE_HOME", raising=False
        )
        assert str(builds.extensions_folder()) == get_default_build_root()


def test_the_lock_of_a_killed_build_is_removed_and_nothing_else(
    lock: Path, builder: subprocess.Popen[str], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds, "_is_local", lambda path: True)
    assert builds.build_processes(lock.parent) == [builder.pid]
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    assert lock.exists()
    builds.clear_build_locks()
    assert [path.name for path in lock.parent.iterdir()] == ["cpu_adam.o"]
    assert said == [f"{lock}: removed, since the build that locked the folder was killed"]
    builds.clear_build_locks()
    assert len(said) == 1


def test_a_watch_removes_the_lock_of_a_build_that_is_killed_later(
    lock: Path, builder: subprocess.Popen[str], said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds, "_is_local", lambda path: True)
    monkeypatch.setattr(builds, "WATCH_SECONDS", 0.05)
    watch = builds.LockWatch()
    watch.look()  # it is not time
    time.sleep(0.1)
    watch.look()
    assert lock.exists() and not watch.removed and said == [], "a build that goes on is left alone, silently"
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    time.sleep(0.1)
    watch.look()
    assert not lock.exists() and watch.removed and len(said) == 1
    time.sleep(0.1)
    watch.look()
    assert watch.removed, "also when there is no lock any more"


def test_a_living_build_is_waited_for(lock: Path, builder: subprocess.Popen[str], said: list[str]) -> None:
    waiting = threading.Thread(target=builds.clear_build_locks, args=(0.02,))
    waiting.start()
    wait_until(lambda: bool(said))
    time.sleep(0.1)  # some looks more
    assert waiting.is_alive() and lock.exists()
    assert said == [f"{lock}: waiting for process {builder.pid}, which builds in this folder"]
    builder.communicate("\n")
    waiting.join(timeout=60)
    assert not waiting.is_alive() and not lock.exists() and len(said) == 1


def test_a_compiler_that_outlives_its_build_is_waited_for(lock: Path, said: list[str]) -> None:
    lock.touch()
    with subprocess.Popen(["sleep", "60"], cwd=lock.parent) as compiler:
        waiting = threading.Thread(target=builds.clear_build_locks, args=(0.02,))
        waiting.start()
        wait_until(lambda: bool(said))
        assert lock.exists() and f"process {compiler.pid}" in said[0]
        os.utime(lock, (1, 1))
        os.utime(lock.parent / "cpu_adam.o", (1, 1))
        os.utime(lock.parent, (1, 1))
        compiler.kill()
        compiler.wait()
        waiting.join(timeout=60)
    assert not waiting.is_alive() and not lock.exists() and "removed" in said[1]


def test_on_a_shared_file_system_only_an_old_lock_is_dead(
    lock: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builds, "_is_local", lambda path: False)
    lock.touch()
    waiting = threading.Thread(target=builds.clear_build_locks, args=(0.02,))
    waiting.start()
    wait_until(lambda: bool(said))
    assert lock.exists() and said == [f"{lock}: waiting for another machine, which builds in this folder"]
    old = time.time() - builds.IDLE_SECONDS - 1
    for path in (lock, lock.parent / "cpu_adam.o", lock.parent):
        os.utime(path, (old, old))
    waiting.join(timeout=60)
    assert not waiting.is_alive() and not lock.exists()


def test_file_systems_of_this_machine_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mount:
        def __init__(self, mountpoint: str, fstype: str) -> None:
            self.mountpoint, self.fstype = mountpoint, fstype

    mounts = [Mount("/", "ext4"), Mount("/shared", "nfs4"), Mount("/shared/scratch", "xfs")]
    monkeypatch.setattr(builds.psutil, "disk_partitions", lambda all: mounts)
    assert builds._is_local(Path("/cache/x/lock")) and builds._is_local(Path("/shared/scratch/x/lock"))
    assert not builds._is_local(Path("/shared/cache/x/lock"))
