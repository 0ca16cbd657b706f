"""Compare training steps on the toy world: SFT, margin, DPO, rounds and GRPO from one under-trained judge, and the best chain.

    python bench/recipes.py [configs/demo-rl.yaml] [--seeds 17 18 19] [--row NAME ...] [key=value ...]

For each seed one run `<name>-<seed>` (on the pairs of the recipe) and one run `<name>-<seed>-all` (on all pairs) does stage 1 once,
and its rows of the table: each trains its steps in that run (what two rows share is trained once), and judges the held-out rows in
both orders. Overrides go to all stages. The rows are those of ROWS; a cell is the mean over the seeds, with the lowest and the highest.
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
REASONGENRM = str(Path(sys.executable).with_name("reasongenrm"))


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        model: whose scores are shown; of `NAME@rounds` those of the mean of all its rounds' adapters.
        judge: the judge's settings in the recipe.
        overrides: of the recipe, in stages 2 and 3.
        all_pairs: without the recipe's limit, in a run of its own.
    """

    model: str
    judge: str
    overrides: tuple[str, ...] = ()
    all_pairs: bool = False


SHORT = ("train.args.max_steps=10",)
"""A deliberately under-trained judge; what the next steps gain on a well-trained one is hard to tell from chance."""
SHORT_GRPO = (*SHORT, "train.grpo.batch=8", "train.grpo.steps=150")
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
FILLED = (
    *ALL,
    "train.round.fill=true",
    "train.round.args.max_steps=450",
)
"""A round that keeps the records of the pairs that it loses, and passes 2.6 times over them."""
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
    "SFT of the recipe": Row("best", "{steps: [sft]}"),
    "best chain: the recipe": Row("best@grpo", "{steps: [sft, dpo, grpo]}"),
    "all pairs: SFT": Row("best", "{steps: [sft]}", ALL, all_pairs=True),
    "all pairs: SFT, 8 votes": Row("best", "{steps: [sft]}", (*ALL, *VOTES), all_pairs=True),
    "all pairs: SFT, warm round": Row("warm@round", "{steps: [sft, round]}", (*ALL, *WARM), all_pairs=True),
    "all pairs: SFT, warm round, GRPO": Row("warm@grpo", "{steps: [sft, round, grpo]}", (*ALL, *WARM), all_pairs=True),
    "all pairs: SFT, round": Row("best@round", "{steps: [sft, round]}", ALL, all_pairs=True),
    "all pairs: SFT, two rounds": Row("best@round-2", "{steps: [sft, round, round]}", ALL, all_pairs=True),
    "all pairs: SFT, filled round": Row("filled@round", "{steps: [sft, round]}", FILLED, all_pairs=True),
    "all pairs: SFT, three filled rounds": Row("filled@round-3", "{steps: [sft, round, round, round]}", FILLED, all_pairs=True),
    "all pairs: mean of the three rounds": Row("filled@rounds", "{steps: [sft, round, round, round]}", FILLED, all_pairs=True),
    "all pairs: SFT, round, GRPO": Row("best@grpo", "{steps: [sft, round, grpo]}", ALL, all_pairs=True),
}  # fmt: skip


class Measured(NamedTuple):
    """Results of one row and seed.

    Attributes:
        accuracy, strict: share of right verdicts, and of pairs with a right verdict in both orders, in per cent.
        seconds: of the row's last training step, its start and its records included; None for a mean.
        reward: mean of GRPO's reward over the first and the last tenth of its steps; None without GRPO.
    """

    accuracy: float
    strict: float
    seconds: float | None
    reward: tuple[float, float] | None


def stage(script: str, *words: str) -> None:
    """Run one of the three scripts, or `reasongenrm`; its output goes to stderr."""
    done = subprocess.run([str(ROOT / script), *words], cwd=ROOT, stdout=sys.stderr, check=False)
    if done.returncode:
        sys.exit(f"{script} {' '.join(words)} ended with {done.returncode}")


def run_words(name: str, seed: int, row: Row, overrides: list[str]) -> list[str]:
    """Return the overrides that all rows of a run share: those of stage 1."""
    run = [f"name={name}-{seed}-all", "limit=null"] if row.all_pairs else [f"name={name}-{seed}"]
    return [*overrides, *run, f"seed={seed}"]


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
    if step == "rounds":
        return measure_mean(path, words, row.model)
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
    scores = scores_of(run / "evaluate" / benchmark / row.model / "results.jsonl")
    seconds = json.loads(done.read_text(encoding="utf-8"))
    return Measured(*scores, seconds, rewards_of(run / "judges" / row.model / "metrics.jsonl"))


def measure_mean(path: str, words: list[str], model: str) -> Measured:
    """Train a judge's rounds, merge their adapters into the mean, and judge with that; what is done already is kept."""
    stage("2_train.sh", path, *words)
    recipe = load_recipe(path, words)
    rounds = [
        str(recipe.folder / "judges" / step.model) for step in recipe.trained.values() if step.kind == "round"
    ]
    merged = recipe.folder / "merged" / model.replace("@", "-")
    if not (ROOT / merged / "merge.json").exists():
        weights = ",".join([f"{1 / len(rounds):.6f}"] * len(rounds))
        stage(REASONGENRM, "merge", *rounds, "--weights", weights, "--out", str(merged))
    [settings] = recipe.evaluate.benchmarks.values()
    served = {
        "name": f"{recipe.name}-{merged.name}", "seed": recipe.seed, "model.dtype": recipe.model.dtype,
        "prompts": recipe.prompts, "evaluate.max_tokens": recipe.evaluate.max_tokens,
        **{f"engine.{key}": json.dumps(value) for key, value in recipe.engine.model_dump(mode="json", exclude_unset=True).items()},
    }  # fmt: skip
    stage(
        REASONGENRM, "evaluate", "--model", recipe.model.path, "--adapter", str(merged),
        "--benchmark", f"{settings.kind}:{settings.path}", "evaluate.base=false", *(f"{key}={value}" for key, value in served.items()),
    )  # fmt: skip
    folder = ROOT / "runs" / served["name"] / "evaluate"
    return Measured(*scores_of(folder / settings.kind / merged.name / "results.jsonl"), None, None)


def scores_of(path: Path) -> tuple[float, float]:
    """Return accuracy and strict accuracy of a file of results, in per cent."""
    credits = [statistics.fmean(result["correct"]) for result in read_jsonl(path)]
    return 100 * statistics.fmean(credits), 100 * statistics.fmean(credit == 1 for credit in credits)


def rewards_of(path: Path) -> tuple[float, float] | None:
    """Return the mean reward of the first and the last tenth of a training's steps; None where it has no rewards."""
    rewards = [row["reward"] for row in read_jsonl(path) if "reward" in row]
    part = -(-len(rewards) // 10)
    return (statistics.fmean(rewards[:part]), statistics.fmean(rewards[-part:])) if rewards else None


def cell(values: list[float]) -> str:
    """Return mean, lowest and highest; a dash without values."""
    return "–" if not values else f"{statistics.fmean(values):.1f} [{min(values):.1f}, {max(values):.1f}]"


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
            [
                name,
                str(len(results)),
                cell(list(accuracy)),
                cell(list(strict)),
                cell(list(filter(None, seconds))),
                rise,
            ]
        )
    print(f"{machine()}; seeds {', '.join(map(str, options.seeds))}: mean [lowest, highest]\n")
    print(grid(["judge", "seeds", "accuracy, %", "strict, %", "last step, s", "reward"], rows))


if __name__ == "__main__":
    main()
