"""The process that answers HTTP requests for a judge, so that the engine does not wait for Python code other than its own.

`HTTPProcess` starts it with `main`. It refuses requests (see `LoadingApp`) until the judge's process has sent `judge_settings`, and answers later
ones through a `LinkedJudge`.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
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
from reasongenrm.service.bodies import DEFAULT_LIMITS, Limits
from reasongenrm.service.loading import LoadingApp
from reasongenrm.service.reward_options import DEFAULT_REWARDS, RewardOptions
from reasongenrm.service.server import create_app
from reasongenrm.serving import LOOPBACK_NAMES

STOP_SECONDS = 10
"""How long a process that answers no judge any more may take to end."""


@dataclass(frozen=True)
class AppSettings:
    """What the app of a judge is created from; see `create_app`.

    Attributes:
        api_key_env: environment variable with the bearer key, which is never sent.
    """

    api_key_env: str | None = None
    model: str | None = None
    limits: Limits = DEFAULT_LIMITS
    ends: tuple[str, ...] = ()
    hosts: frozenset[str] | None = LOOPBACK_NAMES
    fingerprint: str | None = None
    rewards: RewardOptions = DEFAULT_REWARDS

    def create(self, judge: LinkedJudge, key: str | None) -> Any:
        """Return the app of a judge, for clients with the key."""
        return create_app(
            judge, api_key=key, model=self.model, limits=self.limits, ends=self.ends, hosts=self.hosts,
            fingerprint=self.fingerprint, rewards=self.rewards,
        )  # fmt: skip


class HTTPProcess:
    """The process that answers HTTP requests.

    Args:
        listening: socket for it alone; it is closed here.
        settings: of the app.

    Attributes:
        early_code: status with which the process has ended before it answers for a judge; None where it has not.
    """

    early_code: int | None = None
    _loading = False

    def __init__(self, listening: socket.socket, settings: AppSettings) -> None:
        self._connection, theirs = Pipe()
        # Not 0 to 2, which a process without standard streams has free, and `Popen` replaces.
        files = tuple(fcntl.fcntl(one.fileno(), fcntl.F_DUPFD_CLOEXEC, 3) for one in (theirs, listening))
        theirs.close()
        listening.close()
        code = f"import sys; sys.path[:] = {sys.path}; from {__name__} import main; main{files}"
        # A session of its own: Ctrl-C in a terminal reaches this process alone, which passes it on.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", code], pass_fds=files, stdin=subprocess.DEVNULL, start_new_session=True,
            preexec_fn=die_with_parent,
        )  # fmt: skip
        for file in files:
            os.close(file)
        with suppress(OSError):  # it has ended already: `answer_for` says so
            self._connection.send(settings)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def watch(self) -> None:
        """Interrupt the main thread, which loads the judge, where the process ends meanwhile."""
        self._loading = threading.current_thread() is threading.main_thread()
        loader = threading.get_ident()

        def wait() -> None:
            code = self._process.wait()
            if self._loading:
                self.early_code = code
                # Not `_thread.interrupt_main`, which does not wake a thread that sleeps or waits.
                signal.pthread_kill(loader, signal.SIGINT)

        Thread(target=wait, name="watch", daemon=True).start()

    def answer_for(self, judge: SharedJudge) -> None:
        """Let the process answer requests for a judge.

        Raises:
            EngineError: the process has ended.
        """
        self._loading = False
        try:
            self._connection.send(judge_settings(judge))
            self._connection.recv()  # the app is there
        except (EOFError, OSError):
            raise self.ended(self._process.wait()) from None
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
        if not signals or code == -signal.SIGKILL:
            raise self.ended(code)

    def ended(self, code: int) -> EngineError:
        """Return the error of a process that has ended by itself."""
        problem = f"the process that answers HTTP requests has ended with status {code}"
        return EngineError(problem, location="serve", hint="see its last lines in the log")

    def close(self) -> None:
        """End the process."""
        self._loading = False
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
    background, which would ignore it.

    Raises:
        EngineError: the process has ended before it answers for a judge; what this process does is interrupted.
    """
    process = HTTPProcess(listening, settings)
    try:
        with handled_signals({signal.SIGINT: signal.default_int_handler}):
            process.watch()
            yield process
    except KeyboardInterrupt:
        if process.early_code is not None:
            raise process.ended(process.early_code) from None
        raise
    finally:
        process.close()


def main(connection_file: int, listening_file: int) -> None:
    """Answer requests until SIGTERM, or until the judge's process ends.

    Args:
        connection_file, listening_file: inherited file descriptors of the connection to that process, and of the socket.
    """
    connection, listening = Connection(connection_file), socket.socket(fileno=listening_file)
    try:
        settings: AppSettings = connection.recv()
    except EOFError:  # it was killed while this process started
        return
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
