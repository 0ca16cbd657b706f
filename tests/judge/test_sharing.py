"""A shared judge and its server with a stand-in for the engine: time limits, who may ask, and bad callers beside good ones."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.connections import ConnectionLimits, create_server
from reasongenrm.judge.api import ComparisonInput, Judge
from reasongenrm.judge.server import Limits, create_app
from reasongenrm.judge.sharing import JudgeBusy, SharedJudge
from reasongenrm.records import Comparison

pytestmark = pytest.mark.unit

DEFAULT = ConnectionLimits()
GOOD = {"prompt": "p", "a": "x", "b": "y"}


class StandIn(Judge):
    """Its reason is a hash of the texts; it waits while `go_on` is not set."""

    def __init__(self, toy_prompts: PromptFile) -> None:
        super().__init__(SimpleNamespace(max_model_len=512), None, toy_prompts, JudgingConfig())  # type: ignore[arg-type]
        self.go_on = threading.Event()
        self.go_on.set()
        self.rows = 0

    def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
        assert self.go_on.wait(60)
        for prompt, a, b in rows:
            self.rows += 1
            text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
            yield Comparison("c", "A", 0.75, reason(text, a, b), "ok", (), 1, 1)


def reason(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


@pytest.fixture
def judge(toy_prompts: PromptFile) -> StandIn:
    return StandIn(toy_prompts)


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


def test_a_result_is_waited_for_until_the_limit(judge: StandIn) -> None:
    with SharedJudge(judge, seconds=0.2) as shared:
        assert shared.compare("p", "x", "y").winner == "A"
        judge.go_on.clear()
        with pytest.raises(JudgeBusy, match=r"no comparison within 0\.2 s"):
            shared.compare("p", "x", "y")
        with pytest.raises(JudgeBusy):
            shared.compare("p", "second", "y")
        judge.go_on.set()
    assert judge.rows == 2, "what was given up before it began is not judged"


def test_a_request_waits_no_longer_than_the_limit(judge: StandIn) -> None:
    with running(judge, Limits(seconds=0.3)) as url:
        judge.go_on.clear()
        answers = [post(url, "/compare", GOOD), post(url, "/rank", {"prompt": "p", "answers": ["x", "y"]})]
        judge.go_on.set()
        assert post(url, "/compare", GOOD).status_code == 200
    for answer in answers:
        assert answer.status_code == 503 and "no comparison within 0.3 s" in answer.json()["error"]


def test_other_hosts_and_web_pages_are_refused(judge: StandIn) -> None:
    with running(judge, Limits()) as url:
        for headers in (
            {"Host": "evil.example"},
            {"Origin": "http://evil.example"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            answer = post(url, "/compare", GOOD, headers)
            assert answer.status_code == 403 and set(answer.json()) == {"error", "hint"}
    assert judge.rows == 0


def test_rewards_may_have_larger_bodies(judge: StandIn) -> None:
    with running(judge, Limits(body=1000, rewards_body=5000)) as url:
        assert post(url, "/compare", GOOD | {"a": "x" * 1000}).status_code == 413
        rewards = {"query": ["p" + "x" * 2000], "prompts": ["p"], "labels": ["y"]}
        assert post(url, "/get_reward", rewards).status_code == 200


def test_good_callers_get_their_own_answers_beside_bad_ones(judge: StandIn) -> None:
    stop = threading.Event()

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
            return answer.status_code == 200 and answer.json()["reason"] == reason(*row)

        for number in range(16):
            bad.submit(misbehave, url, number)
        try:
            answers = list(good.map(ask, range(1, 201)))
        finally:
            stop.set()
    assert all(answers) and judge.rows == 200
