"""Verbs that distil a judge into a head, and use the head on replies: distil."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from reasongenrm.verbs.options import add_config, add_redo, add_replies, add_verb


def add_distil(verbs: Any) -> None:
    """Add the verbs that distil a judge with a rubric into a head."""
    distil = verbs.add_parser("distil", help="train a small model to repeat a judge's scores of replies")
    steps = distil.add_subparsers(dest="step", required=True)
    text = "check a file of conversations: every problem with its row and field, and a summary"
    validate = add_verb(steps, "validate", text, _distil_validate)
    validate.add_argument("file", help="JSON list or JSONL; docs/data-format.md is its specification")
    for name, text, redo in (
        ("judge", "score every reply by the rubric, with the recipe's judge", "judge"),
        ("train", "train a head on the judgments", "scalar"),
        ("evaluate", "measure how a head agrees with the judge on held-out conversations", "evaluation"),
        ("run", "all of it: validate, judge, train, evaluate", "judge"),
    ):
        step = add_verb(steps, name, text, _distil)
        add_config(step, "configs/distil/reward_model.yaml")
        add_redo(step, redo)
        if name in ("judge", "run"):
            text = "print recipe, row counts, a prompt and an estimate of the costs; then stop"
            step.add_argument("--dry-run", action="store_true", help=text)
    _add_distil_use(steps)


def _add_distil_use(steps: Any) -> None:
    """Add the verbs that use a head on replies."""
    text = "write preference pairs for DPO from scored replies, in TRL's format"
    export = add_verb(steps, "export-dpo", text, _export_dpo)
    text = "folder of a head that scores the replies; by default they have a column score"
    export.add_argument("--head", metavar="FOLDER", help=text)
    export.add_argument(
        "--gap", type=float, default=0.1, help="least difference of a pair's scores (%(default)s)"
    )
    text = "write the pair with the widest gap, even if chosen replies become longer than rejected ones"
    export.add_argument("--no-length-balance", dest="balance", action="store_false", help=text)
    add_replies(export)
    text = "sample N replies to each message, keep the best, and draw its expected score against N"
    best = add_verb(steps, "best", text, _best_of_n)
    best.add_argument("head", help="folder of a trained head")
    add_config(best, "configs/distil/best_of_n.yaml")
    best.add_argument("--out", required=True, metavar="FOLDER")
    text = "judgments of the file candidates.jsonl, for the curve of the judge's score"
    best.add_argument("--judgments", metavar="FILE", help=text)


def _distil_validate(options: argparse.Namespace) -> None:
    from reasongenrm.stages.distil import validate

    validate(options.file)


def _distil(options: argparse.Namespace) -> None:
    from reasongenrm.stages import distil

    recipe = distil.load_distil_recipe(options.config, options.overrides)
    if getattr(options, "dry_run", False):
        distil.preview(recipe, [distil.JUDGE] if options.step == "judge" else distil.STAGES, options.redo)
    elif options.step == "run":
        distil.run_all(recipe, options.redo)
    else:
        distil.STAGES[f"distil-{options.step}"](recipe, options.redo)


def _export_dpo(options: argparse.Namespace) -> None:
    from reasongenrm.stages.replies import export_dpo

    keys = ("source", "target", "head", "gap", "balance", "batch_size")
    export_dpo(**{key: getattr(options, key) for key in keys})


def _best_of_n(options: argparse.Namespace) -> None:
    from reasongenrm.config.loading import load_config
    from reasongenrm.config.scalar import BestOfNConfig
    from reasongenrm.stages.best import best_of_n

    config = load_config(BestOfNConfig, options.config, options.overrides)
    best_of_n(options.head, config, Path(options.out), judgments=options.judgments)
