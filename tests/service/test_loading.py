"""A server whose judge is still loading: real processes, a judge that loads when a file appears."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from reasongenrm.judge.remote import RemoteJudge

pytestmark = pytest.mark.unit

SCRIPT = """
import sys, time
from pathlib import Path
from reasongenrm import cli, verbs
from reasongenrm.chat.prompts import PromptFile
from reasongenrm.config.evaluate import JudgingConfig
from reasongenrm.engines.base import Engine
from reasongenrm.errors import EngineError
from reasongenrm.judge.api import Judge
from reasongenrm.records import Completion
from reasongenrm.verbs import judge as verb

class Quick(Engine):
    max_model_len, block = 512, None

    def complete(self, requests, *, adapter=None):
        for request in requests:
            yield Completion(request.id, "so it is. [[A]]", "stop")

    def close(self):
        print("closed", flush=True)

def start(options, recipe):
    go_on = Path(sys.argv[-1])
    while not go_on.exists():
        time.sleep(0.05)
    if go_on.read_text():
        raise EngineError(go_on.read_text(), location="model")
    prompts = PromptFile.load("configs/prompts/toy.yaml")
    return Judge(Quick(), None, prompts, JudgingConfig(both_orders=False))

verb._start_judge = start
sys.exit(cli.main(["serve", "configs/demo.yaml", "--port", "0", *sys.argv[1:-1]]))
"""
BODY = {"prompt": "p", "a": "x", "b": "y"}


class Server:
    """A child process that serves; `load` ends its loading."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._file = folder / "go-on"
        command = [sys.executable, "-c", SCRIPT, *words, str(self._file)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env=os.environ | {"K": "sesame"}
        )
        assert self.process.stdout
        self.url = self.process.stdout.readline().split()[-1]

    def load(self, error: str = "") -> None:
        staged = self._file.with_suffix(".tmp")
        staged.write_text(error)
        staged.rename(self._file)

    def end(self) -> tuple[int, str, str]:
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*words: str) -> Server:
        servers.append(Server(tmp_path, *words))
        return servers[-1]

    yield start
    for server in servers:
        server.process.kill()
        server.process.wait()


def get(url: str, path: str, **options: Any) -> httpx.Response:
    return httpx.get(url + path, trust_env=False, timeout=60, **options)


def post(url: str, **options: Any) -> httpx.Response:
    return httpx.post(f"{url}/compare", json=BODY, trust_env=False, timeout=60, **options)


def test_requests_are_refused_until_the_judge_is_there(serving: Callable[..., Server]) -> None:
    server = serving()
    health = get(server.url, "/health")
    assert health.status_code == 503 and int(health.headers["retry-after"]) > 0
    assert health.json()["status"] == "loading" and health.json()["seconds"] >= 0
    refused = post(server.url)
    assert refused.status_code == 503 and refused.headers["retry-after"] == health.headers["retry-after"]
    assert refused.json()["error"] == "the judge is loading" and "/health" in refused.json()["hint"]
    with ThreadPoolExecutor(1) as pool:  # a client in Python waits
        waiting = pool.submit(lambda: list(RemoteJudge(server.url).compare_many([("p", "x", "y")])))
        time.sleep(0.2)
        assert not waiting.done()
        server.load()
        [comparison] = waiting.result(30)
    assert comparison.winner and comparison.outcome == "ok"
    assert get(server.url, "/health").json()["counts"]["comparisons"] == 1
    assert post(server.url).json()["winner"] == comparison.winner
    server.process.send_signal(signal.SIGTERM)
    code, out, err = server.end()
    assert code == 0 and out.endswith("closed\n")
    assert "loading the judge" in err and "the judge is ready after " in err


def test_the_same_clients_are_refused_while_it_loads(serving: Callable[..., Server]) -> None:
    server = serving("--api-key-env", "K")
    assert get(server.url, "/health").status_code == 401
    assert get(server.url, "/health", headers={"Authorization": "Bearer sesame"}).status_code == 503
    foreign = {"Authorization": "Bearer sesame", "Origin": "http://elsewhere.example"}
    assert get(server.url, "/health", headers=foreign).status_code == 403
    open_server = serving()
    assert get(open_server.url, "/health", headers={"Host": "elsewhere.example"}).status_code == 403


def test_a_judge_that_cannot_be_loaded_ends_the_server(serving: Callable[..., Server]) -> None:
    server = serving()
    assert post(server.url).status_code == 503
    server.load("the weights are torn")
    code, _, err = server.end()
    assert code == 2 and "model: the weights are torn" in err and "Traceback" not in err


@pytest.mark.parametrize(("kind", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_ends_the_loading(kind: signal.Signals, code: int, serving: Callable[..., Server]) -> None:
    server = serving()
    assert post(server.url).status_code == 503
    server.process.send_signal(kind)
    ended, _, err = server.end()
    assert ended == code and "Traceback" not in err
