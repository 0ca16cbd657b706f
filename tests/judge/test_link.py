"""A shared judge behind a connection, with a stand-in for the engine: it behaves as the judge itself does."""

from __future__ import annotations

import threading
from asyncio import CancelledError
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from typing import Any

import pytest

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.errors import DataError, EngineError
from reasongenrm.judge.api import DEFAULT_PROMPTS, Judge
from reasongenrm.judge.inputs import ComparisonInput
from reasongenrm.judge.link import LinkedJudge, answer_link, judge_settings
from reasongenrm.judge.sharing import JudgeFull, SharedJudge
from reasongenrm.rewards.flags import JudgeTexts
from support.app import wait_until
from support.live_engine import LiveEngine, held

pytestmark = pytest.mark.unit

ROWS: list[ComparisonInput] = [(f"p{n}", "a" * n, "b") for n in range(1, 30)]


@pytest.fixture
def engine() -> LiveEngine:
    return LiveEngine()


@pytest.fixture
def judge(engine: LiveEngine) -> Judge:
    return Judge(engine, None, PromptFile.load(DEFAULT_PROMPTS), JudgingConfig())


@contextmanager
def linked(judge: Judge) -> Iterator[tuple[LinkedJudge, SharedJudge]]:
    """Yield a judge behind a connection, and the shared judge at its other end."""
    near, far = Pipe()
    with SharedJudge(judge) as shared:
        link = LinkedJudge(judge_settings(shared), near)
        threads = [
            threading.Thread(target=link.receive, daemon=True),
            threading.Thread(target=answer_link, args=(shared, far), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            yield link, shared
        finally:
            near.close()
            far.close()


def test_results_counts_and_load_are_those_of_the_judge(judge: Judge, engine: LiveEngine) -> None:
    own = [list(judge.compare_many([row])) for row in ROWS]
    texts = [("p", "x"), ("q", "y")]
    ratings = list(judge.rate_many(texts))
    lists = [("p", ["x", "y", "z"])]
    choices = list(judge.choose_many(lists))
    engine.taken.clear()
    with linked(judge) as (link, _):
        with held(engine):
            futures = [link.submit([row]) for row in ROWS]
            wait_until(lambda: len(engine.taken) == 2 * len(ROWS))
            wait_until(lambda: (link.running, link.waiting) == (len(ROWS), 0))
        assert [future.result(30) for future in futures] == own
        assert (link.running, link.waiting) == (0, 0)
        assert list(link.rate_many(texts)) == ratings and list(link.choose_many(lists)) == choices
        assert link.counts == {"requests": 31, "comparisons": 29, "ratings": 2, "choices": 1, "unread": 0}
        assert link.rank("p", ["x", "yy", "z"]) == judge.rank("p", ["x", "yy", "z"])
        assert JudgeTexts.from_judge(link) == JudgeTexts.from_judge(judge)


def test_errors_reach_the_caller_with_their_texts(
    judge: Judge, engine: LiveEngine, caplog: pytest.LogCaptureFixture
) -> None:
    with linked(judge) as (link, _):
        with pytest.raises(DataError) as caught:
            link.submit([ROWS[1], ("p", 7, "b")]).result(30)  # type: ignore[list-item]
        assert "row 1" in caught.value.location and caught.value.hint
        assert "Traceback" not in caplog.text
        with pytest.raises(RuntimeError, match="RuntimeError"):
            link.submit([("p", "dead", "b")]).result(30)
        assert "Traceback" in caplog.text and "the engine died" in caplog.text, "where the engine is"
        assert link.submit([ROWS[0]]).result(30)
        assert (link.running, link.waiting) == (0, 0)


class Locked(EngineError):
    """Cannot be read again: it has other arguments, and an attribute that cannot be pickled."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second, location="engine", hint="unlock it")
        self.lock = threading.Lock()


class Silent(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Locked("lo", "cked"), EngineError),
        (Silent(), RuntimeError),
        (CancelledError(), RuntimeError),
        (SystemExit(3), RuntimeError),
    ],
)
def test_every_error_of_an_engine_reaches_the_caller(
    judge: Judge, error: BaseException, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error
        yield

    with linked(judge) as (link, _):
        with monkeypatch.context() as patch:
            patch.setattr(LiveEngine, "complete_live", fail)
            for alone in (False, True):
                with pytest.raises(kind) as caught:
                    link.submit([ROWS[0]], alone=alone).result(30)
        assert type(caught.value) is kind
        assert getattr(caught.value, "hint", "unlock it") == "unlock it"
        assert link.submit([ROWS[0]]).result(30), "the judge lives on"
        assert (link.running, link.waiting) == (0, 0)


def test_cancelled_requests_are_not_judged(judge: Judge, engine: LiveEngine) -> None:
    engine.slots = 2
    with linked(judge) as (link, shared):
        with held(engine):
            first, gone, last = (link.submit([row]) for row in ROWS[:3])
            wait_until(lambda: len(engine.taken) == 2 and link.running == 1)
            assert gone.cancel() and link.waiting == 1
            wait_until(lambda: shared.waiting == 1)
        assert first.result(30) and last.result(30)
        assert len(engine.taken) == 4
        engine.slots = 1000
        with held(engine):
            running = link.submit(ROWS[3:5])
            wait_until(lambda: len(engine.taken) == 8)
            assert running.cancel()
            wait_until(lambda: len(engine.withdrawn) == 4)
        assert (link.running, link.waiting) == (0, 0)


def test_rows_alone_are_judged_apart_with_an_empty_cache(judge: Judge, engine: LiveEngine) -> None:
    with linked(judge) as (link, _):
        with held(engine):
            first = link.submit(ROWS[:2])
            wait_until(lambda: len(engine.taken) == 4)
            alone = link.submit(ROWS[2:4], alone=True)
        assert len(first.result(30)) == len(alone.result(30)) == 2
        with held(engine):
            begun = link.submit(ROWS[4:6], alone=True)
            wait_until(lambda: link.running == 1)
            assert not begun.cancel() and link.running == 1, "the judge cannot stop it any more"
        assert len(begun.result(30)) == 2
        assert link.counts["requests"] == 3
    assert engine.resets == [4, 8] and engine.done == engine.taken


def test_a_full_queue_is_known_on_this_side(judge: Judge, engine: LiveEngine) -> None:
    engine.slots = 2
    with linked(judge) as (link, _):
        with held(engine):
            futures = [link.submit([row]) for row in ROWS[:4]]
            wait_until(lambda: link.waiting == 3)
            link.check_room(4)
            with pytest.raises(JudgeFull, match="3 requests wait"):
                link.check_room(3)
        assert all(future.result(30) for future in futures)
        link.check_room(1)


def test_requests_fail_when_the_process_of_the_judge_ends(judge: Judge, engine: LiveEngine) -> None:
    near, far = Pipe()
    link = LinkedJudge({}, near)
    waiting = link.submit([ROWS[0]])
    far.close()
    link.receive()
    with pytest.raises(EngineError, match="has ended"):
        waiting.result(30)
    with pytest.raises(EngineError, match="has ended"):
        link.submit([ROWS[0]])
    assert (link.running, link.waiting) == (0, 0)


def test_what_nobody_waits_for_any_more_is_not_judged(judge: Judge, engine: LiveEngine) -> None:
    near, far = Pipe()
    sent: list[Any] = [(number, ("comparisons", (row,), False)) for number, row in enumerate(ROWS[:3])]
    engine.slots = 2
    with SharedJudge(judge) as shared, held(engine):
        for request in sent:
            near.send(request)
        thread = threading.Thread(target=answer_link, args=(shared, far))
        thread.start()
        wait_until(lambda: len(engine.taken) == 2 and shared.waiting == 2)
        near.close()
        thread.join(30)
        assert not thread.is_alive() and shared.waiting == 0
    assert len(engine.taken) == 2
