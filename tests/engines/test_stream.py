"""Streams of completions from real HTTP servers: partial texts that grow, and the completions of whole answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from reasongenrm.config.engines import AnthropicConfig, OpenAIConfig
from reasongenrm.engines.anthropic_direct import AnthropicDirectEngine
from reasongenrm.engines.base import Engine, PartialCompletion, Request
from reasongenrm.engines.openai import OpenAIEngine
from reasongenrm.errors import EngineError
from reasongenrm.records import Completion
from support.servers import (
    HTTPServer,
    ReceivedRequest,
    Reply,
    answer,
    event_stream,
    failing,
    message,
    serving,
)

pytestmark = pytest.mark.unit

WORDS = ("The", " first", " é", " [[A]]")
TEXT = "".join(WORDS)
IDS = (5, 6, 300, 8)
USAGE = {"prompt_tokens": 11, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 3}}
SECRET = "sk-very-secret-0123456789"


def openai_engine(url: str, **options: Any) -> OpenAIEngine:
    settings = {"max_retries": 0, "timeout": 20, "api_key_env": "STREAM_KEY"} | options
    config = OpenAIConfig(kind="openai", urls=[f"{url}/v1"], model="m", **settings)
    return OpenAIEngine(config, max_model_len=100, key="server")


def anthropic_engine(url: str) -> AnthropicDirectEngine:
    config = AnthropicConfig(
        kind="anthropic",
        mode="direct",
        model="m",
        url=url,
        api_key_env="STREAM_KEY",
        max_retries=0,
        timeout=20,
    )
    return AnthropicDirectEngine(config, max_model_len=1000, key="server")


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_KEY", SECRET)


PLAIN = Request("r", (1, 2), max_tokens=9, logprob_token_ids=(300, 301))
CHAT = Request("r", (), max_tokens=9, temperature=1.0, messages=({"role": "user", "content": "q"},))


def top_logprobs(token: int) -> dict[str, float]:
    return {f"token_id:{token}": -0.5, "token_id:301": -1.5}


def completions_reply(received: ReceivedRequest) -> Reply:
    """Return the same completion whole or as a stream, as vLLM does."""
    ends = [None, None, None, "stop"]
    if not received.body.get("stream"):
        logprobs = {"top_logprobs": [top_logprobs(token) for token in IDS]}
        choice = {"text": TEXT, "token_ids": IDS, "finish_reason": "stop", "logprobs": logprobs}
        return 200, {"choices": [choice], "usage": USAGE}
    assert received.body["stream_options"] == {"include_usage": True}
    events: list[dict[str, Any]] = [
        {"choices": [{"text": word, "token_ids": [token], "finish_reason": end, "logprobs": {"top_logprobs": [top_logprobs(token)]}}]}
        for word, token, end in zip(WORDS, IDS, ends, strict=True)
    ]  # fmt: skip
    return event_stream([*events, {"choices": [], "usage": USAGE}])


def chat_reply(received: ReceivedRequest) -> Reply:
    if not received.body.get("stream"):
        turn = {"role": "assistant", "content": TEXT}
        return 200, {"choices": [{"message": turn, "finish_reason": "stop"}], "usage": USAGE}
    deltas: list[dict[str, Any]] = [
        {"role": "assistant", "content": ""},
        *({"content": w} for w in WORDS),
        {},
    ]
    choices = [{"delta": delta, "finish_reason": None} for delta in deltas]
    choices[-1]["finish_reason"] = "stop"
    return event_stream([*({"choices": [choice]} for choice in choices), {"choices": [], "usage": USAGE}])


def message_reply(received: ReceivedRequest) -> Reply:
    usage = {"input_tokens": 8, "cache_read_input_tokens": 3, "output_tokens": 4}
    if not received.body.get("stream"):
        return 200, message(TEXT, usage=usage)
    start = message("", usage=usage | {"output_tokens": 1}) | {"stop_reason": None}
    block = {"type": "text", "text": ""}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": start},
        {"type": "content_block_start", "index": 0, "content_block": block},
        {"type": "ping"},
        *(
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": w}}
            for w in WORDS
        ),
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 4}},
        {"type": "message_stop"},
    ]
    return event_stream(events, done=False)


def split(completions: Iterable[Completion]) -> tuple[list[PartialCompletion], list[Completion]]:
    rows = list(completions)
    partial = [row for row in rows if isinstance(row, PartialCompletion)]
    return partial, [row for row in rows if not isinstance(row, PartialCompletion)]


APIS = {
    "completions": (openai_engine, completions_reply, PLAIN),
    "chat": (lambda url: openai_engine(url, api="chat"), chat_reply, CHAT),
    "messages": (anthropic_engine, message_reply, CHAT),
}


@pytest.mark.parametrize("api", APIS)
def test_a_stream_grows_to_the_completion_of_a_whole_answer(api: str) -> None:
    start, reply, request = APIS[api]
    with serving(reply) as server:
        engine: Engine = start(server.url)
        partial, done = split(engine.stream([request]))
        [whole] = engine.complete([request])
        assert [bool(received.body.get("stream")) for received in server.received] == [True, False]
    assert done == [whole] and whole.text == TEXT and whole.prompt_tokens == 11 and whole.cached == 3
    texts = list(dict.fromkeys(row.text for row in partial if row.text))
    assert texts == ["The", "The first", "The first é", TEXT]
    assert {row.finish_reason for row in partial} == {"length"} and {row.id for row in partial} == {"r"}
    if api == "completions":
        assert whole.logprobs == {2: {300: -0.5, 301: -1.5}}
        assert [row.token_ids for row in partial] == [IDS[:n] for n in range(1, 5)]


def chunk(text: str) -> dict[str, Any]:
    return {"choices": [{"text": text, "delta": {"content": text}}]}


def delta(text: str) -> dict[str, Any]:
    return {"type": "content_block_delta", "delta": {"type": "text_delta", "text": text}}


def test_a_server_that_cannot_stream_gives_whole_answers() -> None:
    def refusing(received: ReceivedRequest) -> Reply:
        return (
            failing(400, "unknown field: stream_options") if "stream" in received.body else answer(received)
        )

    for reply in (refusing, answer):  # one refuses, the other does not know the field
        with serving(reply) as server:
            partial, done = split(openai_engine(server.url).stream([PLAIN]))
            assert len(server.received) == (2 if reply is refusing else 1)
        assert [row.text for row in done] == ["re: [1, 2]"] and not partial


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("cut", "the stream ends before"),
        ("error", "the stream ends with an error: busy ***"),
        ("nonsense", "Expected `"),
        ("large", "more than 16 MiB"),
    ],
)
def test_a_broken_stream_is_asked_again(api: str, fault: str, problem: str) -> None:
    """No part of it becomes a completion."""
    start, reply, request = APIS[api]
    word: dict[str, Any] = delta("wrong") if api == "messages" else chunk("wrong")
    error = {"type": "error", "error": {"type": "overloaded_error", "message": f"busy {SECRET}"}}
    tails: dict[str, list[dict[str, Any]]] = {
        "cut": [],
        "error": [error],
        "nonsense": [{"type": 3, "choices": "none"}],
        "large": [word | {"padding": "x" * 2**20}] * 17,
    }

    def once_broken(received: ReceivedRequest) -> Reply:
        first = len(server.received) == 1
        return event_stream([word, *tails[fault]], done=False) if first else reply(received)

    with serving(once_broken) as server:
        engine = start(server.url)
        partial, done = split(engine.stream([request]))
        assert len(server.received) == 2
    assert problem in engine._servers[0].last
    assert [row.text for row in done] == [TEXT]
    texts = [row.text for row in partial]
    assert texts[-1] == TEXT and texts.count("The") == 1


def test_an_error_in_a_stream_does_not_show_the_key() -> None:
    error = {"error": {"message": f"your key {SECRET} is known"}}
    with serving(lambda received: event_stream([error])) as server, pytest.raises(EngineError) as caught:
        list(openai_engine(server.url).stream([PLAIN]))
    assert "the stream ends with an error" in str(caught.value) and SECRET not in str(caught.value)


@pytest.mark.parametrize("api", APIS)
def test_a_consumer_that_stops_early_ends_the_request(api: str) -> None:
    start, _, request = APIS[api]
    stop = threading.Event()

    def endless(received: ReceivedRequest) -> Reply:
        def events() -> Iterator[dict[str, Any]]:
            while not stop.is_set():
                yield delta("on ") if api == "messages" else chunk("on ")
                time.sleep(0.01)

        return event_stream(events())

    with serving(endless) as server:
        stream = start(server.url).stream([request])
        try:
            assert next(stream).text == "on " and next(stream).text == "on on "
            stream.close()
            wait_for(server)
        finally:
            stop.set()
    assert server.hung_up == 1


def wait_for(server: HTTPServer) -> None:
    """Wait until the server has seen that a client is gone."""
    end = time.monotonic() + 30
    while not server.hung_up and time.monotonic() < end:
        time.sleep(0.01)
