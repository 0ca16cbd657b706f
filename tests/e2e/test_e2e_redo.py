"""Stage 1 with other teachers on a finished run: only new work is done, and a killed `--redo` continues without the option."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from support.scripts import PREPARE, Bench, kill_at, lines, rows_of, snapshot, value_of
from support.servers import HTTPServer, ReceivedRequest, Reply, serving

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
REASONS = 48
"""Two for each of the 24 toy pairs."""


def reply(received: ReceivedRequest) -> Reply:
    text = received.body["messages"][-1]["content"]
    verdict = re.findall(r"the better answer is (A|B)", text)[-1]
    message = {"role": "assistant", "content": f"i read both and count . so {verdict} is better ."}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21}
    return 200, {"id": "c", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def recipe(servers: dict[str, HTTPServer], **limits: int) -> list[str]:
    def teacher(name: str) -> str:
        server = f"{{kind: openai, urls: ['{servers[name].url}/v1'], model: m, api: chat, max_concurrent: 2}}"
        return f"{name}: {{server: {server}, samples: 2, max_tokens: {limits.get(name, 48)}}}"

    return [
        f"teachers={{{', '.join(map(teacher, servers))}}}",
        "judges={reasongenrm: {template: reason}}",
        "records={}",
    ]


def sent(server: HTTPServer) -> list[tuple[str, Any]]:
    bodies = [received.body for received in server.received if received.body is not None]
    server.received.clear()
    return [(json.dumps(body["messages"]), body["seed"]) for body in bodies]


def same(before: dict[str, str], folder: Path, *but: str) -> dict[str, str]:
    after = snapshot(folder)
    # A finished file has an end mark beside it, `.<file>.end`.
    marks = [str(Path(path).with_name(f".{Path(path).name}")) for path in but]
    kept = [name for name in before if not name.startswith(("manifest/", *but, *marks))]
    assert len(kept) >= 4 and [name for name in kept if after.get(name) != before[name]] == []
    return after


SELECTED = ("scored", "sft", "genrm", "general", "reasons_dropped", "data_report")


def test_teachers_come_change_and_go(
    bench: Callable[[str, Sequence[str]], Bench], toy_overrides: list[str]
) -> None:
    runs = bench("redo", toy_overrides)
    folder = runs.folder("teachers")
    gate = threading.Event()

    def slowly(received: ReceivedRequest) -> Reply:
        time.sleep(0 if gate.is_set() else 0.05)
        return reply(received)

    with ExitStack() as stack:
        first, second = stack.enter_context(serving(reply)), stack.enter_context(serving(reply))
        alone, both = {"first": first}, {"first": first, "second": second}
        runs.good(PREPARE, "teachers", *recipe(alone))
        assert len(sent(first)) == REASONS
        before, scored = snapshot(folder), rows_of(folder / "scored.jsonl")

        # A teacher more: its reasons alone are sampled and scored.
        done = runs.good(PREPARE, "teachers", *recipe(both))
        assert not sent(first) and len(sent(second)) == REASONS
        assert "reasons of second" in done.stderr and "reasons of first" not in done.stderr
        after = same(before, folder, *SELECTED)
        new = rows_of(folder / "scored.jsonl")
        assert [row for row in new if row["teacher"] == "first"] == scored and len(new) == 2 * len(
            scored
        ) == 2 * REASONS
        order = [row["id"] for row in rows_of(folder / "prompts.jsonl")]
        places = [order.index(row["prompt_id"]) for row in new]
        assert places == sorted(places), "in the order of the prompts"
        assert value_of(folder / "data_report.json")["reasons"]["sampled"] == 2 * REASONS

        # A changed limit names the step; the kill comes while it is done again.
        changed = recipe(both, second=47)
        done = runs.run(PREPARE, "teachers", *changed)
        assert done.code == 2 and snapshot(folder) == after
        assert (
            "teachers.second.max_tokens changed from 48 to 47; the steps reasons.second, scores, records would be done again "
            "(add --redo reasons.second, or restore the value, or set name=… for a new run)"
        ) in done.stderr
        second.reply = slowly
        part = folder / "reasons" / "second.part.jsonl"
        process = runs.fork(PREPARE, "teachers", *changed, "--redo", "reasons.second")
        kill_at(process, lambda: lines(part) >= 8, 0.3, group=True, seed=3)
        gate.set()
        runs.good(PREPARE, "teachers", *changed)
        requests = sent(second)
        assert not sent(first) and len(set(requests)) == REASONS and len(requests) <= REASONS + 2
        again = same(after, folder, "reasons/second", *SELECTED)
        for name in ("reasons/second.jsonl", "scored.jsonl", "sft.jsonl", "data_report.html"):
            assert again[f"replaced/1/{name}"] == after[name] and name in again
        assert len(list((folder / "replaced").iterdir())) == 1

        # A teacher less: nothing is asked for, its files stay, and the records are those from before.
        done = runs.good(PREPARE, "teachers", *recipe(alone))
        assert not sent(first) and not sent(second) and "scoring" not in done.stderr
        last = same(before, folder, "scored")
        assert last["reasons/second.jsonl"] == again["reasons/second.jsonl"]
        assert "already prepared" in runs.good(PREPARE, "teachers", *recipe(alone)).stderr
