"""One writer at a time: of a run folder, and of every file that is written.

The lock is `flock`; where the file system has no locks, a run folder is held by a file that names its holder.
"""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from reasongenrm.console import say
from reasongenrm.errors import ConfigError, DataError, write_hint

LOCK, HOLDER = ".lock", ".lock.holder"
_NO_LOCKS = {errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK}
"""Errors of `flock` on a file system without locks, such as Lustre mounted without `-o flock`."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made if needed, until the block ends or this process dies.

    Raises:
        ConfigError: the folder cannot be written or locked, or another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    except OSError as error:
        problem = f"the run folder cannot be written: {error.strerror}"
        raise ConfigError(problem, location=str(folder), hint=write_hint(error)) from None
    with lock:
        if _flock(lock.fileno(), folder):
            yield
        else:
            with _lock_file(folder / HOLDER):
                yield


def _flock(lock: int, folder: Path) -> bool:
    """Lock an open file; return False where the file system has no locks."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        problem, hint = "another process is working in this run folder", "wait for it to end"
        raise ConfigError(problem, location=str(folder), hint=hint) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            problem = f"the run folder cannot be locked: {error.strerror}"
            hint = "set name=… to a folder on another disk"
            raise ConfigError(problem, location=str(folder), hint=hint) from None
        say(
            f"{folder}: the file system has no file locks ({error.strerror}); the file {HOLDER} is used instead"
        )
        return False
    return True


def open_locked(path: Path, *, location: Path, seconds: float = 0.0) -> io.FileIO:
    """Open a file to read and write, unchanged or new, and keep all other processes from doing so until it is closed.

    Args:
        path: the file, whose folder exists. Its holder may rename or remove it.
        location: the file that is named in the error.
        seconds: how long to wait for another process.

    Raises:
        DataError: another process has locked it.
        OSError: it cannot be opened or locked.
    """
    end = time.monotonic() + seconds
    while True:
        file = io.FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError):  # its holder has renamed or removed it
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return file
        except BlockingIOError:
            if time.monotonic() >= end:
                file.close()
                hint = "wait for it to end, or name another file"
                problem = "another process is writing this file"
                raise DataError(problem, location=str(location), hint=hint) from None
            time.sleep(0.05)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                _warn(path.parent)
                return file
            file.close()
            raise
        file.close()


@cache
def _warn(folder: Path) -> None:
    say(f"{folder}: the file system has no file locks: let only one command write a file there")


@contextmanager
def _lock_file(path: Path) -> Iterator[None]:
    """Hold a file that names this process; the file of a process of this machine that has ended is replaced."""
    own = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    holder = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    own.write_text(json.dumps(holder) + "\n", encoding="utf-8")
    try:
        _link(own, path)
        yield
        path.unlink(missing_ok=True)
    except BaseException:
        if path.exists() and path.samefile(own):
            path.unlink()
        raise
    finally:
        own.unlink(missing_ok=True)


def _link(own: Path, path: Path) -> None:
    """Give a file the name of the lock: as with O_EXCL only one process can, but no other ever reads half a file."""
    try:
        os.link(own, path)
    except FileExistsError:
        holder = _read_holder(path)
        if not _has_ended(holder):
            raise _held(holder, path) from None
        # Another process may have replaced the lock of the dead one meanwhile; then what is moved away is its file.
        removed = own.with_name(own.name + ".removed")
        path.rename(removed)
        taken = _read_holder(removed)
        if taken != holder:
            os.link(removed, path)
        removed.unlink()
        if taken != holder:
            raise _held(taken, path) from None
        _link(own, path)


def _read_holder(path: Path) -> dict[str, Any]:
    holder: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return holder


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether a holder was a process of this machine and has ended; of another machine's process this is unknown."""
    start = holder["process_start"]
    same_machine = holder["host"] == socket.gethostname()
    return same_machine and start is not None and _process_start(holder["process"]) != start


def _process_start(process: int) -> str | None:
    """Return when a process started, in clock ticks since boot (proc(5)); None where it has ended or is unknown."""
    try:
        text = Path("/proc", str(process), "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "XZ" else fields[19]  # X, Z: it is dead, but its parent has not looked


def _held(holder: dict[str, Any], path: Path) -> ConfigError:
    return ConfigError(
        f"process {holder['process']} on {holder['host']} has worked in this run folder since {holder['since']}",
        location=str(path.parent),
        hint=f"wait for it to end; if it was killed there, move {path} away",
    )
