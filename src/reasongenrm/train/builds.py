"""Locks of torch's extension builds: the lock of a build that was killed is removed, so that no training waits for it.

DeepSpeed compiles an operation at its first use, and torch keeps it in a cache. While a process builds there, it holds the
file `lock` of the operation's folder open (`torch.utils.file_baton`), and ninja works in that folder. Others wait,
silently and for ever, until the file is gone; SIGKILL leaves it there.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from reasongenrm.console import say
from reasongenrm.errors import ConfigError

LOCK = "lock"
LOCAL = ("btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "tmpfs", "xfs", "zfs")
"""File systems of one machine, whose processes are all seen here."""

IDLE_SECONDS = 600.0
"""A build on another machine is taken for dead when nothing in its folder has changed for this time."""

WATCH_SECONDS = 10.0
"""Time between two looks for locks while a training starts."""


def extensions_folder() -> Path:
    """Return the folder in which torch keeps compiled extensions."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(
        os.environ.get("TORCH_EXTENSIONS_DIR") or Path(os.path.expanduser(cache)) / "torch_extensions"
    ).resolve()


def clear_build_locks(poll_seconds: float = 1.0) -> None:
    """Remove the locks of builds that are dead, and wait for those that are not; one line about each.

    Raises:
        ConfigError: a lock belongs to another user.
    """
    shown: set[Path] = set()
    while builders := remove_dead_locks().builders:
        for lock in builders.keys() - shown:
            say(f"{lock}: waiting for {builders[lock]}, which builds in this folder")
            shown.add(lock)
        time.sleep(poll_seconds)


class BuildLocks(NamedTuple):
    """Locks that there were in the folder of extensions.

    Attributes:
        builders: who builds, by the lock that it holds.
        removed: locks of dead builds, which are gone.
    """

    builders: dict[Path, str]
    removed: list[Path]


def remove_dead_locks() -> BuildLocks:
    """Remove the locks of builds that are dead; one line about each.

    Nothing else is removed: the next build continues with what the dead one has compiled.

    Raises:
        ConfigError: a lock belongs to another user.
    """
    root, locks = extensions_folder(), BuildLocks({}, [])
    for lock in sorted({*root.glob(f"*/{LOCK}"), *root.glob(f"*/*/{LOCK}")}):
        while before := _moment(lock):
            processes = build_processes(lock.parent)
            idle = _is_local(lock) or time.time() - _last_change(lock.parent) > IDLE_SECONDS
            if processes or not idle:
                locks.builders[lock] = f"process {processes[0]}" if processes else "another machine"
                break
            if _moment(lock) == before:  # not that of a build that has just begun
                _remove(lock)
                locks.removed.append(lock)
    return locks


class LockWatch:
    """Removes the locks of builds that are killed while a training starts: its processes may wait for them.

    A process that has waited in vain goes on without the compiled operation, and fails.

    Attributes:
        removed: whether there was such a lock.
    """

    def __init__(self) -> None:
        self.removed = False
        self._next = time.monotonic() + WATCH_SECONDS

    def look(self) -> None:
        """Look for locks, if it is time again.

        Raises:
            ConfigError: a lock belongs to another user.
        """
        if time.monotonic() >= self._next:
            self.removed = bool(remove_dead_locks().removed) or self.removed
            self._next = time.monotonic() + WATCH_SECONDS


def _remove(lock: Path) -> None:
    try:
        lock.unlink(missing_ok=True)
    except OSError as error:
        problem = f"the lock of a killed build cannot be removed: {error.strerror}"
        hint = "set the environment variable TORCH_EXTENSIONS_DIR to another folder"
        raise ConfigError(problem, location=str(lock), hint=hint) from None
    say(f"{lock}: removed, since the build that locked the folder was killed")


def build_processes(folder: Path) -> list[int]:
    """Return the processes of this machine that work in the folder of a build, or have its lock open."""
    return [process.pid for process in psutil.process_iter() if _builds_in(process, folder)]


def _builds_in(process: psutil.Process, folder: Path) -> bool:
    with contextlib.suppress(psutil.Error, OSError):  # it has ended, or is another user's
        lock = str(folder / LOCK)
        return process.cwd() == str(folder) or any(file.path == lock for file in process.open_files())
    return False


def _moment(lock: Path) -> tuple[int, int] | None:
    """Return what tells a lock from a later one, or None where there is none."""
    try:
        status = lock.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _last_change(folder: Path) -> float:
    def times() -> Iterator[float]:
        for path in (folder, *folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):
                yield path.stat().st_mtime

    return max(times(), default=0.0)


def _is_local(path: Path) -> bool:
    mounts = [one for one in psutil.disk_partitions(all=True) if path.is_relative_to(one.mountpoint)]
    return max(mounts, key=lambda mount: len(mount.mountpoint)).fstype in LOCAL if mounts else False
