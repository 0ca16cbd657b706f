"""`SharedJudge`: one judge for several threads; `PairwiseJudge`: the interface of anything that compares answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Protocol, Self

from reasongenrm.errors import DataError, EngineError
from reasongenrm.judge.api import ComparisonInput, Judge
from reasongenrm.records import Comparison


class PairwiseJudge(Protocol):
    """A `Judge`, a `SharedJudge` or a `RemoteJudge`."""

    def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
        """Yield a comparison for each row, in their order."""
        ...


class JudgeBusy(EngineError):
    """No comparison within the time limit: other requests came first."""

    @classmethod
    def after(cls, seconds: float) -> Self:
        """Return the error of a request that waited so long."""
        hint = "ask again later, or send fewer requests at the same time"
        return cls(f"no comparison within {seconds:g} s", location="SharedJudge", hint=hint)


@dataclass(frozen=True, slots=True)
class _Job:
    rows: tuple[ComparisonInput, ...]
    future: Future[list[Comparison]] = field(default_factory=Future)


class SharedJudge(Judge):
    """A judge for several threads: one thread uses the engine, and judges all waiting requests together.

    `counts` holds the numbers of requests, comparisons and batches. Closing it stops the thread and cancels waiting
    requests; the judge stays open.

    Args:
        judge: from now on used only by that thread.
        seconds: how long `compare_many` waits; None: without a limit.
    """

    def __init__(self, judge: Judge, *, seconds: float | None = None) -> None:
        vars(self).update(vars(judge))  # the same engine, wording and settings
        self.counts = {"requests": 0, "comparisons": 0, "batches": 0}
        self._judge, self._seconds = judge, seconds
        self._waiting: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock, self._closed = Lock(), False
        self._thread = Thread(target=self._work, name="judge", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of requests that the thread has not taken yet."""
        return self._waiting.qsize()

    def submit(self, rows: Iterable[ComparisonInput]) -> Future[list[Comparison]]:
        """Request comparisons; the future can be cancelled while they wait.

        Raises:
            EngineError: the judge is closed.
        """
        job = _Job(tuple(rows))
        with self._lock:  # a job after the end mark would never be read
            if self._closed:
                hint = "send requests before close(), or start another judge"
                raise EngineError("the judge is closed", location="SharedJudge", hint=hint)
            self._waiting.put(job)
        return job.future

    def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
        """See `Judge.compare_many`; rows of other threads may go to the engine in the same batch.

        Raises:
            JudgeBusy: no result within the time limit.
        """
        future = self.submit(rows)
        wait([future], self._seconds)
        if not future.done():
            future.cancel()
            raise JudgeBusy.after(self._seconds or 0)
        yield from future.result()

    def close(self) -> None:
        """Stop the thread after its current batch."""
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
            self._judge_jobs([job for job in jobs if job and job.future.set_running_or_notify_cancel()])

    def _judge_jobs(self, jobs: Sequence[_Job]) -> None:
        if not jobs:
            return
        comparisons = self._judge.compare_many([row for job in jobs for row in job.rows])
        done = 0
        self.counts["batches"] += 1
        try:
            for job in jobs:
                result = list(islice(comparisons, len(job.rows)))
                self.counts["requests"] += 1
                self.counts["comparisons"] += len(result)
                job.future.set_result(result)
                done += 1
        except Exception as error:
            for job in jobs[done:]:
                if isinstance(error, DataError) and len(jobs) > 1:  # judged alone, only the bad job fails
                    self._judge_jobs([job])
                else:
                    job.future.set_exception(error)
