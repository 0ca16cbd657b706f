"""The trained judge from the shell and over HTTP, and a run's report and comparison from its files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import pytest

from support.app import wait_until_loaded
from support.scripts import ENVIRONMENT, ROOT, Chain, rows_of, snapshot, stage_server

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CLI = str(Path(sys.prefix) / "bin" / "reasongenrm")


def start(words: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [CLI, *words], cwd=ROOT, env=os.environ | ENVIRONMENT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def run(words: Sequence[str], text: str = "") -> tuple[int, str, str]:
    done = stage_server().run(words, text)
    return done.code, done.stdout, done.stderr


def recipe_words(chain: Chain) -> list[str]:
    return [chain.bench.recipe, f"name={chain.folder.name}", *chain.bench.shared]


def test_the_judge_reads_stdin_and_says_what_stage_3_said(chain: Chain) -> None:
    rows = rows_of(chain.folder / "evaluate" / "toy" / "rows.jsonl")
    asked = [{"prompt": row["history"], "a": row["answers"][0], "b": row["answers"][1]} for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in asked) + "{broken\n"
    code, out, err = run(["judge", "compare", *recipe_words(chain), "--judge", "genrm"], text)
    assert code == 0, err
    found = [json.loads(line) for line in out.splitlines()]
    assert len(found) == len(rows) and "stdin:21: dropped (broken_json)" in err
    assert f"judging: {len(rows)} done" in err
    said = {
        (v["pair_id"], v["order"]): v
        for v in rows_of(chain.folder / "evaluate" / "toy" / "genrm" / "verdicts.jsonl")
    }
    for row, comparison in zip(rows, found, strict=True):
        for verdict in comparison["verdicts"]:
            before = said[row["id"], verdict["order"]]
            assert verdict["id"] == before["id"] and verdict["winner"] == before["winner"]
            assert verdict["prob_a"] == pytest.approx(before["prob_a"], abs=1e-4)


def test_the_judge_is_served_and_ends_at_ctrl_c(chain: Chain) -> None:
    process = start(["serve", *recipe_words(chain), "--port", "0"])
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split()[-1]
        assert address.startswith("http://127.0.0.1:")
        wait_until_loaded(address)
        answer = httpx.post(
            f"{address}/compare", json={"prompt": "say fan 1 times", "a": "fan", "b": "x"}, timeout=120
        )
        assert answer.status_code == 200 and answer.json()["outcome"] in (
            "ok",
            "tie",
            "unparsed",
            "truncated",
        )
        assert httpx.get(f"{address}/health", timeout=60).json()["counts"]["comparisons"] == 1
        check_warm(chain, process.pid, address)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0 and "Traceback" not in err, err
    assert not (chain.folder / "servers").exists()


def check_warm(chain: Chain, pid: int, address: str) -> None:
    """The command asks the server of the same judge, and no other one, and writes what its own engine writes."""
    rows = [{"prompt": f"say fan {n} times", "a": "fan " * n, "b": "fan"} for n in range(2, 6)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    words = ["judge", "compare", *recipe_words(chain)]
    code, warm, err = run(words, text)
    assert code == 0 and f"asking the judge that process {pid} serves at {address}" in err, err
    code, own, err = run([*words, "--own-engine"], text)
    assert code == 0 and "asking" not in err and warm == own
    code, _, err = run([*words, "seed=5"], text)
    assert code == 0 and "asking" not in err
    counts = httpx.get(f"{address}/health", timeout=60).json()["counts"]
    assert counts["comparisons"] == 1 + len(rows)


def test_others_may_not_ask_without_a_key(chain: Chain) -> None:
    code, _, err = run(["serve", *recipe_words(chain), "--host", "0.0.0.0", "--port", "0"])
    assert code == 2 and "--allow-remote" in err and "Traceback" not in err


def test_the_report_is_written_anew_to_the_same_bytes(chain: Chain) -> None:
    before = snapshot(chain.folder)
    (chain.folder / "report.html").unlink()
    code, out, err = run(["report", str(chain.folder)])
    assert code == 0 and out.strip().endswith("report.html"), err
    assert snapshot(chain.folder) == before
    code, _, err = run(["report", str(chain.folder / "nowhere")])
    assert code == 2 and "scores.json" in err and "Traceback" not in err


def test_models_of_a_run_are_compared(chain: Chain, tmp_path: Path) -> None:
    words = [f"{chain.folder}:reasongenrm", f"{chain.folder}:base", "--out", str(tmp_path)]
    code, out, err = run(["compare", *words])
    assert code == 0, err
    assert "reasongenrm" in out and (tmp_path / "compare.html").exists()
    assert "reasongenrm" in (tmp_path / "compare.md").read_text(encoding="utf-8")


def test_a_judge_that_is_not_there_is_told(chain: Chain) -> None:
    code, _, err = run(["judge", "compare", *recipe_words(chain), "--judge", "nobody"], '{"prompt": "x", "a": "y", "b": "z"}\n')  # fmt: skip
    assert code == 2 and "nobody" in err and "reasongenrm" in err and "Traceback" not in err


def test_any_model_is_evaluated_without_a_recipe_as_stage_3_does_it(
    chain: Chain, taught_model: Path, toy_data: Path
) -> None:
    name = chain.bench.name("any")
    chain.bench.names.add(name)
    words = [
        "evaluate", "--model", str(taught_model), "--adapter", str(chain.folder / "judges" / "reasongenrm" / "adapter"),
        "--scalar", str(chain.folder / "scalar"), "--benchmark", f"rewardbench:{toy_data / 'rewardbench.jsonl'}",
        f"name={name}", "model.dtype=float32", "prompts=configs/prompts/toy.yaml", "evaluate.max_tokens=16",
        "engine={max_model_len: 1024, max_num_seqs: 2, cpu_kv_gib: 1, enforce_eager: true}",
    ]  # fmt: skip
    code, _, err = run(words)
    assert code == 0, err
    folder, base = chain.folder.parent / name, taught_model.name
    before, after = chain.folder / "evaluate" / "toy", folder / "evaluate" / "rewardbench"
    for ours, theirs in {base: "base", f"{base}-direct": "base-direct", "reasongenrm": "reasongenrm"}.items():
        assert ours in (folder / "table.md").read_text(encoding="utf-8")
        verdicts = [[(row["id"], row["winner"]) for row in rows_of(path / "verdicts.jsonl")]
                    for path in (after / ours, before / theirs)]  # fmt: skip
        assert verdicts[0] == verdicts[1] and verdicts[0]
    assert (after / "scalar" / "results.jsonl").read_bytes() == (
        before / "scalar" / "results.jsonl"
    ).read_bytes()
    assert (folder / "report.html").is_file()
    files = snapshot(folder / "evaluate")
    code, _, err = run(words)
    assert code == 0 and "judging with" not in err and snapshot(folder / "evaluate") == files
