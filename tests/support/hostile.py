"""Hostile HTTP servers and clients: messages of any size, shape and speed, written to a socket."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

Answer = Callable[[socket.socket], None]
"""Writes the answer to one request; the connection is closed after it."""


def reply(body: bytes, *, status: str = "200 OK", headers: str = "") -> Answer:
    """Return an answer with a body, declared as JSON."""

    def write(connection: socket.socket) -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\n{headers}"
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)

    return write


def redirect(target: str, status: int) -> Answer:
    """Return an answer that redirects."""
    return reply(b"", status=f"{status} Moved", headers=f"Location: {target}\r\n")


def compressed(body: bytes, times: int = 1) -> Answer:
    """Return an answer with a body that is compressed, even several times."""
    for _ in range(times):
        body = gzip.compress(body)
    return reply(body, headers=f"Content-Encoding: {', '.join(['gzip'] * times)}\r\n")


def slow_body(connection: socket.socket) -> None:
    """Send a body byte by byte, without an end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        connection.sendall(b" ")
        time.sleep(0.05)


def slow_header(connection: socket.socket) -> None:
    """Send a header byte by byte, without an end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        connection.sendall(b"x")
        time.sleep(0.05)


def endless_body(connection: socket.socket) -> None:
    """Send a body without an end."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
    while True:
        connection.sendall(b" " * 65536)


WRONG_BODIES: dict[str, bytes] = {
    "an array": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "deep": b'{"x": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "deep objects": b'{"choices": ' + b'{"x":' * 100_000 + b"1" + b"}" * 100_000 + b"}",
    "HTML": b"<!doctype html><title>502</title>",
    "no UTF-8": b'{"choices": "\xff"}',
    "cut": b'{"choices": [{"te',
    "nothing": b"",
    "huge number": b'{"choices": [{"text": "x", "finish_reason": "stop", "token_ids": [1'
    + b"0" * 5000
    + b"]}]}",
}
"""Bodies that are no answer of any API."""


class Listener:
    """A server that reads each request, counts it, and answers by `answer`."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[bytes] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._closed = False
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError, ValueError):
            received = b""
            while b"\r\n\r\n" not in received:
                part = connection.recv(65536)
                if not part:
                    return
                received += part
            head, _, body = received.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            length = int(lengths[0].split(b":")[1]) if lengths else 0
            while len(body) < length:
                body += connection.recv(65536)
            self.requests.append(head)
            self.answer(connection)

    def close(self) -> None:
        """Accept no more connections."""
        self._socket.close()


@contextmanager
def listening(answer: Answer) -> Iterator[Listener]:
    """Run a hostile server on a free port."""
    listener = Listener(answer)
    try:
        yield listener
    finally:
        listener.close()


def body_of(value: Any) -> bytes:
    """Return a JSON body."""
    return json.dumps(value).encode()


SLOW_OR_LARGE = (
    (slow_body, "no answer within 0.4 s"),
    (slow_header, "no answer within 0.4 s"),
    (endless_body, "more than 16 MiB"),
    (compressed(bytes(40 * 2**20)), "more than 16 MiB"),
)
"""Answers, and what a client with a limit of 0.4 s says of them."""
