"""Compare training steps on the toy world: SFT, margin, DPO, rounds and GRPO from one under-trained judge, and the best chain.

    python bench/recipes.py [configs/demo-rl.yaml] [--seeds 17 18 19] [--row NAME ...] [key=value ...]

For each seed a run `<name>-<seed>` (on the pairs of the recipe), `<name>-<seed>-all` (on all pairs) and `<name>-<seed>-points` (on all pairs,
with reasons that cover their points) does stage 1 once, and its rows of the table: each trains its steps in that run (what two rows share
is trained once), and judges the held-out rows in both orders. Overrides go to all stages. The rows are those of ROWS; a cell is the mean
over the seeds, with the lowest and the highest.
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
        overrides: of the recipe, in stages 2 and 3.
        run: name of the run's stage 1, one of RUNS.
    """

    model: str
    judge: str
    overrides: tuple[str, ...] = ()
    run: str = ""


RUNS = {"": (), "all": ("limit=null",), "points": ("limit=null", "select.rationale=1")}
"""Overrides of stage 1 by the last part of a run's name: the recipe's limit of rows, all of them, and all of them with the selection of
reasons that cover the points of their pair."""
SHORT = ("train.args.max_steps=10",)
"""A deliberately under-trained judge; what the next steps gain on a well-trained one is hard to tell from chance."""
SHORT_GRPO = (*SHORT, "train.grpo.batch=8", "train.grpo.steps=150")
SHORTER = ("train.args.max_steps=9",)
"""A judge at about 70, from which GRPO has more to gain."""
SHORTER_GRPO = (*SHORT_GRPO, *SHORTER)
STEPS_60 = "train.grpo.steps=60"
PLAIN = ("train.grpo.rewards.consistency=0", "train.grpo.baseline=prompt")
RATIONALE = "train.grpo.rewards.rationale=1"

ALL = (
    "train.args.max_steps=150",
    "train.round.samples=1",
    "train.round.temperature=0.3",
    "train.round.args.max_steps=200",
    "train.grpo.batch=16",
    "train.grpo.steps=60",
    "train.grpo.args.learning_rate=2.0e-4",
)
"""For four times the pairs: more steps, and GRPO with fewer prompts, as it takes longest. At a low temperature a judge writes the reason
that it is surest of, so that one sample is enough, and fewer of the reasons are wrong."""
POINTS = (
    "train.args.max_steps=150",
    "train.round.samples=2",
    "train.round.temperature=0.5",
    "train.round.rationale=1",
    "train.round.fill=true",
    "train.round.args.max_steps=450",
)
"""A right verdict counts only with right steps, and a pair without such a vote keeps its record of stage 1, whose steps are right, too."""
WARM = (
    "train.round.samples=2",
    "train.round.temperature=1",
    "train.round.args.max_steps=250",
    "train.grpo.args.learning_rate=6.0e-4",
)
"""A round at the temperature of the recipe, and GRPO with its learning rate."""
VOTES = (
    "evaluate.votes=8",
    "evaluate.temperature=1",
    "evaluate.benchmarks={toy-8-votes: {kind: rewardbench, path: build/toy/rewardbench.jsonl}}",
)
"""The benchmark's own name keeps the results with one vote."""

ROWS = {
    "verdict-only SFT": Row("verdict", "{template: direct}", SHORT),
    "reason SFT": Row("reason", "{steps: [sft]}", SHORT),
    "+ margin": Row("margin", "{steps: [sft]}", (*SHORT, "train.margin={}")),
    "+ DPO": Row("reason@dpo", "{steps: [sft, dpo]}", SHORT),
    "+ a round": Row("reason@round", "{steps: [sft, round]}", SHORT),
    "+ two rounds": Row("reason@round-2", "{steps: [sft, round, round]}", SHORT),
    "+ GRPO, verdict alone": Row("plain@grpo", "{steps: [sft, grpo]}", (*SHORT_GRPO, *PLAIN)),
    "+ GRPO, verdict, both orders compared": Row("both@grpo", "{steps: [sft, grpo]}", (*SHORT_GRPO, PLAIN[0])),
    "+ GRPO with consistency": Row("paired@grpo", "{steps: [sft, grpo]}", SHORT_GRPO),
    "+ 60 steps of GRPO, verdict alone": Row("plain60@grpo", "{steps: [sft, grpo]}", (*SHORT_GRPO, *PLAIN, STEPS_60)),
    "+ 60 steps of GRPO with consistency": Row("paired60@grpo", "{steps: [sft, grpo]}", (*SHORT_GRPO, STEPS_60)),
    "+ 60 steps of GRPO with rationale": Row("points60@grpo", "{steps: [sft, grpo]}", (*SHORT_GRPO, *PLAIN, STEPS_60, RATIONALE)),
    "nine steps: reason SFT": Row("nine", "{steps: [sft]}", SHORTER),
    "nine steps: + GRPO, verdict alone": Row("nine-plain@grpo", "{steps: [sft, grpo]}", (*SHORTER_GRPO, *PLAIN)),
    "nine steps: + GRPO with consistency": Row("nine-paired@grpo", "{steps: [sft, grpo]}", SHORTER_GRPO),
    "SFT of the recipe": Row("best", "{steps: [sft]}"),
    "best chain: the recipe": Row("best@grpo", "{steps: [sft, dpo, grpo]}"),
    "all pairs: SFT": Row("best", "{steps: [sft]}", ALL, "all"),
    "all pairs: SFT, 8 votes": Row("best", "{steps: [sft]}", (*ALL, *VOTES), "all"),
    "all pairs: SFT, warm round": Row("warm@round", "{steps: [sft, round]}", (*ALL, *WARM), "all"),
    "all pairs: SFT, warm round, GRPO": Row("warm@grpo", "{steps: [sft, round, grpo]}", (*ALL, *WARM), "all"),
    "all pairs: SFT, round": Row("best@round", "{steps: [sft, round]}", ALL, "all"),
    "all pairs: SFT, two rounds": Row("best@round-2", "{steps: [sft, round, round]}", ALL, "all"),
    "all pairs: SFT, round, GRPO": Row("best@grpo", "{steps: [sft, round, grpo]}", ALL, "all"),
    "points: SFT": Row("points", "{steps: [sft]}", POINTS, "points"),
    "points: SFT, round": Row("points@round", "{steps: [sft, round]}", POINTS, "points"),
    "points: SFT, two rounds": Row("points@round-2", "{steps: [sft, round, round]}", POINTS, "points"),
}  # fmt: skip


class Measured(NamedTuple):
    """Results of one row and seed.

    Attributes:
        accuracy, strict: share of right verdicts, and of pairs with a right verdict in both orders, in per cent.
        seconds: of the row's last training step, its start and its records included.
        reward: mean of GRPO's reward over the first and the last tenth of its steps; None without GRPO.
    """

    accuracy: float
    strict: float
    seconds: float
    reward: tuple[float, float] | None


def stage(script: str, recipe: str, *words: str) -> None:
    """Run one of the three scripts; its output goes to stderr."""
    done = subprocess.run([str(ROOT / script), recipe, *words], cwd=ROOT, stdout=sys.stderr, check=False)
    if done.returncode:
        sys.exit(f"{script} {' '.join(words)} ended with {done.returncode}")


def run_words(name: str, seed: int, row: Row, overrides: list[str]) -> list[str]:
    """Return the overrides that all rows of a run share: those of stage 1."""
    run = f"{name}-{seed}-{row.run}".removesuffix("-")
    return [*overrides, f"name={run}", *RUNS[row.run], f"seed={seed}"]


def row_words(name: str, seed: int, row: Row, overrides: list[str]) -> list[str]:
    """Return the overrides of stages 2 and 3."""
    words = [*run_words(name, seed, row, overrides), *row.overrides]
    judges = f"judges={{{row.model.partition('@')[0]}: {row.judge}}}"
    return [*words, judges, "scalar=null", "evaluate.base=false"]


def measure(path: str, name: str, seed: int, row: Row, overrides: list[str]) -> Measured:
    """Train and judge one row in its run, whose stage 1 is done; what is done already is kept."""
    judge, _, step = row.model.partition("@")
    words = row_words(name, seed, row, overrides)
    recipe = load_recipe(path, words)
    if step:  # what comes before the last step is trained first, so that its time is not measured
        steps = recipe.judges[judge].steps or recipe.train.steps
        earlier = row.judge.replace(f", {steps[-1]}]", "]")
        stage("2_train.sh", path, *words, f"judges={{{judge}: {earlier}}}")
    run = ROOT / recipe.folder
    done = run / f"seconds-{row.model}.json"
    if not done.exists():
        began = time.perf_counter()
        stage("2_train.sh", path, *words)
        done.write_text(json.dumps(time.perf_counter() - began), encoding="utf-8")
    stage("3_eval_reward_bench.sh", path, *words)
    benchmark = next(iter(recipe.evaluate.benchmarks))
    results = list(read_jsonl(run / "evaluate" / benchmark / row.model / "results.jsonl"))
    credits = [statistics.fmean(result["correct"]) for result in results]
    strict = statistics.fmean(credit == 1 for credit in credits)
    seconds = json.loads(done.read_text(encoding="utf-8"))
    rewards = rewards_of(run / "judges" / row.model / "metrics.jsonl")
    return Measured(100 * statistics.fmean(credits), 100 * strict, seconds, rewards)


def rewards_of(path: Path) -> tuple[float, float] | None:
    """Return the mean reward of the first and the last tenth of a training's steps; None where it has no rewards."""
    rewards = [row["reward"] for row in read_jsonl(path) if "reward" in row]
    part = -(-len(rewards) // 10)
    return (statistics.fmean(rewards[:part]), statistics.fmean(rewards[-part:])) if rewards else None


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
        words = [run_words(recipe.name, seed, ROWS[name], options.overrides) for name in names]
        for run in dict.fromkeys(map(tuple, words)):
            stage("1_prepare.sh", options.recipe, *run)
        for name in names:
            measured[name].append(measure(options.recipe, recipe.name, seed, ROWS[name], options.overrides))
            print(f"{name}, seed {seed}: {measured[name][-1]}", file=sys.stderr, flush=True)
    for name, results in measured.items():
        accuracy, strict, seconds, rewards = zip(*results, strict=True)
        ends = [pair for pair in rewards if pair]
        rise = " → ".join(f"{statistics.fmean(end):.2f}" for end in zip(*ends, strict=True)) or "–"
        rows.append(
            [name, str(len(results)), *(cell(list(column)) for column in (accuracy, strict, seconds)), rise]
        )
    print(f"{machine()}; seeds {', '.join(map(str, options.seeds))}: mean [lowest, highest]\n")
    print(grid(["judge", "seeds", "accuracy, %", "strict, %", "last step, s", "reward"], rows))


if __name__ == "__main__":
    main()
