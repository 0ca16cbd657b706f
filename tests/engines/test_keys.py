"""Passwords in the URL of a server reach the server, and nothing that is shown or stored."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from reasongenrm import redaction
from reasongenrm.config.engines import OpenAIConfig
from reasongenrm.config.loading import section
from reasongenrm.console import say
from reasongenrm.engines.base import Request
from reasongenrm.engines.keys import Secret
from reasongenrm.engines.openai import OpenAIEngine
from reasongenrm.errors import EngineError
from support.servers import ReceivedRequest, Reply, answer, failing, serving

pytestmark = pytest.mark.unit

PASSWORD = "pw-5f1c77e0a9b2"


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())


def request(number: int) -> Request:
    return Request(str(number), (), max_tokens=5, messages=({"role": "user", "content": "hi"},))


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_a_password_in_a_url_is_sent_and_never_shown(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    def reply(received: ReceivedRequest) -> Reply:
        return answer(received) if status == 200 else failing(status, f"no entry for ann:{PASSWORD}")

    texts: list[Any] = []
    with serving(reply) as server:
        url = server.url.replace("://", f"://ann:{PASSWORD}@") + "/v1"
        keys = {"kind": "openai", "urls": [url], "model": "m", "api": "chat", "max_retries": 0}
        engine = OpenAIEngine(section(OpenAIConfig, keys, "o"), max_model_len=99, key="o", on_event=say)
        try:
            texts += engine.complete(map(request, range(2)))
        except EngineError as error:
            texts.append(error)
        basic = base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
        assert {received.headers["authorization"] for received in server.received} == {f"Basic {basic}"}
    shown = f"{texts} {capsys.readouterr()}"
    assert texts and PASSWORD not in shown and ("***" in shown) == (status != 200)


def test_a_key_of_the_environment_is_hidden_from_here_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", f" {PASSWORD} ")
    secret = Secret("JUDGE_KEY", location="api_key_env")
    assert secret.reveal() == PASSWORD and secret.hide(f"bad key {PASSWORD}") == "bad key ***"
    assert str(EngineError(f"bad key {PASSWORD}")) == "bad key ***"
    monkeypatch.setenv("JUDGE_KEY", "short")
    assert Secret("JUDGE_KEY", location="api_key_env").hide("a short one") == "a *** one"
