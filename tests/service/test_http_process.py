"""The process that answers HTTP requests and that of the judge: neither outlives the other. Real processes, real signals."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from reasongenrm.errors import EngineError
from reasongenrm.judge.remote import RemoteJudge
from support.app import wait_until

pytestmark = pytest.mark.unit

SCRIPT = """
import os, sys, time
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.base import Engine
from reasongenrm.errors import ReasonGenRMError
from reasongenrm.judge.api import Judge
from reasongenrm.records import Completion
from reasongenrm.service.serve import serve

class Held(Engine):
    max_model_len, block = 512, None

    def complete(self, requests, *, adapter=None):
        for request in requests:
            print("asked", flush=True)
            sys.stdin.readline()
            yield Completion(request.id, "so it is. [[A]]", "stop")

    def close(self):
        print("closed", flush=True)

def start():
    time.sleep(float(os.environ.get("LOAD", 0)))
    return Judge(Held(), None, PromptFile.load("configs/prompts/toy.yaml"), JudgingConfig(both_orders=False))

try:
    serve(start, port=0)
except ReasonGenRMError as error:
    print(error, flush=True)
    sys.exit(2)
"""


class Served:
    """A judge that is served, and waits for a line before each completion."""

    def __init__(self, log: Path) -> None:
        self.log = log
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT], text=True, stderr=errors, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )  # fmt: skip
        self.url = self.line().split()[-1]
        [self.http] = psutil.Process(self.process.pid).children()

    def line(self) -> str:
        """Return the next line that is not one of uvicorn's about a request."""
        assert self.process.stdout
        while (line := self.process.stdout.readline()).startswith("INFO:"):
            pass
        return line

    def wait_until_ready(self) -> None:
        def ready() -> bool:
            try:
                return httpx.get(f"{self.url}/health", trust_env=False).json()["status"] == "ok"
            except httpx.TransportError:
                return False

        wait_until(ready)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    one = Served(tmp_path / "log")
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()
        for pipe in (one.process.stdin, one.process.stdout):
            if pipe:
                pipe.close()
    assert not one.http.is_running() or one.http.status() == psutil.STATUS_ZOMBIE


def test_http_ends_with_the_judge(served: Served) -> None:
    served.wait_until_ready()
    served.process.kill()
    served.process.wait()
    psutil.wait_procs([served.http], timeout=30)
    with pytest.raises(httpx.ConnectError):
        httpx.get(served.url, trust_env=False)


def test_the_judge_ends_with_http_and_says_so(served: Served) -> None:
    served.wait_until_ready()
    served.http.kill()
    assert served.line() == "closed\n"
    assert "the process that answers HTTP requests has ended with status -9" in served.line()
    assert served.process.wait(30) == 2


def test_a_judge_that_loads_stops_when_http_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOAD", "60")
    served = Served(tmp_path / "log")
    served.http.kill()
    assert "the process that answers HTTP requests has ended with status -9" in served.line()
    assert served.process.wait(30) == 2
    for pipe in (served.process.stdin, served.process.stdout):
        if pipe:
            pipe.close()


def test_a_server_without_standard_input_answers() -> None:
    command = f"exec {sys.executable} -c '{SCRIPT}' <&-"
    with subprocess.Popen(command, shell=True, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout
        url = process.stdout.readline().split()[-1]
        health = httpx.get(f"{url}/health", trust_env=False, timeout=30)
        process.send_signal(signal.SIGTERM)
        assert health.json()["status"] in ("ok", "loading")


@pytest.mark.slow
@pytest.mark.parametrize("loaded", [False, True])
def test_an_idle_server_ends_at_a_signal(served: Served, loaded: bool) -> None:
    if loaded:
        served.wait_until_ready()
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(30) in ((0,) if loaded else (0, 1, -signal.SIGINT))


@pytest.mark.slow
def test_repeated_interrupts_do_not_wait_for_answers(served: Served) -> None:
    served.wait_until_ready()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: list(RemoteJudge(served.url).compare_many([("p", "a", "b")])))
        assert served.line() == "asked\n"

        def interrupted() -> bool:
            served.process.send_signal(signal.SIGINT)
            return not psutil.wait_procs([served.http], timeout=0.3)[1]

        wait_until(interrupted)
        with pytest.raises(EngineError):
            future.result(30)
    assert served.process.stdin
    served.process.stdin.write("\n")  # for the engine, which is still asked
    served.process.stdin.flush()
    assert served.line() == "closed\n" and served.process.wait(30) == 0
