"""Verbs of the three stages and of their run folders: prepare, train, evaluate, merge, doctor, select, export, report, workers, compare, toy."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from reasongenrm import console
from reasongenrm.errors import ConfigError
from reasongenrm.records import SELECTORS
from reasongenrm.verbs.options import add_recipe, add_redo, add_verb, named_recipe

MERGE_METHODS = ("linear", "slerp", "ties", "dare_linear", "dare_ties", "magnitude_prune")
"""Methods of `merge`; see `config/merge.py`, which the command line does not import for its help."""

STAGES = {
    "prepare": "stage 1: turn pairs into judge prompts, reasons and training records",
    "train": "stage 2: train the judges and the scalar head",
    "evaluate": "stage 3: run the benchmarks, and print one table for all models",
}


WITHOUT_RECIPE = ("model", "adapter", "server", "scalar", "benchmark")
"""Options of `evaluate` that take the place of a recipe."""


def add_stages(verbs: Any) -> None:
    """Add the three stages, and the verbs of their run folders."""
    for name, text in STAGES.items():
        stage = add_verb(verbs, name, text, _stage)
        add_recipe(stage)
        add_redo(stage, "evaluate.toy" if name == "evaluate" else "judges" if name == "train" else "scores")
        stage.add_argument("--limit", type=int, help="use only N rows")
        stage.add_argument(
            "--dry-run",
            action="store_true",
            help="print recipe, row counts, two prompts, the steps that --redo names, and an estimate of memory and hours; "
            "then stop",
        )
        if name == "evaluate":
            _add_models(stage)
    _add_merge(verbs)
    _add_doctor(verbs)
    _add_selection(verbs)
    _add_reports(verbs)
    _add_toy(verbs)


def _add_models(verb: argparse.ArgumentParser) -> None:
    """Add the options of an evaluation without a recipe."""
    group = verb.add_argument_group(
        "without a recipe",
        "Judge benchmarks with any model; key=value sets engine.…, evaluate.…, model.… and name.",
    )
    group.add_argument("--model", metavar="ID", help="chat model: hub id, folder, or its name on the server")
    group.add_argument("--adapter", metavar="FOLDER", help="LoRA adapter of a judge on this model")
    group.add_argument(
        "--server", metavar="URL", help="chat API of an OpenAI-compatible server, or: anthropic"
    )
    group.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable with the key of the server"
    )
    group.add_argument("--scalar", metavar="ID", help="reward model with one output: folder or hub id")
    group.add_argument(
        "--benchmark", metavar="KIND[:PATH],…", help="such as rewardbench,judgebench (default: rewardbench)"
    )


def _add_merge(verbs: Any) -> None:
    text = "merge adapters of one base into an adapter, or models (and adapters) into a model"
    merge = add_verb(verbs, "merge", text, _merge)
    merge.add_argument(
        "inputs", nargs="+", metavar="INPUT",
        help="folder of an adapter, of a trained judge (runs/<run>/judges/<model>) or of a model; or a model's hub id",
    )  # fmt: skip
    merge.add_argument("--out", required=True, metavar="FOLDER", help="a new folder")
    merge.add_argument("--method", default="linear", choices=MERGE_METHODS, help="(%(default)s)")
    merge.add_argument(
        "--weights",
        metavar="W,W,…",
        help="factor of each input, as in --weights=1.5,-0.5; by default all are equal",
    )
    merge.add_argument(
        "--density", type=float, help="share of each change that ties, dare_… and magnitude_prune keep (0.5)"
    )
    merge.add_argument(
        "--rank", type=int, help="rank of the merged adapter, to cut it to its largest singular values"
    )
    merge.add_argument(
        "--factors", action="store_true", help="merge the factors of adapters apart: quick, and rough"
    )
    merge.add_argument(
        "--base",
        metavar="ID",
        help="model that the inputs were trained from; by default the one that adapters name",
    )
    merge.add_argument("--seed", type=int, help="of the dare_… methods, 0 to 2**32 - 1 (17)")
    merge.add_argument(
        "--shard-size", metavar="SIZE", help="limit of a weight file of a merged model, and of memory (2GB)"
    )


def _add_doctor(verbs: Any) -> None:
    doctor = add_verb(verbs, "doctor", "check a recipe against this machine, or measure its speed", _doctor)
    add_recipe(doctor)
    doctor.add_argument(
        "--measure", action="store_true", help="measure with random weights, 10 minutes at most; no network"
    )
    doctor.add_argument(
        "--out", metavar="FILE", help="JSON of --measure; by default bench/results/<machine>-<date>.json"
    )
    doctor.add_argument("--tiny", action="store_true", help="measure a tiny model, as without a GPU")


def _add_selection(verbs: Any) -> None:
    """Add the verbs that work on the files of stage 1."""
    select = add_verb(verbs, "select", "count the reasons that other selectors would keep", _select)
    export = add_verb(verbs, "export", "convert records for other trainers", _export)
    add_recipe(select)
    add_recipe(export)
    select.add_argument("--selector", action="append", choices=SELECTORS, help="repeatable; by default all")
    select.add_argument(
        "--against", choices=SELECTORS, help="selector to compare with; by default the recipe's"
    )
    export.add_argument("--to", required=True, choices=("plain", "trl", "llamafactory", "openrlhf"))
    export.add_argument("--out", help="folder; by default runs/<name>/export/<layout>")


def _add_reports(verbs: Any) -> None:
    """Add the verbs that show the results of a run."""
    report = add_verb(verbs, "report", "rebuild the report of a run", _report, clean=False)
    report.add_argument("run_folder", metavar="RUN", help="run folder")
    workers = add_verb(
        verbs, "workers", "show what each worker of a run did, and what it waited for", _workers
    )
    workers.add_argument("run_folder", metavar="RUN", help="run folder")
    text = "compare runs, with paired significance tests"
    compare = add_verb(verbs, "compare", text, _compare, clean=False)
    compare.add_argument(
        "run_folders", nargs="+", metavar="RUN", help="run folders; the first is the baseline"
    )
    compare.add_argument(
        "--out", default="runs/compare", help="folder for compare.md and compare.html (%(default)s)"
    )


def _add_toy(verbs: Any) -> None:
    """Add the verbs that build the toy world."""
    toy = verbs.add_parser("toy", help="build the toy data and models of the demo")
    steps = toy.add_subparsers(dest="toy", required=True)
    build = add_verb(steps, "build", "write toy pairs, a toy benchmark and a tiny DistilBERT", _toy)
    build.add_argument("--out", default="build/toy")
    build.add_argument("--pairs", type=int, default=700, help="training pairs per family")
    build.add_argument("--rows", type=int, default=100, help="benchmark rows per family")
    base = add_verb(steps, "base", "pretrain the toy base model (about an hour on one core)", _toy)
    base.add_argument("--out", required=True)
    for step in (build, base):
        step.add_argument("--seed", type=int, default=17)


def _evaluate_models(options: argparse.Namespace) -> None:
    from reasongenrm.config.models import models_recipe
    from reasongenrm.stages.models import evaluate_models

    if options.dry_run:
        hint = "leave it out, or try the command with --limit 10"
        raise ConfigError("it needs a recipe", location="--dry-run", hint=hint)
    overrides = list(options.recipe)
    if overrides and not re.match(r"[\w.-]+=", overrides[0]):
        hint = "leave out the recipe, or --model, --server and --scalar"
        raise ConfigError("a recipe names its models itself", location=overrides[0], hint=hint)
    if options.limit is not None:
        overrides.append(f"limit={options.limit}")
    keys = ("model", "adapter", "server", "api_key_env", "scalar")
    models = {key: getattr(options, key) for key in keys}
    recipe = models_recipe(**models, benchmarks=options.benchmark or "rewardbench", overrides=overrides)
    evaluate_models(recipe, options.redo)


def _stage(options: argparse.Namespace) -> None:
    if options.verb == "evaluate" and any(getattr(options, name) for name in WITHOUT_RECIPE):
        _evaluate_models(options)
        return
    recipe = named_recipe(options)
    from reasongenrm.doctor.checks import check_machine
    from reasongenrm.stages import evaluate, prepare, preview, train

    if options.dry_run:
        preview.preview(recipe, options.verb, options.redo)
        return
    check_machine(recipe, options.verb)
    if options.verb == "prepare":
        prepare.prepare(recipe, options.redo)
    elif options.verb == "train":
        train.train(recipe, options.redo)
    else:
        evaluate.evaluate(recipe, options.redo)


def _merge(options: argparse.Namespace) -> None:
    from reasongenrm.config.merge import merge_options
    from reasongenrm.train.merge import merge

    keys = ("method", "density", "rank", "factors", "base", "seed", "shard_size")
    settings = {key: value for key in keys if (value := getattr(options, key)) is not None}
    if options.weights is not None:
        settings["weights"] = options.weights.split(",")
    out = Path(options.out)
    record = merge(options.inputs, merge_options(settings), out)
    what = f"adapter of rank {record['rank']}" if "rank" in record else "model"
    console.say(f"{out}: {what}, {record['settings']['method']} of {', '.join(options.inputs)}")


def _doctor(options: argparse.Namespace) -> None:
    recipe = named_recipe(options)
    from reasongenrm.doctor.measure import measure
    from reasongenrm.doctor.report import examine

    if options.measure:
        measure(recipe, Path(options.out) if options.out else None, tiny=options.tiny)
    else:
        examine(recipe)


def _workers(options: argparse.Namespace) -> None:
    from rich.console import Console

    from reasongenrm.report.workers import workers_table

    Console(file=console.stdout(), width=110).print(workers_table(Path(options.run_folder)).rich())


def _select(options: argparse.Namespace) -> None:
    from reasongenrm.stages.reasons import select

    select(named_recipe(options), options.selector or (), options.against)


def _export(options: argparse.Namespace) -> None:
    from reasongenrm.data.export import export

    export(named_recipe(options), options.to, Path(options.out) if options.out else None)


def _report(options: argparse.Namespace) -> None:
    from reasongenrm.report.run_report import write_report

    console.show(write_report(Path(options.run_folder)))


def _compare(options: argparse.Namespace) -> None:
    from reasongenrm.report.compare import compare_runs

    compare_runs([Path(run) for run in options.run_folders], Path(options.out))


def _toy(options: argparse.Namespace) -> None:
    from reasongenrm.demo.base import build_base
    from reasongenrm.demo.build import build

    if options.toy == "build":
        build(options.out, pairs=options.pairs, rows=options.rows, seed=options.seed)
    else:
        build_base(Path(options.out), seed=options.seed)
