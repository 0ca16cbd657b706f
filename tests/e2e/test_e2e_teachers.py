"""Stage 1 with teachers behind real HTTP servers: errors are clear, and no request is sent twice."""

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
from support.servers import HTTPServer, ReceivedRequest, Reply, failing, serving

pytestmark = pytest.mark.e2e

REASONS = 48
"""Two for each of the 24 toy pairs."""


def named_verdict(received: ReceivedRequest) -> str:
    """Return the verdict that a hindsight prompt names."""
    text = received.body["messages"][-1]["content"]
    return re.findall(r"the better answer is (A|B)", text)[-1]


def reply_with(received: ReceivedRequest, verdict: str) -> Reply:
    message = {"role": "assistant", "content": f"i read both and count . so {verdict} is better ."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
    return 200, {"id": "c", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def right_reply(received: ReceivedRequest) -> Reply:
    return reply_with(received, named_verdict(received))


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


def check_refused(done: Done, *words: str) -> None:
    assert done.code == 2 and "Traceback" not in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("reasongenrm: ") and all(word in last for word in words), last


def request_counts(*servers: HTTPServer) -> Counter[tuple[str, Any]]:
    """Count the requests of each (prompt, seed), answered or not; a kill may leave an incomplete request."""
    requests = [
        received.body for server in servers for received in server.received if received.body is not None
    ]
    return Counter((json.dumps(body["messages"]), body["seed"]) for body in requests)


def test_one_of_two_servers_fails_and_the_other_takes_over(served: Bench) -> None:
    with serving(lambda received: failing(500)) as broken, serving(right_reply) as good:
        done = served.good(PREPARE, "two", *fleet(broken, good))
        assert broken.url in done.stderr, "a server that is given up is named"
        assert len(request_counts(good)) == REASONS == request_counts(good).total()
    folder = served.folder("two")
    reasons = rows_of(folder / "reasons" / "fleet.jsonl")
    assert len(reasons) == REASONS and {row["finish_reason"] for row in reasons} == {"stop"}
    assert all(row["tokens"] == 12 for row in reasons)
    assert value_of(folder / "data_report.json")["reasons"]["sampled"] == REASONS


def test_traces_of_a_blind_teacher_are_kept_where_the_answer_behind_them_is_right(served: Bench) -> None:
    def think(received: ReceivedRequest) -> Reply:
        verdict, other = "AB" if received.body["seed"] % 2 else "BA"
        status, body = reply_with(received, verdict)
        message = {
            "reasoning": f"first {other} is better ? [[{other}]] no .",
            "content": f"so {verdict} is better .\n\n[[{verdict}]]",
        }
        body["choices"][0]["message"] |= message
        return status, body

    with serving(think) as server:
        words = [word.replace("{server:", "{mode: blind, server:") for word in fleet(server)]
        served.good(
            PREPARE, "thinks", *words, "select.threshold=-1", "select.min_kept=0.2", "select.giveaway_words=0"
        )
    folder = served.folder("thinks")
    reasons = rows_of(folder / "reasons" / "fleet.jsonl")
    for row in reasons:
        other = "B" if row["verdict"] == "A" else "A"
        assert row["text"] == f"first {other} is better ? [[{other}]] no .\n\nso {row['verdict']} is better ."
    winners = {row["id"]: row["winner"] for row in rows_of(folder / "prompts.jsonl")}
    wrong = [row["id"] for row in reasons if row["verdict"] != winners[row["prompt_id"]]]
    drops = [row for row in rows_of(folder / "reasons_dropped.jsonl") if row["reason"] == "wrong_verdict"]
    assert sorted(row["location"] for row in drops) == sorted(wrong) and 0 < len(wrong) < REASONS
    records = rows_of(folder / "sft.jsonl")
    assert records and all(f"so {winners[row['id']]} is better" in row["reason"] for row in records)
    assert {row["response"] for row in records} == {"[[A]]", "[[B]]"}


@pytest.mark.slow
def test_a_kill_while_sampling_repeats_no_finished_request(served: Bench) -> None:
    gate = threading.Event()

    def slowly(received: ReceivedRequest) -> Reply:
        if not gate.is_set():
            time.sleep(0.05)
        return right_reply(received)

    with serving(slowly) as server:
        part = served.folder("killed") / "reasons" / "fleet.part.jsonl"
        process = served.fork(PREPARE, "killed", *fleet(server))
        kill_at(process, lambda: lines(part) >= 8, 0.3, group=True, seed=8)
        stored = rows_of(part)[: lines(part)]
        assert 8 <= len(stored) < REASONS
        gate.set()
        served.good(PREPARE, "killed", *fleet(server))
        received = request_counts(server)
        assert len(received) == REASONS
        assert received.total() <= REASONS + 2, "at most the open requests at the kill were sent again"
    rows = {row["id"]: row for row in rows_of(served.folder("killed") / "reasons" / "fleet.jsonl")}
    assert len(rows) == REASONS and all(rows[row["id"]] == row for row in stored)


@pytest.mark.slow
def test_lost_servers_are_an_error_and_the_same_command_continues(served: Bench) -> None:
    with serving(right_reply) as server:
        count = 0

        def dying(received: ReceivedRequest) -> Reply | None:
            nonlocal count
            count += 1
            return right_reply(received) if count <= 10 else None

        server.reply = dying
        check_refused(served.run(PREPARE, "gone", *fleet(server)), server.url, "teachers.fleet.server")
        part = served.folder("gone") / "reasons" / "fleet.part.jsonl"
        assert lines(part) == 10
    with serving(right_reply) as another:  # a run may continue with other servers
        served.good(PREPARE, "gone", *fleet(another))
        assert request_counts(another).total() == REASONS - 10


def test_a_teacher_that_always_contradicts_the_label_is_an_error(served: Bench) -> None:
    with serving(
        lambda received: reply_with(received, "B" if named_verdict(received) == "A" else "A")
    ) as server:
        done = served.run(PREPARE, "contradicts", *fleet(server))
    check_refused(done, "select.min_kept: 0 of 24 prompts keep a reason", "contradicts_verdict")
    assert any(
        "contradicts_verdict" in line and str(REASONS) in line for line in done.stderr.splitlines()[:-1]
    )
    assert not (served.folder("contradicts") / "data_report.json").exists()


@pytest.mark.slow
def test_too_high_a_threshold_is_an_error_and_the_named_one_continues_without_sampling(served: Bench) -> None:
    with serving(right_reply) as server:
        words = [*fleet(server), "select.min_kept=0.5"]
        done = served.run(PREPARE, "strict", *words, "select.threshold=0.99")
        check_refused(done, "select.min_kept: 0 of 24 prompts keep a reason (0.0 %)")
        assert "R*, best of each prompt" in done.stderr and "not_selected" in done.stderr
        folder = served.folder("strict")
        scores = (folder / "scored.jsonl").read_bytes()
        assert len(scores.splitlines()) == REASONS and not (folder / "sft.jsonl").exists()
        threshold = re.findall(r"select\.threshold=\S+", done.stderr.splitlines()[-1])
        served.good(PREPARE, "strict", *words, *threshold)
        assert request_counts(server).total() == REASONS, "nothing was sampled again"
    assert (folder / "scored.jsonl").read_bytes() == scores
    assert 12 <= lines(folder / "sft.jsonl") < 24


def test_a_missing_or_refused_key_is_an_error_before_any_work(
    served: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with serving(lambda received: failing(401, "bad key")) as server:
        words = fleet(server, key="TEACHER_KEY")
        check_refused(served.run(PREPARE, "key", *words), "TEACHER_KEY")
        assert not server.received and not served.folder("key").exists()
        monkeypatch.setitem(os.environ, "TEACHER_KEY", "sk-very-secret")
        done = served.run(PREPARE, "key", *words)
        check_refused(done, "TEACHER_KEY", "teachers.fleet.server")
        written = b"".join(path.read_bytes() for path in served.folder("key").rglob("*") if path.is_file())
        assert b"sk-very-secret" not in written and "sk-very-secret" not in done.stdout + done.stderr
