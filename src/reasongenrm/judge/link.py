"""`LinkedJudge`: a shared judge of another process on this machine, and `answer_link`: the other end of the connection."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from itertools import count
from multiprocessing.connection import Connection
from threading import Lock
from typing import Any

from reasongenrm.errors import ConfigError, DataError, EngineError, ReasonGenRMError, first_line
from reasongenrm.judge.live import Job
from reasongenrm.judge.sharing import QueuedJudge, SharedJudge

BEGUN = "begun"
"""Sent in place of a result when a job is taken from the queue."""


def judge_settings(judge: SharedJudge) -> dict[str, Any]:
    """Return what a `LinkedJudge` has to know of its judge."""
    return {name: getattr(judge, name) for name in ("adapter", "prompt_file", "seed")}


class LinkedJudge(QueuedJudge):
    """A shared judge whose engine is in another process, which does not wait for the Python code of this one.

    Args:
        settings: `judge_settings` of the judge.
        connection: to its process, where `answer_link` runs.
        seconds: see `QueuedJudge`.
    """

    def __init__(
        self, settings: Mapping[str, Any], connection: Connection, *, seconds: float | None = None
    ) -> None:
        super().__init__(settings, seconds=seconds)
        self._connection, self._numbers = connection, count()
        # Two locks: results are received also while a request waits for room in the connection.
        self._sending, self._changing = Lock(), Lock()
        self._jobs: dict[int, Job] = {}
        self._begun: set[int] = set()

    @property
    def waiting(self) -> int:
        """See `QueuedJudge.waiting`."""
        with self._changing:
            return len(self._jobs) - len(self._begun)

    @property
    def running(self) -> int:
        """See `QueuedJudge.running`."""
        return len(self._begun)

    def submit_job(self, job: Job) -> Future[list[Any]]:
        """See `QueuedJudge.submit_job`.

        Raises:
            EngineError: the process of the judge has ended.
        """
        number = next(self._numbers)
        with self._changing:
            if not self._jobs:
                self._last = time.monotonic()
            self._jobs[number] = job
        job.future.add_done_callback(partial(self._note_cancelled, number))
        self._send(number, (job.kind, job.rows, job.alone))
        return job.future

    def _note_cancelled(self, number: int, future: Future[list[Any]]) -> None:
        if future.cancelled() and self._pop(number):
            with suppress(EngineError):
                self._send(number, None)

    def _pop(self, number: int) -> Job | None:
        with self._changing:
            self._begun.discard(number)
            return self._jobs.pop(number, None)

    def _send(self, number: int, request: Any) -> None:
        try:
            with self._sending:
                self._connection.send((number, request))
        except OSError as error:
            self._pop(number)
            raise _ended(first_line(error)) from None

    def receive(self) -> None:
        """Give callers their results, until the judge's process ends; then fail what they wait for."""
        with suppress(EOFError, OSError):
            while True:
                number, result = self._connection.recv()
                if result == BEGUN:
                    self._note_begun(number)
                elif job := self._pop(number):  # else it was cancelled
                    if isinstance(result, Exception):
                        job.fail(result)
                    elif job.future.running() or job.claim():
                        self._finish(job, result)
        for number in list(self._jobs):
            if job := self._pop(number):
                job.fail(_ended("it is closed"))

    def _note_begun(self, number: int) -> None:
        with self._changing:
            if job := self._jobs.get(number):
                self._begun.add(number)
        if job and job.alone and not job.future.running():
            job.claim()  # the judge cannot stop it any more


def _ended(reason: str) -> EngineError:
    problem = f"the process of the judge has ended: {reason}"
    return EngineError(problem, location="LinkedJudge", hint="start the judge again")


def answer_link(judge: SharedJudge, connection: Connection) -> None:
    """Judge what a `LinkedJudge` sends, until its process ends; then cancel what it waits for."""
    futures: dict[int, Future[list[Any]]] = {}
    sending = Lock()

    def send(number: int, result: Any) -> None:
        with sending, suppress(OSError):  # the other process has ended
            connection.send((number, result))

    def done(number: int, future: Future[list[Any]]) -> None:
        futures.pop(number, None)
        if not future.cancelled():
            error = future.exception()
            send(number, future.result() if error is None else _portable(error))

    with suppress(EOFError, OSError):
        while True:
            number, request = connection.recv()
            if request is None:
                if future := futures.get(number):
                    future.cancel()
                continue
            kind, rows, alone = request
            job = Job(rows, kind, alone=alone, on_begin=partial(send, number, BEGUN))
            try:
                futures[number] = judge.submit_job(job)
            except EngineError as error:
                send(number, error)
            else:
                job.future.add_done_callback(partial(done, number))
    for future in list(futures.values()):
        future.cancel()


def _portable(error: BaseException) -> Exception:
    """Return an error that the other process can read, whatever the class; one that is not for users is logged here, with its
    traceback."""
    if isinstance(error, ReasonGenRMError):
        kinds = (ConfigError, DataError, EngineError)
        kind = next((kind for kind in kinds if isinstance(error, kind)), ReasonGenRMError)
        return kind(error.problem, location=error.location, hint=error.hint)
    logging.getLogger(__name__).error("a request failed", exc_info=error)
    return RuntimeError(f"the judge raised {type(error).__name__}; its log has the traceback")
