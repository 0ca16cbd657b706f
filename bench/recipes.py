"""Compare training steps on the toy world: SFT, margin, DPO, rounds and GRPO from one under-trained judge, and the best chain.

    python bench/recipes.py [configs/demo-rl.yaml] [--seeds 17 18 19] [--row NAME ...] [key=value ...]

For each seed one run `<name>-<seed>` does stage 1 once, and the rows of the table below it: each trains its steps in that run
(what two rows share is trained once), and judges the held-out rows in both orders. Overrides go to all stages. The rows are
those of ROWS; a cell is the mean over the seeds, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from machine import machine

from reasongenrm.config.loading import load_recipe
from reasongenrm.report.tables import grid
from reasongenrm.store import read_jsonl

ROOT = Path(__file__).resolve().parent.parent


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        model: whose scores are shown.
        judge: the judge's settings in the recipe.
        overrides: of the recipe.
    """

    model: str
    judge: str
    overrides: tuple[str, ...] = ()


ROWS = {
    "verdict-only SFT": Row("verdict", "{template: direct}"),
    "reason SFT": Row("reason", "{steps: [sft]}"),
    "+ margin": Row("margin", "{steps: [sft]}", ("train.margin={}",)),
    "+ DPO": Row("reason@dpo", "{steps: [sft, dpo]}"),
    "+ two rounds": Row("reason@round-2", "{steps: [sft, round, round]}"),
    "+ GRPO, no consistency": Row("alone@grpo", "{steps: [sft, grpo]}", ("train.grpo.rewards.consistency=0",)),
    "+ GRPO": Row("reason@grpo", "{steps: [sft, grpo]}"),
    "best chain": Row("best@grpo", "{steps: [sft, round, round, grpo]}"),
}  # fmt: skip


class Measured(NamedTuple):
    """Results of one row and seed: accuracy and strict accuracy (both orders right) in per cent, and seconds of stage 2."""

    accuracy: float
    strict: float
    seconds: float


def stage(script: str, recipe: str, *words: str) -> None:
    """Run one of the three scripts; its output goes to stderr."""
    done = subprocess.run([str(ROOT / script), recipe, *words], cwd=ROOT, stdout=sys.stderr, check=False)
    if done.returncode:
        sys.exit(f"{script} {' '.join(words)} ended with {done.returncode}")


def measure(path: str, name: str, seed: int, row: Row, overrides: list[str]) -> Measured:
    """Train and judge one row in the run of a seed; what is done already is kept."""
    judge = row.model.partition("@")[0]
    words = [*overrides, f"name={name}", f"seed={seed}", *row.overrides]
    words += [f"judges={{{judge}: {row.judge}}}", "scalar=null", "evaluate.base=false"]
    done = ROOT / "runs" / name / f"seconds-{row.model}.json"
    if not done.exists():
        began = time.perf_counter()
        stage("2_train.sh", path, *words)
        done.write_text(json.dumps(time.perf_counter() - began), encoding="utf-8")
    stage("3_eval_reward_bench.sh", path, *words)
    benchmark = next(iter(load_recipe(path, words).evaluate.benchmarks))
    results = list(read_jsonl(ROOT / "runs" / name / "evaluate" / benchmark / row.model / "results.jsonl"))
    credits = [statistics.fmean(result["correct"]) for result in results]
    strict = statistics.fmean(credit == 1 for credit in credits)
    seconds = json.loads(done.read_text(encoding="utf-8"))
    return Measured(100 * statistics.fmean(credits), 100 * strict, seconds)


def cell(values: list[float]) -> str:
    """Return mean, lowest and highest."""
    return f"{statistics.fmean(values):.1f} [{min(values):.1f}, {max(values):.1f}]"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="configs/demo-rl.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--seeds", nargs="+", type=int, default=[17, 18, 19])
    parser.add_argument("--row", action="append", choices=ROWS)
    options = parser.parse_args()
    names, recipe = options.row or list(ROWS), load_recipe(options.recipe)
    rows: list[list[str]] = []
    measured: dict[str, list[Measured]] = {name: [] for name in names}
    for seed in options.seeds:
        run = f"{recipe.name}-{seed}"
        stage("1_prepare.sh", options.recipe, *options.overrides, f"name={run}", f"seed={seed}")
        for name in names:
            measured[name].append(measure(options.recipe, run, seed, ROWS[name], options.overrides))
            print(f"{name}, seed {seed}: {measured[name][-1]}", file=sys.stderr, flush=True)
    for name, results in measured.items():
        rows.append([name, *(cell(list(column)) for column in zip(*results, strict=True))])
    print(f"{machine()}; seeds {', '.join(map(str, options.seeds))}: mean [lowest, highest]\n")
    print(grid(["judge", "accuracy, %", "strict, %", "stage 2, s"], rows))


if __name__ == "__main__":
    main()
