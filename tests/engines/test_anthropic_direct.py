"""Single calls of Anthropic's API against a real server: the same completions as in batches, and no request lost."""

from __future__ import annotations

from typing import Any

import pytest

from reasongenrm.config.engines import AnthropicConfig
from reasongenrm.engines.anthropic_direct import AnthropicDirectEngine
from reasongenrm.engines.base import Request, Unanswered
from reasongenrm.engines.loading import open_server
from reasongenrm.errors import EngineError
from reasongenrm.records import Completion
from support.hostile import WRONG_BODIES
from support.servers import ReceivedRequest, Reply, failing, message, serving

pytestmark = pytest.mark.unit

WHERE = "teachers.claude.server"
SECRET = "sk-ant-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_KEY", SECRET)


def config(url: str | None, **options: Any) -> AnthropicConfig:
    settings: dict[str, Any] = {"timeout": 5, "max_retries": 0, "max_concurrent": 3} | options
    return AnthropicConfig(
        kind="anthropic", mode="direct", model="m", url=url, api_key_env="CLAUDE_KEY", **settings
    )


def claude(url: str | None, events: list[str] | None = None, **options: Any) -> AnthropicDirectEngine:
    event_list = events if events is not None else []
    return AnthropicDirectEngine(
        config(url, **options), max_model_len=1000, key=WHERE, on_event=event_list.append
    )


def make_requests(count: int, **options: Any) -> list[Request]:
    settings: dict[str, Any] = {"max_tokens": 9, "temperature": 1.0} | options
    return [Request(f"r{n}", (), messages=({"role": "user", "content": f"q{n}"},), **settings) for n in range(count)]  # fmt: skip


def echo(received: ReceivedRequest) -> Reply:
    return 200, message("re: " + received.body["messages"][-1]["content"])


def by_id(engine: AnthropicDirectEngine, requests: list[Request]) -> dict[str, Completion]:
    rows = list(engine.complete(requests))
    assert len({row.id for row in rows}) == len(rows)
    return {row.id: row for row in rows}


def test_requests_are_sent_side_by_side() -> None:
    with serving(echo) as server:
        done = by_id(claude(server.url), make_requests(20))
        assert server.most <= 3 and len(server.received) == 20
        headers = server.received[0].headers
        assert SECRET in (headers.get("x-api-key"), headers.get("authorization", "").removeprefix("Bearer "))
    assert done == {
        f"r{n}": Completion(f"r{n}", f"re: q{n}", "stop", billed=2, prompt_tokens=1) for n in range(20)
    }


def test_every_setting_of_a_request_is_sent() -> None:
    [request] = make_requests(1, temperature=0.5, top_p=0.9, stop=("END",), schema={"type": "object"})
    with serving(echo) as server:
        by_id(claude(server.url, effort="low"), [request])
        [received] = server.received
    assert received.path.partition("?")[0] == "/v1/messages"
    assert received.body == {
        "model": "m",
        "max_tokens": 9,
        "messages": [{"role": "user", "content": "q0"}],
        "temperature": 0.5,
        "top_p": 0.9,
        "stop_sequences": ["END"],
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    }


def test_the_tokens_of_the_cache_are_among_those_read() -> None:
    usage = {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 30}
    usage["cache_creation_input_tokens"] = 7
    with serving(lambda received: (200, message("x", usage=usage))) as server:
        [completion] = by_id(claude(server.url), make_requests(1)).values()
    tokens = (completion.prompt_tokens, completion.cached, completion.cache_write, completion.tokens)
    assert tokens == (42, 30, 7, 2)


def test_a_refusal_says_its_category_and_is_not_asked_again() -> None:
    details = {"type": "refusal", "category": "bio", "explanation": "because"}
    with serving(lambda received: (200, message("", "refusal") | {"stop_details": details})) as server:
        done = by_id(claude(server.url), make_requests(40)).values()
        assert len(server.received) == 40, "refusals are answers of a server that works"
    assert {one.error for one in done} == {"stop_reason refusal: bio: because"}
    assert all(one.refused and one.finish_reason == "error" and one.tokens == 2 for one in done)


@pytest.mark.parametrize("body", WRONG_BODIES.values(), ids=WRONG_BODIES)
def test_a_request_without_a_valid_answer_is_unanswered(body: bytes) -> None:
    def reply(received: ReceivedRequest) -> Reply:
        return (200, body) if received.body["messages"][-1]["content"] == "q1" else echo(received)

    with serving(reply) as server:
        done = by_id(claude(server.url), make_requests(3))
    assert isinstance(done["r1"], Unanswered) and (done["r1"].error or "").startswith("invalid answer: ")
    assert done["r0"].text == "re: q0" and done["r2"].text == "re: q2"


def test_an_invalid_request_is_its_own_error() -> None:
    def reply(received: ReceivedRequest) -> Reply:
        return (
            failing(400, "too long") if received.body["messages"][-1]["content"] == "q1" else echo(received)
        )

    with serving(reply) as server:
        done = by_id(claude(server.url), make_requests(3))
        assert len(server.received) == 3
    assert done["r1"] == Completion("r1", "", "error", error="too long")


def test_errors_name_the_key_of_the_recipe() -> None:
    for status, text in ((401, rf"{WHERE}\.api_key_env: .*CLAUDE_KEY"), (404, rf"{WHERE}\.model: .*'m'")):
        with (
            serving(lambda received, status=status: failing(status, f"no {SECRET}")) as server,
            pytest.raises(EngineError, match=text) as caught,
        ):
            list(claude(server.url).complete(make_requests(2)))
        assert SECRET not in str(caught.value)
    with pytest.raises(EngineError, match=rf"{WHERE}\.url: no server is left"):
        list(claude("http://127.0.0.1:9").complete(make_requests(2)))
    with pytest.raises(EngineError, match="Anthropic serves no adapters"):
        list(claude("http://127.0.0.1:9").complete([], adapter="folder"))
    with serving(echo) as server, pytest.raises(EngineError, match=r"all of the first 32 .*temperature 1\.5"):
        list(claude(server.url).complete(make_requests(40, temperature=1.5)))


def test_the_mode_chooses_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    with serving(echo) as server:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
        engine = open_server(config(None), max_model_len=9, state=tmp_path / "s", key=WHERE)
        assert [one.text for one in engine.complete(make_requests(1))] == ["re: q0"]
    assert not (tmp_path / "s").exists()
