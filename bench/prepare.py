"""How fast stage 1 turns rows into placed judge prompts, and how much memory it takes while the input grows.

    python bench/prepare.py [--step place] [--rows 10000 40000 160000]

Rows are generated (20 to 90 words of prompt, 60 to 260 per answer, one in fifty a repeated row); each size runs in a
process of its own. `place` loads, validates, drops exact duplicates, places, renders and writes pairs.jsonl and
prompts.jsonl. `all` is the whole first step as `1_prepare.sh` runs it: with token lengths under the toy tokenizer,
near duplicates, decontamination against a benchmark of RewardBench's size, languages, leaks and the report.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path
from typing import Any

from reasongenrm.config.loading import load_recipe

BENCHMARK_ROWS = 2985
STEPS = ("place", "all")


def texts(seed: int, shortest: int, longest: int) -> Any:
    """Yield texts of words whose frequencies fall as in a language (Zipf)."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("etaoinshrdlcumwfgyp", k=rng.randint(2, 10))) for _ in range(30_000)]
    weights = [1 / (rank + 3) for rank in range(len(words))]
    while True:
        pool = rng.choices(words, weights, k=50_000)
        at = 0
        while at + longest < len(pool):
            count = rng.randint(shortest, longest)
            yield " ".join(pool[at : at + count])
            at += count


def generate(path: Path, rows: int) -> None:
    """Write preference rows in Skywork's columns; every fiftieth repeats an earlier one."""
    prompts, answers = texts(1, 20, 90), texts(2, 60, 260)
    rng = random.Random(3)
    lines: list[str] = []
    with path.open("w", encoding="utf-8") as out:
        for number in range(rows):
            if number % 50 == 49:
                line = rng.choice(lines)
            else:
                user = {"role": "user", "content": next(prompts)}
                sides = {
                    side: [user, {"role": "assistant", "content": next(answers)}]
                    for side in ("chosen", "rejected")
                }
                line = json.dumps(sides | {"source": f"source-{number % 7}"}) + "\n"
                lines = [*lines[-1000:], line]
            out.write(line)


def benchmark(path: Path) -> None:
    """Write a benchmark in RewardBench's columns."""
    prompts, answers = texts(4, 20, 90), texts(5, 60, 260)
    with path.open("w", encoding="utf-8") as out:
        for _ in range(BENCHMARK_ROWS):
            row = {"prompt": next(prompts), "chosen": next(answers), "rejected": next(answers), "subset": "s"}
            out.write(json.dumps(row) + "\n")


def run_one(problem: str, rows: Path) -> None:
    """Do the work in this process, and print seconds, pairs and peak memory (MiB; of the largest worker, too)."""
    from reasongenrm.data.clean import clean
    from reasongenrm.run import Run
    from reasongenrm.stages.pairs import rendered_pairs, write_pairs

    overrides = [f"data.sources=[{{path: {rows}}}]", "prompts=configs/prompts/judge.yaml", "records={}",
                 "judges={judge: {template: direct}}", "teachers={student: {}}", "data.max_tokens=6144",
                 "engine.max_model_len=8192", f"evaluate.benchmarks.toy.path={rows.parent / 'benchmark.jsonl'}"]  # fmt: skip
    recipe = load_recipe("configs/demo.yaml", overrides)
    began = time.perf_counter()
    if problem == "all":
        run = Run(recipe, "prepare")
        run.folder = rows.parent
        kept = write_pairs(recipe, run)["total"]["kept"]
    else:
        kept = 0
        with ExitStack() as stack:
            out = {
                name: stack.enter_context((rows.parent / name).open("wb", buffering=1 << 20))
                for name in ("pairs", "prompts")
            }
            for pair in clean(
                rendered_pairs(recipe, measure=False),
                drop_sources=["magpie_ultra"],
                on_drop=lambda drop: None,
                key=attrgetter("key"),
            ):
                kept += 1
                for name, file in out.items():
                    file.write(pair.lines[name])
    seconds = time.perf_counter() - began
    peaks = [
        resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    print(json.dumps({"seconds": seconds, "kept": kept, "peak": peaks[0], "worker": peaks[1]}))


def machine() -> str:
    """Name the machine."""
    cpu = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.processor(),
    )
    return f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 40_000, 160_000])
    parser.add_argument("--step", action="append", choices=STEPS, help="both if not given")
    parser.add_argument("--one", nargs=2, metavar=("WHAT", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        run_one(options.one[0], Path(options.one[1]))
        return
    print(f"{machine()}\n\n| step | rows | kept | seconds | rows/s | peak RSS, MiB | largest worker, MiB |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        benchmark(Path(folder) / "benchmark.jsonl")
        rows_file = Path(folder) / "rows.jsonl"
        for problem in options.step or STEPS:
            for rows in options.rows:
                generate(rows_file, rows)
                command = [sys.executable, __file__, "--one", problem, str(rows_file)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(done.stderr)
                result = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"| {problem} | {rows:,} | {result['kept']:,} | {result['seconds']:.1f} | {rows / result['seconds']:,.0f} "
                    f"| {result['peak']:.0f} | {result['worker']:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
