"""The process that answers HTTP requests and that of the judge: neither outlives the other. Real processes, real signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from reasongenrm.errors import EngineError
from reasongenrm.judge.inputs import ComparisonInput
from reasongenrm.judge.remote import RemoteJudge
from support.app import wait_until

pytestmark = pytest.mark.unit

ROWS: list[ComparisonInput] = [("p", "a", "b")]

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
    serve(start() if "LOADED" in os.environ else start, port=0, api_key_env=os.environ.get("KEY"))
except ReasonGenRMError as error:
    print(error, flush=True)
    sys.exit(2)
"""


class Served:
    """A judge that is served, and waits for a line before each completion.

    Args:
        log: file for its stderr.
        environment: variables of its process, beside those of this one.

    Attributes:
        requests: uvicorn's lines about requests.
    """

    def __init__(self, log: Path, **environment: str) -> None:
        self.requests: list[str] = []
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
                env=os.environ | environment,
            )  # fmt: skip
        self.url = self.line().split()[-1]
        [self.http] = psutil.Process(self.process.pid).children()

    def line(self) -> str:
        """Return the next line that is not about a request."""
        assert self.process.stdout
        while (line := self.process.stdout.readline()).startswith("INFO:"):
            self.requests.append(line)
        return line

    def status(self) -> str | None:
        try:
            headers = {"Authorization": "Bearer open-sesame"}
            answer = httpx.get(f"{self.url}/health", headers=headers, trust_env=False)
            return str(answer.json()["status"])
        except httpx.TransportError:
            return None

    def complete(self) -> None:
        """Let the engine complete one request."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@contextmanager
def serving(log: Path, **environment: str) -> Iterator[Served]:
    one = Served(log, **environment)
    try:
        yield one
    finally:
        one.process.kill()
        one.process.wait()
        for pipe in (one.process.stdin, one.process.stdout):
            if pipe:
                pipe.close()
    assert not psutil.wait_procs([one.http], timeout=30)[1]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "log") as one:
        wait_until(lambda: one.status() == "ok")
        yield one


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal_running_requests_are_answered(
    kind: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setenv("JUDGE_KEY", "open-sesame")
    with ThreadPoolExecutor(1) as pool, serving(log, KEY="JUDGE_KEY", LOADED="1") as served:
        remote = RemoteJudge(served.url, api_key_env="JUDGE_KEY")
        future = pool.submit(lambda: list(remote.compare_many(ROWS)))
        assert served.line() == "asked\n"
        served.process.send_signal(kind)
        wait_until(lambda: served.status() == "stopping")
        body, headers = {"prompt": "p", "a": "x", "b": "y"}, {"Authorization": "Bearer open-sesame"}
        refused = httpx.post(f"{served.url}/compare", json=body, headers=headers, trust_env=False)
        assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
        assert refused.json()["error"] == "the judge is stopping"
        served.complete()
        [comparison] = future.result(60)
        assert comparison.winner and comparison.outcome == "ok"
        assert served.process.wait(60) == 0 and served.line() == ""
        output = "".join(served.requests) + log.read_text()
    assert "POST /compare" in output and "Finished server" in output
    assert "sesame" not in output and "Traceback" not in output


def test_http_ends_with_the_judge(served: Served) -> None:
    served.process.kill()
    served.process.wait()
    psutil.wait_procs([served.http], timeout=30)
    with pytest.raises(httpx.ConnectError):
        httpx.get(served.url, trust_env=False)


def test_the_judge_ends_with_http_and_says_so(served: Served) -> None:
    served.http.kill()
    assert served.line() == "closed\n"
    assert "the process that answers HTTP requests has ended with status -9" in served.line()
    assert served.process.wait(30) == 2


def test_a_judge_that_loads_stops_when_http_ends(tmp_path: Path) -> None:
    with serving(tmp_path / "log", LOAD="600") as served:
        served.http.kill()
        assert "the process that answers HTTP requests has ended with status -9" in served.line()
        assert served.process.wait(30) == 2


def test_a_server_without_standard_input_answers() -> None:
    command = f"exec {sys.executable} -c '{SCRIPT}' <&-"
    with subprocess.Popen(command, shell=True, text=True, stdout=subprocess.PIPE) as process:
        assert process.stdout
        url = process.stdout.readline().split()[-1]
        health = httpx.get(f"{url}/health", trust_env=False, timeout=30)
        process.send_signal(signal.SIGTERM)
        assert health.json()["status"] in ("ok", "loading")


@pytest.mark.slow
@pytest.mark.parametrize("load", ["0", "60"])
def test_an_idle_server_ends_at_a_signal(load: str, tmp_path: Path) -> None:
    with serving(tmp_path / "log", LOAD=load) as served:
        wait_until(lambda: served.status() == ("loading" if load == "60" else "ok"))
        served.process.send_signal(signal.SIGINT)
        # KeyboardInterrupt ends a script that does not handle it.
        assert served.process.wait(30) == (-signal.SIGINT if load == "60" else 0)


@pytest.mark.slow
def test_repeated_interrupts_do_not_wait_for_answers(served: Served) -> None:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(lambda: list(RemoteJudge(served.url).compare_many(ROWS)))
        assert served.line() == "asked\n"

        def interrupted() -> bool:
            served.process.send_signal(signal.SIGINT)
            return not psutil.wait_procs([served.http], timeout=0.3)[1]

        wait_until(interrupted)
        with pytest.raises(EngineError):
            future.result(30)
    served.complete()  # the engine is still asked
    assert served.line() == "closed\n" and served.process.wait(30) == 0
