"""A shared judge and its server with a stand-in for the engine: joining, time limits, who may ask, and bad callers beside good ones."""

from __future__ import annotations

import ctypes
import math
import os
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import torch

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.connections import ConnectionLimits, create_server
from reasongenrm.errors import DataError, EngineError
from reasongenrm.judge.api import DEFAULT_PROMPTS, Judge
from reasongenrm.judge.inputs import ComparisonInput
from reasongenrm.judge.live import SHARE
from reasongenrm.judge.sharing import JudgeBusy, JudgeFull, SharedJudge
from reasongenrm.service.bodies import Limits
from reasongenrm.service.server import create_app
from support.app import wait_until
from support.live_engine import LiveEngine, held

pytestmark = pytest.mark.unit

DEFAULT = ConnectionLimits()
GOOD = {"prompt": "p", "a": "x", "b": "y"}
ROWS: list[ComparisonInput] = [(f"p{n}", "a" * n, "b") for n in range(1, 30)]


@pytest.fixture
def engine() -> LiveEngine:
    return LiveEngine()


@pytest.fixture
def judge(engine: LiveEngine) -> Judge:
    return Judge(engine, None, PromptFile.load(DEFAULT_PROMPTS), JudgingConfig())


def test_the_thread_that_shares_a_judge_keeps_no_openmp_threads(judge: Judge) -> None:
    def tasks() -> set[str]:
        return set(os.listdir("/proc/self/task"))

    numbers = torch.ones(2**20)
    numbers.exp()  # the first computation sets the number of threads
    openmp = ctypes.CDLL(None)
    limit, before = openmp.omp_get_max_threads(), tasks()
    openmp.omp_set_num_threads(limit + 2)
    try:
        numbers.exp()
        pool = tasks() - before
        assert len(pool) >= 2
        with SharedJudge(judge):
            assert not pool & tasks()
    finally:
        openmp.omp_set_num_threads(limit)


def test_requests_join_those_that_the_engine_has(judge: Judge, engine: LiveEngine) -> None:
    own = [list(judge.compare_many([row])) for row in ROWS]
    engine.taken.clear()
    with SharedJudge(judge) as shared, held(engine):
        futures = [shared.submit([row]) for row in ROWS]
        wait_until(lambda: len(engine.taken) == 2 * len(ROWS))
        assert (shared.running, shared.waiting) == (len(ROWS), 0)
        engine.go_on.set()
        assert [future.result(30) for future in futures] == own
        wait_until(lambda: shared.running == 0)
        assert shared.counts == {
            "requests": 29,
            "comparisons": 29,
            "ratings": 0,
            "choices": 0,
            "unread": 0,
        }


def test_a_result_is_there_before_those_of_later_requests_begin(judge: Judge, engine: LiveEngine) -> None:
    engine.slots = 2
    with SharedJudge(judge) as shared:
        with held(engine):
            large = shared.submit(ROWS[2:])
            wait_until(lambda: len(engine.taken) == 2)
            small = shared.submit(ROWS[:1])
            assert shared.waiting == 1
        assert small.result(30) and large.result(30)
        many = [("q", "a" * n, "c") for n in range(1, SHARE + 9)]
        with held(engine):
            large = shared.submit(many)
            wait_until(lambda: len(engine.taken) == 2 * len(ROWS[2:]) + 4)
            small = shared.submit([("small", "a", "b")])
            seen: list[int] = []
            small.add_done_callback(lambda _: seen.append(len(engine.done)))
        assert small.result(30) and large.result(30)
    before = 2 * (len(ROWS) - 1)
    assert seen[0] - before <= SHARE + 4 < 2 * len(many), "it waited for a share of the large one"


def test_comparisons_ratings_and_rescues_run_beside_each_other(judge: Judge, engine: LiveEngine) -> None:
    rows: list[ComparisonInput] = [("p", "vague", "b"), ("q", "a", "b"), ("r", "also vague", "c")]
    texts = [(prompt, a) for prompt, a, _ in rows]
    own, ratings = list(judge.compare_many(rows)), list(judge.rate_many(texts))
    assert own[0].verdicts[0].rescued and ratings[0].rescued and not own[1].verdicts[0].rescued
    with SharedJudge(judge) as shared:
        with held(engine):
            compared, rated = shared.submit(rows), shared.submit_ratings(texts)
            wait_until(lambda: shared.running == 2)
        assert compared.result(30) == own and rated.result(30) == ratings


def test_a_prompt_in_several_requests_is_judged_once(judge: Judge, engine: LiveEngine) -> None:
    row: ComparisonInput = ("p", "vague", "b")
    [own] = judge.compare_many([row])
    engine.taken.clear()
    with SharedJudge(judge) as shared:
        with held(engine):
            futures = [shared.submit([row, row]) for _ in range(4)]
            wait_until(lambda: shared.running == 4)
            assert futures[0].cancel(), "the others wait for the same requests"
        assert all(future.result(30) == [own, own] for future in futures[1:])
        assert len(engine.taken) == len(set(engine.taken)) == 4, "two orders, with their rescues"
        assert not engine.withdrawn
        assert shared.submit([row]).result(30) == [own] and len(engine.taken) == 8


def test_a_bad_row_fails_only_its_own_request(judge: Judge, engine: LiveEngine) -> None:
    good, bad = ROWS[:1], [ROWS[1], ("p", 7, "b")]
    with SharedJudge(judge) as shared:
        with held(engine):
            futures = [shared.submit(rows) for rows in (good, bad, good, [])]  # type: ignore[arg-type]
            with pytest.raises(DataError) as caught:
                futures[1].result(30)
            assert "row 1" in caught.value.location, "counted among its own rows"
            assert futures[3].result(30) == []
        assert futures[0].result(30) == futures[2].result(30)


def test_an_engine_failure_fails_only_the_current_requests(judge: Judge, engine: LiveEngine) -> None:
    engine.slots = 4
    with SharedJudge(judge) as shared:
        with held(engine):
            futures = [shared.submit([row]) for row in (ROWS[0], ("p", "dead", "b"), ROWS[1])]
            wait_until(lambda: len(engine.taken) == 4)
        assert futures[0].result(30), "it was answered before"
        with pytest.raises(RuntimeError, match="died"):
            futures[1].result(30)
        wait_until(futures[2].done)
        assert shared.submit([ROWS[2]]).result(30)
        wait_until(lambda: shared.running == 0)


def test_an_engine_that_does_not_start_fails_one_request_after_the_other(
    judge: Judge, engine: LiveEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise EngineError("no adapter", location="adapter", hint="give one")
        yield

    monkeypatch.setattr(LiveEngine, "complete_live", refuse)
    with SharedJudge(judge) as shared:
        futures = [shared.submit([row]) for row in ROWS[:3]]
        for future in futures:
            with pytest.raises(EngineError, match="no adapter"):
                future.result(30)


def test_cancelled_requests_are_not_judged(judge: Judge, engine: LiveEngine) -> None:
    engine.slots = 2
    with SharedJudge(judge) as shared:
        with held(engine):
            first, gone, last = (shared.submit([row]) for row in ROWS[:3])
            wait_until(lambda: len(engine.taken) == 2)
            assert gone.cancel() and shared.waiting == 1
        assert first.result(30) and last.result(30)
        assert len(engine.taken) == 4
        engine.slots = 1000
        with held(engine):
            running, other = shared.submit(ROWS[:3]), shared.submit(ROWS[2:4])
            wait_until(lambda: len(engine.taken) == 4 + 8)
            assert running.cancel()
            wait_until(lambda: len(engine.withdrawn) == 4)
        assert len(other.result(30)) == 2
        wait_until(lambda: shared.running == 0)
    assert not engine.withdrawn & set(engine.done[4:])


def test_rows_alone_are_judged_apart_with_an_empty_cache(judge: Judge, engine: LiveEngine) -> None:
    with SharedJudge(judge) as shared:
        with held(engine):
            first = shared.submit(ROWS[:2])
            wait_until(lambda: len(engine.taken) == 4)
            alone, later = shared.submit(ROWS[2:4], alone=True), shared.submit(ROWS[4:6])
            gone = shared.submit(ROWS[6:8], alone=True)
            assert shared.waiting == 3 and gone.cancel()
        assert all(len(future.result(30)) == 2 for future in (first, alone, later))
        bad = shared.submit([("", "a", "b")], alone=True)
        with pytest.raises(DataError):
            bad.result(30)
    assert engine.resets == [4, 12] and len(engine.taken) == 12
    assert engine.done == engine.taken, "one after the other"


def test_closing_ends_the_thread_and_cancels_waiting_requests(judge: Judge, engine: LiveEngine) -> None:
    engine.slots = 2
    shared = SharedJudge(judge)
    with held(engine):
        running, waiting = shared.submit([ROWS[0]]), shared.submit([ROWS[1]])
        wait_until(lambda: len(engine.taken) == 2)
        closing = threading.Thread(target=shared.close)
        closing.start()
        with pytest.raises(CancelledError):
            waiting.result(30)
    closing.join(30)
    assert not closing.is_alive() and running.result(30)
    with pytest.raises(EngineError):
        shared.submit([])


def test_a_full_queue_says_when_to_ask_again(judge: Judge, engine: LiveEngine) -> None:
    engine.slots = 2
    with SharedJudge(judge) as shared:
        shared.check_room(1)
        began = time.monotonic()
        with held(engine):
            futures = [shared.submit([row]) for row in ROWS[:4]]
            wait_until(lambda: shared.waiting == 3)
            time.sleep(0.3)
            shared.check_room(4)
            with pytest.raises(JudgeFull, match="3 requests wait") as caught:
                shared.check_room(3)
            assert caught.value.retry_after == 1, "nothing is known yet"
        assert all(future.result(30) for future in futures)
        mean_seconds = (time.monotonic() - began) / 4
        with held(engine):
            futures = [shared.submit([row]) for row in ROWS[:29]]
            wait_until(lambda: shared.waiting == 28)
            with pytest.raises(JudgeFull) as caught:
                shared.check_room(1)
            least, most = math.ceil(28 * 0.3 / 4), math.ceil(28 * mean_seconds)
            assert least <= caught.value.retry_after <= most, "28 times the mean of 0.3, 0, 0 and 0 s"


def test_many_threads_get_their_own_rankings(judge: Judge) -> None:
    answers = [["x" * (1 + (number * 7 + n * 3) % 11) for n in range(5)] for number in range(16)]
    with SharedJudge(judge) as shared, ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda some: shared.rank("p", some, method="knockout"), answers))
    own = Judge(LiveEngine(), None, judge.prompt_file, JudgingConfig())
    assert found == [own.rank("p", some, method="knockout") for some in answers]


@contextmanager
def running(
    judge: Judge, limits: Limits, connections: ConnectionLimits = DEFAULT, **options: Any
) -> Iterator[str]:
    """Run the judge's server in a thread; yield its URL."""
    with SharedJudge(judge, seconds=limits.seconds) as shared:
        listening = socket.create_server(("127.0.0.1", 0))
        server = create_server(create_app(shared, limits=limits, **options), connections, log_level="error")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                time.sleep(0.005)
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def post(url: str, path: str, body: Any, headers: dict[str, str] | None = None) -> httpx.Response:
    return httpx.post(url + path, json=body, headers=headers, trust_env=False, timeout=30)


def test_a_result_is_waited_for_until_the_limit(judge: Judge, engine: LiveEngine) -> None:
    engine.slots = 2
    with SharedJudge(judge, seconds=0.2) as shared:
        assert shared.compare("p", "x", "y").winner
        with held(engine):
            with pytest.raises(JudgeBusy, match=r"no result within 0\.2 s"):
                shared.compare("p", "x", "y")
            with pytest.raises(JudgeBusy):
                shared.compare("p", "second", "y")
    assert len(engine.taken) == 4, "what was given up before it began is not judged"


def test_a_request_waits_no_longer_than_the_limit(judge: Judge, engine: LiveEngine) -> None:
    with running(judge, Limits(seconds=0.3)) as url:
        with held(engine):
            rank = {"prompt": "p", "answers": ["x", "y"]}
            answers = [post(url, "/compare", GOOD), post(url, "/rank", rank)]
        assert post(url, "/compare", GOOD).status_code == 200
    for answer in answers:
        assert answer.status_code == 503 and "no result within 0.3 s" in answer.json()["error"]


def test_other_hosts_and_web_pages_are_refused(judge: Judge, engine: LiveEngine) -> None:
    with running(judge, Limits()) as url:
        for headers in (
            {"Host": "evil.example"},
            {"Origin": "http://evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            answer = post(url, "/compare", GOOD, headers)
            assert answer.status_code == 403 and set(answer.json()) == {"error", "hint"}
    assert not engine.taken


def test_rewards_may_have_larger_bodies(judge: Judge) -> None:
    with running(judge, Limits(body=1000, rewards_body=5000)) as url:
        assert post(url, "/compare", GOOD | {"a": "x" * 1000}).status_code == 413
        rewards = {"query": ["p" + "x" * 2000], "prompts": ["p"], "labels": ["y"]}
        assert post(url, "/get_reward", rewards).status_code == 200


def test_good_callers_get_their_own_answers_beside_bad_ones(judge: Judge, engine: LiveEngine) -> None:
    stop = threading.Event()
    own = list(judge.compare_many([(f"prompt {n}", "a" * n, "b" * n) for n in range(1, 201)]))
    engine.taken.clear()

    def misbehave(url: str, number: int) -> None:
        port = int(url.rpartition(":")[2])
        head = b"POST /compare HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        sent = (b"", head, head + b"X: " + b"x" * 50_000, b"\0" * 100, head + b"Content-Length: 99\r\n\r\n{")[
            number % 5
        ]
        while not stop.wait(0.02):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                try:
                    client.sendall(sent)
                    stop.wait(0.1)
                except OSError:
                    continue

    limits = ConnectionLimits(connections=40, header_seconds=0.5, body_seconds=0.5)
    with (
        running(judge, Limits(), limits) as url,
        httpx.Client(base_url=url, trust_env=False, timeout=30) as client,
        ThreadPoolExecutor(16) as bad,
        ThreadPoolExecutor(8) as good,
    ):

        def ask(number: int) -> bool:
            row = [f"prompt {number}", "a" * number, "b" * number]
            answer = client.post("/compare", json=dict(zip(("prompt", "a", "b"), row, strict=True)))
            return answer.status_code == 200 and answer.json()["reason"] == own[number - 1].reason

        for number in range(16):
            bad.submit(misbehave, url, number)
        try:
            answers = list(good.map(ask, range(1, 201)))
        finally:
            stop.set()
    assert all(answers) and len(engine.taken) == 400


# --- requests of several threads
