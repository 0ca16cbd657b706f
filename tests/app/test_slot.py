"""One judge at a time: loading, work, errors and stopping. The judge here only notes what is done to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from reasongenrm.app.slot import JudgeSlot
from reasongenrm.errors import ConfigError, DataError, EngineError
from support.app import wait_until

pytestmark = pytest.mark.unit


class NotedJudge:
    """Notes the thread that starts it and those that close it."""

    def __init__(self) -> None:
        self.thread = threading.current_thread()
        self.closed_by: list[threading.Thread] = []

    def close(self) -> None:
        self.closed_by.append(threading.current_thread())


@pytest.fixture
def slot() -> Iterator[JudgeSlot]:
    one = JudgeSlot()
    yield one
    one.close()


def loaded(slot: JudgeSlot, judge: Callable[[], Any] = NotedJudge, name: str = "j") -> None:
    slot.load(name, judge)
    wait_until(lambda: slot.status.state != "loading")


def test_a_judge_loads_in_the_background_and_nothing_else_may_load_meanwhile(slot: JudgeSlot) -> None:
    free = threading.Event()

    def start() -> Any:
        free.wait(20)
        return NotedJudge()

    slot.load("slow", start)
    assert slot.status[:2] == ("loading", "slow")
    with pytest.raises(ConfigError, match="slow is loading"):
        slot.load("other", NotedJudge)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="slow is loading"):
        slot.unload()
    with pytest.raises(ConfigError, match="still loading"):
        next(slot.stream(lambda judge: iter(())))  # type: ignore[arg-type, return-value]
    free.set()
    wait_until(lambda: slot.status.state == "ready")
    assert slot.status.name == "slow" and slot.status.error is None


def test_one_thread_starts_asks_and_closes_the_judge_before_the_next_one_starts(slot: JudgeSlot) -> None:
    judges: list[NotedJudge] = []

    def start() -> Any:
        assert all(judge.closed_by for judge in judges), "two judges at once"
        judges.append(NotedJudge())
        return judges[-1]

    def work(judge: Any) -> Generator[tuple[Any, threading.Thread], None, None]:
        yield judge, threading.current_thread()

    loaded(slot, start)
    [(judge, thread)] = slot.stream(work)
    assert judge is judges[0] and thread is judge.thread is not threading.current_thread()
    loaded(slot, start, "next")
    assert judges[0].closed_by == [thread] and slot.status[:2] == ("ready", "next")
    slot.unload()
    wait_until(lambda: judges[1].closed_by == [thread])
    assert slot.status.state == "empty"
    with pytest.raises(ConfigError, match="no judge is loaded"):
        list(slot.stream(work))


@pytest.mark.parametrize(
    ("raised", "shown"),
    [
        (EngineError("no memory", hint="smaller"), "no memory (smaller)"),
        (RuntimeError("boom\nsecret trace"), "j: the judge cannot be loaded: boom (see the log of the page)"),
    ],
)
def test_why_a_judge_does_not_load_is_kept(slot: JudgeSlot, raised: Exception, shown: str) -> None:
    def start() -> Any:
        raise raised

    loaded(slot, start)
    assert slot.status.state == "failed" and str(slot.status.error) == shown
    loaded(slot)  # and the next one may be tried
    assert slot.status.state == "ready"


def test_results_come_one_by_one_and_an_error_after_them(slot: JudgeSlot) -> None:
    def work(judge: Any) -> Generator[int, None, None]:
        yield 1
        yield 2
        raise DataError("bad row")

    loaded(slot)
    results = slot.stream(work)
    assert next(results) == 1 and next(results) == 2
    with pytest.raises(DataError, match="bad row"):
        next(results)
    assert list(slot.stream(lambda judge: (n for n in (3, 4)))) == [3, 4], "the thread goes on"


def endless(ended: threading.Event) -> Callable[[Any], Generator[int, None, None]]:
    def work(judge: Any) -> Generator[int, None, None]:
        try:
            while True:
                yield 0
                ended.wait(0.01)
        finally:
            ended.set()

    return work


def test_a_closed_stream_ends_its_work(slot: JudgeSlot) -> None:
    ended = threading.Event()
    loaded(slot)
    results = slot.stream(endless(ended))
    next(results)
    results.close()
    assert ended.wait(20)
    assert list(slot.stream(lambda judge: (n for n in [5]))) == [5]


def test_stopping_ends_all_work_and_closes_the_judge() -> None:
    slot, ended, judge = JudgeSlot(), threading.Event(), NotedJudge()
    loaded(slot, lambda: judge)
    running, waiting = slot.stream(endless(ended)), slot.stream(endless(threading.Event()))
    next(running)
    failed = threading.Event()

    def wait_for_turn() -> None:
        with pytest.raises(ConfigError, match="the page is stopping"):
            next(waiting)
        failed.set()

    thread = threading.Thread(target=wait_for_turn)
    thread.start()
    slot.close()
    assert ended.is_set() and len(judge.closed_by) == 1
    thread.join(20)
    assert failed.is_set()
    with pytest.raises(ConfigError, match="the page is stopping"):
        slot.load("late", NotedJudge)  # type: ignore[arg-type]
