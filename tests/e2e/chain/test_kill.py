"""SIGKILL at random moments of stages 2 and 3, the same command again: the same files as an undisturbed run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.store import read_jsonl
from reasongenrm.train.tracking import METRICS, steady_row
from support.scripts import EVALUATE, TRAIN, Bench, Chain, kill_at, lines, snapshot, value_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture(scope="module")
def killed(chain: Chain) -> tuple[Bench, Path]:
    """A bench and the folder of the run that the tests of this module kill, one stage after the other.

    It begins with what stage 1 has left; `test_kill_stage_1.py` kills that one.
    """
    folder = chain.bench.folder("killed")
    chain.bench.names.add(chain.bench.name("killed"))
    later = (
        "judges",
        "scalar",
        "evaluate",
        "recipe.yaml",
        "scores.json",
        "table.md",
        "train.json",
        "evaluate.json",
    )
    shutil.copytree(chain.folder, folder, ignore=shutil.ignore_patterns(*later))
    return chain.bench, folder


def same_files(ours: Path, theirs: Path, patterns: list[str]) -> None:
    for pattern in patterns:
        names = [path.relative_to(theirs) for path in sorted(theirs.glob(pattern))]
        assert names, pattern
        for name in names:
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


def no_process_is_left(bench: Bench, seconds: float) -> None:
    end = time.monotonic() + seconds
    while left := bench.processes("killed"):
        assert time.monotonic() < end, f"still alive: {left}"
        time.sleep(0.1)


def nothing_half_made(folder: Path) -> None:
    leftovers = (".partial", ".part.", ".tmp", "checkpoint")
    assert [name for name in snapshot(folder) if any(mark in name for mark in leftovers)] == []


def test_stage_2_killed_leaves_no_process_and_ends_with_the_same_weights(
    chain: Chain, killed: tuple[Bench, Path]
) -> None:
    bench, folder = killed
    first, second = (folder / "judges" / f"{name}.partial" for name in ("reasongenrm", "genrm"))

    def whole(work: Path, step: int) -> Callable[[], bool]:
        return (work / "checkpoints" / f"checkpoint-{step}" / "whole").exists

    def training() -> bool:
        return any("reasongenrm.train.process" in line and "accelerate" not in line for line in bench.processes("killed").values())  # fmt: skip

    # The whole group, behind the first checkpoint.
    process = bench.start(TRAIN, "killed")
    kill_at(process, whole(first, 3), 0.5, group=True, seed=3)
    assert not (folder / "judges" / "reasongenrm").exists()
    no_process_is_left(bench, 5)
    # The parent alone, while the training processes start: they are no children of its own.
    process = bench.start(TRAIN, "killed")
    kill_at(process, training, 1.0, group=False, seed=4)
    no_process_is_left(bench, 20)
    # The parent alone, in the middle of the second judge.
    kill_at(bench.fork(TRAIN, "killed"), whole(second, 6), 0.5, group=False, seed=5)
    assert (folder / "judges" / "reasongenrm").exists(), "the first judge is whole, and stays"
    before = (folder / "judges" / "reasongenrm" / "training.json").stat().st_mtime_ns
    bench.good(TRAIN, "killed")
    assert (folder / "judges" / "reasongenrm" / "training.json").stat().st_mtime_ns == before
    same_weights(folder, chain.folder)
    files = ["judges/*/loss.json", "judges/*/curves.png", "judges/*/training.json", "scalar/loss.json"]
    same_files(folder, chain.folder, files)
    for name in ("reasongenrm", "genrm"):
        rows = read_jsonl(folder / "judges" / name / METRICS)
        assert list(map(steady_row, rows)) == value_of(folder / "judges" / name / "loss.json"), name
    nothing_half_made(folder)


def same_weights(ours: Path, theirs: Path) -> None:
    from safetensors.numpy import load_file

    for name in ("reasongenrm", "genrm"):
        a, b = (load_file(side / "judges" / name / "adapter" / "adapter_model.safetensors") for side in (ours, theirs))  # fmt: skip
        assert a.keys() == b.keys() and a
        for key in a:
            assert (a[key] == b[key]).all(), (name, key)
        settings = [value_of(side / "judges" / name / "adapter" / "adapter_config.json") for side in (ours, theirs)]  # fmt: skip
        assert _unordered(settings[0]) == _unordered(settings[1])
    a, b = (load_file(side / "scalar" / "model.safetensors") for side in (ours, theirs))
    assert a.keys() == b.keys() and all((a[key] == b[key]).all() for key in a)


def _unordered(settings: dict[str, Any]) -> dict[str, Any]:
    """peft writes the target modules, a set, in any order."""
    return settings | {"target_modules": sorted(settings["target_modules"])}


def test_stage_3_killed_while_judging(chain: Chain, killed: tuple[Bench, Path]) -> None:
    bench, folder = killed
    base, judge = (
        folder / "evaluate" / "toy" / name / "completions.part.jsonl" for name in ("base", "reasongenrm")
    )
    kill_at(bench.fork(EVALUATE, "killed"), lambda: lines(base) >= 8, 0.3, group=True, seed=6)
    process = bench.start(EVALUATE, "killed")
    kill_at(process, judge.exists, 1.0, group=False, seed=7)
    assert (folder / "evaluate" / "toy" / "base" / "completions.jsonl").exists()
    assert not (folder / "scores.json").exists()
    no_process_is_left(bench, 5)
    done = bench.good(EVALUATE, "killed")
    assert "judging with base" not in done.stderr, "what is done is not done again"
    same_files(folder, chain.folder, ["evaluate/*/*/*.jsonl", "evaluate/*/*.jsonl", "table.md"])
    scores = [value_of(side / "scores.json")["benchmarks"] for side in (folder, chain.folder)]
    assert scores[0] == scores[1]
    nothing_half_made(folder)
    assert snapshot(folder).keys() == snapshot(chain.folder).keys()
