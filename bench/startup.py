"""Start of a judge: where the time of `reasongenrm judge compare` on two rows goes, and what shortens it.

    python bench/startup.py [RECIPE] [--repeats 3]

The recipe's judge has to be trained (`make demo`). The ways run in turn, each in a process of its own, and their medians are shown,
and whether all write the same bytes. Times count from the start of the process, in seconds; CPU seconds are of all its threads.

- `as libraries do it`: Python's garbage collector visits all that is loaded, and vLLM compiles its function for ranks.
- `own engine`: what the command does (`collector.py`, `engines/cpu_ranks.py`).
- `warm server`: the same command beside `reasongenrm serve`, which has loaded the judge.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from machine import machine

ROWS = [
    {"id": "1", "prompt": "say fan 4 times", "a": "fan fan fan fan", "b": "fan fan fan fan fan fan"},
    {"id": "2", "prompt": "sort desk island honey", "a": "desk honey island", "b": "desk island honey"},
]
STEPS = ("imports of transformers", "engine", "verdicts", "end")


def child(plain: bool, words: list[str]) -> None:
    """Run the command line in this process, and print when each step was done."""
    from reasongenrm import cli, collector
    from reasongenrm.engines import vllm
    from reasongenrm.judge import api

    if plain:
        collector.own_process = lambda: None
        vllm.use_plain_ranks = lambda: None
    start = psutil.Process().create_time()
    marks: dict[str, float] = {}
    load_engine, close = api.load_engine, api.Judge.close

    def load(*args: Any, **options: Any) -> Any:
        marks[STEPS[0]] = time.time() - start
        engine = load_engine(*args, **options)
        marks[STEPS[1]] = time.time() - start
        return engine

    def end(judge: api.Judge) -> None:
        marks[STEPS[2]] = time.time() - start
        close(judge)

    api.load_engine, api.Judge.close = load, end
    sys.argv = ["reasongenrm", *words]
    report = os.dup(1)
    code = cli.main()
    os.write(report, json.dumps(marks).encode())
    sys.exit(code)


def measure(way: str, recipe: str, rows: Path, out: Path) -> dict[str, float]:
    """Return the seconds of each step, and the CPU seconds of the process."""
    words = ["judge", "compare", recipe, "--in", str(rows), "--out", str(out)]
    words += [] if way == "warm server" else ["--own-engine"]
    command = [sys.executable, __file__, "--child", way, *words]
    if way == "warm server":
        command = [sys.executable, "-m", "reasongenrm.cli", *words]
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds, after = time.perf_counter() - start, os.times()
    marks: dict[str, float] = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return marks | {"end": seconds, "cpu": cpu}


@contextmanager
def warm_server(recipe: str) -> Iterator[float]:
    """Serve the judge, and yield the seconds until it is ready."""
    command = [sys.executable, "-m", "reasongenrm.cli", "serve", recipe, "--port", "0"]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            while "is ready" not in process.stderr.readline():
                assert process.poll() is None
            yield time.perf_counter() - start
        finally:
            process.terminate()


def main() -> None:
    """Measure all ways, and print the table."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2] == "as libraries do it", sys.argv[3:])
    parser = argparse.ArgumentParser()
    parser.add_argument("recipe", nargs="?", default="configs/demo.yaml")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    ways = ("as libraries do it", "own engine", "warm server")
    results: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        rows, texts = Path(folder) / "rows.jsonl", set()
        rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

        def run(way: str, number: int) -> None:
            out = Path(folder) / f"{ways.index(way)}-{number}.jsonl"
            results[way].append(measure(way, options.recipe, rows, out))
            texts.add(out.read_text())

        for number in range(options.repeats):
            for way in ways[:2]:
                run(way, number)
        with warm_server(options.recipe) as ready:
            for number in range(options.repeats):
                run(ways[2], number)
    print(f"{machine()}; {options.repeats} runs of each, medians, seconds\n")
    print(f"| way | {' | '.join(STEPS)} | CPU seconds | ratio |\n|---|{'--:|' * (len(STEPS) + 2)}")
    medians = {
        way: {name: median(r[name] for r in runs) for name in runs[0]} for way, runs in results.items()
    }
    for way, values in medians.items():
        cells = [f"{values[step]:.1f}" if step in values else "" for step in STEPS]
        ratio = values["cpu"] / medians[ways[0]]["cpu"]
        print(f"| {way} | {' | '.join(cells)} | {values['cpu']:.1f} | {ratio:.2f} |")
    same = "the same" if len(texts) == 1 else "not the same"
    print(f"\nThe server was ready after {ready:.1f} s. The bytes of all ways are {same}.")


if __name__ == "__main__":
    main()
