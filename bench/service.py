"""Latency and throughput of the judge's server, against the engine alone.

    python bench/service.py [RECIPE] [--rows 512] [--callers 1 16 256] [--repeats 3]

The recipe's judge has to be trained (`make demo`). HTTP has a process of its own, as under `reasongenrm serve`, and so have the
callers: each sends a row, waits for the comparison, and sends the next one. One caller sends a sixteenth of the rows, 16 callers a
quarter, 256 all of them. All ways run in turn on one engine, with an empty prefix cache, and medians over the repeats are shown:

- `engine`: two calls of `LLM.generate` over the same rows, for reasons and for verdicts; as many rows at a time as there are callers, and all
  of them at once where those are 256 or more.
- `judge`: `Judge.compare_many`, in the same way.
- `service`: the callers. Its ratios to the other two are those of the same round. CPU seconds are those of HTTP and engine
  together: on a machine that others use they say more than times. Those of the callers' process have a column of their own.
  The start of the server, and of the callers' process, is not counted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.parse import urlsplit

from machine import machine

from judge import generate, placed, toy_rows

SATURATED = 256
"""Callers from which on the engine alone gets all rows at once."""


class Caller(asyncio.Protocol):
    """One caller and its connection: sends a request, waits for the whole answer, and sends the next one.

    Not a library's client: those take several times as much CPU, of cores that server and engine need.

    Args:
        requests: of all callers.
        seconds: gets those of each request.
    """

    transport: asyncio.Transport

    def __init__(self, requests: Iterator[bytes], seconds: list[float]) -> None:
        self.requests, self.seconds = requests, seconds
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        """Send the first request."""
        self.transport = transport
        self.send()

    def send(self) -> None:
        """Send the next request; close the connection after the last one."""
        request = next(self.requests, None)
        if request is None:
            self.transport.close()
            self.done.set_result(None)
            return
        self.answer, self.began = b"", time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        """Read a part of an answer."""
        self.answer += data
        header, end, body = self.answer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", header)
        if end and length and len(body) == int(length[1]):
            assert header.startswith(b"HTTP/1.1 200 "), self.answer
            self.seconds.append(time.perf_counter() - self.began)
            self.send()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail where answers are missing."""
        if not self.done.done():
            self.done.set_exception(error or ConnectionError(f"no whole answer: {self.answer!r}"))


async def call(url: str, callers: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Send rows to a server; return the seconds of each request, of all, and of this process's CPU."""
    server, seconds = urlsplit(url), list[float]()
    requests = iter([_request(server.netloc, row) for row in rows])
    loop, began, cpu = asyncio.get_running_loop(), time.perf_counter(), time.process_time()

    async def caller() -> None:
        _, one = await loop.create_connection(lambda: Caller(requests, seconds), server.hostname, server.port)
        await one.done

    await asyncio.gather(*(caller() for _ in range(callers)))
    return {"all": time.perf_counter() - began, "cpu": time.process_time() - cpu, "each": seconds}


def _request(host: str, row: dict[str, Any]) -> bytes:
    body = json.dumps(row).encode()
    lines = ("POST /compare HTTP/1.1", f"Host: {host}", "Content-Type: application/json")
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "", "")).encode() + body


def ask(url: str, callers: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Do the same in a process of its own, whose start is not counted."""
    command = [sys.executable, __file__, "--call", url, str(callers)]
    done = subprocess.run(command, input=json.dumps(rows), stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextmanager
def served(judge: Any) -> Iterator[tuple[str, Callable[[], float]]]:
    """Serve a judge as `reasongenrm serve` does; yields the URL, and a function that returns the CPU seconds of the process with HTTP."""
    import psutil

    from reasongenrm.judge.sharing import SharedJudge
    from reasongenrm.service.http_process import AppSettings, http_process
    from reasongenrm.serving import address, listen

    with listen("127.0.0.1", 0) as listening, lines_on_stderr():
        url = address(listening)
        with http_process(listening, AppSettings()) as process, SharedJudge(judge) as shared:
            process.answer_for(shared)
            yield url, lambda: sum(psutil.Process(process.pid).cpu_times()[:2])


@contextmanager
def lines_on_stderr() -> Iterator[None]:
    """Send what processes print to stderr: stdout is for the table."""
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def ways(recipe: Any, judge: Any, pairs: Sequence[Any], callers: int) -> dict[str, Callable[[], Any]]:
    """Return the ways to compare the same rows, by name."""
    from reasongenrm.engines.vllm import _completion

    size = len(pairs) if callers >= SATURATED else callers
    parts = [pairs[start : start + size] for start in range(0, len(pairs), size)]
    requests = [list(judge.task.requests(placed(recipe, judge.task, part))) for part in parts]
    questions = [[(list(pair.history), pair.chosen, pair.rejected) for pair in part] for part in parts]
    bodies = [{"messages": list(pair.history), "a": pair.chosen, "b": pair.rejected} for pair in pairs]

    def engine() -> None:
        for some in requests:
            reasons = generate(judge.engine, some, judge.adapter)
            verdicts = [
                judge.task.turns.verdict(request, _completion(output, request))
                for request, output in zip(some, reasons, strict=True)
            ]
            generate(judge.engine, [request for request in verdicts if request], judge.adapter)

    def service() -> dict[str, Any]:
        with served(judge) as (url, http_seconds):
            cpu, http = time.process_time(), http_seconds()
            answers = ask(url, callers, bodies)
            http = http_seconds() - http
            return answers | {"server": time.process_time() - cpu + http, "http": http}

    return {
        "engine": engine,
        "judge": lambda: [list(judge.compare_many(some)) for some in questions],
        "service": service,
    }


def measure(recipe: Any, judge: Any, pairs: Sequence[Any], callers: int, repeats: int) -> list[str]:
    """Return the cells of one number of callers; a first round is not counted."""
    seconds: dict[str, list[float]] = {"engine": [], "judge": [], "service": []}
    work: dict[str, list[float]] = {name: [] for name in seconds}
    each, callers_work = list[float](), list[float]()
    for number in range(repeats + 1):
        for name, way in ways(recipe, judge, pairs, callers).items():
            judge.engine.reset_prefix_cache()
            began, cpu = time.perf_counter(), time.process_time()
            result = way()
            used, took = time.process_time() - cpu, time.perf_counter() - began
            if name == "service":  # without the start of the server, and of the callers' process
                took, used = result["all"], result["server"]
            if number:
                seconds[name].append(took)
                work[name].append(used)
                each += result["each"] if name == "service" else []
                callers_work += [result["cpu"]] if name == "service" else []
            line = f"{callers} callers, round {number}, {name}: {took:.2f} s, {used:.2f} s of CPU"
            if name == "service":
                line += f", {result['http']:.2f} s of it HTTP; {result['cpu']:.2f} s of the callers"
            print(line, file=sys.stderr, flush=True)
    centiles = quantiles(each, n=100)
    latencies = [f"{1000 * centiles[at - 1]:.0f}" for at in (50, 95, 99)]
    rate = f"{len(pairs) / median(seconds['service']):.1f}"
    ratios = [
        f"{median(s / e for s, e in zip(times['service'], times[name], strict=True)):.2f}x"
        for times in (seconds, work)
        for name in ("engine", "judge")
    ]
    theirs = f"{1000 * median(callers_work) / len(pairs):.1f}"
    return [
        str(callers),
        str(len(pairs)),
        *latencies,
        rate,
        f"{median(seconds['engine']):.2f}",
        *ratios,
        theirs,
    ]


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", nargs="?", default="configs/demo.yaml")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--callers", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--call", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.call:
        import uvloop  # half of the CPU of asyncio's own loop

        url, callers = options.call
        json.dump(uvloop.run(call(url, int(callers), json.load(sys.stdin))), sys.stdout)
        return 0
    from reasongenrm.config.loading import load_recipe
    from reasongenrm.judge.api import Judge

    recipe = load_recipe(options.recipe)
    if not Path(recipe.folder).is_dir():
        parser.error(f"{recipe.folder} does not exist: run `make demo` first")
    pairs = toy_rows(options.rows)
    table = []
    with Judge.from_recipe(recipe) as judge:
        for callers in options.callers:
            share = 16 if callers == 1 else 4 if callers < SATURATED else 1
            some = pairs[: max(callers, len(pairs) // share)]
            table.append(measure(recipe, judge, some, callers, options.repeats))
    names = "callers, comparisons, p50 ms, p95 ms, p99 ms, comparisons/s, engine s, / engine, / judge, CPU / engine, CPU / judge, callers' CPU ms"
    print(f"{machine()}; {recipe.name}\n")
    print(f"| {' | '.join(names.split(', '))} |\n|{'--:|' * len(table[0])}")
    for cells in table:
        print(f"| {' | '.join(cells)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
