"""The three stages on a bad disk, under a wrong clock, and under SIGKILL at random moments."""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from support.scripts import Bench

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("prepare", "train", "evaluate")
MOST_KILLS = 4
"""Of one stage of a run: without a limit, most kills would hit the stage that takes longest to start."""
WORLD = ROOT / "build" / "soak-world"

FIRST_STAGE = ("*.jsonl", "reasons/*.jsonl", "pairs_report.json", "data_report.*")
LATER = ("judges/*/loss.json", "scalar/loss.json", "evaluate/*/*.jsonl", "evaluate/*/*/*.jsonl", "table.md")
WEIGHTS = ("judges/*/adapter/adapter_model.safetensors", "scalar/model.safetensors")

JUMPING_CLOCK = """
import random, sys, time
rng, real = random.Random(1), time.time
time.time = lambda: real() + rng.uniform(-3, 3) * 86_400
time.time_ns = lambda: int(1e9 * time.time())
from reasongenrm.cli import main
sys.argv[0] = "reasongenrm"
sys.exit(main())
"""
"""Runs the command line; `time.time` jumps by up to three days, forwards and backwards, at every call."""


def overrides() -> list[str]:
    """Return the settings that make the demo small: 24 pairs, two judges, a head, 20 benchmark rows."""
    return [
        f"data.sources=[{{path: {WORLD / 'train.jsonl'}}}]",
        "engine.max_num_seqs=2",
        "teachers.student.samples=2", "teachers.student.max_tokens=48",
        "teachers.blind.samples=2", "teachers.blind.max_tokens=48",
        f"records.general.0.path={WORLD / 'general.jsonl'}",
        "judges={reasongenrm: {template: reason}, genrm: {template: direct}}",
        "select.threshold=0.0", "select.min_kept=0", "select.giveaway_words=0", "select.batch_tokens=512",
        "train.tokens=3600", "train.batch=4", "train.args.per_device_train_batch_size=2",
        "train.args.warmup_steps=2", "train.args.save_steps=3", "train.args.logging_steps=4",
        f"scalar.model={WORLD / 'distilbert'}", "scalar.args.max_steps=10",
        f"evaluate.benchmarks.toy.path={WORLD / 'rewardbench.jsonl'}", "evaluate.max_tokens=16",
    ]  # fmt: skip


def different_files(ours: Path, calm: Path, patterns: tuple[str, ...]) -> list[str]:
    """Return the names of the results that differ between two runs; weights are compared tensor by tensor."""
    from safetensors.numpy import load_file

    different = []
    for pattern in patterns:
        names = {path.relative_to(side) for side in (ours, calm) for path in side.glob(pattern)}
        for name in sorted(names):
            a, b = ours / name, calm / name
            if not (a.exists() and b.exists()):
                different.append(str(name))
            elif pattern in WEIGHTS:
                one, other = load_file(a), load_file(b)
                if one.keys() != other.keys() or any((one[key] != other[key]).any() for key in one):
                    different.append(str(name))
            elif a.read_bytes() != b.read_bytes():
                different.append(str(name))
    return different


@contextmanager
def disk(folder: Path) -> Iterator[Callable[[str], bool]]:
    """Yield a function that mounts a small disk on a folder with options, or changes them; False where it may not."""
    folder.mkdir(parents=True)
    mounted = False

    def mount(options: str) -> bool:
        nonlocal mounted
        again = "remount," if mounted else ""
        command = ["mount", "-t", "tmpfs", "-o", again + options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, check=False).returncode == 0
        mounted = mounted or done
        return done

    try:
        yield mount
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def on_disks(bench: Bench, calm: Path) -> Iterator[list[object]]:
    """Yield the rows of the disk that is full, and of the folder that cannot be written."""
    from support.scripts import PREPARE

    size = sum(path.stat().st_size for pattern in FIRST_STAGE for path in calm.glob(pattern))
    for fault, run, small, large, text in (
        ("disk full", "full", f"size={size // 2}", "size=64m", "No space left"),
        ("read-only folder", "readonly", "ro,size=64m", "rw,size=64m", "Read-only file system"),
    ):
        bench.words(run)
        with disk(bench.folder(run)) as mount:
            if not mount(small):
                yield [fault, "not measured: no file system may be mounted here", "", ""]
                continue
            done = bench.run(PREPARE, run)
            lines = [line for line in done.stderr.splitlines() if line.startswith("reasongenrm: ")]
            clear = done.code == 2 and len(lines) == 1 and text in lines[0] and "Traceback" not in done.stderr
            mount(large)
            again = bench.run(PREPARE, run)
            different = different_files(bench.folder(run), calm, FIRST_STAGE)
        if not clear:
            print(done.stderr[-2000:])
        said = "one line, exit code 2" if clear else f"exit code {done.code}, {len(lines)} lines"
        yield [fault, said, "finished" if again.code == 0 else "failed", len(different)]


def under_the_clock(bench: Bench, calm: Path) -> list[object]:
    """Return the row of stage 1 under a clock that jumps."""
    from support.scripts import ENVIRONMENT

    command = [sys.executable, "-c", JUMPING_CLOCK, "prepare", *bench.words("clock")]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, check=False)  # fmt: skip
    if done.returncode:
        print(done.stderr[-2000:])
    different = different_files(bench.folder("clock"), calm, FIRST_STAGE)
    return ["clock jumps by days", "", "finished" if done.returncode == 0 else "failed", len(different)]


def kills(bench: Bench, calm: Path, seconds: dict[str, float], options: argparse.Namespace) -> list[object]:
    """Kill stages at random moments until the number or the time is reached; return the row of the table."""
    from support.scripts import stage_server

    rng = random.Random(options.seed)
    end = time.monotonic() + 60 * options.minutes
    killed: dict[str, int] = dict.fromkeys(STAGES, 0)
    runs, failures, different = 0, 0, list[str]()
    while sum(killed.values()) < options.kills and time.monotonic() < end:
        run = f"killed{runs}"
        for stage in STAGES:
            left = MOST_KILLS
            while True:
                child = stage_server().start([stage, *bench.words(run)])
                wanted = left > 0 and sum(killed.values()) < options.kills and time.monotonic() < end
                moment = time.monotonic() + rng.uniform(0, seconds[stage])
                while wanted and time.monotonic() < moment and Path(f"/proc/{child}").exists():
                    time.sleep(0.01)
                if wanted:
                    with suppress(ProcessLookupError):
                        os.killpg(child, signal.SIGKILL)
                code = stage_server().ended()
                if code != -signal.SIGKILL:
                    failures += code != 0
                    break
                killed[stage] += 1
                left -= 1
        runs += 1
        different += different_files(bench.folder(run), calm, FIRST_STAGE + LATER + WEIGHTS)
    if different:
        print("different:", *different)
    split = ", ".join(f"{number} in {stage}" for stage, number in killed.items())
    said = f"{sum(killed.values())} kills ({split}), {runs} runs"
    return ["SIGKILL", said, "finished" if not failures else f"{failures} failed", len(different)]


def soak(options: argparse.Namespace) -> tuple[list[str], list[list[object]], bool]:
    """Return the columns and rows of the table, and whether all files are the same."""
    from support.scripts import EVALUATE, PREPARE, TRAIN, Bench, stage_server

    if not (WORLD / "train.jsonl").exists():
        command = [str(Path(sys.prefix) / "bin" / "reasongenrm"), "toy", "build", "--out", str(WORLD), "--pairs", "6", "--rows", "5"]  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    bench = Bench(overrides(), "soak")
    rows: list[list[object]] = []
    seconds: dict[str, Any] = {}
    try:
        for stage, script in zip(STAGES, (PREPARE, TRAIN, EVALUATE), strict=True):
            done = bench.run(script, "calm")
            if done.code:
                raise SystemExit(done.stderr)
            seconds[stage] = done.seconds
        calm = bench.folder("calm")
        took = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
        rows.append(["none", took, "", 0])
        rows += on_disks(bench, calm)
        rows.append(under_the_clock(bench, calm))
        rows.append(kills(bench, calm, seconds, options))
        time.sleep(5)
        left = sum(len(bench.processes(name.rpartition("-")[2])) for name in bench.names)
        rows.append(["processes left", "", "", left])
    finally:
        server = psutil.Process(stage_server().process.pid)
        for process in (*server.children(recursive=True), server):  # after Ctrl-C one may still run
            process.kill()
        bench.clean()
    passed = all(row[3] in (0, "") and row[2] in ("finished", "") for row in rows)
    return ["fault", "the stage", "the same command again", "files that differ"], rows, passed
