"""Jobs of a shared judge: rows that callers wait for, judged together by an engine that runs all the time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from typing import Any, Literal

from reasongenrm.engines.base import Engine, LiveRequest, Request, Withdrawal
from reasongenrm.errors import ConfigError, EngineError
from reasongenrm.judge.api import Judge
from reasongenrm.judge.batches import Batch
from reasongenrm.judge.memory import MemoryCalls
from reasongenrm.judge.turns import JudgingEngine

Kind = Literal["comparisons", "ratings", "choices"]
"""What rows are judged for: the method of `Judge` that makes a batch of them."""

SHARE = 64
"""Requests that a job sends before the next one has its turn, so that a large one does not hold up small ones."""


class Job:
    """Rows that one caller waits for.

    Args:
        rows: of the kind.
        kind: what they are judged for.
        alone: whether they are judged apart from others.
        on_begin: called when the job is taken from the queue.

    Attributes:
        future: of their records; it can be cancelled until they are there.
        begun: whether it has been taken from the queue.
        batch, calls, requests: once it has begun: its prompts, their completions, and the requests that are not sent yet.
        sent: whether all requests are sent.
        awaited: ids of the requests that are sent and not completed.
    """

    batch: Batch[Any, Any, Any]
    calls: MemoryCalls[Any, Any]
    requests: Iterator[Request]

    def __init__(
        self,
        rows: Iterable[Any],
        kind: Kind,
        *,
        alone: bool = False,
        on_begin: Callable[[], None] = lambda: None,
    ) -> None:
        self.rows, self.kind, self.alone, self.on_begin = tuple(rows), kind, alone, on_begin
        self.future: Future[list[Any]] = Future()
        self.begun = self.sent = False
        self.awaited: set[str] = set()

    def begin(self, judge: Judge) -> None:
        """Make the prompts of the rows.

        Raises:
            ConfigError, DataError: see `Judge.compare`.
        """
        self.batch = getattr(judge, self.kind)(enumerate(self.rows))
        self.calls = MemoryCalls(self.batch.prompts, self.batch.task)
        self.requests = self.calls.requests()

    def claim(self) -> bool:
        """Return whether the caller still waits; from then on it cannot cancel."""
        return not self.future.done() and self.future.set_running_or_notify_cancel()

    def fail(self, error: BaseException) -> None:
        """Give the caller an error."""
        if self.future.running() or self.claim():
            self.future.set_exception(error)


class LiveJobs:
    """Judges jobs together: the requests of each join those that the engine has.

    A request that several jobs have in common at the same time is sent once. Used by one thread, but for `cancel`.

    Args:
        judge: the judge.
        take: returns the next job to begin or to continue; None where there is none now.
        put_back: gets a job that has more requests to send, after the others.
        finish: gets a job and its records.

    Attributes:
        running: the jobs that have begun.
    """

    def __init__(
        self,
        judge: Judge,
        take: Callable[[], Job | None],
        put_back: Callable[[Job], None],
        finish: Callable[[Job, list[Any]], None],
    ) -> None:
        self._judge, self._engine = judge, _engine_of_all_tasks(judge)
        self._take, self._put_back, self._finish = take, put_back, finish
        self.running: set[Job] = set()
        self._jobs_by_id: dict[str, list[Job]] = {}  # of the requests that the engine has
        self._rescues: deque[Request] = deque()
        self._dropped: deque[Job] = deque()

    def run(self) -> None:
        """Judge jobs until there is none; an error of the engine fails those that it has."""
        try:
            completions = self._engine.complete_live(self._requests(), adapter=self._judge.adapter)
            with closing(completions):
                for completion in completions:
                    for job in self._jobs_by_id.pop(completion.id, ()):
                        job.awaited.discard(completion.id)
                        self._guarded(job, partial(self._read, job, completion))
            if self._jobs_by_id:
                problem = f"{len(self._jobs_by_id)} requests have no completion"
                raise EngineError(problem, location="engine", hint="report this with the log of the server")
        except BaseException as error:  # also asyncio's CancelledError: the thread has to live on
            current = {job for jobs in self._jobs_by_id.values() for job in jobs}
            if not current and (first := self._take()):  # before it took any
                current = {first}
            self._jobs_by_id.clear()
            self._rescues.clear()
            for job in current:
                self.running.discard(job)
                job.fail(error)

    def cancel(self, job: Job) -> None:
        """End a job that has begun; its caller does not wait any more."""
        self._dropped.append(job)

    def _requests(self) -> Iterator[LiveRequest]:
        """Yield the requests of all jobs; None where there is none now."""
        while True:
            if self._dropped:
                yield self._withdraw(self._dropped.popleft())
            elif self._rescues:
                yield self._rescues.popleft()
            elif job := self._take():
                yield from self._share(job)
            else:
                yield None

    def _share(self, job: Job) -> Iterator[Request]:
        """Yield the next requests of a job, but those that the engine has already."""
        if job not in self.running:
            self.running.add(job)
            self._guarded(job, partial(job.begin, self._judge))
        for _ in range(SHARE):
            if job.future.done():  # it was cancelled, or failed
                return
            request = self._guarded(job, lambda: next(job.requests, None))
            if request is None:
                job.sent = True
                self._guarded(job, partial(self._finish_if_done, job))
                return
            if self._is_new(job, request):
                yield request
        self._put_back(job)

    def _read(self, job: Job, completion: Any) -> None:
        rescue = job.calls.read(completion)
        if rescue and self._is_new(job, rescue):
            self._rescues.append(rescue)
        self._finish_if_done(job)

    def _is_new(self, job: Job, request: Request) -> bool:
        """Note that a job waits for a request; return whether the engine has it not yet."""
        job.awaited.add(request.id)
        jobs = self._jobs_by_id.setdefault(request.id, [])
        jobs.append(job)
        return len(jobs) == 1

    def _finish_if_done(self, job: Job) -> None:
        if job.sent and not job.awaited and job.claim():
            records = list(job.batch.records(job.calls.results()))
            self.running.discard(job)
            self._finish(job, records)

    def _guarded(self, job: Job, act: Callable[[], Any]) -> Any:
        """Return `act()`; an error fails the job alone."""
        try:
            return act()
        except Exception as error:
            job.fail(error)
            self.cancel(job)

    def _withdraw(self, job: Job) -> Withdrawal:
        """Forget a job; return those of its requests that no other job waits for."""
        self.running.discard(job)
        orphans = set()
        for name in job.awaited & self._jobs_by_id.keys():
            self._jobs_by_id[name].remove(job)
            if not self._jobs_by_id[name]:
                del self._jobs_by_id[name]
                orphans.add(name)
        job.awaited.clear()
        self._rescues = deque(rescue for rescue in self._rescues if rescue.id not in orphans)
        return Withdrawal(frozenset(orphans))


def _engine_of_all_tasks(judge: Judge) -> Engine:
    """Return the judge's engine, which completes the requests of all its tasks."""
    tasks: list[Any] = [judge.task, judge.rating_task]
    with suppress(ConfigError):  # a wording without lists: `choose_many` says so
        tasks.append(judge.list_task())
    turns = [task.turns for task in tasks if task.turns]
    return judge.engine.wrapped(partial(JudgingEngine, turns=turns)) if turns else judge.engine
