"""Run a FastAPI app on a free port, in a thread of the test."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from reasongenrm.connections import ConnectionLimits, create_server


def wait_until(done: Callable[[], bool]) -> None:
    for _ in range(6000):
        if done():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not come to be")


def wait_until_loaded(url: str) -> None:
    """Wait until the server at this address has loaded its model; it fails where the server ends before."""
    import httpx

    for _ in range(1200):
        if httpx.get(f"{url}/health", trust_env=False, timeout=60).status_code == 200:
            return
        threading.Event().wait(0.5)
    raise AssertionError("it is still loading")


@contextmanager
def running(app: Any, limits: ConnectionLimits | None = None) -> Iterator[str]:
    """Run the server in a thread, on a free port."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = create_server(app, limits or ConnectionLimits(), log_level="warning")
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(60)
        listening.close()
        assert not thread.is_alive()
