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
from types import SimpleNamespace
from typing import Any

import psutil

GOOD = 40
BATCH_SECONDS = 0.02
KEY = "soak-key"


def verdict(prompt: str, a: str, b: str) -> str:
    """Return the reason that the stand-in gives: a caller sees whether it is that of its own texts."""
    return hashlib.sha256("\0".join((prompt, a, b)).encode()).hexdigest()


def serve_judge(port: Any) -> None:
    """Serve a judge whose engine waits; send the port."""
    import os

    from reasongenrm.chat.prompts import PromptFile
    from reasongenrm.config.evaluate import JudgingConfig
    from reasongenrm.judge import server
    from reasongenrm.judge.api import ComparisonInput, Judge
    from reasongenrm.records import Comparison

    class StandIn(Judge):
        def compare_many(self, rows: Iterable[ComparisonInput]) -> Iterator[Comparison]:
            time.sleep(BATCH_SECONDS)
            for prompt, a, b in rows:
                text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
                yield Comparison("c", "A", 0.75, verdict(text, a, b), "ok", (), 1, 1)

    os.environ["SOAK_KEY"] = KEY
    judge = StandIn(SimpleNamespace(max_model_len=512), None, PromptFile.load("configs/prompts/toy.yaml"), JudgingConfig())  # type: ignore[arg-type]  # fmt: skip
    server.show = lambda line: port.send(int(line.rpartition(":")[2]))  # type: ignore[attr-defined]
    server.serve(judge, port=0, api_key_env="SOAK_KEY")


class GoodCaller(threading.Thread):
    """Compares random texts, one request after the other, and checks each answer."""

    def __init__(self, port: int, seed: int, end: float) -> None:
        super().__init__(daemon=True)
        self.port, self.rng, self.end = port, random.Random(seed), end
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
                self.wrong += answer.status == 200 and json.loads(content)["reason"] != verdict(*row)
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


class BadCaller(threading.Thread):
    """Does one bad thing after the other, 20 times a second at most."""

    def __init__(self, port: int, act: Callable[[socket.socket], None], end: float) -> None:
        super().__init__(daemon=True)
        self.port, self.act, self.end = port, act, end
        self.times = 0

    def run(self) -> None:
        """Act until the end."""
        while time.monotonic() < self.end:
            self.times += 1
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection,
            ):
                self.act(connection)
            time.sleep(0.05)


def load(port: int, seconds: float, seed: int, bad: bool, server: psutil.Process) -> dict[str, Any]:
    """Run the callers for some seconds; return times in ms, counts, and the server's memory in MiB."""
    end = time.monotonic() + seconds
    good = [GoodCaller(port, seed * 1000 + number, end) for number in range(GOOD)]
    others = [BadCaller(port, act, end) for act in BAD] if bad else []
    memory = []
    for caller in (*good, *others):
        caller.start()
    while time.monotonic() < end:
        memory.append(server.memory_info().rss / 2**20)
        time.sleep(0.5)
    for caller in good:
        caller.join(120)
    times = sorted(1000 * value for caller in good for value in caller.seconds)
    half = len(memory) // 2
    return {
        "answers": len(times),
        "bad": sum(caller.times for caller in others),
        "p50": statistics.median(times),
        "p99": times[int(0.99 * len(times))],
        "most": times[-1],
        "wrong": sum(caller.wrong for caller in good),
        "lost": sum(caller.lost for caller in good),
        "memory": max(memory),
        "growth": statistics.mean(memory[half:]) - statistics.mean(memory[half // 2 : half]),
    }


def soak(options: argparse.Namespace) -> tuple[list[str], list[list[object]], bool]:
    """Return the columns and rows of the table, and whether nothing was wrong, lost or too slow."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=serve_judge, args=(there,))
    process.start()
    port = here.recv()
    server = psutil.Process(process.pid)
    try:
        load(port, min(5, options.seconds), 0, False, server)  # not counted: imports, first allocations
        alone = load(port, options.seconds, options.seed, False, server)
        beside = load(port, options.seconds, options.seed + 1, True, server)
    finally:
        process.terminate()
        process.join(60)
        ended = not process.is_alive()
        process.kill()
    names = ["callers", "answers", "bad acts", "p50, ms", "p99, ms", "slowest, ms", "wrong", "lost", "memory, MiB", "growth, MiB"]  # fmt: skip
    rows: list[list[object]] = [
        [name, result["answers"], result["bad"], *(round(result[key], 1) for key in ("p50", "p99", "most")),
         result["wrong"], result["lost"], round(result["memory"]), round(result["growth"], 1)]
        for name, result in (("40 good", alone), ("40 good, 24 bad", beside))
    ]  # fmt: skip
    ratio = beside["p99"] / alone["p99"]
    rows.append(["p99 of the second, by the first", *[""] * 3, f"{ratio:.2f}", *[""] * 5])
    passed = ratio <= 2 and not any(result[key] for result in (alone, beside) for key in ("wrong", "lost"))
    return names, rows, passed and ended
