"""Stages 1 and 3 by several workers write the files of one engine, byte for byte."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from reasongenrm.store import write_json
from support.scripts import EVALUATE, PREPARE, Bench, same_first_stage, value_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


@pytest.fixture
def one_core() -> Iterator[None]:
    """As many threads for one engine as for each worker."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    yield
    os.sched_setaffinity(0, allowed)


def test_any_number_of_workers_writes_the_same_files(
    one_core: None,
    bench: Callable[[str, Sequence[str]], Bench],
    toy_overrides: list[str],
    adapter: Path,
    taught_model: Path,
) -> None:
    made = bench("workers", [*toy_overrides, "scalar=null", "judges={reasongenrm: {template: reason}}"])
    folders = {}
    for run, sampling, judging in (("one", 1, 1), ("two", 2, 2)):
        made.good(PREPARE, run, f"engine.workers={sampling}")
        folder = folders[run] = made.folder(run)
        judge = shutil.copytree(adapter, folder / "judges" / "reasongenrm" / "adapter")
        # It was trained on other weights of the same shape; which ones does not matter here.
        config = value_of(judge / "adapter_config.json") | {"base_model_name_or_path": str(taught_model)}
        write_json(judge / "adapter_config.json", config)
        done = made.good(EVALUATE, run, f"engine.workers={judging}")
        assert made.processes(run) == {}, "no process is left"
    assert "judging: 2 workers" in done.stderr and "busy" in done.stderr
    same_first_stage(folders["two"], folders["one"])
    names = sorted(path.relative_to(folders["one"]) for path in folders["one"].glob("evaluate/**/*.jsonl"))
    assert len(names) >= 6
    for name in names:
        assert (folders["two"] / name).read_bytes() == (folders["one"] / name).read_bytes(), name
    scores = [value_of(folder / "scores.json")["benchmarks"] for folder in folders.values()]
    assert scores[0] == scores[1]
    workers = value_of(folders["two"] / "logs" / "workers.json")
    assert {task: len(rows) for task, rows in workers.items()} == {
        "reasons of student": 2, "scoring": 2, "judging": 2,
    }  # fmt: skip
    assert all(row["blocks"] for rows in workers.values() for row in rows), "each worker has worked"
