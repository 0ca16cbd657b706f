"""The process that answers HTTP requests for a judge, so that the engine does not wait for Python code other than its own.

`HTTPProcess` starts it with `main`. It refuses requests (see `LoadingApp`) until the judge's process has sent `judge_settings`, and answers later
ones through a `LinkedJudge`.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from threading import Thread
from types import FrameType
from typing import Any

from reasongenrm.connections import CONNECTIONS, connection_limits, handled_signals, server_thread
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import EngineError
from reasongenrm.judge.link import LinkedJudge, answer_link, judge_settings
from reasongenrm.judge.sharing import SharedJudge
from reasongenrm.processes import die_with_parent
from reasongenrm.service.bodies import Limits
from reasongenrm.service.loading import LoadingApp
from reasongenrm.service.reward_options import RewardOptions
from reasongenrm.service.server import create_app

STOP_SECONDS = 10
"""How long a process that answers no judge any more may take to end."""


@dataclass(frozen=True)
class AppSettings:
    """What the app of a judge is created from; see `create_app`.

    Attributes:
        api_key_env: environment variable with the bearer key, which is never sent.
    """

    api_key_env: str | None
    model: str | None
    limits: Limits
    ends: tuple[str, ...]
    hosts: frozenset[str] | None
    fingerprint: str | None
    rewards: RewardOptions

    def create(self, judge: LinkedJudge, key: str | None) -> Any:
        """Return the app."""
        return create_app(
            judge, api_key=key, model=self.model, limits=self.limits, ends=self.ends, hosts=self.hosts,
            fingerprint=self.fingerprint, rewards=self.rewards,
        )  # fmt: skip


class HTTPProcess:
    """The process that answers HTTP requests.

    Args:
        listening: socket for it alone; it is closed here.
        settings: of the app.
    """

    def __init__(self, listening: socket.socket, settings: AppSettings) -> None:
        self._connection, theirs = Pipe()
        numbers = (theirs.fileno(), listening.fileno())
        command = [sys.executable, "-P", "-c", f"from {__name__} import main; main{numbers}"]
        # A session of its own: Ctrl-C in a terminal reaches this process alone, which passes it on.
        self._process = subprocess.Popen(
            command, pass_fds=numbers, stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        listening.close()
        with suppress(OSError):  # it has ended already: `answer_for` says so
            self._connection.send(settings)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def answer_for(self, judge: SharedJudge) -> None:
        """Let the process answer requests for a judge.

        Raises:
            EngineError: the process has ended.
        """
        try:
            self._connection.send(judge_settings(judge))
            self._connection.recv()  # the app is there
        except (EOFError, OSError):
            raise self._ended(self._process.wait()) from None
        Thread(target=answer_link, args=(judge, self._connection), name="link", daemon=True).start()

    def wait(self) -> None:
        """Wait for SIGINT or SIGTERM, where this is the main thread, and until all requests received before are answered. A
        second signal closes the address at once, and with a third one, SIGINT, nothing more is answered.

        Raises:
            EngineError: the process has ended by itself.
        """
        signals: list[int] = []

        def handle(number: int, frame: FrameType | None) -> None:
            signals.append(number)
            self._process.send_signal(number)

        with handled_signals(dict.fromkeys((signal.SIGINT, signal.SIGTERM), handle)):
            code = self._process.wait()
        if not signals:
            raise self._ended(code)

    def _ended(self, code: int) -> EngineError:
        problem = f"the process that answers HTTP requests has ended with status {code}"
        return EngineError(problem, location="serve", hint="see its last lines in the log")

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._connection.close()


@contextmanager
def http_process(listening: socket.socket, settings: AppSettings) -> Iterator[HTTPProcess]:
    """Run an `HTTPProcess`; meanwhile SIGINT raises KeyboardInterrupt here, also in a process that a shell has started in the
    background, which would ignore it."""
    process = HTTPProcess(listening, settings)
    try:
        with handled_signals({signal.SIGINT: signal.default_int_handler}):
            yield process
    finally:
        process.close()


def main(connection_file: int, listening_file: int) -> None:
    """Answer requests until SIGTERM, or until the judge's process ends.

    Args:
        connection_file, listening_file: inherited file descriptors of the connection to that process, and of the socket.
    """
    die_with_parent()
    connection, listening = Connection(connection_file), socket.socket(fileno=listening_file)
    settings: AppSettings = connection.recv()
    key = Secret(settings.api_key_env, location="api_key_env").reveal()
    app = LoadingApp("judge", settings.model, key, settings.hosts)

    def link() -> None:
        try:
            judge = LinkedJudge(connection.recv(), connection, seconds=settings.limits.seconds)
            app.replace(settings.create(judge, key))
            connection.send(None)
            judge.receive()
        except EOFError:
            pass
        except Exception:
            traceback.print_exc()
        os._exit(1)  # nobody can judge any more

    limits = connection_limits(CONNECTIONS)
    with server_thread(app, listening, limits, log_level="info", drain=app.drain) as wait:
        Thread(target=link, name="link", daemon=True).start()
        wait()
