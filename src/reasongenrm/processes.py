"""Child processes that never outlive their parent, and a parallel map that holds little and keeps the order."""

from __future__ import annotations

import gc
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from reasongenrm.errors import EngineError

In = TypeVar("In")
Out = TypeVar("Out")

MOST_WORKERS = 16


def cores() -> int:
    """Return how many cores this process may use, at least one."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def die_with_parent() -> None:
    """Ask Linux to end this process when the one that started it dies, so that a SIGKILL leaves nothing behind."""
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def is_gone(process: int) -> bool:
    """Whether a process has ended (on Linux; elsewhere nobody can tell, and it counts as alive)."""
    if sys.platform != "linux":
        return False
    try:
        status = Path("/proc", str(process), "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] in "XZ"  # dead, but not yet taken note of


def _begin(parent: int, prepare: Callable[..., None], arguments: Sequence[Any]) -> None:
    die_with_parent()
    if is_gone(parent):  # it was killed while this process started
        os._exit(1)
    prepare(*arguments)
    gc.freeze()  # what is loaded by now stays: no need to walk it again and again


def map_chunks(
    function: Callable[[list[In]], list[Out]],
    rows: Iterable[In],
    *,
    chunk: int,
    prepare: Callable[..., None],
    arguments: Sequence[Any] = (),
) -> Iterator[Out]:
    """Yield `function`'s results for chunks of rows, in the rows' order, worked on in processes of their own.

    At most two chunks per worker are held at any time. Rows that fill no more than one chunk are worked on here,
    since a process takes longer to start.

    Args:
        function: a module's function, from a chunk to a list of results.
        rows: what to work on; they are pickled.
        chunk: rows per chunk.
        prepare: called once per process with the arguments, before the first chunk.
        arguments: pickled, too.

    Raises:
        EngineError: a worker was killed.
    """
    waiting = iter(rows)
    first = list(islice(waiting, chunk))
    if len(first) < chunk:
        prepare(*arguments)
        yield from function(first)
        return
    workers = min(MOST_WORKERS, cores())
    from concurrent.futures.process import BrokenProcessPool

    # Spawned, not forked: the caller may hold threads of torch or of a tokenizer.
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=_begin, initargs=(os.getpid(), prepare, arguments)
    ) as pool:
        running: deque[Future[list[Out]]] = deque()
        try:
            while first or running:
                while first and len(running) < 2 * workers:
                    running.append(pool.submit(function, first))
                    first = list(islice(waiting, chunk))
                yield from running.popleft().result()
        except BrokenProcessPool:
            raise EngineError(
                "a worker process was killed", location="stage 1", hint="is there enough memory? run it again"
            ) from None
        finally:
            for future in running:
                future.cancel()
