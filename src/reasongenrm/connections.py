"""uvicorn with limits that hold before a key is checked: header size, number of connections, and time."""

from __future__ import annotations

import asyncio
import itertools
import logging
import resource
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, ClassVar

from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Limits of a server's connections.

    Attributes:
        connections: number of open connections; one more closes the oldest without a complete request.
        header_bytes: size of a request's header.
        header_seconds: from the connection, or from the last answer, to the end of the next header. It is the idle time of a
            connection too, and the time in which a client must read what is sent to it.
        body_seconds: from the end of a header to the end of the body.
        stop_seconds: how long a stop waits for answers that are still sent; None: until they end.
    """

    connections: int = 512
    header_bytes: int = 32 * 1024
    header_seconds: float = 20
    body_seconds: float = 120
    stop_seconds: int | None = None


CONNECTIONS = 4096
"""Open connections of a server, as far as the machine allows: each sample that waits for its cohort has one."""

OTHER_FILES = 512
"""Files that a server's process may open beside its connections."""


def connection_limits(connections: int) -> ConnectionLimits:
    """Return the limits of a server with so many connections, or with those that the process may have open.

    The soft limit of open files is raised as far as needed.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + OTHER_FILES
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return ConnectionLimits(connections=max(most - OTHER_FILES, most // 2))


class OncePerMinute(logging.Filter):
    """Keeps a crowd of invalid requests from filling the log: each warning is written once a minute."""

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written."""
        if record.levelno != logging.WARNING:
            return True
        fresh = record.created - self._written.get(record.msg, 0) >= 60
        if fresh:
            self._written[record.msg] = record.created
        return fresh


_NUMBERS = itertools.count()
"""Order of the connections: those that uvloop accepts together have the same time."""


class LimitedProtocol(H11Protocol):
    """One connection; a subclass has other `limits`.

    It is in one of four phases: the client sends a header (or nothing), then a body; the app answers; or the client does
    not read. Each but the answer has a time limit, which data that comes bit by bit does not extend.
    """

    limits: ClassVar[ConnectionLimits] = ConnectionLimits()

    def connection_made(self, transport: Any) -> None:
        """Accept a connection, and close another one if there are too many."""
        super().connection_made(transport)
        self._number = next(_NUMBERS)
        self._watched: tuple[str, Any] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watch()
        if len(self.connections) > self.limits.connections:
            self._make_room()

    def data_received(self, data: bytes) -> None:
        """Read a part of a request."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def pause_writing(self) -> None:
        """Note that the client does not read its answer."""
        super().pause_writing()
        self._watch()

    def resume_writing(self) -> None:
        """Note that the client reads again."""
        super().resume_writing()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timer."""
        super().connection_lost(exc)
        if self._timer:
            self._timer.cancel()

    @property
    def _phase(self) -> str:
        if self.flow.write_paused:
            return "read"
        if self.cycle is None or self.cycle.response_complete:
            return "header"
        return "body" if self.cycle.more_body else "answer"

    def _watch(self) -> None:
        """Start the timer of a phase that has just begun."""
        watched = (self._phase, self.cycle)
        if watched == self._watched:
            return
        self._watched = watched
        if self._timer:
            self._timer.cancel()
            self._timer = None
        seconds = {
            "header": self.limits.header_seconds,
            "body": self.limits.body_seconds,
            "read": self.limits.header_seconds,
        }.get(watched[0])
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self._drop)

    def _make_room(self) -> None:
        """Close the oldest connection without a complete request, first of those that never had one.

        Where all others wait for an answer, this one stays until the next one comes; uvicorn answers it with status 503.
        """
        others = (one for one in self.connections if isinstance(one, LimitedProtocol) and one is not self)
        idle = [one for one in others if one._phase != "answer"]
        if idle:
            min(idle, key=lambda one: (one.cycle is not None, one._number))._drop()

    def _drop(self) -> None:
        self.connections.discard(self)
        # `close` waits for a client that does not read; `abort` does not.
        unread = self.transport.get_write_buffer_size() > 0
        self.transport.abort() if unread else self.transport.close()


def run_server(
    app: Any,
    listening: socket.socket,
    limits: ConnectionLimits = ConnectionLimits(),
    *,
    log_level: str,
) -> None:
    """Serve an ASGI app until SIGINT or SIGTERM.

    Args:
        app: the app.
        listening: the socket to accept connections on.
        limits: of its connections.
        log_level: of uvicorn; `info` prints a line per request.
    """
    server = create_server(app, limits, log_level=log_level)
    logging.getLogger("uvicorn.error").addFilter(OncePerMinute())
    server.run(sockets=[listening])


@contextmanager
def server_thread(
    app: Any,
    listening: socket.socket,
    limits: ConnectionLimits = ConnectionLimits(),
    *,
    log_level: str,
    drain: Callable[[], None] = lambda: None,
) -> Iterator[Callable[[], None]]:
    """Serve an ASGI app in a thread, so that the caller can load what is served; see `run_server`.

    Yields a function that waits for SIGINT or SIGTERM, where the caller is the main thread. Until it is called, SIGINT raises
    KeyboardInterrupt there, also in a process that a shell has started in the background, which would ignore it. At exit,
    requests received before are answered.

    Args:
        app, listening, limits, log_level: see `run_server`.
        drain: called after the signal, while the server still accepts connections; a second signal does not wait for it.
    """
    server = create_server(app, limits, log_level=log_level)
    logging.getLogger("uvicorn.error").addFilter(OncePerMinute())
    with ThreadPoolExecutor(1, "http") as pool:
        running = pool.submit(server.run, sockets=[listening])

        def wait() -> None:
            stop = threading.Event()
            running.add_done_callback(lambda _: stop.set())

            def handle(number: int, frame: FrameType | None) -> None:
                if stop.is_set():
                    server.handle_exit(number, frame)
                stop.set()

            with handled_signals(dict.fromkeys((signal.SIGINT, signal.SIGTERM), handle)):
                stop.wait()
                threading.Thread(target=_drain, args=(drain, server), name="drain", daemon=True).start()
                running.result()

        try:
            with handled_signals({signal.SIGINT: signal.default_int_handler}):
                yield wait
        finally:
            server.should_exit = True


def _drain(drain: Callable[[], None], server: Server) -> None:
    try:
        drain()
    finally:
        server.should_exit = True


@contextmanager
def handled_signals(
    handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]],
) -> Iterator[None]:
    """Handle signals in this way until the end of the context, where the caller is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def create_server(app: Any, limits: ConnectionLimits, *, log_level: str) -> Server:
    """Return the server of an ASGI app, to be run."""

    class Protocol(LimitedProtocol):
        pass

    Protocol.limits = limits
    # h11, since httptools has no limit of a header's size.
    config = Config(
        app,
        http=Protocol,
        ws="none",
        limit_concurrency=limits.connections + 1,
        h11_max_incomplete_event_size=limits.header_bytes,
        timeout_keep_alive=int(limits.header_seconds) + 1,  # the protocol's own timer comes first
        timeout_graceful_shutdown=limits.stop_seconds,
        proxy_headers=False,
        server_header=False,
        log_level=log_level,
    )
    return Server(config)
