"""The server of the page: who may open it, what it sends, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reasongenrm.app.history import PLACE, Call, History
from reasongenrm.app.server import create_app, serve
from reasongenrm.app.sources import AppSources
from reasongenrm.errors import ConfigError, EngineError
from reasongenrm.records import Message
from support.app import running

KEY = "opensesame"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> AppSources:
    runs = tmp_path_factory.mktemp("runs")
    prompt = (Message(role="user", content="<b>what?</b>"),)
    History(runs / PLACE).add(Call("t", "j", "compare", prompt, ("one", "two"), {"winner": "B"}, 1.0))
    return AppSources(runs=runs)


@pytest.fixture(scope="module")
def open_page(sources: AppSources) -> Iterator[str]:
    """A page without a key."""
    with running(create_app(sources)) as url:
        yield url


@pytest.fixture(scope="module")
def locked_page(sources: AppSources) -> Iterator[str]:
    """A page with a key, as other machines reach it."""
    with running(create_app(sources, api_key=KEY, hosts=None)) as url:
        yield url


def test_the_page_loads_nothing_from_other_hosts(open_page: str) -> None:
    page = httpx.get(open_page)
    assert page.status_code == 200 and "no-store" in page.headers["cache-control"]
    policy = page.headers["content-security-policy"]
    assert "default-src 'self'" in policy and "http" not in policy and "frame-ancestors 'none'" in policy
    theme = httpx.get(f"{open_page}/theme.css").text
    assert "@font-face" not in theme and "googleapis" not in theme and "system-ui" in theme
    config = httpx.get(f"{open_page}/config").json()
    assert config["analytics_enabled"] is False


@pytest.mark.parametrize(
    ("headers", "status", "problem"),
    [
        ({"host": "evil.example"}, 403, "unknown host name"),
        ({"origin": "http://evil.example"}, 403, "another web page"),
        ({"content-type": "text/plain"}, 415, "not declared as JSON"),
    ],
)
def test_other_pages_can_do_nothing(
    open_page: str, headers: dict[str, str], status: int, problem: str
) -> None:
    answer = httpx.post(f"{open_page}/gradio_api/queue/join", headers=headers, content="{}")
    assert answer.status_code == status and problem in answer.json()["error"]
    assert httpx.post(f"{open_page}/gradio_api/upload", files={"files": b"x"}).status_code == 415


def test_files_of_the_machine_are_not_served(open_page: str) -> None:
    for path in ("/etc/passwd", str(Path("pyproject.toml").resolve()), "pyproject.toml"):
        assert httpx.get(f"{open_page}/gradio_api/file={path}").status_code in (403, 404)


def test_nothing_but_the_form_is_reached_without_the_key(locked_page: str) -> None:
    paths = (
        "/config",
        "/theme.css",
        "/gradio_api/info",
        "/gradio_api/startup-events",
        "/history/compare.jsonl",
    )
    for path in (*paths, "/gradio_api/file=/etc/passwd", "//config", "/login/../config"):
        answer = httpx.get(locked_page + path)
        assert answer.status_code == 401, path
    assert httpx.post(f"{locked_page}/gradio_api/queue/join", json={}).status_code == 401
    answer = httpx.get(locked_page)
    assert answer.status_code == 303 and answer.headers["location"] == "/login"
    form = httpx.get(f"{locked_page}/login")
    assert form.status_code == 200 and 'type="password"' in form.text and "gradio" not in form.text


@pytest.mark.parametrize("given", ["", "wrong", "öpen", KEY.upper(), KEY + "x", "x" * 5000])
def test_a_wrong_key_is_refused(locked_page: str, given: str) -> None:
    answer = httpx.post(f"{locked_page}/login", data={"key": given})
    assert answer.status_code in (401, 413) and "set-cookie" not in answer.headers
    assert (
        httpx.get(
            f"{locked_page}/config", headers={"cookie": f"reasongenrm-key={given[:20].encode()!r}"}
        ).status_code
        == 401
    )


def test_the_key_opens_the_page_to_a_browser_and_to_a_program(locked_page: str) -> None:
    with httpx.Client() as browser:
        answer = browser.post(f"{locked_page}/login", data={"key": f" {KEY} "})
        assert answer.status_code == 303 and answer.headers["location"] == "/"
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie and "samesite=strict" in cookie and KEY not in cookie
        assert browser.get(f"{locked_page}/config").status_code == 200
    assert httpx.get(f"{locked_page}/config", headers={"authorization": f"Bearer {KEY}"}).status_code == 200
    assert httpx.get(f"{locked_page}/config", headers={"authorization": KEY}).status_code == 401
    # A form of another site cannot try keys.
    foreign = {"origin": "http://evil.example"}
    assert httpx.post(f"{locked_page}/login", data={"key": KEY}, headers=foreign).status_code == 403


def test_the_history_is_downloaded_as_rows(open_page: str, sources: AppSources) -> None:
    answer = httpx.get(f"{open_page}/history/compare.jsonl")
    assert answer.headers["content-disposition"] == 'attachment; filename="compare.jsonl"'
    assert json.loads(answer.text) == {
        "prompt": [{"role": "user", "content": "<b>what?</b>"}],
        "a": "one",
        "b": "two",
    }
    assert json.loads(httpx.get(f"{open_page}/history/pairs.jsonl").text)["chosen"][-1]["content"] == "two"
    whole = httpx.get(f"{open_page}/history/history.jsonl").text
    assert whole == (sources.runs / PLACE).read_text()
    assert httpx.get(f"{open_page}/history/rank.jsonl").text == ""
    assert httpx.get(f"{open_page}/history/..%2Fx.jsonl").status_code == 404


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_a_page_for_other_machines_needs_a_key(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="without a key"):
        serve(AppSources(), host)
    monkeypatch.delenv("PAGE_KEY", raising=False)
    with pytest.raises(EngineError, match="PAGE_KEY is not set"):
        serve(AppSources(), host, api_key_env="PAGE_KEY")


def test_the_command_answers_without_torch_and_stops_with_an_open_page(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    command = [str(Path(sys.prefix) / "bin" / "reasongenrm"), "app", "--runs", str(tmp_path / "runs")]
    page: Any = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        line = page.stdout.readline()
        assert line.startswith("the page is at http://127.0.0.1:"), line
        url = line.split()[4]
        maps = Path("/proc", str(page.pid), "maps").read_text()
        assert "numpy" in maps and "libtorch" not in maps
        with httpx.stream("GET", f"{url}/gradio_api/heartbeat/abc", timeout=30) as stream:
            next(stream.iter_raw())
            start = time.monotonic()
            page.send_signal(signal.SIGINT)
            assert page.wait(60) == 0
        assert time.monotonic() - start < 30
        assert "Traceback" not in page.stderr.read()
    finally:
        page.kill()
        page.wait()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--answers", "a.csv"], "--out: the option is missing"),
        (["--labels", "l.jsonl"], "--pairs: the option is missing"),
        (["--host", "0.0.0.0"], "without a key"),
        (["nowhere.yaml"], "nowhere.yaml: recipe not found"),
    ],
)
def test_a_wrong_command_is_an_error_in_one_line(
    options: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from reasongenrm.cli import main

    assert main(["app", *options]) == 2
    assert problem in capsys.readouterr().err
