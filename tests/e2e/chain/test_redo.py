"""A changed setting on a finished run: what may change continues, what is new is added, and `--redo` does just its step."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from support.scripts import (
    EVALUATE,
    PREPARE,
    TRAIN,
    Bench,
    Chain,
    rows_of,
    snapshot,
    value_of,
)

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

Copy = Callable[[str], Path]


@pytest.fixture
def copy(chain: Chain) -> Copy:
    """`f(name)`: a copy of the finished run under another name."""

    def make(run: str) -> Path:
        chain.bench.names.add(chain.bench.name(run))
        return Path(shutil.copytree(chain.folder, chain.bench.folder(run)))

    return make


def kept(before: dict[str, str], folder: Path, *but: str) -> dict[str, str]:
    """Check that all files but those whose names begin in one of these ways are as before; return the new snapshot."""
    after = snapshot(folder)
    report = ("manifest/", "report.", "scores.json", "table.md", "recipe.yaml", "plots/", *but)
    same = [
        name
        for name in before
        if not name.startswith(report) and not name.endswith(("README.md", "seconds.json"))
    ]
    assert len(same) > 20
    assert [name for name in same if after.get(name) != before[name]] == []
    return after


def refused(bench: Bench, script: str, run: str, *words: str) -> str:
    before = snapshot(bench.folder(run))
    done = bench.run(script, run, *words)
    assert done.code == 2 and snapshot(bench.folder(run)) == before, done.stderr
    return done.stderr.splitlines()[-1]


MEMORY = [
    "engine.gpu_memory_utilization=0.5", "engine.max_num_seqs=3", "engine.cpu_kv_gib=2", "select.batch_tokens=99",
    "train.args.per_device_train_batch_size=1", "train.args.save_steps=7", "train.args.logging_steps=1",
    "train.launch_args=--num_processes 1", "train.attention=eager", "train.packing=false", "evaluate.margin=0.01",
]  # fmt: skip


def test_memory_batch_shapes_and_placement_may_change(chain: Chain, copy: Copy) -> None:
    before = snapshot(copy("memory"))
    for script, stage in ((PREPARE, "reasons of"), (TRAIN, "processes by"), (EVALUATE, "judging with")):
        assert stage not in chain.bench.good(script, "memory", *MEMORY).stderr
    kept(before, chain.bench.folder("memory"), "evaluate/toy/")
    for path in chain.folder.glob("evaluate/toy/*/completions.jsonl"):
        assert (
            path.read_bytes() == (chain.bench.folder("memory") / path.relative_to(chain.folder)).read_bytes()
        )


def test_a_changed_limit_names_the_steps_and_redo_does_just_those(chain: Chain, copy: Copy) -> None:
    bench, before = chain.bench, snapshot(copy("limit"))
    folder = bench.folder("limit")
    line = refused(bench, EVALUATE, "limit", "evaluate.max_tokens=17")
    steps = "evaluate.toy.base, evaluate.toy.base-direct, evaluate.toy.reasongenrm, evaluate.toy.genrm"
    assert (
        f"evaluate.max_tokens changed from 16 to 17; the steps {steps} would be done again (add --redo evaluate, or"
        in line
    )
    done = bench.good(EVALUATE, "limit", "evaluate.max_tokens=17", "--redo", "evaluate.toy")
    assert "judging with base" in done.stderr and "replaced/1" in done.stderr
    after = kept(before, folder, "evaluate/toy/")
    name = "evaluate/toy/base/completions.jsonl"
    assert after[f"replaced/1/{name}"] == before[name] != after[name]
    assert "judging with" not in bench.good(EVALUATE, "limit", "evaluate.max_tokens=17").stderr
    assert (
        "judging with base"
        in bench.good(EVALUATE, "limit", "evaluate.max_tokens=17", "--redo", "evaluate.toy.base").stderr
    )
    kept(after, folder, "evaluate/toy/base")


def test_an_added_judge_and_benchmark_do_only_their_own_work(
    chain: Chain, copy: Copy, toy_data: Path
) -> None:
    bench, before = chain.bench, snapshot(copy("judge"))
    folder = bench.folder("judge")
    more = toy_data / "more.jsonl"
    rows = (toy_data / "rewardbench.jsonl").read_text(encoding="utf-8").splitlines()
    more.write_text("\n".join(rows[:4]) + "\n", encoding="utf-8")
    words = [
        "judges.extra={template: listwise}",
        f"evaluate.benchmarks.more={{kind: rewardbench, path: {more}}}",
    ]
    assert "reasons of" not in bench.good(PREPARE, "judge", *words).stderr
    pairs, records = (rows_of(folder / name) for name in ("pairs.jsonl", "listwise.jsonl"))
    assert sum(len(row["order"]) - 1 for row in records) == len(pairs), "every pair is in one list"
    done = bench.good(TRAIN, "judge", *words)
    wording = (folder / "judges" / "extra" / "adapter" / "judge.yaml").read_text(encoding="utf-8")
    assert "{% for answer in answers" in wording.split("hindsight:")[0]
    assert "extra: 2 processes" in done.stderr and "genrm: 2 processes" not in done.stderr
    done = bench.good(EVALUATE, "judge", *words)
    judged = {
        line.split(":")[0] + line.split("with")[1].split(":")[0]
        for line in done.stderr.splitlines()
        if "judging with" in line
    }
    more = {f"more {name}" for name in ("base", "base-direct", "reasongenrm", "genrm", "extra")}
    assert judged == {"toy extra", *more}
    kept(before, folder, "data_report", "pairs_report", "contamination")
    assert value_of(folder / "scores.json")["benchmarks"]["more"]["models"].keys() >= {
        "base",
        "extra",
        "scalar",
    }
    done = bench.good(EVALUATE, "judge")  # without both again
    assert "judging with" not in done.stderr and "extra" not in done.stdout
    assert (folder / "evaluate" / "more" / "extra" / "completions.jsonl").exists()
