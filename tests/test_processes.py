"""Ordered results of worker processes that hold little and die with their parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reasongenrm.errors import EngineError
from reasongenrm.processes import has_ended, map_chunks

pytestmark = pytest.mark.unit

_added = 0


def prepare(added: int) -> None:
    global _added
    _added = added


def work(rows: list[int]) -> list[tuple[int, int]]:
    return [(row + _added, os.getpid()) for row in rows]


def die(rows: list[int]) -> list[int]:
    os.kill(os.getpid(), signal.SIGKILL)
    return rows


def fail(rows: list[int]) -> list[int]:
    raise ValueError(f"{len(rows)} rows")


def test_one_chunk_is_computed_in_this_process() -> None:
    found = list(map_chunks(work, range(5), chunk=6, prepare=prepare, arguments=(10,)))
    assert found == [(10 + n, os.getpid()) for n in range(5)]
    assert list(map_chunks(work, [], chunk=6, prepare=prepare, arguments=(0,))) == []


def test_chunks_are_computed_by_workers_in_order_before_all_is_read() -> None:
    read = 0

    def rows() -> Iterator[int]:
        nonlocal read
        for number in range(1, 1001):
            read = number
            yield number

    found = map_chunks(work, rows(), chunk=10, prepare=prepare, arguments=(100,))
    first, process = next(found)
    assert first == 101 and process != os.getpid()
    assert read <= 10 * (1 + 2 * 16), "two chunks per worker, and one in the hand"
    assert [first, *(number for number, _ in found)] == list(range(101, 1101))


def test_a_worker_that_is_killed_is_an_error() -> None:
    with pytest.raises(EngineError, match="a worker process was killed"):
        list(map_chunks(die, range(50), chunk=10, prepare=prepare, arguments=(0,)))


def test_an_exception_of_a_worker_is_raised_here() -> None:
    with pytest.raises(ValueError, match="10 rows"):
        list(map_chunks(fail, range(50), chunk=10, prepare=prepare, arguments=(0,)))


def test_workers_die_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, sys, time\n"
        "from reasongenrm.processes import map_chunks\n"
        "def ready(): pass\n"
        "def work(rows):\n"
        "    os.write(1, b'%d\\n' % os.getpid())  # one write, so that lines do not mix\n"
        "    time.sleep(600)\n"
        "if __name__ == '__main__':\n"
        "    list(map_chunks(work, range(4), chunk=2, prepare=ready))\n",
        encoding="utf-8",
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    assert worker != parent.pid and not has_ended(worker)
    parent.kill()
    parent.wait()
    end = time.monotonic() + 10
    while not has_ended(worker):
        assert time.monotonic() < end, "the worker outlives its parent"
        time.sleep(0.05)
