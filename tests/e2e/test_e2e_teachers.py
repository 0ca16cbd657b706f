"""Stage 1 with teachers behind real HTTP servers: what fails is told or mended, and nothing is asked for twice."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from support.scripts import PREPARE, Bench, Done, kill_at, lines, rows_of, value_of
from support.servers import Asked, HTTPServer, Reply, failing, serving

pytestmark = pytest.mark.e2e

REASONS = 48
"""Two for each of the 24 toy pairs."""


def told(asked: Asked) -> str:
    """The verdict that a hindsight prompt names."""
    text = asked.body["messages"][-1]["content"]
    return re.findall(r"the better answer is (A|B)", text)[-1]


def saying(asked: Asked, verdict: str) -> Reply:
    message = {"role": "assistant", "content": f"i read both and count . so {verdict} is better ."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
    return 200, {"id": "c", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def right(asked: Asked) -> Reply:
    return saying(asked, told(asked))


def fleet(*servers: HTTPServer, key: str = "null") -> list[str]:
    urls = ", ".join(f"'{server.url}/v1'" for server in servers)
    server = f"{{kind: openai, urls: [{urls}], model: m, api: chat, max_concurrent: 2, max_retries: 0, timeout: 5, api_key_env: {key}}}"
    return [
        f"teachers={{fleet: {{server: {server}, samples: 2, max_tokens: 48}}}}",
        "judges={reasongenrm: {template: reason}}",
        "records={}",
    ]


@pytest.fixture(scope="module")
def served(bench: Callable[[str, Sequence[str]], Bench], toy_overrides: list[str]) -> Bench:
    return bench("served", toy_overrides)


def refused(done: Done, *words: str) -> None:
    assert done.code == 2 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("reasongenrm: ") and all(word in last for word in words), last


def asked_for(*servers: HTTPServer) -> Counter[tuple[str, Any]]:
    """How often each (prompt, seed) was asked for, whatever the server did with it; a kill may cut a request in two."""
    requests = [asked.body for server in servers for asked in server.asked if asked.body is not None]
    return Counter((json.dumps(body["messages"]), body["seed"]) for body in requests)


def test_one_of_two_servers_fails_and_the_other_does_its_work(served: Bench) -> None:
    with serving(lambda asked: failing(500)) as broken, serving(right) as good:
        done = served.good(PREPARE, "two", *fleet(broken, good))
        assert broken.url in done.stderr, "a server that is left out is named"
        assert len(asked_for(good)) == REASONS == asked_for(good).total()
    folder = served.folder("two")
    reasons = rows_of(folder / "reasons" / "fleet.jsonl")
    assert len(reasons) == REASONS and {row["finish_reason"] for row in reasons} == {"stop"}
    assert all(row["tokens"] == 12 and row["logprob"] is None for row in reasons)
    assert value_of(folder / "data_report.json")["reasons"]["sampled"] == REASONS


def test_a_kill_while_sampling_asks_for_nothing_twice(served: Bench) -> None:
    gate = threading.Event()

    def slowly(asked: Asked) -> Reply:
        if not gate.is_set():
            time.sleep(0.05)
        return right(asked)

    with serving(slowly) as server:
        part = served.folder("killed") / "reasons" / "fleet.part.jsonl"
        process = served.start(PREPARE, "killed", *fleet(server))
        kill_at(process, lambda: lines(part) >= 8, 0.3, group=True, seed=8)
        kept = rows_of(part)[: lines(part)]
        assert 8 <= len(kept) < REASONS
        gate.set()
        served.good(PREPARE, "killed", *fleet(server))
        asked = asked_for(server)
        assert len(asked) == REASONS
        assert asked.total() <= REASONS + 2, "at most those in flight at the kill were asked for again"
    rows = {row["id"]: row for row in rows_of(served.folder("killed") / "reasons" / "fleet.jsonl")}
    assert len(rows) == REASONS and all(rows[row["id"]] == row for row in kept)


def test_all_servers_gone_is_told_and_the_same_command_goes_on(served: Bench) -> None:
    with serving(right) as server:
        count = 0

        def dying(asked: Asked) -> Reply | None:
            nonlocal count
            count += 1
            return right(asked) if count <= 10 else None

        server.reply = dying
        refused(served.run(PREPARE, "gone", *fleet(server)), server.url, "teachers.fleet.server")
        part = served.folder("gone") / "reasons" / "fleet.part.jsonl"
        assert lines(part) == 10
    with serving(right) as another:  # a run may go on with other servers
        served.good(PREPARE, "gone", *fleet(another))
        assert asked_for(another).total() == REASONS - 10


def test_a_teacher_that_always_contradicts_the_label_is_told(served: Bench) -> None:
    with serving(lambda asked: saying(asked, "B" if told(asked) == "A" else "A")) as server:
        done = served.run(PREPARE, "contradicts", *fleet(server))
    refused(done, "no reason was kept", f"'contradicts_verdict': {REASONS}", "select")
    assert not (served.folder("contradicts") / "data_report.json").exists()


def test_a_key_that_is_missing_or_refused_is_told_before_any_work(
    served: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with serving(lambda asked: failing(401, "bad key")) as server:
        words = fleet(server, key="TEACHER_KEY")
        refused(served.run(PREPARE, "key", *words), "TEACHER_KEY")
        assert not server.asked and not served.folder("key").exists()
        monkeypatch.setitem(os.environ, "TEACHER_KEY", "sk-very-secret")
        done = served.run(PREPARE, "key", *words)
        refused(done, "TEACHER_KEY", "teachers.fleet.server")
        written = b"".join(path.read_bytes() for path in served.folder("key").rglob("*") if path.is_file())
        assert b"sk-very-secret" not in written and "sk-very-secret" not in done.stdout + done.stderr
