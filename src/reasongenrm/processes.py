"""Child processes that never outlive their parent, an ordered parallel map with little in memory, and the end of torch's threads."""

from __future__ import annotations

import gc
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from reasongenrm.errors import EngineError

In = TypeVar("In")
Out = TypeVar("Out")

MAX_WORKERS = 16


def cores() -> int:
    """Return how many cores this process may use, at least one."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def die_with_parent() -> None:
    """Make Linux kill this process when its parent dies, so that no process is left after a SIGKILL."""
    if sys.platform == "linux":
        import ctypes
        import signal

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def end_thread_pool() -> None:
    """End the OpenMP threads with which torch computes for the calling thread; its next computation starts new ones.

    GNU's library has such threads for each thread that computes. Where they are more than the cores, it no longer lets them spin:
    every one sleeps at every barrier, and a step on a CPU takes longer.
    """
    import ctypes

    library = ctypes.CDLL(None)
    if hasattr(library, "omp_pause_resource_all"):  # torch is loaded, and has OpenMP
        library.omp_pause_resource_all(1)  # omp_pause_soft


def has_ended(process: int) -> bool:
    """Whether a process has ended; always False on systems other than Linux, where it is unknown."""
    if sys.platform != "linux":
        return False
    try:
        status = Path("/proc", str(process), "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] in "XZ"  # dead, or a zombie


def _begin(parent: int, prepare: Callable[..., None], arguments: Sequence[Any]) -> None:
    die_with_parent()
    if has_ended(parent):  # it was killed while this process started
        os._exit(1)
    prepare(*arguments)
    gc.freeze()  # what is loaded stays in memory: the garbage collector need not visit it


def map_chunks(
    function: Callable[[list[In]], list[Out]],
    rows: Iterable[In],
    *,
    chunk: int,
    prepare: Callable[..., None],
    arguments: Sequence[Any] = (),
) -> Iterator[Out]:
    """Yield the results of `function` for chunks of rows, computed in worker processes, in the order of the rows.

    At most two chunks per worker are in memory. Fewer rows than one chunk are computed in this process, which is faster
    than starting another.

    Args:
        function: a function of a module, from a chunk to a list of results.
        rows: the input; it is pickled.
        chunk: rows per chunk.
        prepare: called once per process with the arguments, before the first chunk.
        arguments: of `prepare`; they are pickled.

    Raises:
        EngineError: a worker was killed.
    """
    waiting = iter(rows)
    first = list(islice(waiting, chunk))
    if len(first) < chunk:
        prepare(*arguments)
        yield from function(first)
        return
    workers = min(MAX_WORKERS, cores())
    # Spawned, not forked: the caller may have threads of torch or of a tokenizer.
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
        except BrokenExecutor:
            raise EngineError(
                "a worker process was killed",
                location="stage 1",
                hint="probably for lack of memory: free some, and run it again",
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
