"""SIGKILL while each teacher samples and while reasons are scored: the files of an undisturbed run."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from support.scripts import Chain, lines, same_first_stage, stage_server

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def progress(folder: Path) -> int:
    """Rows sampled and scored so far."""
    return sum(
        lines(path) for pattern in ("reasons/*.jsonl", "scored*.jsonl") for path in folder.glob(pattern)
    )


def test_kills_change_nothing(chain: Chain) -> None:
    server = stage_server()
    rng, most_kills = random.Random(5), 5
    sampled = sum(map(lines, chain.folder.glob("reasons/*.jsonl")))
    total = progress(chain.folder)
    kills, killed_at, run = 0, set[int](), 0
    while True:
        folder = chain.bench.folder(f"kills{run}")
        before = progress(folder)
        child = server.start(["prepare", *chain.bench.words(f"kills{run}")])
        # A part of the way further on than at the start, and then anywhere in the work on the next rows.
        wanted = before + rng.randint(total // 8, total // 6)
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
    assert min(killed_at) < sampled < max(killed_at), "while reasons are sampled and while they are scored"
