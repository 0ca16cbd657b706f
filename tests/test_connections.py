"""Connections that are slow, broken, endless or too many: each is closed in time, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from reasongenrm.connections import ConnectionLimits, OncePerMinute, create_server

pytestmark = pytest.mark.unit

LIMITS = ConnectionLimits(connections=20, header_bytes=8192, header_seconds=0.6, body_seconds=1.2)
PATIENT = replace(LIMITS, header_seconds=60, body_seconds=60)
"""Limits of time that no test reaches: a connection is closed for another reason."""

SOON = 9.0
"""Seconds, also on a busy machine; a connection that is kept would be watched longer."""

GET = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
BIG = 8 * 2**20
HELD, GO_ON = threading.Semaphore(0), threading.Event()
"""Released by each request for /held that waits; set when those are to be answered."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Read the body; answer at once, after a second (/wait), when GO_ON is set (/held), or with many bytes (/big)."""
    if scope["type"] == "lifespan":
        return
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
    if scope["path"] == "/wait":
        await asyncio.sleep(1)
    if scope["path"] == "/held":
        HELD.release()
        await asyncio.to_thread(GO_ON.wait, 60)
    body = b"x" * BIG if scope["path"] == "/big" else b"done"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", str(len(body)).encode())]})  # fmt: skip
    await send({"type": "http.response.body", "body": body})


@contextmanager
def running(limits: ConnectionLimits = LIMITS) -> Iterator[int]:
    """Run a server in a thread; yield its port."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = create_server(app, limits, log_level="error")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            time.sleep(0.005)
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "no connection keeps the server from its end"


def connect(port: int, sent: bytes = b"") -> socket.socket:
    client = socket.create_connection(("127.0.0.1", port), timeout=10)
    client.sendall(sent)
    return client


def seconds_until_closed(client: socket.socket, drip: bytes = b"") -> float:
    """Return how long the server keeps a connection, to which a byte is written now and then."""
    began = time.monotonic()
    client.settimeout(0.05)
    while time.monotonic() - began < 10:
        try:
            if drip:
                client.sendall(drip)
            if not client.recv(65536):
                break
        except TimeoutError:
            continue
        except OSError:
            break
    return time.monotonic() - began


def get(port: int, path: str = "/") -> tuple[float, bytes]:
    began = time.monotonic()
    with connect(port, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()) as client:
        answer = b""
        while part := client.recv(65536):
            answer += part
    return time.monotonic() - began, answer


@pytest.mark.parametrize(
    ("sent", "drip", "least"),
    [
        (b"", b"", 0.5),
        (b"GET / HTTP/1.1\r\nX: ", b"x", 0.5),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", b"x", 1.1),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 1.1),
        (GET, b"", 0.5),
    ],
    ids=["nothing", "header", "body", "chunks", "idle after an answer"],
)
def test_a_slow_client_is_disconnected_in_time(sent: bytes, drip: bytes, least: float) -> None:
    with running() as port, connect(port, sent) as client:
        assert least < seconds_until_closed(client, drip) < SOON
        assert get(port)[1].endswith(b"done")


def test_a_client_that_does_not_read_its_answer_is_disconnected() -> None:
    with running() as port, connect(port, GET.replace(b"/ ", b"/big ")) as client:
        time.sleep(1.5)
        received = 0
        with suppress(ConnectionError):
            while part := client.recv(65536):
                received += len(part)
        assert received < BIG


def test_an_answer_takes_as_long_as_it_takes() -> None:
    seconds, answer = 0.0, b""
    with running() as port:
        seconds, answer = get(port, "/wait")
    assert seconds > 1 > LIMITS.header_seconds and answer.endswith(b"done")


@pytest.mark.parametrize("header", [b"X: " + b"x" * 65536, b"X: y\r\n" * 20_000, b"x" * 200_000])
def test_an_endless_header_is_refused_and_others_are_answered(header: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with running(PATIENT) as port, ExitStack() as stack:
        for _ in range(10):
            client = stack.enter_context(connect(port, b"GET / HTTP/1.1\r\n"))
            try:
                for _ in range(50):
                    client.sendall(header)
            except OSError:
                pass
            assert seconds_until_closed(client) < SOON
            assert get(port)[1].endswith(b"done")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000, "KiB"


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nX: x", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"]
)
def test_too_many_connections_close_the_oldest_that_ask_for_nothing(sent: bytes) -> None:
    with (
        running(PATIENT) as port,
        ExitStack() as stack,
    ):
        first = stack.enter_context(connect(port, sent))
        others = [stack.enter_context(connect(port, sent)) for _ in range(60)]
        for _ in range(5):
            assert get(port)[1].endswith(b"done")
        assert seconds_until_closed(first) < SOON and seconds_until_closed(others[10]) < SOON
        others[-1].settimeout(0.1)
        with pytest.raises(TimeoutError):
            others[-1].recv(1)


def test_a_connection_beyond_all_that_wait_for_answers_is_refused() -> None:
    with running(ConnectionLimits(connections=3)) as port, ExitStack() as stack:
        stack.callback(GO_ON.set)
        waiting = [stack.enter_context(connect(port, GET.replace(b"/ ", b"/held "))) for _ in range(3)]
        assert all(HELD.acquire(timeout=60) for _ in waiting)
        assert get(port)[1].startswith(b"HTTP/1.1 503")
        GO_ON.set()
        for client in waiting:
            assert client.recv(65536).startswith(b"HTTP/1.1 200")


def test_garbage_is_refused() -> None:
    with running(PATIENT) as port:
        for sent in (b"\x16\x03\x01" * 50, b"GET\r\n\r\n", b"\0" * 4096, b"GET / HTTP/9.9\r\n\r\n"):
            with connect(port, sent + b"\r\n\r\n") as client:
                assert client.recv(65536).startswith(b"HTTP/1.1 400") or seconds_until_closed(client) < SOON
        assert get(port)[1].endswith(b"done")


def test_a_warning_is_written_once_a_minute() -> None:
    once = OncePerMinute()

    def record(level: int, text: str, seconds: float) -> logging.LogRecord:
        made = logging.LogRecord("uvicorn.error", level, "", 0, text, None, None)
        made.created = 1e9 + seconds
        return made

    times = [record(logging.WARNING, "Invalid", seconds) for seconds in (0, 1, 59, 61, 62)]
    assert [once.filter(one) for one in times] == [True, False, False, True, False]
    assert once.filter(record(logging.WARNING, "another", 1)) and once.filter(
        record(logging.ERROR, "Invalid", 2)
    )
