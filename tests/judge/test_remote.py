"""`RemoteJudge` against hostile servers: one clear error, in time, with a bounded memory; keys and texts go nowhere else."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any

import pytest

from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.judge.remote import CONNECTIONS, RemoteJudge
from reasongenrm.records import Comparison
from support.hostile import (
    WRONG_BODIES,
    Answer,
    body_of,
    compressed,
    endless_body,
    listening,
    redirect,
    reply,
    slow_body,
    slow_header,
)

pytestmark = pytest.mark.unit

GOOD: dict[str, Any] = {
    "winner": "A",
    "prob_a": 0.75,
    "reason": "r",
    "reasons": {"AB": "r"},
    "outcome": "ok",
    "prompt_tokens": 3,
    "tokens": 2,
    "problem": None,
}
ROW = ("p", "secret text", "b")


def ask(url: str, **options: Any) -> Comparison:
    [comparison] = RemoteJudge(url, **options).compare_many([ROW])
    return comparison


def test_a_comparison_is_read() -> None:
    with listening(reply(body_of(GOOD | {"a later field": 1}))) as server:
        comparison = ask(server.url)
    assert (comparison.winner, comparison.prob_a, comparison.reasons) == ("A", 0.75, {"AB": "r"})
    with listening(compressed(body_of(GOOD))) as server:
        assert ask(server.url) == comparison


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "open-sesame")
    with listening(reply(body_of(GOOD))) as other, listening(redirect(other.url, status)) as server:
        with pytest.raises(EngineError, match=f"HTTP {status}: it redirects to 'http://127.*not followed"):
            ask(server.url, api_key_env="JUDGE_KEY")
        assert len(server.requests) == 1 and b"open-sesame" in server.requests[0]
        assert other.requests == []


WRONG: dict[str, bytes] = WRONG_BODIES | {
    "winner": body_of(GOOD | {"winner": "C"}),
    "probability": body_of(GOOD | {"prob_a": 1.5}),
    "no probability": body_of(GOOD | {"prob_a": float("nan")}),
    "infinite": body_of(GOOD).replace(b"0.75", b"1e999"),
    "reasons": body_of(GOOD | {"reasons": ["r"]}),
    "order": body_of(GOOD | {"reasons": {"CD": "r"}}),
    "outcome": body_of(GOOD | {"outcome": {}}),
    "tokens": body_of(GOOD | {"tokens": -1}),
    "a field too few": body_of({name: GOOD[name] for name in GOOD if name != "tokens"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_body_is_the_servers_failure(name: str) -> None:
    with (
        listening(reply(WRONG[name])) as server,
        pytest.raises(EngineError, match="answer is not valid") as caught,
    ):
        ask(server.url)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("status", ["500 Broken", "404 Not Found", "422 No", "413 Large"])
@pytest.mark.parametrize("name", WRONG_BODIES)
def test_the_body_of_an_error_may_be_anything(name: str, status: str) -> None:
    kind = DataError if status[:3] in ("422", "413") else EngineError
    with (
        listening(reply(WRONG_BODIES[name], status=status)) as server,
        pytest.raises(kind, match=f"HTTP {status}"),
    ):
        ask(server.url)


def test_a_servers_message_is_one_short_line_without_control_characters() -> None:
    body = body_of({"error": "\x1b]0;title\x07" + "x" * 10**6 + "\n", "hint": "\x1b[2J"})
    with listening(reply(body, status="400 No")) as server, pytest.raises(DataError) as caught:
        ask(server.url)
    assert len(str(caught.value)) < 400 and str(caught.value).isprintable()


@pytest.mark.parametrize("answer", [slow_body, slow_header], ids=["body", "header"])
def test_an_answer_that_comes_byte_by_byte_ends_at_the_deadline(answer: Answer) -> None:
    began = time.monotonic()
    with (
        listening(answer) as server,
        pytest.raises(EngineError, match=r"does not answer within 0\.5 s"),
    ):
        ask(server.url, timeout=0.5)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (endless_body, "more than 16 MiB"),
        (compressed(bytes(64 * 2**20)), "more than 16 MiB"),
        (compressed(bytes(2**20), times=2), "compressed more than once"),
    ],
    ids=["endless", "compressed", "compressed twice"],
)
def test_a_large_answer_is_not_read_to_its_end(answer: Answer, problem: str) -> None:
    with listening(answer) as server, pytest.raises(EngineError, match=problem):
        ask(server.url, timeout=30)


def test_the_first_failure_ends_the_other_requests() -> None:
    began = time.monotonic()
    with listening(slow_header) as server, pytest.raises(EngineError):
        list(RemoteJudge(server.url, timeout=0.3, concurrency=2).compare_many([ROW] * 50))
    assert time.monotonic() - began < 5 and len(server.requests) <= 6


def test_as_many_requests_as_allowed_are_sent_at_the_same_time() -> None:
    allowed = 2 * CONNECTIONS + 3
    all_there, lock, now, most = threading.Barrier(allowed), threading.Lock(), 0, 0

    def answer(connection: socket.socket) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        all_there.wait(60)
        with lock:
            now -= 1
        reply(body_of(GOOD))(connection)

    with listening(answer) as server:
        judge = RemoteJudge(server.url, timeout=60, concurrency=allowed)
        comparisons = list(judge.compare_many([ROW] * 3 * allowed))
    assert (len(comparisons), most) == (3 * allowed, allowed)


@pytest.mark.parametrize(
    ("arguments", "location"),
    [
        *(({"url": url}, "url") for url in (None, "", "localhost:8080", "ftp://h", "http://", "http://[", 7)),
        *(({"timeout": value}, "timeout") for value in (0, -1.0, float("nan"), "5", None)),
        *(({"concurrency": value}, "concurrency") for value in (0, 1.5, None)),
    ],
)
def test_what_a_remote_judge_cannot_use_is_refused_at_once(arguments: dict[str, Any], location: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RemoteJudge(**({"url": "http://127.0.0.1:9"} | arguments))
    assert caught.value.location == location and caught.value.hint
