"""Bad input at the command line: counted in dropped.jsonl, or exit code 2 and one line with a hint."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from reasongenrm.records import SFTRecord
from support.scripts import (
    BAD_LINES,
    ENVIRONMENT,
    EVALUATE,
    PREPARE,
    ROOT,
    TRAIN,
    Bench,
    Done,
    rows_of,
    value_of,
)

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def direct(bench: Callable[[str, Sequence[str]], Bench], toy_overrides: list[str]) -> Bench:
    """A recipe without reasons: stage 1 samples nothing, so it takes seconds."""
    return bench("bad", [*toy_overrides, "judges={genrm: {template: direct}}", "scalar=null"])


def refused(done: Done, *words: str) -> None:
    """Exit code 2, nothing on stdout, and one line on stderr that holds the words."""
    assert (done.code, done.stdout) == (2, ""), done.stderr
    [line] = [line for line in done.stderr.splitlines() if line.startswith("reasongenrm: ")]
    assert done.stderr.splitlines()[-1] == line
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in line, line


def test_bad_lines_are_counted_and_good_ones_kept(direct: Bench, tmp_path: Path, toy_data: Path) -> None:
    good = (toy_data / "train.jsonl").read_text(encoding="utf-8").splitlines()[:3]
    path = tmp_path / "mixed.jsonl"
    path.write_bytes("\n".join([*good, *BAD_LINES]).encode() + b"\n\xff\xfe\n[1, 2]\n")
    direct.good(PREPARE, "mixed", f"data.sources.0.path={path}")
    folder = direct.folder("mixed")
    drops = rows_of(folder / "dropped.jsonl")
    assert [drop["location"] for drop in drops] == [f"{path}:{n}" for n in range(4, 10)]
    slugs = Counter(drop["reason"] for drop in drops)
    assert slugs == {"broken_json": 2, "missing_column": 2, "bad_type": 1, "bad_encoding": 1}
    total = value_of(folder / "data_report.json")["total"]
    assert (total["in"], total["kept"], total["dropped"]) == (9, 3, 6)
    assert len(rows_of(folder / "genrm.jsonl")) == 3
    assert not (folder / "reasons").exists(), "no judge reasons, so nothing is sampled"


def test_a_rank_that_is_no_number_costs_its_line(direct: Bench, tmp_path: Path) -> None:
    path = tmp_path / "ranked.csv"
    path.write_text(
        "prompt,answer,rank\nsay hi,hi,1\nsay hi,no,first\nsay hi,ho,2\nsay ha,ha,\nsay ha,he,1\n"
    )
    direct.good(PREPARE, "ranked", f"data.sources=[{{path: {path}, kind: ranked}}]")
    drops = rows_of(direct.folder("ranked") / "dropped.jsonl")
    assert [(drop["location"], drop["reason"]) for drop in drops] == [
        (f"{path}:3", "bad_rank"),
        (f"{path}:5", "missing_rank"),
        (f"{path}:6", "nothing_to_compare"),
    ]
    assert "'first'" in drops[0]["detail"]
    [record] = rows_of(direct.folder("ranked") / "genrm.jsonl")
    [turn] = record["prompt"]
    assert "hi" in turn["content"] and "ho" in turn["content"]


def test_a_file_without_one_good_row_is_refused(direct: Bench, tmp_path: Path) -> None:
    path = tmp_path / "columns.jsonl"
    path.write_text('{"question": "x", "better": "y", "worse": "z"}\n')
    done = direct.run(PREPARE, "columns", f"data.sources.0.path={path}")
    refused(done, "data.sources", "no pair is left", f"{path}:1", "`chosen`")


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["data.sources.0.path=/nowhere/pairs.jsonl"], ["/nowhere/pairs.jsonl", "no such file"]),
        (["model.path=/nowhere/model"], ["model.path", "directory not found: /nowhere/model"]),
        (["modle.path=x"], ["modle", "did you mean 'model'"]),
        (["train.args.learning_rat=0.1"], ["train.args.learning_rat", "learning_rate"]),
        (["engine.max_model_len=many"], ["engine.max_model_len"]),
    ],
)
def test_invalid_settings_of_stage_1_are_named(direct: Bench, words: list[str], parts: list[str]) -> None:
    refused(direct.run(PREPARE, "refused", *words), *parts)


def test_stages_out_of_order_are_refused(direct: Bench) -> None:
    refused(direct.run(TRAIN, "order"), "genrm.jsonl: file not found", "run 1_prepare.sh first")
    refused(
        direct.run(EVALUATE, "order"), "judges/genrm/adapter: directory not found", "run 2_train.sh first"
    )


def test_an_error_of_vllm_is_one_line(direct: Bench) -> None:
    words = ["judges={r: {template: reason}}", "engine.max_model_len=20000"]
    refused(direct.run(PREPARE, "vllm", *words), "vLLM cannot serve", "20000", "engine.max_model_len")


@pytest.mark.slow
def test_a_training_that_diverges_says_so(direct: Bench) -> None:
    """The error occurs in a training process, and the script prints it."""
    folder = direct.folder("diverged")
    folder.mkdir(parents=True)
    direct.names.add(direct.name("diverged"))
    rows = [
        SFTRecord(({"role": "user", "content": f"x {n}"},), "", "[[A]]", f"{n}", "s").to_row()
        for n in range(8)
    ]
    (folder / "genrm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "pairs.jsonl").write_text("")
    done = direct.run(TRAIN, "diverged", "train.args.learning_rate=1.0e+30", "train.args.max_grad_norm=0.0")
    refused(done, "train.args.learning_rate", "lower it")


@pytest.mark.parametrize("script", [PREPARE, TRAIN, EVALUATE])
def test_a_script_without_a_recipe_takes_the_one_in_the_environment(script: str) -> None:
    environment = os.environ | ENVIRONMENT | {"RECIPE": "configs/demo.yaml"}
    words = [f"./{script}", "seed=1", "--limit", "1", "--dry-run", "data.sources.0.path=./none.jsonl", "name=none", "evaluate.benchmarks.toy.path=./none.jsonl"]  # fmt: skip
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[0] == "recipe: configs/demo.yaml (from $RECIPE)"
    assert "seed: 1\n" in done.stdout and "limit: 1\n" in done.stdout
