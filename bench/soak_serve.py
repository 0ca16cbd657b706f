"""Callers of the judge's server: good ones, and slow, broken and hostile ones beside them."""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import multiprocessing
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

GOOD = 40
BATCH_SECONDS = 0.02
TURNS = 5
CONTEXT = multiprocessing.get_context("spawn")
KEY = "soak-key"


def stand_in(seconds: float) -> Any:
    """Return a judge whose engine waits so long per batch, and gives a hash of the prompt as the reason: a caller sees whether an answer
    is that to its own texts."""
    from reasongenrm.chat.prompts import PromptFile
    from reasongenrm.config.evaluate import JudgingConfig
    from reasongenrm.engines.base import Engine, Request
    from reasongenrm.judge.api import Judge
    from reasongenrm.records import Completion

    class StandIn(Engine):
        max_model_len, block = 4096, None

        def complete(
            self, requests: Iterable[Request], *, adapter: str | None = None
        ) -> Iterator[Completion]:
            batch = list(requests)
            time.sleep(seconds)
            for request in batch:
                reason = hashlib.sha256(request.messages[-1]["content"].encode()).hexdigest()
                yield Completion(request.id, f"{reason} [[A]]", "stop")

    config = JudgingConfig(both_orders=False)
    return Judge(StandIn(), None, PromptFile.load("configs/prompts/judge.yaml"), config)


def serve_judge(port: Any) -> None:
    """Serve a judge whose engine waits; send the port."""
    import os

    from reasongenrm.service import serve

    os.environ["SOAK_KEY"] = KEY
    serve.show = lambda line: port.send(int(line.rpartition(":")[2]))  # type: ignore[attr-defined]
    serve.serve(stand_in(BATCH_SECONDS), port=0, api_key_env="SOAK_KEY")


class GoodCaller(threading.Thread):
    """Compares random texts, one request after the other, and checks each answer."""

    def __init__(self, port: int, judge: Any, seed: int, end: float) -> None:
        super().__init__(daemon=True)
        self.port, self.judge, self.rng, self.end = port, judge, random.Random(seed), end
        self.seconds: list[float] = []
        self.wrong = self.lost = 0

    def run(self) -> None:
        """Ask until the end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        while time.monotonic() < self.end:
            row = [self.rng.randbytes(self.rng.randint(10, 400)).hex() for _ in range(3)]
            body = json.dumps({"prompt": row[0], "a": row[1], "b": row[2]})
            began = time.monotonic()
            try:
                connection.request("POST", "/compare", body, headers)
                answer = connection.getresponse()
                content = answer.read()
                self.lost += answer.status != 200
                self.wrong += (
                    answer.status == 200 and json.loads(content)["reason"] != self.judge.compare(*row).reason
                )
            except (OSError, http.client.HTTPException):
                self.lost += 1
                connection.close()
            self.seconds.append(time.monotonic() - began)
            time.sleep(self.rng.uniform(0, 0.05))


HEAD = b"POST /compare HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
AUTHORIZED = HEAD + f"Authorization: Bearer {KEY}\r\n".encode()


def _drip(connection: socket.socket, part: bytes) -> None:
    for _ in range(600):
        connection.sendall(part)
        time.sleep(0.1)


def slow_header(connection: socket.socket) -> None:
    """Send a header byte by byte."""
    connection.sendall(HEAD + b"X: ")
    _drip(connection, b"x")


def slow_body(connection: socket.socket) -> None:
    """Send a body byte by byte, with the key."""
    connection.sendall(AUTHORIZED + b"Content-Length: 100000\r\n\r\n")
    _drip(connection, b" ")


def endless_header(connection: socket.socket) -> None:
    """Send a header without an end."""
    connection.sendall(HEAD)
    for _ in range(2000):
        connection.sendall(b"X: " + b"x" * 65536)


def silent(connection: socket.socket) -> None:
    """Send nothing."""
    connection.settimeout(60)
    connection.recv(1)


def many(connection: socket.socket) -> None:
    """Open 50 connections more, and send nothing."""
    host, port = connection.getpeername()
    others = [socket.create_connection((host, port), timeout=60) for _ in range(50)]
    silent(connection)
    for other in others:
        other.close()


def large_body(connection: socket.socket) -> None:
    """Send more than the limit, with the key and without a length."""
    connection.sendall(AUTHORIZED + b"Transfer-Encoding: chunked\r\n\r\n")
    for _ in range(40):
        connection.sendall(b"100000\r\n" + b" " * 2**20 + b"\r\n")
        time.sleep(0.02)


def deep_body(connection: socket.socket) -> None:
    """Send deep JSON, with the key."""
    connection.sendall(AUTHORIZED + b"Content-Length: 200000\r\n\r\n" + b"[" * 200_000)
    connection.recv(65536)


def garbage(connection: socket.socket) -> None:
    """Send no HTTP."""
    connection.sendall(random.randbytes(5000))
    connection.recv(65536)


def hang_up(connection: socket.socket) -> None:
    """Ask a good question, and leave before the answer."""
    body = json.dumps({"prompt": "p", "a": "x", "b": "y"}).encode()
    connection.sendall(AUTHORIZED + b"Content-Length: %d\r\n\r\n" % len(body) + body)


def deaf(connection: socket.socket) -> None:
    """Ask thousands of times, and read no answer."""
    connection.settimeout(30)
    one = (
        b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n" + f"Authorization: Bearer {KEY}\r\n\r\n".encode()
    )
    connection.sendall(one * 2000)
    time.sleep(30)


def other_page(connection: socket.socket) -> None:
    """Ask as a page of another site does."""
    connection.sendall(AUTHORIZED + b"Origin: http://evil.example\r\nContent-Length: 2\r\n\r\n{}")
    connection.recv(65536)


def no_key(connection: socket.socket) -> None:
    """Ask without a key, with a body."""
    connection.sendall(HEAD + b"Content-Length: 1000000\r\n\r\n" + b" " * 1_000_000)
    connection.recv(65536)


BAD: tuple[Callable[[socket.socket], None], ...] = (
    slow_header, slow_header, slow_header, slow_body, slow_body, slow_body, endless_header, endless_header,
    endless_header, silent, many, many, large_body, large_body, deep_body, deep_body, garbage, garbage, hang_up, hang_up,
    deaf, deaf, other_page, no_key,
)  # fmt: skip
"""The 24 bad callers."""


def misbehave(port: int, acts: Any) -> None:
    """Run the bad callers without an end, each 20 times a second at most; count what they do."""

    def repeat(act: Callable[[socket.socket], None]) -> None:
        while True:
            with acts.get_lock():
                acts.value += 1
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                act(connection)
            time.sleep(0.05)

    threads = [threading.Thread(target=repeat, args=(act,), daemon=True) for act in BAD]
    for thread in threads:
        thread.start()
    threads[0].join()


@dataclass
class Load:
    """What the good callers met.

    Attributes:
        milliseconds: of every answer.
        memory: of the server, in MiB, twice a second.
        bad: number of bad acts.
        wrong: answers to other texts than the caller's.
        lost: requests without an answer of status 200.
    """

    milliseconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    bad: int = 0
    wrong: int = 0
    lost: int = 0

    def run(self, port: int, seconds: float, seed: int, server: psutil.Process, *, bad: bool) -> None:
        """Run the callers for some seconds."""
        judge = stand_in(0)
        end = time.monotonic() + seconds
        good = [GoodCaller(port, judge, seed * 1000 + number, end) for number in range(GOOD)]
        # In a process of their own, which ends with all their connections and takes no time from the good ones.
        acts = CONTEXT.Value("i", 0)
        others = CONTEXT.Process(target=misbehave, args=(port, acts), daemon=True) if bad else None
        if others:
            others.start()
        for caller in good:
            caller.start()
        while time.monotonic() < end:
            processes = (server, *server.children())  # the judge's, and that of HTTP
            self.memory.append(sum(one.memory_info().rss for one in processes) / 2**20)
            time.sleep(0.5)
        for caller in good:
            caller.join(120)
            self.milliseconds += (1000 * value for value in caller.seconds)
            self.wrong += caller.wrong
            self.lost += caller.lost
        self.bad += acts.value
        if others:
            others.kill()
            others.join()

    def quantile(self, share: float) -> float:
        """Return a quantile of the times, in ms."""
        return sorted(self.milliseconds)[min(int(share * len(self.milliseconds)), len(self.milliseconds) - 1)]

    def row(self, name: str) -> list[object]:
        """Return the row of the table."""
        times = [round(self.quantile(share), 1) for share in (0.5, 0.99, 1)]
        last = len(self.memory) // 3
        growth = statistics.mean(self.memory[-last:]) - statistics.mean(self.memory[last : 2 * last])
        counts = [len(self.milliseconds), self.bad, *times, self.wrong, self.lost]
        return [name, *counts, round(max(self.memory)), round(growth, 1)]


def soak(options: argparse.Namespace) -> tuple[list[str], list[list[object]], bool]:
    """Return the columns and rows of the table, and whether nothing was wrong, lost or too slow."""
    here, there = CONTEXT.Pipe()
    process = CONTEXT.Process(target=serve_judge, args=(there,))
    process.start()
    port = here.recv()
    server = psutil.Process(process.pid)
    alone, beside = Load(), Load()
    try:
        Load().run(port, 3, 0, server, bad=True)  # not counted: imports, first allocations
        for turn in range(TURNS):  # in turn, since other programs may run on the machine
            alone.run(port, options.seconds / TURNS, 2 * turn + 1, server, bad=False)
            beside.run(port, options.seconds / TURNS, 2 * turn + 2, server, bad=True)
    finally:
        process.terminate()
        process.join(60)
        ended = not process.is_alive()
        process.kill()
    names = ["callers", "answers", "bad acts", "p50, ms", "p99, ms", "slowest, ms", "wrong", "lost", "memory, MiB", "growth, MiB"]  # fmt: skip
    ratio = beside.quantile(0.99) / alone.quantile(0.99)
    rows = [alone.row("40 good"), beside.row("40 good, 24 bad")]
    rows.append(["p99 of the second / of the first", *[""] * 3, f"{ratio:.2f}", *[""] * 5])
    return names, rows, ratio <= 2 and ended and not any(load.wrong or load.lost for load in (alone, beside))
