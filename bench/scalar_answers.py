"""Can a head learn the ranks of `data/answers.csv`? One prompt left out, on a tiny base; the table of docs/reward-modeling.md.

    python bench/scalar_answers.py [--base FOLDER] [--seed 17 18 19] [--steps 30] [--write docs/reward-modeling.md]

For each prompt a head is trained on the pairs of the four others (`evaluate.leave_one_out`). Without `--base` it is an untrained
DistilBERT of two layers whose words are those of the file; its seed is also that of the training. A killed command continues.
The settings were chosen before the first result.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reasongenrm.config.scalar import ScalarRecipe
from reasongenrm.console import show
from reasongenrm.data.ranked import read_ranked
from reasongenrm.report.tables import grid
from reasongenrm.run import Run
from reasongenrm.scalar.inputs import prompt_text
from reasongenrm.scalar.metrics import AnswerScore, ScalarMetrics, Statistic, evaluate_scores
from reasongenrm.scalar.tiny import build_tiny_distilbert
from reasongenrm.stages.leave_one_out import leave_one_out
from reasongenrm.stages.scalar_answers import EVALUATE
from reasongenrm.store import write_text

ANSWERS = "data/answers.csv"
BLOCK = re.compile(
    r"(<!-- table of bench/scalar_answers\.py: begin -->\n).*?(<!-- table of bench/scalar_answers\.py: end -->)",
    re.DOTALL,
)


def recipe(base: str, seed: int, steps: int) -> ScalarRecipe:
    """Return the recipe of one row."""
    args = {"learning_rate": 1e-3, "per_device_train_batch_size": 8, "max_steps": steps, "save_steps": steps}
    return ScalarRecipe.model_validate(
        {
            "name": f"bench-scalar-answers-{seed}",
            "seed": seed,
            "sources": [{"path": ANSWERS, "kind": "ranked"}],
            "scalar": {"model": base, "args": args},
            "evaluate": {"leave_one_out": True},
        }
    )


def tiny_base(folder: Path, seed: int) -> str:
    """Write the tiny base of a seed, and return its folder."""
    if not (folder / "config.json").exists():
        prompts, _ = read_ranked(ANSWERS)
        texts = [
            text for one in prompts for text in (prompt_text(one.history), *(a.text for a in one.answers))
        ]
        build_tiny_distilbert(folder, texts, seed)
    return str(folder)


def scores(base: str | None, seed: int, steps: int) -> list[AnswerScore]:
    """Return the score of every answer, by a head that did not see its prompt."""
    tiny = Path("build") / "bench" / f"distilbert-{seed}"
    one = recipe(base or tiny_base(tiny, seed), seed, steps)
    one.folder.mkdir(parents=True, exist_ok=True)
    return leave_one_out(one, Run(one, EVALUATE))[0]


def row(name: str, metrics: ScalarMetrics) -> list[str]:
    """Return a row of the table."""

    def cell(value: Statistic, scale: float, digits: int) -> str:
        if value.value is None:
            return "–"
        ends = ", ".join(f"{scale * end:.{digits}f}" for end in value.interval or ())
        return f"{scale * value.value:.{digits}f}" + (f" [{ends}]" if ends else "")

    right = (metrics.accuracy.value or 0.0) * metrics.pairs
    return [
        name,
        f"{right:g} of {metrics.pairs}",
        cell(metrics.accuracy, 100, 1),
        cell(metrics.spearman, 1, 2),
    ]


def table(measured: dict[int, Sequence[AnswerScore]], base: str | None) -> str:
    """Return the table: a row per seed, one for the length of an answer as its score, and one for what is not measured."""
    name = Path(base).name if base else "tiny DistilBERT, untrained"
    rows = [row(f"{name}, seed {seed}", evaluate_scores(one, seed=17)) for seed, one in measured.items()]
    some = next(iter(measured.values()))
    lengths = [replace(one, score=float(one.tokens)) for one in some]
    rows.append(row("no model: the longer answer is better", evaluate_scores(lengths, seed=17)))
    if base is None:
        rows.append(["DistilBERT, pretrained", *["not measured"] * 3])
    headings = ("scored by", "right pairs", "accuracy, %", "Spearman's ρ")
    return grid(headings, rows) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", help="folder or hub id; by default a tiny untrained one per seed")
    parser.add_argument("--seed", type=int, nargs="+", default=[17, 18, 19])
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--write", metavar="PAGE", help="page whose block gets the table")
    options = parser.parse_args()
    text = table({seed: scores(options.base, seed, options.steps) for seed in options.seed}, options.base)
    show(text)
    if options.write:
        page = Path(options.write)
        write_text(page, BLOCK.sub(lambda m: m[1] + text + m[2], page.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
