"""Requests that come while servers answer others."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from engines.test_openai import check_answered, fleet, make_requests
from reasongenrm.engines.base import LiveRequest, Withdrawal
from reasongenrm.records import Completion
from support.app import wait_until
from support.servers import HTTPServer, ReceivedRequest, Reply, answer, serving

pytestmark = pytest.mark.unit


def test_a_request_is_sent_while_others_are_open() -> None:
    first, *later = requests = make_requests(4)
    let_go = threading.Event()

    def reply(received: ReceivedRequest) -> Reply | None:
        if received.body["prompt"][0] == 1:
            assert let_go.wait(20)
        return answer(received)

    def source(server: HTTPServer, done: list[str]) -> Iterator[LiveRequest]:
        yield first
        while not server.received:
            yield None
        for request in later:
            yield request
            yield None
        while len(done) < 3:
            yield None
        let_go.set()
        while True:
            yield None

    done: list[Completion] = []
    names: list[str] = []
    with serving(reply) as server:
        for completion in fleet(server.url).complete_live(source(server, names)):
            done.append(completion)
            names.append(completion.id)
    assert names[-1] == "r0" and len(names) == 4
    check_answered({completion.id: completion for completion in done}, requests)


def test_a_withdrawn_request_is_not_waited_for() -> None:
    first, second = make_requests(2)
    hang = threading.Event()

    def reply(received: ReceivedRequest) -> Reply | None:
        if received.body["prompt"][0] == 1:
            hang.wait(20)
        return answer(received)

    def source(server: HTTPServer) -> Iterator[LiveRequest]:
        yield first
        yield second
        while len(server.received) < 2:
            yield None
        yield Withdrawal(frozenset({"r0", "unknown"}))
        while True:
            yield None

    with serving(reply) as server:
        assert [one.id for one in fleet(server.url).complete_live(source(server))] == ["r1"]
        hang.set()
        wait_until(lambda: server.now == 0)


def test_failures_before_any_success_are_given_to_those_who_wait() -> None:
    def source() -> Iterator[LiveRequest]:
        yield from make_requests(3)
        while True:
            yield None

    with serving(lambda received: (400, {"error": {"message": "no"}})) as server:
        found = list(fleet(server.url).complete_live(source()))
    assert sorted(one.id for one in found) == ["r0", "r1", "r2"]
    assert {one.finish_reason for one in found} == {"error"}
