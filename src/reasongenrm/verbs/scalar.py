"""Verbs of the classic reward model and of the answers that it learns from: answers, scalar."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from reasongenrm import console
from reasongenrm.verbs.options import (
    add_config,
    add_dry_run,
    add_files,
    add_redo,
    add_replies,
    add_verb,
    count,
)


def add_heads(verbs: Any) -> None:
    """Add the verbs of the classic reward model."""
    _add_answers(verbs)
    _add_scalar(verbs)


def _add_answers(verbs: Any) -> None:
    """Add the verbs that collect ranked answers."""
    steps = verbs.add_parser("answers", help="generate answers, and rank them by hand").add_subparsers(
        dest="step", required=True
    )
    text = "generate several answers to each prompt of a YAML file"
    generate = add_verb(steps, "generate", text, _generate_answers)
    add_config(generate, "configs/answers/phi-2.yaml")
    generate.add_argument("--out", required=True, metavar="FILE", help="JSONL")
    add_dry_run(generate)
    text = "rank answers in the terminal (on a local web page: reasongenrm app)"
    rank = add_verb(steps, "rank", text, _rank_answers, clean=False)
    rank.add_argument("source", help="answers, CSV or JSONL")
    rank.add_argument("--out", required=True, metavar="FILE", help="ranked answers, CSV or JSONL")
    rank.add_argument("--annotator", metavar="NAME", help="your name")
    rank.add_argument("--seed", type=int, default=17, help="of the order in which answers are shown")
    rank.add_argument("--journal", metavar="FILE", help="log of every action; by default <out>.journal.jsonl")


def _add_scalar(verbs: Any) -> None:
    """Add the verbs of the classic reward model."""
    scalar = verbs.add_parser("scalar", help="the classic reward model: one number per answer")
    steps = scalar.add_subparsers(dest="step", required=True)
    for name, text in (
        ("train", "train a head on ranked answers or pairs"),
        ("evaluate", "measure how the scores of a trained head agree with ranks"),
        ("notebook", "run notebooks/analyse.ipynb with a trained head, or notebooks/practice.ipynb"),
    ):
        step = add_verb(steps, name, text, _scalar_recipe)
        add_config(step, "configs/scalar/distilbert.yaml")
        if name != "notebook":
            add_dry_run(step)
        if name == "train":
            add_redo(step, "scalar")
        if name == "notebook":
            step.add_argument(
                "--notebook", choices=("analyse", "practice"), default="analyse", help="default: analyse"
            )
    for name, text in (
        ("score", "score each answer: rows of prompt, answer"),
        ("best", "find the best of several answers: rows of prompt, answers"),
        ("rank", "rank several answers: rows of prompt, answers"),
    ):
        step = add_verb(steps, name, text, _scalar_rows)
        step.add_argument("model", help="folder of a trained head")
        add_files(step)
        step.add_argument("--batch-size", type=count, default=32, help="answers per forward pass")
    keep = add_verb(steps, "filter", "keep the rows whose answer has a high score", _filter_replies)
    keep.add_argument("head", help="folder of a trained head")
    keep.add_argument("--threshold", type=float, required=True, help="least score of a row that is kept")
    add_replies(keep)


def _generate_answers(options: argparse.Namespace) -> None:
    from reasongenrm.answers.generate import generate, preview
    from reasongenrm.config.loading import load_config
    from reasongenrm.config.scalar import AnswersConfig

    config, out = load_config(AnswersConfig, options.config, options.overrides), Path(options.out)
    if options.dry_run:
        preview(config, out)
        return
    counts = generate(config, out)
    console.say(f"{options.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def _rank_answers(options: argparse.Namespace) -> None:
    from reasongenrm.answers.rank import rank

    keys = ("annotator", "seed", "journal")
    rank(options.source, options.out, **{key: getattr(options, key) for key in keys})


def _scalar_recipe(options: argparse.Namespace) -> None:
    from reasongenrm.config.loading import load_config
    from reasongenrm.config.scalar import ScalarRecipe
    from reasongenrm.scalar.notebook import execute
    from reasongenrm.stages import scalar, scalar_preview

    recipe = load_config(ScalarRecipe, options.config, options.overrides)
    if options.step == "notebook":
        name = f"{options.notebook}.ipynb"
        out = recipe.folder / name
        execute(Path("notebooks") / name, scalar=recipe.folder / "scalar", out=out)
        console.show(out)
    elif options.step == "train" and options.dry_run:
        scalar_preview.preview_training(recipe, options.redo)
    elif options.step == "train":
        scalar.train(recipe, options.redo)
    elif options.dry_run:
        scalar_preview.preview_evaluation(recipe)
    else:
        scalar.evaluate(recipe)


def _scalar_rows(options: argparse.Namespace) -> None:
    from reasongenrm.stages.scalar import score_rows

    score_rows(options.step, options.model, options.source, options.target, batch_size=options.batch_size)


def _filter_replies(options: argparse.Namespace) -> None:
    from reasongenrm.stages.replies import filter_replies

    keys = ("head", "source", "target", "threshold", "batch_size")
    filter_replies(**{key: getattr(options, key) for key in keys})
