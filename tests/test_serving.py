"""Who may ask a server of ours, and how large a body may be, before anything else is looked at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from pydantic import BaseModel, model_validator

from reasongenrm.config.rewards import RewardSettings
from reasongenrm.serving import LOOPBACK_NAMES, Gate, OwnSite, add_error_handlers

pytestmark = pytest.mark.unit
BASE = "http://127.0.0.1:8123"


class Served:
    """An app that counts the bodies it read."""

    def __init__(self, hosts: frozenset[str] | None = LOOPBACK_NAMES, **gate: Any) -> None:
        self.bodies: list[int] = []
        app = FastAPI()
        app.add_middleware(Gate, **({"key": None, "max_bytes": 1000} | gate))
        app.add_middleware(OwnSite, hosts=hosts)
        add_error_handlers(app, {})

        @app.post("/")
        async def post(request: Request) -> dict[str, int]:
            self.bodies.append(len(await request.body()))
            return {"bytes": self.bodies[-1]}

        @app.get("/health")
        def health() -> dict[str, str]:
            return {}

        self.app = app
        self.client = TestClient(app, base_url=BASE, raise_server_exceptions=False)

    def post(self, content: Any = b"{}", **headers: str) -> Any:
        declared = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        return self.client.post("/", content=content, headers=declared)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:9"}, 200),
        ({"Host": "[::1]:9"}, 200),
        ({"Origin": BASE}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8123", "Origin": "http://evil.example:8123"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "127.0.0.1@evil.example"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:9"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    ],
)
def test_only_this_machines_own_clients_are_answered(headers: dict[str, str], status: int) -> None:
    served = Served()
    answer = served.post(**headers)
    assert answer.status_code == status, answer.text
    assert bool(served.bodies) == (status == 200)
    assert status == 200 or set(answer.json()) == {"error", "hint"}
    assert answer.headers["cache-control"] == "no-store"


def test_a_link_of_another_page_does_not_reach_the_api() -> None:
    answer = Served().client.get("/health", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


def test_any_host_name_is_accepted_where_a_key_protects() -> None:
    served = Served(hosts=None, key="open")
    assert served.post(Host="judge.example").status_code == 401
    assert served.post(Host="judge.example", Authorization="Bearer open").status_code == 200
    evil = {"Authorization": "Bearer open", "Origin": "http://evil.example"}
    assert served.post(Host="judge.example", **evil).status_code == 403


def test_a_body_without_a_key_is_not_read() -> None:
    served = Served(key="open", max_bytes=10)
    assert served.post(b"x" * 11).status_code == 401 and served.bodies == []


def test_a_declared_length_beyond_the_limit_is_refused_at_once() -> None:
    served = Served(max_bytes=10)
    answer = served.post(b"x" * 11)
    assert answer.status_code == 413 and "10 bytes" in answer.json()["error"] and served.bodies == []
    assert served.post(b"x" * 10).status_code == 200


def test_a_path_may_have_a_limit_of_its_own() -> None:
    assert Served(max_bytes=10, larger={"/": 20}).post(b"x" * 20).status_code == 200
    assert Served(max_bytes=10, larger={"/health": 20}).post(b"x" * 20).status_code == 413


def test_all_bodies_together_have_a_limit() -> None:
    served = Served(max_bytes=100, memory=150)
    [gate] = [one for one in _chain(served.app) if isinstance(one, Gate)]
    gate._held = 60  # of another request
    answer = served.post(b"x" * 100)
    assert answer.status_code == 503 and answer.json()["hint"] == "ask again later"
    assert gate._held == 60, "what was read is given back"
    assert served.post(b"x" * 90).status_code == 200 and gate._held == 60


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("Bearer open", 200),
        ("bearer open", 200),
        ("BEARER  open", 200),
        ("Bearer Open", 401),
        ("Bearer", 401),
        ("Basic open", 401),
        ("open", 401),
        ("Beareropen", 401),
        ("Bearer open x", 401),
        ("Bearer \xe9", 401),
    ],
)
def test_the_name_of_the_scheme_may_be_in_any_case(sent: str, status: int) -> None:
    answer = Served(key="open").client.post(
        "/",
        content=b"{}",
        headers=[
            (b"Authorization", sent.encode("latin-1")),
            (b"Content-Type", b"application/json"),
        ],
    )
    assert answer.status_code == status, answer.text


class Body(BaseModel):
    text: str
    settings: RewardSettings | None = None

    @model_validator(mode="after")
    def _no_word(self) -> Body:
        if self.text == "word":
            raise ValueError("not this word")
        return self


@pytest.mark.parametrize(
    ("content", "status", "error", "hint"),
    [
        (b'{"text": "word"}', 422, "not this word", "see /openapi.json"),
        (b"", 422, "the body is empty or null", "send a JSON object"),
        (b"null", 422, "the body is empty or null", "send a JSON object"),
        (b"[1]", 422, "the body is not a JSON object", "see /openapi.json"),
        (b"{}", 422, "text: Field required", "see /openapi.json"),
        (b'{"settings": {"scheduel": 1}}', 422, "settings.scheduel: unknown key", "did you mean 'schedule'?"),
        (
            b'{"text": "t", "settings": {"zzz": 1}}',
            422,
            "settings.zzz: unknown key",
            "known keys: schedule, degree, unread, shaping",
        ),
        (b"{torn", 400, "invalid JSON at character 1", "send a JSON object"),
    ],
)
def test_the_hint_to_an_invalid_body_fits_its_error(
    content: bytes, status: int, error: str, hint: str
) -> None:
    answer = _post_body(content, {"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()) == (status, {"error": error, "hint": hint})


def test_a_body_that_is_not_declared_as_json_is_told_so() -> None:
    answer = _post_body(b'{"text": "t"}', {})
    assert answer.json() == {
        "error": "the body is not declared as JSON",
        "hint": "send Content-Type: application/json",
    }


def _post_body(content: bytes, headers: dict[str, str]) -> Any:
    app = FastAPI()
    add_error_handlers(app, {})

    @app.post("/")
    def post(body: Body) -> None: ...

    return TestClient(app, raise_server_exceptions=False).post("/", content=content, headers=headers)


def _chain(app: FastAPI) -> Iterator[Any]:
    if app.middleware_stack is None:
        app.middleware_stack = app.build_middleware_stack()
    layer: Any = app.middleware_stack
    while layer is not None:
        yield layer
        layer = getattr(layer, "app", None)
