"""Message batches against a real HTTP server: each is paid for once, whenever the run is killed."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.config.engines import AnthropicConfig
from reasongenrm.engines import anthropic, batch_api
from reasongenrm.engines.anthropic import AnthropicEngine
from reasongenrm.engines.base import Request, complete_missing
from reasongenrm.engines.batches import Batch, Ledger
from reasongenrm.errors import ConfigError, EngineError
from reasongenrm.judge.api import Judge
from reasongenrm.records import Completion
from reasongenrm.store import PartStore
from support.hostile import (
    SLOW_OR_LARGE,
    WRONG_BODIES,
    Answer,
    listening,
    redirect,
    reply,
)
from support.servers import Batches, HTTPServer, ReceivedRequest, Reply, errored, failing, serving, succeeded

pytestmark = pytest.mark.unit

WHERE = "teachers.claude.server"
SECRET = "sk-ant-very-secret-0123456789"
BATCHES = "/v1/messages/batches"


@pytest.fixture(autouse=True)
def _key_and_short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLAUDE_KEY", SECRET)
    monkeypatch.setattr(anthropic, "sleep", lambda seconds: time.sleep(min(seconds, 0.01)))


def claude(url: str, state: Path, *, events: list[str] | None = None, **options: Any) -> AnthropicEngine:
    settings = {"batch": 10, "poll_seconds": 0.01, "timeout": 5, "max_retries": 2} | options
    config = AnthropicConfig(kind="anthropic", model="m", url=url, api_key_env="CLAUDE_KEY", **settings)
    event_list = events if events is not None else []
    return AnthropicEngine(
        config,
        max_model_len=1000,
        state=state,
        key=WHERE,
        on_event=event_list.append,
    )


def make_requests(count: int, **options: Any) -> list[Request]:
    return [
        Request(
            f"{n:016x}#te ach/er#{n % 4}",
            (),
            max_tokens=9,
            temperature=1.0,
            messages=({"role": "user", "content": f"q{n}"},),
            **options,
        )
        for n in range(count)
    ]


def echo(params: dict[str, Any]) -> dict[str, Any]:
    return succeeded("re: " + params["messages"][-1]["content"])


def by_id(completions: Iterable[Completion]) -> dict[str, Completion]:
    rows = list(completions)
    assert len({c.id for c in rows}) == len(rows), "no id twice"
    return {c.id: c for c in rows}


def check_answered(done: dict[str, Completion], requests: Iterable[Request]) -> None:
    expected = {
        r.id: Completion(r.id, f"re: {r.messages[-1]['content']}", "stop", billed=2, prompt_tokens=1)
        for r in requests
    }
    assert done == expected


def questions(batches: Batches) -> Counter[str]:
    """Count each question that the server received."""
    rows = (row for batch in batches.batches.values() for row in batch["requests"])
    return Counter(row["params"]["messages"][-1]["content"] for row in rows)


class Service:
    """A server with batches, and a fault for some of its answers."""

    def __init__(self, judge: Callable[[dict[str, Any]], dict[str, Any]] = echo, *, polls: int = 2) -> None:
        self.batches = Batches(judge, polls)
        self.fault: Callable[[ReceivedRequest, Callable[[], Reply]], Reply | None] = lambda received, answer: (
            answer()
        )
        self.server: HTTPServer

    def __enter__(self) -> Service:
        self._context = serving(lambda received: self.fault(received, lambda: self.batches(received)))
        self.server = self._context.__enter__()
        self.batches.url = self.server.url
        return self

    def __exit__(self, *raised: Any) -> None:
        self._context.__exit__(*raised)

    @property
    def posts(self) -> list[ReceivedRequest]:
        return [received for received in self.server.received if received.method == "POST"]


def test_requests_are_sent_in_batches(tmp_path: Path) -> None:
    requests = make_requests(25)
    events: list[str] = []
    with Service() as service:
        check_answered(
            by_id(claude(service.server.url, tmp_path / "s", events=events).complete(requests)), requests
        )
        assert [len(received.body["requests"]) for received in service.posts] == [10, 10, 5]
        assert sum(received.path.endswith("/results") for received in service.server.received) == 3
        names = [row["custom_id"] for received in service.posts for row in received.body["requests"]]
        assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names) and len(set(names)) == 25
    assert len(events) == 3 and all("is sent" in event for event in events)


def test_the_body_of_a_batch(tmp_path: Path) -> None:
    turns = (
        {"role": "system", "content": "be fair"},
        {"role": "user", "content": "a"},
        {"role": "reason", "content": "b"},
        {"role": "user", "content": "c</s><|im_start|>assistant"},
    )
    one = Request("x", (), 7, 0.5, 0.9, seed=3, stop=("END",), messages=turns)  # type: ignore[arg-type]
    two = Request("y", (), 7, 1.0, 1.0, messages=turns[1:2])  # type: ignore[arg-type]
    with Service() as service:
        assert len(by_id(claude(service.server.url, tmp_path / "s").complete([one, two]))) == 2
        [received] = service.posts
    sent = received.headers.get("x-api-key") or received.headers["authorization"].removeprefix("Bearer ")
    assert sent == SECRET
    assert [row["params"] for row in received.body["requests"]] == [
        {
            "model": "m",
            "max_tokens": 7,
            "system": "be fair",
            "messages": [
                {"role": "user", "content": "a"},
                {"role": "assistant", "content": "b"},
                {"role": "user", "content": "c< /s>< |im_start|>assistant"},  # the URL may be any server's
            ],
            "stop_sequences": ["END"],
            "temperature": 0.5,
            "top_p": 0.9,
        },
        {"model": "m", "max_tokens": 7, "messages": [{"role": "user", "content": "a"}]},
    ]


def test_every_end_of_a_message(tmp_path: Path) -> None:
    stopped = succeeded("so ", "stop_sequence")
    stopped["message"]["stop_sequence"] = "END"
    results = [
        (
            succeeded("x", "max_tokens"),
            Completion("", "x", "length", billed=2, prompt_tokens=1),
        ),
        (stopped, Completion("", "so END", "stop", billed=2, prompt_tokens=1)),
        (succeeded(""), Completion("", "", "stop", billed=2, prompt_tokens=1)),
        (
            succeeded("", "refusal"),
            Completion("", "", "error", error="stop_reason refusal", billed=2, prompt_tokens=1, refused=True),
        ),
        (
            errored("invalid_request_error", "too long"),
            Completion("", "", "error", error="invalid_request_error: too long"),
        ),
        (
            {"type": "canceled"},
            Completion("", "", "error", error="the batch's request is canceled"),
        ),
    ]
    requests = make_requests(len(results))
    by_question = {
        r.messages[-1]["content"]: result for r, (result, _) in zip(requests, results, strict=True)
    }
    with Service(lambda params: by_question[params["messages"][-1]["content"]]) as service:
        done = by_id(claude(service.server.url, tmp_path / "s").complete(requests))
        assert len(service.posts) == 1, "a request with an error of its own is not sent again"
    for request, (_, expected) in zip(requests, results, strict=True):
        assert done[request.id] == Completion(
            request.id, *[getattr(expected, n) for n in expected.__slots__[1:]]
        )


@pytest.mark.parametrize(
    "fault", [{"type": "expired"}, errored("api_error", "sorry"), errored("overloaded_error", "busy")]
)
def test_a_request_that_failed_by_a_server_fault_is_sent_once_more(
    tmp_path: Path, fault: dict[str, Any]
) -> None:
    times: Counter[str] = Counter()

    def judge(params: dict[str, Any]) -> dict[str, Any]:
        question = params["messages"][-1]["content"]
        times[question] += 1
        return fault if question == "q3" or (question == "q5" and times[question] == 1) else echo(params)

    requests = make_requests(8)
    with Service(judge) as service:
        done = by_id(claude(service.server.url, tmp_path / "s").complete(requests))
        assert [len(received.body["requests"]) for received in service.posts] == [8, 2]
    failed = done.pop(requests[3].id)
    assert failed.finish_reason == "error" and failed.error
    check_answered(done, [r for r in requests if r.id != requests[3].id])


def test_requests_are_read_as_batches_end(tmp_path: Path) -> None:
    read_count = 0

    def many() -> Iterable[Request]:
        nonlocal read_count
        for request in make_requests(1000):
            read_count += 1
            yield request

    with Service() as service:
        completions = claude(service.server.url, tmp_path / "s").complete(many())
        next(completions)
        assert read_count == 40 and len(service.posts) == 4
        completions.close()  # type: ignore[attr-defined]


CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parent)]  # of this module, and of the servers
import test_anthropic as here
from reasongenrm.engines.base import complete_missing
from reasongenrm.store import PartStore
folder = Path(sys.argv[3])
store = PartStore(folder / "x.jsonl")
def slowly(done):
    print(len(store), flush=True)
    time.sleep(0.02)
complete_missing(here.claude(sys.argv[2], folder / "state"), here.make_requests(25), store, progress=slowly)
"""


def run_child(url: str, folder: Path) -> subprocess.Popen[str]:
    """Start a child process that completes 25 requests into a store and prints the number of stored rows."""
    command = [sys.executable, "-c", CHILD, str(Path(__file__).parent), url, str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("moment", ["create", "created", "poll", "results", "stored"])
def test_a_killed_run_pays_for_nothing_twice(tmp_path: Path, moment: str) -> None:
    """SIGKILL before the service receives a batch, after it created it and before it answers, while polling, …"""
    children: list[subprocess.Popen[str]] = []
    seen: Counter[str] = Counter()

    def fault(received: ReceivedRequest, reply: Callable[[], Reply]) -> Reply | None:
        kind = (
            "create"
            if received.method == "POST"
            else received.path.removeprefix(BATCHES).strip("/").partition("/")[2]
        )
        kind = kind or ("list" if "?" in received.path else "poll")
        seen[kind] += 1
        die = kind == moment.removesuffix("d") and seen[kind] == 2
        if die and moment == "created":
            reply()
        if die:
            os.kill(children[0].pid, signal.SIGKILL)
            return None
        return reply()

    with Service() as service:
        service.fault = fault
        children.append(run_child(service.server.url, tmp_path))
        [child] = children
        assert child.stdout
        if moment == "stored":
            while child.stdout.readline().strip() != "13":
                pass
            os.kill(child.pid, signal.SIGKILL)
        assert child.wait(60) == -signal.SIGKILL
        child.stdout.close()
        service.fault = lambda received, reply: reply()
        store = PartStore(tmp_path / "x.jsonl")
        stored_count = len(store)
        assert 0 < stored_count < 25 if moment == "stored" else stored_count <= 10
        requests = make_requests(25)
        complete_missing(claude(service.server.url, tmp_path / "state"), requests, store)
        assert questions(service.batches) == Counter(r.messages[-1]["content"] for r in requests)
        check_answered(
            {name: Completion(**(store[name] | {"token_ids": ()})) for name in store},
            requests,
        )
        posts = len(service.posts)
        assert len(service.batches.batches) == 3 and posts == (4 if moment == "create" else 3)
        assert SECRET not in (tmp_path / "state").read_text() + json.dumps([store[name] for name in store])


def strangers(count: int) -> list[dict[str, Any]]:
    """Return requests of another program with the same key."""
    return [{"custom_id": f"other-{n}", "params": {"messages": [{"content": "?"}]}} for n in range(count)]


def test_another_programs_batch_of_the_same_size_is_recognized(tmp_path: Path) -> None:
    requests = make_requests(10)

    def lose(received: ReceivedRequest, reply: Callable[[], Reply]) -> Reply | None:
        answered = reply()
        if received.method == "POST":
            service.batches.add(strangers(10))
            return None
        return answered

    with Service() as service:
        service.fault = lose
        check_answered(by_id(claude(service.server.url, tmp_path / "s").complete(requests)), requests)
        assert len(service.posts) == 1, "no answer came, but the batch was there"
        assert any("msgbatch_2/results" in received.path for received in service.server.received)


def test_a_batch_that_was_not_created_is_created_again(tmp_path: Path) -> None:
    requests = make_requests(10)
    faults = iter([failing(500), failing(529), failing(429)])
    with Service() as service:
        service.batches.add(strangers(10))
        service.fault = lambda received, reply: (
            next(faults, None) or reply() if received.method == "POST" else reply()
        )
        engine = claude(service.server.url, tmp_path / "s", max_retries=3)
        check_answered(by_id(engine.complete(requests)), requests)
        assert len(service.posts) == 4 and len(service.batches.batches) == 2
        older = [received for received in service.server.received if "msgbatch_1" in received.path]
        assert [received.path for received in older if "after_id" not in received.path] == [], (
            "it cannot be ours"
        )


@pytest.mark.parametrize(
    ("header", "pause"), [("7", 7), ("1000", 60), ("soon", 0.5), ("-3", 0.5), ("nan", 0.5), ("0.1", 0.5)]
)
def test_a_rate_limit_says_how_long_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, header: str, pause: float
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(anthropic, "sleep", pauses.append)
    limits = iter([(*failing(429, "slow down"), {"retry-after": header})])
    requests = make_requests(3)
    with Service() as service:
        service.fault = lambda received, reply: (
            next(limits, None) or reply() if received.method == "POST" else reply()
        )
        check_answered(by_id(claude(service.server.url, tmp_path / "s").complete(requests)), requests)
    assert pauses[0] == pause and max(pauses[1:]) < 0.5, "then it polls"


def test_interrupted_results_are_fetched_again(tmp_path: Path) -> None:
    requests = make_requests(10)
    fetched = 0

    def cut(received: ReceivedRequest, reply: Callable[[], Reply]) -> Reply:
        nonlocal fetched
        status, body = reply()
        if received.path.endswith("/results"):
            fetched += 1
            lines = body.splitlines(keepends=True)
            body = {1: b"".join(lines[:4]) + b'{"custom', 2: b"".join(lines[:6])}.get(fetched, body)
        return status, body

    with Service() as service:
        service.fault = cut
        check_answered(by_id(claude(service.server.url, tmp_path / "s").complete(requests)), requests)
        assert fetched == 3 and len(service.posts) == 1


def test_an_outage_during_polling_costs_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api, "POLL_RETRIES", 1)
    requests = make_requests(5)
    left = 3

    def out(received: ReceivedRequest, reply: Callable[[], Reply]) -> Reply:
        nonlocal left
        if received.method == "GET" and "?" not in received.path and left:
            left -= 1
            return failing(503, "out")
        return reply()

    with Service() as service:
        service.fault = out
        engine = claude(service.server.url, tmp_path / "s", max_retries=0)
        text = re.escape(f"{WHERE}: 127.0.0.1 fails: ") + ".*out.*run the same command again"
        with pytest.raises(EngineError, match=text):
            list(engine.complete(requests))
        assert left == 1
        check_answered(by_id(engine.complete(requests)), requests)
        assert len(service.posts) == 1


def test_a_batch_that_is_gone_is_sent_again(tmp_path: Path) -> None:
    requests = make_requests(5)
    events: list[str] = []
    with Service() as service:
        first_run = claude(service.server.url, tmp_path / "s").complete(requests)
        next(first_run)
        first_run.close()  # type: ignore[attr-defined]
        service.batches.batches.clear()
        engine = claude(service.server.url, tmp_path / "s", events=events)
        check_answered(by_id(engine.complete(requests)), requests)
        assert len(service.posts) == 2
    assert any("is gone" in event for event in events)


def kind_of(received: ReceivedRequest) -> str:
    """Return the call: create, list, poll or results."""
    if received.method == "POST":
        return "create"
    if "?" in received.path:
        return "list"
    return "results" if received.path.endswith("/results") else "poll"


SHAPES: dict[str, dict[str, bytes]] = {
    "create": {"id": b'{"type": "message_batch"}', "id of a number": b'{"id": [1]}'},
    "list": {"data": b'{"data": 3}', "a batch": b'{"data": [7], "has_more": false}'},
    "poll": {"counts": b'{"id": "msgbatch_1", "request_counts": [1]}'},
    "results": {"no result": b'{"custom_id": "x"}', "usage": b'{"custom_id": "x", "result": {"type": "succeeded", "message": {"content": [], "usage": [1]}}}', "another type": b'{"custom_id": "x", "result": {"type": "gone"}}', "content": b'{"custom_id": "x", "result": {"type": "succeeded", "message": {"content": "text"}}}'},
}  # fmt: skip


@pytest.mark.parametrize("kind", SHAPES)
def test_a_wrong_body_is_one_error_and_the_next_start_pays_for_nothing_twice(
    tmp_path: Path, kind: str
) -> None:
    requests = make_requests(3)
    for number, (name, body) in enumerate((WRONG_BODIES | SHAPES[kind]).items()):
        if kind == "results" and name == "nothing":
            continue  # results that are missing: their requests are sent again
        state = tmp_path / str(number)
        with Service() as service:
            service.fault = lambda received, reply, body=body: (  # type: ignore[misc]
                (reply(), (200, body))[1] if kind_of(received) == kind else reply()
            )
            with pytest.raises(EngineError, match=f"^{WHERE}: 127.0.0.1 fails: ") as caught:
                list(claude(service.server.url, state, max_retries=0).complete(requests))
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 600
            service.fault = lambda received, reply: reply()
            check_answered(by_id(claude(service.server.url, state).complete(requests)), requests)
            assert len(service.posts) == 1


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        *SLOW_OR_LARGE,
        (
            redirect("http://127.0.0.1:9/v1", 307),
            "HTTP 307: it redirects to 'http://127.0.0.1:9/v1', which is not followed",
        ),
        (reply(b"sorry", status="503 Out"), "sorry"),
    ],
    ids=["body", "header", "endless", "compressed", "redirect", "error"],
)
def test_a_slow_large_or_wrong_answer_is_one_error(tmp_path: Path, answer: Answer, text: str) -> None:
    began = time.monotonic()
    limits = {"timeout": 0.4 if "0.4" in text else 20, "max_retries": 0}
    with (
        listening(answer) as server,
        pytest.raises(EngineError, match=f"^{WHERE}: 127.0.0.1 fails: .*{text}"),
    ):
        list(claude(server.url, tmp_path / "s", **limits).complete(make_requests(3)))
    assert time.monotonic() - began < 10


def results_instead(service: Service, answered: Callable[[bytes], bytes]) -> None:
    """Change the body of every results file."""

    def fault(received: ReceivedRequest, reply: Callable[[], Reply]) -> Reply:
        status, body = reply()
        return status, answered(body) if kind_of(received) == "results" else body

    service.fault = fault


def test_results_have_limits(tmp_path: Path) -> None:
    requests = make_requests(3)
    stranger = b'{"custom_id": "x", "result": {"type": "expired"}}\n'
    for number, (change, text) in enumerate(
        (
            (lambda body: body[:-1] + b" " * 20 * 2**20, "a result has more than 16 MiB"),
            (lambda body: stranger * 4 + body, "more results than the batch's 3 requests"),
        )
    ):
        with Service() as service:
            results_instead(service, change)
            with pytest.raises(EngineError, match=text):
                list(claude(service.server.url, tmp_path / str(number), max_retries=0).complete(requests))


def test_the_key_is_not_sent_where_the_results_are_said_to_be(tmp_path: Path) -> None:
    with serving(lambda received: (200, b"")) as other, Service() as service:
        service.batches.url = other.url
        with pytest.raises(EngineError, match=r"the results are at 'http://127.*where the key is not sent"):
            list(claude(service.server.url, tmp_path / "s").complete(make_requests(3)))
        assert other.received == []


def test_a_request_that_the_service_failed_to_answer_is_sent_again_by_the_next_start(tmp_path: Path) -> None:
    requests = make_requests(8)
    broken = True

    def judge(params: dict[str, Any]) -> dict[str, Any]:
        question = params["messages"][-1]["content"]
        return errored("overloaded_error", "busy") if broken and question == "q3" else echo(params)

    def start() -> PartStore:
        store = PartStore(tmp_path / "x.jsonl")
        complete_missing(claude(service.server.url, tmp_path / "state"), requests, store)
        return store

    with Service(judge) as service:
        with pytest.raises(
            EngineError, match=r"1 requests failed by faults of the servers.*overloaded_error: busy"
        ):
            start()
        assert [len(received.body["requests"]) for received in service.posts] == [8, 1]
        broken = False
        store = start()
        assert [len(received.body["requests"]) for received in service.posts] == [8, 1, 1]
        assert store[requests[3].id]["text"] == "re: q3"
    assert all(store[request.id]["error"] is None for request in requests)


def test_nothing_is_recorded_when_a_whole_batch_is_refused(tmp_path: Path) -> None:
    requests = make_requests(40)
    with Service(lambda params: errored("invalid_request_error", "no such field")) as service:
        store = PartStore(tmp_path / "x.jsonl")
        with pytest.raises(EngineError, match=f"^{WHERE}: all 40 requests of batch .*no such field"):
            complete_missing(claude(service.server.url, tmp_path / "s", batch=50), requests, store)
        assert len(store) == 0
        service.batches.judge = echo
        complete_missing(claude(service.server.url, tmp_path / "s", batch=50), requests, store)
        assert len(store) == 40


def test_a_missing_key_is_an_error_before_the_first_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CLAUDE_KEY")
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    with serving(lambda received: failing(500)) as server:
        with pytest.raises(
            EngineError, match=f"^{WHERE}.api_key_env: the environment variable CLAUDE_KEY is not"
        ):
            claude(server.url, tmp_path / "s")
        assert server.received == []


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_refused_key_ends_the_run_and_is_shown_nowhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, status: int, method: str
) -> None:
    caplog.set_level(logging.DEBUG)
    with Service() as service:
        service.fault = lambda received, reply: (
            failing(status, f"bad key {SECRET}") if received.method == method else reply()
        )
        with pytest.raises(
            EngineError, match=f"^{WHERE}.api_key_env: .* refuses the key.*CLAUDE_KEY"
        ) as caught:
            list(claude(service.server.url, tmp_path / "s").complete(make_requests(3)))
        assert len(service.server.received) <= 2
        assert SECRET not in str(caught.value) + repr(vars(caught.value)) + caplog.text
        service.fault = lambda received, reply: reply()
        check_answered(
            by_id(claude(service.server.url, tmp_path / "s").complete(make_requests(3))), make_requests(3)
        )


def test_an_unknown_model_ends_the_run(tmp_path: Path) -> None:
    with Service() as service:
        service.fault = lambda received, reply: (
            failing(404, "model: m") if received.method == "POST" else reply()
        )
        with pytest.raises(EngineError, match=f"^{WHERE}: 127.0.0.1 answers HTTP 404: .*model: m"):
            list(claude(service.server.url, tmp_path / "s").complete(make_requests(3)))


def test_unsupported_requests_are_errors(tmp_path: Path) -> None:
    engine = claude("http://127.0.0.1:9", tmp_path / "s")
    with pytest.raises(EngineError, match=f"^{WHERE}: Anthropic serves no adapters"):
        list(engine.complete([], adapter="folder"))
    hot = Request("x", (), 5, temperature=1.5, messages=({"role": "user", "content": "a"},))
    with pytest.raises(EngineError, match=f"^{WHERE}: temperature 1.5 is above 1"):
        list(engine.complete([hot]))


@given(
    batches=st.lists(
        st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True), min_size=1, max_size=3
    ),
)
def test_custom_ids_are_valid_and_unique(
    batches: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("ledger") / "s")
    batches_added = [ledger.add(ids, None) for ids in batches]
    custom = [name for batch in batches_added for name in batch.request_ids]
    assert len(set(custom)) == len(custom) and all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", c) for c in custom)
    assert [list(batch.request_ids.values()) for batch in batches_added] == batches


def test_the_custom_ids_of_the_largest_batch_are_short_enough() -> None:
    largest = Batch("0" * 16, None, range(100_000))  # type: ignore[arg-type]
    assert max(map(len, largest.request_ids)) <= 64


@pytest.mark.parametrize(
    "name", ["", "x", "{nonce}", "{nonce}-", "{nonce}-2", "{nonce}--1", "{nonce}-٣", "{nonce}-1x"]
)
def test_an_unknown_custom_id_has_no_request(tmp_path: Path, name: str) -> None:
    batch = Ledger(tmp_path / "s").add(["a", "b"], None)
    assert batch.request_ids[f"{batch.nonce}-1"] == "b"
    assert name.format(nonce=batch.nonce) not in batch.request_ids


def test_a_torn_ledger_loses_only_its_last_line(tmp_path: Path) -> None:
    path = tmp_path / "s"
    ledger = Ledger(path)
    first = ledger.add(["a", "b"], None)
    ledger.confirm(first, "one")
    ledger.discard(ledger.add(["c"], "one"), "refused")
    second = ledger.add(["b", "d"], "one")
    ledger.confirm(second, "two")
    whole = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        read = Ledger(path)
        lines = sum(end <= cut for end in ends)
        assert path.read_bytes() == whole[: ([0, *ends])[lines]]
        a, b, c, d = (read.batch_of.get(name) for name in "abcd")
        assert (
            (a is not None) == (lines >= 1)
            and (c is not None) == (lines == 3)
            and (d is not None) == (lines >= 5)
        )
        assert read.server_ids() == set(["one", "two"][: (lines >= 2) + (lines >= 6)])
        assert read.sent_twice == ({"b"} if lines >= 5 else set())
        assert not b or b is (d or a)


# --- as a judge


def prefers_fan(params: dict[str, Any]) -> dict[str, Any]:
    """A judge: the answer that says fan is better; it quotes the other verdict before it gives its own."""
    text = params["messages"][0]["content"]
    if len(params["messages"]) > 1:
        return succeeded("[[A]]")
    if "unclear" in text:
        return succeeded("[[A]] or [[B]], who knows", "max_tokens")
    a = text.partition("[Answer A]")[2].partition("[Answer B]")[0]
    return succeeded(f"Not {'[[B]]' if 'fan' in a else '[[A]]'}. So: {'[[A]]' if 'fan' in a else '[[B]]'}")


def test_a_judge_on_message_batches_uses_both_orders_and_rescues(tmp_path: Path) -> None:
    batches = Batches(prefers_fan, polls=1)
    with serving(batches) as server:
        batches.url = server.url
        reach = {
            "kind": "anthropic",
            "model": "m",
            "url": server.url,
            "api_key_env": "CLAUDE_KEY",
            "poll_seconds": 0.01,
        }
        with Judge.from_server(
            reach, prompts="configs/prompts/toy.yaml", judging={"max_tokens": 32}, state=tmp_path / "b.jsonl"
        ) as judge:
            first, second, unclear = judge.compare_many(
                [("say fan", "fan", "no"), ("say fan", "no", "fan"), ("unclear", "x", "y")]
            )
    assert (first.winner, second.winner) == ("A", "B") and first.prob_a is None
    assert first.reason.startswith("Not") and first.tokens == 4 and first.prompt_tokens == 2
    assert unclear.winner == "tie" and all(v.rescued for v in unclear.verdicts), "it says A in both orders"
    assert unclear.tokens == 8 and unclear.prompt_tokens == 4
    with pytest.raises(ConfigError, match=r"^server: .*'other'"):
        Judge.from_server(reach | {"kind": "other"})
