"""`SharedJudge`: one judge for several threads; `QueuedJudge`: its requests, wherever they are judged; `PairwiseJudge`: the interface of
anything that compares answers."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from threading import Condition, Thread
from typing import Any, Protocol, Self

from reasongenrm.errors import EngineError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.batches import ListInput
from reasongenrm.judge.inputs import ComparisonInput, RatingInput
from reasongenrm.judge.live import Job, LiveJobs
from reasongenrm.processes import end_thread_pool
from reasongenrm.records import Comparison, ListVerdict, Rating


class PairwiseJudge(Protocol):
    """A `Judge`, a `SharedJudge` or a `RemoteJudge`."""

    def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
        """Yield a comparison for each row, in their order."""
        ...


METHODS = {"comparisons": "compare_many", "ratings": "rate_many", "choices": "choose_many"}
"""Kind of rows -> the method of `Judge` that judges them."""

LONGEST_RETRY = 60
"""Seconds after which a refused client should ask again at the latest."""

RECENT = 64
"""Requests over which the time from one result to the next is averaged."""


class JudgeBusy(EngineError):
    """No result within the time limit: other requests came first."""

    @classmethod
    def after(cls, seconds: float) -> Self:
        """Return the error of a request that waited so long."""
        hint = "ask again later, or send fewer requests at the same time"
        return cls(f"no result within {seconds:g} s", location="SharedJudge", hint=hint)


class JudgeFull(EngineError):
    """Too many requests wait already.

    Attributes:
        retry_after: seconds after which there should be room.
    """

    retry_after: int = 1

    @classmethod
    def of(cls, waiting: int, retry_after: int) -> Self:
        """Return the error of a request that finds so many waiting."""
        hint = f"ask again in {retry_after} s, or send fewer requests at the same time"
        error = cls(f"{waiting} requests wait already", location="SharedJudge", hint=hint)
        error.retry_after = retry_after
        return error


class QueuedJudge(Judge):
    """The requests of a judge that several threads use: each is a job with a future, and what is done is counted.

    `counts` holds the numbers of requests, comparisons, ratings and choices, and of those without a verdict (`unread`).

    Args:
        settings: attributes of the judge.
        seconds: how long `compare_many` waits; None: without a limit.
    """

    def __init__(self, settings: Mapping[str, Any], *, seconds: float | None = None) -> None:
        vars(self).update(settings)
        self.counts = {"requests": 0, "comparisons": 0, "ratings": 0, "choices": 0, "unread": 0}
        self._seconds = seconds
        self._pace = 0.0  # mean seconds from one result to the next
        self._last = 0.0  # when the last one was there

    @property
    def waiting(self) -> int:
        """Number of requests that have not begun."""
        raise NotImplementedError

    @property
    def running(self) -> int:
        """Number of requests that have begun."""
        raise NotImplementedError

    def submit_job(self, job: Job) -> Future[list[Any]]:
        """Request what a job needs; the future can be cancelled until its records are there.

        Raises:
            EngineError: the judge is closed.
        """
        raise NotImplementedError

    def check_room(self, limit: int) -> None:
        """Refuse a request where so many wait already.

        Raises:
            JudgeFull: with the seconds after which those that wait now should have begun, as far as is known.
        """
        if (waiting := self.waiting) >= limit:
            seconds = math.ceil(waiting * self._pace)
            raise JudgeFull.of(waiting, min(max(1, seconds), LONGEST_RETRY))

    def submit(self, rows: Iterable[ComparisonInput], *, alone: bool = False) -> Future[list[Comparison]]:
        """Request comparisons; the future can be cancelled until they are there.

        Args:
            rows: see `Judge.compare_many`.
            alone: judge them apart from other requests and with an empty prefix cache, as a judge that has just started does;
                otherwise the last digits of a probability may differ. This cannot be cancelled once it has begun.

        Raises:
            EngineError: the judge is closed.
        """
        return self.submit_job(Job(rows, "comparisons", alone=alone))

    def submit_ratings(self, rows: Iterable[RatingInput], *, alone: bool = False) -> Future[list[Rating]]:
        """Request ratings; see `submit`."""
        return self.submit_job(Job(rows, "ratings", alone=alone))

    def submit_choices(self, rows: Iterable[ListInput]) -> Future[list[ListVerdict]]:
        """Request choices among several answers; see `submit` and `Judge.choose_many`."""
        return self.submit_job(Job(rows, "choices"))

    def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
        """See `Judge.compare_many`; the rows join those of other threads.

        Raises:
            JudgeBusy: no result within the time limit.
        """
        yield from self._result(self.submit(rows))

    def rate_many(self, rows: Iterable[RatingInput]) -> Iterator[Rating]:
        """See `Judge.rate_many` and `compare_many`.

        Raises:
            JudgeBusy: no result within the time limit.
        """
        yield from self._result(self.submit_ratings(rows))

    def choose_many(self, rows: Iterable[ListInput]) -> Iterator[ListVerdict]:
        """See `Judge.choose_many` and `compare_many`.

        Raises:
            JudgeBusy: no result within the time limit.
        """
        yield from self._result(self.submit_choices(rows))

    def _result(self, future: Future[list[Any]]) -> list[Any]:
        try:
            return future.result(self._seconds)
        except TimeoutError:
            if future.cancel():
                raise JudgeBusy.after(self._seconds or 0) from None
            return future.result()

    def _finish(self, job: Job, records: list[Any]) -> None:
        """Count records, and give them to the caller."""
        self.counts["requests"] += 1
        self.counts[job.kind] += len(records)
        self.counts["unread"] += sum(map(_is_unread, records))
        now = time.monotonic()
        self._pace += (now - self._last - self._pace) / min(RECENT, self.counts["requests"])
        self._last = now
        job.future.set_result(records)


class SharedJudge(QueuedJudge):
    """A judge for several threads: one thread uses the engine. A request joins those that the engine completes already, and its
    result is there as soon as its own completions are.

    How soon a request joins depends on the engine: vLLM in this process and OpenAI-compatible servers take it at once, a pool of
    workers when one of them is free, Anthropic's batches when the one before is done. A prompt that several requests
    have in common at the same time is judged once.

    Closing the judge cancels the requests that wait, and ends the thread after the others; the judge that was shared stays open.

    Args:
        judge: from now on used only by that thread.
        seconds: how long `compare_many` waits; None: without a limit.
    """

    def __init__(self, judge: Judge, *, seconds: float | None = None) -> None:
        super().__init__(vars(judge), seconds=seconds)  # the same engine, wording and settings
        self._judge = judge
        self._changed, self._closed = Condition(), False
        self._queue: deque[Job] = deque()
        self._jobs = LiveJobs(judge, self._take, self._put_back, self._finish)
        end_thread_pool()  # an engine in this process computes in the judge's thread from now on
        self._thread = Thread(target=self._work, name="judge", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Number of requests that have not begun."""
        with self._changed:
            return sum(not job.begun for job in self._queue)

    @property
    def running(self) -> int:
        """Number of requests that have begun."""
        return len(self._jobs.running)

    def submit_job(self, job: Job) -> Future[list[Any]]:
        """See `QueuedJudge.submit_job`."""
        job.future.add_done_callback(partial(self._note_cancelled, job))
        with self._changed:
            if self._closed:
                hint = "send requests before close(), or start another judge"
                raise EngineError("the judge is closed", location="SharedJudge", hint=hint)
            self._queue.append(job)
            self._changed.notify()
        return job.future

    def _note_cancelled(self, job: Job, future: Future[list[Any]]) -> None:
        if future.cancelled():
            with self._changed:
                if job.begun:
                    self._jobs.cancel(job)
                elif job in self._queue:
                    self._queue.remove(job)

    def close(self) -> None:
        """Cancel the requests that wait, and stop the thread when the others are done."""
        with self._changed:
            self._closed = True
            waiting = [job for job in self._queue if not job.begun]
            self._changed.notify()
        for job in waiting:
            job.future.cancel()
        self._thread.join()

    def _work(self) -> None:
        """Use the engine, in its thread."""
        while job := self._first():
            if job.alone:
                self._judge_alone(job)
            else:
                self._jobs.run()

    def _first(self) -> Job | None:
        """Wait for a job; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            self._last = time.monotonic()
            return self._queue[0] if self._queue else None

    def _take(self) -> Job | None:
        """Take the next job from the queue; None where none waits, or where it is judged alone."""
        with self._changed:
            if not self._queue or self._queue[0].alone:
                return None
            job = self._queue.popleft()
            job.begun = True
        job.on_begin()
        return job

    def _put_back(self, job: Job) -> None:
        with self._changed:
            self._queue.append(job)

    def _judge_alone(self, job: Job) -> None:
        with self._changed:
            if job not in self._queue:  # it has just been cancelled
                return
            self._queue.remove(job)
            job.begun = job.claim()
        if not job.begun:
            return
        job.on_begin()
        self._jobs.running.add(job)
        try:
            self._judge.engine.reset_prefix_cache()
            records = list(getattr(self._judge, METHODS[job.kind])(job.rows))
            self._jobs.running.discard(job)
            self._finish(job, records)
        except BaseException as error:  # see `LiveJobs.run`
            self._jobs.running.discard(job)
            job.fail(error)


def _is_unread(record: Comparison | Rating | ListVerdict) -> bool:
    if isinstance(record, Rating):
        return record.rating is None
    return record.winner is None and record.outcome != "tie"
