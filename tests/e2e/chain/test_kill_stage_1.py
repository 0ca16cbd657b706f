"""SIGKILL at random moments while reasons are sampled and scored: the files of an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.scripts import ENVIRONMENT, ROOT, Bench, Chain, lines, same_first_stage

pytestmark = pytest.mark.e2e


class Server:
    """`stage_server.py` in a process of its own, and the one child that it has at a time."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "support" / "stage_server.py")],
            cwd=ROOT, env=os.environ | ENVIRONMENT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.told("ready")

    def told(self, word: str) -> list[int]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline().split()
        assert line and line[0] == word, (line, self.process.stderr.read() if self.process.stderr else "")
        return [int(number) for number in line[1:]]

    def start(self, run: str) -> int:
        self.bench.names.add(self.bench.name(run))
        words = ["prepare", self.bench.recipe, f"name={self.bench.name(run)}", *self.bench.shared]
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(words) + "\n")
        self.process.stdin.flush()
        [child] = self.told("started")
        return child

    def ended(self) -> int:
        _, code = self.told("ended")
        return code


@pytest.fixture(scope="module")
def server(chain: Chain) -> Iterator[Server]:
    made = Server(chain.bench)
    yield made
    made.process.kill()
    made.process.communicate()


def progress(folder: Path) -> int:
    """Rows sampled and scored so far."""
    return sum(
        lines(path) for pattern in ("reasons/*.jsonl", "scored*.jsonl") for path in folder.glob(pattern)
    )


@pytest.mark.parametrize("most_kills", [5, pytest.param(15, marks=pytest.mark.slow)])
def test_kills_change_nothing(chain: Chain, server: Server, most_kills: int) -> None:
    rng = random.Random(most_kills)
    total = progress(chain.folder)
    kills, killed_at, run = 0, set[int](), 0
    while True:
        folder = chain.bench.folder(f"kills{most_kills}x{run}")
        before = progress(folder)
        child = server.start(f"kills{most_kills}x{run}")
        # Some rows further on than at the start, and then anywhere in the work on the next ones.
        wanted = before + rng.randint(1, 12)
        end = time.monotonic() + 120
        while progress(folder) < min(wanted, total) and Path(f"/proc/{child}").exists():
            assert time.monotonic() < end, "the stage makes no progress"
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        if kills < most_kills and progress(folder) < total:
            os.kill(child, signal.SIGKILL)
            if server.ended() == -signal.SIGKILL:
                kills += 1
                killed_at.add(progress(folder))
                continue
        else:
            assert server.ended() == 0
        same_first_stage(folder, chain.folder)
        run += 1
        if kills == most_kills:
            break
    assert len(killed_at) > most_kills / 2, "at different places"
