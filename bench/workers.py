"""Speed of many workers: the demo's sampling by one and more workers, and how busy workers are that only wait.

    python bench/workers.py [RECIPE] [--prompts 703] [--part sampling --part waiting --part kills]

- `sampling`: the reasons of the recipe's first teacher, sampled by one engine in its process with one core, by 2 workers with
  a core each, by 4 workers that share two cores, and by one engine with all cores. Each way runs in a process of its own.
  The files are compared. Loading ends when every engine is loaded and has completed a block; sampling is then all of it.
- `waiting`: 32 workers and 10,000 blocks that take a second each, without any work.
- `kills`: the sampling again by 2 workers, while workers and drivers are killed at random moments, 20 times in all.

The recipe's stage 1 has to be done (`make demo`), for its prompts.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from machine import machine

from reasongenrm.config.loading import load_recipe

WAYS = {
    "1 engine, 1 core": (1, 1),
    "2 workers, 1 core each": (2, 2),
    "4 workers, 2 cores shared": (4, 2),
    "1 engine, 2 cores": (1, 2),
}
"""Name -> number of workers, and cores that all of them may use."""
BLOCKS, WAITERS, SECONDS, KILLS = 10_000, 32, 1.0, 20


def sample(recipe_path: str, folder: Path, workers: int, prompts: int) -> dict[str, float]:
    """Sample into a file of the folder; return seconds of loading, and of sampling."""
    from contextlib import closing

    from reasongenrm.chat.prompts import PromptFile
    from reasongenrm.engines.loading import load_engine
    from reasongenrm.reasons.sample import PairPrompt, sample_reasons, teacher_encoder
    from reasongenrm.run import Run
    from reasongenrm.stages.reasons import read_pair_prompts
    from reasongenrm.store import PartStore

    recipe = load_recipe(recipe_path, [f"engine.workers={workers}"])
    name, teacher = next(iter(recipe.teachers.items()))
    pairs = islice(read_pair_prompts(Run(recipe, "prepare")), prompts)
    began = time.perf_counter()
    model = teacher.model or recipe.model
    with closing(load_engine(model, recipe.engine, seed=recipe.seed, logs=folder / "logs")) as engine:
        encoder, wording = teacher_encoder(recipe, name), PromptFile.load(recipe.prompts)

        def write(pairs: Iterable[PairPrompt], path: Path) -> None:
            sample_reasons(
                pairs, engine, encoder, wording, teacher, name=name, seed=recipe.seed, store=PartStore(path)
            )

        pool = getattr(engine, "_pool", None)  # of one engine in this process, there is none
        worker_times, number = pool.times if pool else (), 0
        while number < 1 or any(not times.blocks for times in worker_times):
            count = -(-(engine.block or 1) * (len(worker_times) or 1) // teacher.samples)
            write(islice(read_pair_prompts(Run(recipe, "prepare")), count), folder / f"first-{number}.jsonl")
            number += 1
        loaded = time.perf_counter()
        write(pairs, folder / "reasons.jsonl")
        ended = time.perf_counter()
    return {"loading": loaded - began, "sampling": ended - loaded}


def start(options: argparse.Namespace, folder: Path, workers: int, cores: int) -> subprocess.Popen[str]:
    """Start this file in a process that may use so many cores; it prints what `sample` returns."""
    folder.mkdir(parents=True, exist_ok=True)
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    arguments = [options.recipe, "--prompts", str(options.prompts), "--sample", str(folder), str(workers)]
    return subprocess.Popen(
        [sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True,
        preexec_fn=partial(os.sched_setaffinity, 0, allowed),
    )  # fmt: skip


def sampling_part(options: argparse.Namespace, folder: Path) -> None:
    """Print a row per way, and whether the files are equal."""
    print("\n| way | loading, s | sampling, s | of 1 engine on 1 core | same texts | same bytes |")
    print("|---|--:|--:|--:|---|---|")
    first: float | None = None
    reference: bytes | None = None
    for number, (name, (workers, cores)) in enumerate(WAYS.items()):
        here = folder / str(number)
        process = start(options, here, workers, cores)
        out, _ = process.communicate()
        if process.returncode:
            sys.exit(f"{name} failed")
        seconds = json.loads(out.splitlines()[-1])
        content = (here / "reasons.jsonl").read_bytes()
        first, reference = first or seconds["sampling"], reference or content
        texts = [[json.loads(line)["text"] for line in one.splitlines()] for one in (content, reference)]
        print(
            f"| {name} | {seconds['loading']:.1f} | {seconds['sampling']:.1f} | {seconds['sampling'] / first:.2f} | "
            f"{'yes' if texts[0] == texts[1] else 'no'} | {'yes' if content == reference else 'no'} |",
            flush=True,
        )


def wait(resource: None, block: int) -> int:
    """Take a while."""
    time.sleep(SECONDS)
    return block


def nothing() -> None:
    """Return the resource of a worker that only waits."""


def waiting_part() -> None:
    """Print the share of the workers' time that is in blocks."""
    from reasongenrm.engines.pool import WorkerPool

    pool = WorkerPool(nothing, WAITERS, gpus=1)
    try:
        list(pool.map(wait, range(2 * WAITERS)))
        before = sum(times.busy for times in pool.times)
        began = time.perf_counter()
        count = sum(1 for _ in pool.map(wait, range(BLOCKS)))
        wall = time.perf_counter() - began
        busy = sum(times.busy for times in pool.times) - before
    finally:
        pool.close()
    print(f"\n{WAITERS} workers, {count:,} blocks of {SECONDS} s: {100 * busy / (WAITERS * wall):.1f} % busy")


def is_worker(process: psutil.Process) -> bool:
    """Whether a process is a Ray actor of ours."""
    try:
        return process.cmdline()[0].startswith("ray::Worker")
    except (psutil.Error, IndexError):
        return False


def kills_part(options: argparse.Namespace, folder: Path) -> None:
    """Print how many workers and drivers were killed, and whether the file is the same; no process may be left."""
    start(options, folder / "calm", 2, 2).communicate()
    rng, killed, starts = random.Random(7), {"worker": 0, "driver": 0}, 0
    known: dict[int, psutil.Process] = {}
    target = folder / "killed" / "reasons.jsonl"
    while not target.exists():
        driver, starts = start(options, target.parent, 2, 2), starts + 1
        process = psutil.Process(driver.pid)
        worker_kills = rng.randint(2, 4)  # before the driver's own
        while driver.poll() is None:
            time.sleep(rng.uniform(2, 12))
            family = process.children(recursive=True) if process.is_running() else []
            known |= {one.pid: one for one in [process, *family]}
            workers = [one for one in family if is_worker(one)]
            if sum(killed.values()) >= KILLS or not workers:
                continue
            if worker_kills:
                worker_kills -= 1
                killed["worker"] += 1
                rng.choice(workers).kill()
            else:
                killed["driver"] += 1
                driver.kill()
        if driver.returncode not in (0, -9):
            sys.exit("a start failed by itself")
    _, left = psutil.wait_procs(list(known.values()), timeout=30)
    same = target.read_bytes() == (folder / "calm" / "reasons.jsonl").read_bytes()
    print(
        f"\n{killed['worker']} workers and {killed['driver']} drivers killed in {starts} starts: "
        f"{'the same file' if same else 'ANOTHER FILE'}, {len(left)} processes left"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="configs/demo.yaml")
    parser.add_argument("--prompts", type=int, default=10**9, help="prompts to sample for; all by default")
    parser.add_argument("--part", action="append", choices=("sampling", "waiting", "kills"))
    parser.add_argument("--sample", nargs=2, metavar=("FOLDER", "WORKERS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.sample:
        folder, workers = options.sample
        print(json.dumps(sample(options.recipe, Path(folder), int(workers), options.prompts)))
        return
    print(machine())
    parts: dict[str, Any] = {
        "sampling": partial(sampling_part, options), "waiting": lambda folder: waiting_part(), "kills": partial(kills_part, options)
    }  # fmt: skip
    for name in options.part or parts:
        with tempfile.TemporaryDirectory() as folder:
            parts[name](Path(folder))


if __name__ == "__main__":
    main()
