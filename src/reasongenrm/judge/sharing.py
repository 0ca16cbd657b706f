"""A judge that several threads share, and what everybody who only compares needs of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Protocol

from reasongenrm.errors import DataError, EngineError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.inputs import Prompt
from reasongenrm.records import Comparison

Row = tuple[Prompt, str, str]
"""A prompt and two answers to it."""


class PairwiseJudge(Protocol):
    """What rewards ask: a `Judge`, a `SharedJudge`, or a server (`judge.remote.RemoteJudge`)."""

    def compare_many(self, rows: Iterable[Row]) -> Iterator[Comparison]:
        """Yield a comparison for each row, in their order."""
        ...


@dataclass(frozen=True, slots=True)
class _Job:
    rows: tuple[Row, ...]
    future: Future[list[Comparison]] = field(default_factory=Future)


class SharedJudge(Judge):
    """A judge that several threads may ask: one thread owns the engine, and what waits for it is judged together.

    `counts` tells how many requests and comparisons were judged, and how often the judge was asked for
    them. Closing it stops the thread, cancels what waits, and leaves the judge as it is.

    Args:
        judge: asked by that thread alone from now on.
    """

    def __init__(self, judge: Judge) -> None:
        super().__init__(
            judge.engine,
            judge.asker,
            judge.prompts,
            adapter=judge.adapter,
            both_orders=judge.both_orders,
            seed=judge.seed,
        )
        self.counts = {"requests": 0, "comparisons": 0, "batches": 0}
        self._judge = judge
        self._waiting: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock, self._closed = Lock(), False
        self._thread = Thread(target=self._work, name="judge", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that the thread has not taken yet."""
        return self._waiting.qsize()

    def submit(self, rows: Iterable[Row]) -> Future[list[Comparison]]:
        """Ask for some comparisons; the future can be cancelled as long as they wait.

        Raises:
            EngineError: the judge is closed.
        """
        job = _Job(tuple(rows))
        with self._lock:  # behind the end mark nobody would look
            if self._closed:
                raise EngineError("the judge is closed")
            self._waiting.put(job)
        return job.future

    def compare_many(self, rows: Iterable[Row]) -> Iterator[Comparison]:
        """See `Judge.compare_many`; rows of other threads may go to the engine beside these."""
        yield from self.submit(rows).result()

    def close(self) -> None:
        """Stop the thread when it has done what it is at."""
        with self._lock:
            self._closed = True
            self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            jobs = [self._waiting.get()]
            with suppress(Empty):
                while True:
                    jobs.append(self._waiting.get_nowait())
            if None in jobs:
                for job in jobs:
                    _ = job and job.future.cancel()
                return
            self._judged([job for job in jobs if job and job.future.set_running_or_notify_cancel()])

    def _judged(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        told = self._judge.compare_many([row for job in jobs for row in job.rows])
        done = 0
        self.counts["batches"] += 1
        try:
            for job in jobs:
                found = list(islice(told, len(job.rows)))
                self.counts["requests"] += 1
                self.counts["comparisons"] += len(found)
                job.future.set_result(found)
                done += 1
        except Exception as error:
            for job in jobs[done:]:
                if isinstance(error, DataError) and len(jobs) > 1:  # whose row it is shows when each is alone
                    self._judged([job])
                else:
                    job.future.set_exception(error)
