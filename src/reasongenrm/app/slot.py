"""`JudgeSlot`: the one judge that a page holds; it loads in the background, and one thread does all its work."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeVar

from reasongenrm.errors import ConfigError, EngineError, ReasonGenRMError, first_line

if TYPE_CHECKING:
    from reasongenrm.judge.api import Judge

T = TypeVar("T")

State = Literal["empty", "loading", "ready", "failed"]

POLL_SECONDS = 0.2
"""How often a caller that waits looks whether the page is stopping."""


class SlotStatus(NamedTuple):
    """What a slot holds.

    Attributes:
        state: `empty`, `loading`, `ready` or `failed`.
        name: the judge's; empty in an empty slot.
        seconds: time since loading began, or the time that it took.
        error: why loading failed.
    """

    state: State
    name: str = ""
    seconds: float = 0.0
    error: ReasonGenRMError | None = None


class _Job(Generic[T]):
    """Work for the judge's thread, and the queue that its results come through."""

    def __init__(self, work: Callable[[], Generator[T, None, None]]) -> None:
        self._work = work
        self.results: SimpleQueue[tuple[T | None, Exception | None, bool]] = SimpleQueue()
        """A result, an error, and whether the job has ended."""
        self.cancelled = threading.Event()

    def run(self) -> None:
        try:
            with closing(self._work()) as results:
                for result in results:
                    if self.cancelled.is_set():
                        return
                    self.results.put((result, None, False))
        except Exception as error:  # it is raised again where the results are read
            self.results.put((None, error, True))
        finally:
            self.results.put((None, None, True))


class JudgeSlot:
    """Holds at most one judge: an engine in this process takes the memory of the machine. Safe for threads.

    One thread loads, asks and closes the judge: the threads of a CPU engine belong to the thread that calls it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._status = SlotStatus("empty")
        self._start = 0.0
        self._closed = False
        self._judge: Judge | None = None  # used by the judge's thread alone
        self._jobs: SimpleQueue[_Job[Any] | None] = SimpleQueue()
        self._running: _Job[Any] | None = None
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> SlotStatus:
        """What the slot holds at this moment."""
        with self._lock:
            status = self._status
            if status.state == "loading":
                return status._replace(seconds=time.monotonic() - self._start)
            return status

    def _submit(self, job: _Job[Any]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="judge", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._running = job
            if not job.cancelled.is_set():
                job.run()
            self._running = None
        self._close_judge()

    def _close_judge(self) -> None:
        judge, self._judge = self._judge, None
        if judge is not None:
            judge.close()

    def load(self, name: str, start: Callable[[], Judge]) -> None:
        """Begin to load a judge in place of the one before, and return at once.

        Args:
            name: shown while it loads and afterwards.
            start: starts the judge.

        Raises:
            ConfigError: another judge is loading.
        """
        with self._lock:
            self._check_change()
            self._status, self._start = SlotStatus("loading", name), time.monotonic()
            self._submit(_Job(lambda: self._load(name, start)))

    def unload(self) -> None:
        """Begin to close the judge, which frees its memory.

        Raises:
            ConfigError: a judge is loading.
        """

        def close() -> Generator[None, None, None]:
            self._close_judge()
            yield

        with self._lock:
            self._check_change()
            self._status = SlotStatus("empty")
            self._submit(_Job(close))

    def _check_change(self) -> None:
        if self._closed:
            raise ConfigError("the page is stopping", location="judge", hint="start it again")
        if self._status.state == "loading":
            problem = f"the judge {self._status.name} is loading"
            raise ConfigError(problem, location="judge", hint="wait until it is ready")

    def _load(self, name: str, start: Callable[[], Judge]) -> Generator[None, None, None]:
        error: ReasonGenRMError | None = None
        try:
            self._close_judge()
            self._judge = start()
        except ReasonGenRMError as known:
            error = known
        except Exception as unknown:  # of a library: the page must show it
            hint = "see the log of the page"
            error = EngineError(
                f"the judge cannot be loaded: {first_line(unknown)}", location=name, hint=hint
            )
        with self._lock:
            seconds = time.monotonic() - self._start
            self._status = SlotStatus("failed" if error else "ready", name, seconds, error)
        yield

    def stream(self, work: Callable[[Judge], Generator[T, None, None]]) -> Generator[T, None, None]:
        """Yield what the judge yields; closing the generator ends its work at the next result.

        Args:
            work: yields results; called in the judge's thread, after the work that was submitted before.

        Raises:
            ConfigError: no judge is loaded, or the page is stopping.
            ReasonGenRMError: of the work.
        """

        def results() -> Generator[T, None, None]:
            if self._judge is None:
                raise ConfigError("no judge is loaded", location="judge", hint="choose one and load it")
            yield from work(self._judge)

        with self._lock:
            state, name = self._status.state, self._status.name
            if state == "loading":
                problem = f"the judge {name} is still loading"
                raise ConfigError(problem, location="judge", hint="wait until it is ready")
            job = _Job(results)
            self._submit(job)
        try:
            while True:
                try:
                    result, error, ended = job.results.get(timeout=POLL_SECONDS)
                except Empty:
                    if self._closed:
                        hint = "start it again"
                        raise ConfigError("the page is stopping", location="judge", hint=hint) from None
                    continue
                if error is not None:
                    raise error
                if ended:
                    return
                yield result  # type: ignore[misc]
        finally:
            job.cancelled.set()

    def close(self, seconds: float = 5.0) -> None:
        """End all work and close the judge.

        Args:
            seconds: how long to wait for work that does not end; its thread then ends with the process.
        """
        with self._lock:
            self._closed = True
            running = self._running
        if running is not None:
            running.cancelled.set()
        while not self._jobs.empty():
            waiting = self._jobs.get()
            if waiting is not None:
                waiting.cancelled.set()
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(seconds)
