"""Compare the selectors: each one's reasons train one judge, with the same number of tokens.

    python bench/ablation.py [configs/demo.yaml] [--selector NAME ...] [key=value ...]

The recipe's stage 1 has to be done (`./1_prepare.sh configs/demo.yaml`): its pairs, reasons and scores are taken as they
are, so nothing is sampled again. For each selector a run `<name>-<selector>` selects, trains the first reasoning judge
of the recipe, without general data, and judges the benchmark in both orders. Overrides go to all three stages.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.records import SELECTORS
from reasongenrm.report.tables import grid
from reasongenrm.run import Run
from reasongenrm.stages.reasons import compare_selectors

LINKED_FILES = ("pairs.jsonl", "prompts.jsonl", "dropped.jsonl", "contamination.jsonl", "pairs_report.json", "reasons", "scored.jsonl")  # fmt: skip
ROOT = Path(__file__).resolve().parent.parent


def begin(source: Path, target: Path) -> None:
    """Link the costly files of another run's stage 1 into a run."""
    if target.exists():
        return
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "manifest").mkdir(parents=True)
    shutil.copy(source / "manifest" / "prepare.json", partial / "manifest")
    for name in LINKED_FILES:
        if (source / name).is_dir():
            shutil.copytree(source / name, partial / name, copy_function=os.link)
        else:
            os.link(source / name, partial / name)
    partial.rename(target)


def stage(script: str, recipe: str, *words: str) -> None:
    """Run one of the three scripts; its progress goes to stderr."""
    done = subprocess.run(
        [str(ROOT / script), recipe, *words], cwd=ROOT, stdout=subprocess.DEVNULL, check=False
    )
    if done.returncode:
        sys.exit(f"{script} ended with {done.returncode}")


def score_of(recipe: Recipe, name: str, judge: str) -> dict[str, Any]:
    """Return a judge's score on the first benchmark of a run."""
    scores = json.loads((recipe.folder.with_name(name) / "scores.json").read_text(encoding="utf-8"))
    benchmark = scores["benchmarks"][next(iter(recipe.evaluate.benchmarks))]
    score: dict[str, Any] = benchmark["models"][judge]["score"]
    return score


def row(
    recipe: Recipe, path: str, selector: str, judge: str, overrides: list[str], against: Any
) -> list[Any]:
    """Train and measure one selector; return its row of the table."""
    name = f"{recipe.name}-{selector}"
    begin(recipe.folder, recipe.folder.with_name(name))
    words = [*overrides, f"name={name}", f"select.selector={selector}"]
    alone = [*words, f"judges={{{judge}: {{template: reason}}}}", "scalar=null", "evaluate.base=false"]
    stage("1_prepare.sh", path, *words)
    stage("2_train.sh", path, *alone)
    stage("3_eval_reward_bench.sh", path, *alone)
    result = score_of(recipe, name, judge)
    low, high = result["interval"]
    sections = [f"{100 * value:.1f}" for value in result["sections"].values()]
    score = f"{100 * result['score']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
    return [
        selector,
        against.kept,
        f"{against.mean_tokens:.1f}",
        f"{100 * against.overlap:.1f} %",
        *sections,
        score,
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", default="configs/demo.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--selector", action="append", choices=SELECTORS)
    options = parser.parse_args()
    recipe = load_recipe(options.recipe, options.overrides)
    judge = next(name for name, judge in recipe.judges.items() if judge.template == "reason")
    names = options.selector or list(SELECTORS)
    comparisons = compare_selectors(recipe, Run(recipe, "prepare"), names, "rstar")
    rows = [row(recipe, options.recipe, name, judge, options.overrides, comparisons[name]) for name in names]
    sections = score_of(recipe, f"{recipe.name}-{names[0]}", judge)["sections"]
    headings = [
        "selector",
        "kept",
        "mean tokens",
        "same as rstar",
        *sections,
        "score [95%]",
    ]
    print(grid(headings, rows))


if __name__ == "__main__":
    main()
