"""A client of four OpenAI-compatible servers, each of which answers three in ten requests with a fault."""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

SERVERS = 4
FAULTS = 0.3


def serve_faults(seed: int, link: Any) -> None:
    """Serve completions with faults; send the URL, and at the end how often each prompt was answered."""
    from support.servers import ReceivedRequest, Reply, answer, failing, serving

    rng = random.Random(seed)
    answers: Counter[int] = Counter()
    faults: Counter[str] = Counter()
    kinds: dict[str, Any] = {
        "status 500": lambda: failing(500),
        "status 503": lambda: failing(503),
        "status 429": lambda: failing(429),
        "hangs up": lambda: None,
        "cut": lambda: (200, b'{"choices": [{"te'),
        "HTML": lambda: (200, b"<html><h1>502 Bad Gateway</h1></html>"),
        "array": lambda: (200, b"[1]"),
        "usage": lambda: (200, b'{"choices": [{"text": "x", "finish_reason": "length"}], "usage": [1]}'),
        "deep": lambda: (200, b'{"x": ' + b"[" * 100_000),
        "empty": lambda: (200, {"choices": []}),
        "slow": lambda: (time.sleep(3), failing(500))[1],
        "large": lambda: (200, b" " * 20 * 2**20),
    }
    rare = ("slow", "large")
    names = [name for name in kinds if name not in rare] * 10 + list(rare)

    def reply(received: ReceivedRequest) -> Reply | None:
        if rng.random() < FAULTS:
            name = rng.choice(names)
            faults[name] += 1
            return kinds[name]()
        time.sleep(0.005)
        if len(received.body["prompt"]) > 1:
            answers[received.body["prompt"][0]] += 1
        return answer(received)

    with serving(reply) as server:
        link.send(server.url)
        link.recv()
        link.send((dict(answers), dict(faults), len(server.received)))


def soak(options: argparse.Namespace) -> tuple[list[str], list[list[object]], bool]:
    """Return the columns and rows of the table, and whether nothing was lost, doubled or stored as an error."""
    from reasongenrm.config.engines import OpenAIConfig
    from reasongenrm.engines.base import Request, complete_missing
    from reasongenrm.engines.openai import OpenAIEngine
    from reasongenrm.errors import EngineError
    from reasongenrm.store import PartStore, read_jsonl

    context = multiprocessing.get_context("spawn")
    links, processes, urls = [], [], []
    for number in range(SERVERS):
        here, there = context.Pipe()
        processes.append(context.Process(target=serve_faults, args=(options.seed + number, there)))
        processes[-1].start()
        urls.append(here.recv() + "/v1")
        links.append(here)
    config = OpenAIConfig(kind="openai", urls=urls, model="m", max_concurrent=16, timeout=20)
    requests = [Request(f"r{n}", (n, 7), max_tokens=5) for n in range(options.requests)]
    events: list[str] = []
    began, starts = time.monotonic(), 0
    with tempfile.TemporaryDirectory() as folder:
        final = Path(folder) / "completions.jsonl"
        while starts < 5:
            starts += 1
            store = PartStore(final)
            try:
                engine = OpenAIEngine(config, max_model_len=100, key="fleet", on_event=events.append)
                complete_missing(engine, requests, store)
                store.finish(request.id for request in requests)
                break
            except EngineError as error:
                events.append(str(error))
        seconds = time.monotonic() - began
        rows = list(read_jsonl(final)) if final.exists() else []
    answers: Counter[int] = Counter()
    faults: Counter[str] = Counter()
    for link in links:
        link.send("stop")
        answered, failed, _ = link.recv()
        answers.update(answered)
        faults.update(failed)
    for process in processes:
        process.join(20)
        process.kill()
    right = sum(row["text"] == f"re: {[int(row['id'][1:]), 7]}" for row in rows)
    ids = Counter(row["id"] for row in rows)
    lost = options.requests - len(ids)
    doubled = sum(count > 1 for count in ids.values())
    errors = sum(row["error"] is not None for row in rows)
    for event in events:
        print(event)
    names = ["requests", "faults", "starts", "lost", "doubled", "stored errors", "wrong", "answered twice", "seconds", "memory, MiB"]  # fmt: skip
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    row: list[object] = [
        options.requests, sum(faults.values()), starts, lost, doubled, errors, len(rows) - right,
        sum(count > 1 for count in answers.values()), round(seconds, 1), memory,
    ]  # fmt: skip
    return names, [row], not (lost or doubled or errors or len(rows) - right)
