"""A run folder on a file system that is full: one clear line, and the same command goes on when there is room."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.scripts import FIRST_STAGE, PREPARE, Chain, lines, same_first_stage

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def disk(chain: Chain) -> Iterator[Callable[[int], Path]]:
    """`f(pages)`: the folder of the run `full`, on a file system of that many pages of 4 KiB."""
    folder = chain.bench.folder("full")
    chain.bench.names.add(chain.bench.name("full"))
    folder.mkdir(parents=True)
    mounted = False

    def room(pages: int) -> Path:
        nonlocal mounted
        options = f"{'remount,' if mounted else ''}size={pages * 4096}"
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
        mounted = True
        return folder

    yield room
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_stops_stage_1_and_loses_nothing(chain: Chain, disk: Callable[[int], Path]) -> None:
    files = {path for pattern in FIRST_STAGE for path in chain.folder.glob(pattern)}
    pages = sum(-(-path.stat().st_size // 4096) for path in files)
    kept = 0
    for share in (0.1, 0.6):
        folder = disk(int(share * pages))
        done = chain.bench.run(PREPARE, "full")
        assert done.code == 2, (share, done.stdout, done.stderr)
        [line] = [line for line in done.stderr.splitlines() if line.startswith("reasongenrm: ")]
        assert "No space left" in line and str(folder.name) in line and "make room" in line, line
        assert "Traceback" not in done.stderr
        before, kept = kept, sum(map(lines, folder.glob("reasons/*.jsonl")))
        assert kept >= before, "what is sampled is kept"
    assert kept > 0
    folder = disk(16 * pages)
    chain.bench.good(PREPARE, "full")
    same_first_stage(folder, chain.folder)
