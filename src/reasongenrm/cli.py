"""The command line: one function per verb, which imports what it runs."""

from __future__ import annotations

import argparse
import errno
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasongenrm import console
from reasongenrm.errors import ConfigError, EngineError, ReasonGenRMError, write_hint
from reasongenrm.records import SELECTORS

if TYPE_CHECKING:
    from reasongenrm.config.recipe import Recipe
    from reasongenrm.judge.api import Judge

DEFAULT_RECIPE = "configs/qwen2.5-7b.yaml"

USERS_ERRORS = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EMFILE),
}
"""Errors of files and folders that the user can correct, wherever they occur."""

MERGE_METHODS = ("linear", "slerp", "ties", "dare_linear", "dare_ties", "magnitude_prune")
"""Methods of `merge`; see `config/merge.py`, which the command line does not import for its help."""

STAGES = {
    "prepare": "stage 1: turn pairs into judge prompts, reasons and training records",
    "train": "stage 2: train the judges and the scalar head",
    "evaluate": "stage 3: run the benchmarks, and print one table for all models",
}


WITHOUT_RECIPE = ("model", "adapter", "server", "scalar", "benchmark")
"""Options of `evaluate` that take the place of a recipe."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reasongenrm", description="Generative reasoning reward models.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, text in STAGES.items():
        stage = _add(verbs, name, text, _stage)
        _add_recipe(stage)
        _add_redo(stage, "evaluate.toy" if name == "evaluate" else "judges" if name == "train" else "scores")
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
    _add_judge(verbs)
    _add_answers(verbs)
    _add_scalar(verbs)
    toy = verbs.add_parser("toy", help="build the toy data and models of the demo")
    steps = toy.add_subparsers(dest="toy", required=True)
    build = _add(steps, "build", "write toy pairs, a toy benchmark and a tiny DistilBERT", _toy)
    build.add_argument("--out", default="build/toy")
    build.add_argument("--pairs", type=int, default=700, help="training pairs per family")
    build.add_argument("--rows", type=int, default=100, help="benchmark rows per family")
    base = _add(steps, "base", "pretrain the toy base model (about an hour on one core)", _toy)
    base.add_argument("--out", required=True)
    for step in (build, base):
        step.add_argument("--seed", type=int, default=17)
    return parser


def _add(verbs: Any, name: str, text: str, run: Any, *, clean: bool = True) -> argparse.ArgumentParser:
    """Add a verb and the function that runs it; where `clean`, what libraries print goes to a log."""
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    verb.set_defaults(run=run, clean=clean)
    return verb


def _add_recipe(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "recipe", nargs="*", metavar="RECIPE|key=value",
        help=f"YAML file, by default $RECIPE or {DEFAULT_RECIPE}; then overrides of its keys, such as model.path=…",
    )  # fmt: skip


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


def _add_config(verb: argparse.ArgumentParser, example: str) -> None:
    verb.add_argument("config", help=f"YAML file such as {example}")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of its keys")


def _add_redo(verb: argparse.ArgumentParser, example: str) -> None:
    text = f"do a step again, and those that build on it, such as {example}; repeatable; its files move to replaced/"
    verb.add_argument("--redo", action="append", default=[], metavar="STEP", help=text)


def _add_files(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--in", dest="source", default="-", metavar="FILE", help="JSONL; by default stdin")
    verb.add_argument("--out", dest="target", default="-", metavar="FILE", help="JSONL; by default stdout")


def _add_merge(verbs: Any) -> None:
    text = "merge adapters of one base into an adapter, or models (and adapters) into a model"
    merge = _add(verbs, "merge", text, _merge)
    merge.add_argument(
        "inputs", nargs="+", metavar="INPUT",
        help="folder of an adapter, of a trained judge (runs/<run>/judges/<model>) or of a model; or a model's hub id",
    )  # fmt: skip
    merge.add_argument("--out", required=True, metavar="FOLDER", help="a new folder")
    merge.add_argument("--method", default="linear", choices=MERGE_METHODS, help="(%(default)s)")
    merge.add_argument("--weights", metavar="W,W,…", help="factor of each input; by default all are equal")
    merge.add_argument(
        "--density", type=float, help="share of each change that ties, dare_… and magnitude_prune keep (0.5)"
    )
    merge.add_argument("--rank", type=int, help="rank of the merged adapter")
    merge.add_argument(
        "--factors", action="store_true", help="merge the factors of adapters apart: quick, and rough"
    )
    merge.add_argument(
        "--base",
        metavar="ID",
        help="model that the inputs were trained from; by default the one that adapters name",
    )
    merge.add_argument("--seed", type=int, help="of the dare_… methods (17)")
    merge.add_argument(
        "--shard-size", metavar="SIZE", help="limit of a weight file of a merged model, and of memory (2GB)"
    )


def _add_doctor(verbs: Any) -> None:
    doctor = _add(verbs, "doctor", "check a recipe against this machine, or measure its speed", _doctor)
    _add_recipe(doctor)
    doctor.add_argument(
        "--measure", action="store_true", help="measure with random weights, 10 minutes at most; no network"
    )
    doctor.add_argument(
        "--out", metavar="FILE", help="JSON of --measure; by default bench/results/<machine>-<date>.json"
    )
    doctor.add_argument("--tiny", action="store_true", help="measure a tiny model, as without a GPU")


def _add_selection(verbs: Any) -> None:
    """Add the verbs that work on the files of stage 1."""
    select = _add(verbs, "select", "count the reasons that other selectors would keep", _select)
    export = _add(verbs, "export", "convert records for other trainers", _export)
    _add_recipe(select)
    _add_recipe(export)
    select.add_argument("--selector", action="append", choices=SELECTORS, help="repeatable; by default all")
    select.add_argument(
        "--against", choices=SELECTORS, help="selector to compare with; by default the recipe's"
    )
    export.add_argument("--to", required=True, choices=("plain", "trl", "llamafactory", "openrlhf"))
    export.add_argument("--out", help="folder; by default runs/<name>/export/<layout>")


def _add_judge(verbs: Any) -> None:
    """Add the verbs that run a judge, and those that report its results."""
    judge = verbs.add_parser("judge", help="judge the rows of a JSONL file or of stdin")
    questions = judge.add_subparsers(dest="question", required=True)
    for name, text in {
        "compare": "name the better of two answers: rows of prompt, a, b",
        "rank": "rank several answers by a round robin: rows of prompt, answers",
        "best": "find the best of several answers by a knockout: rows of prompt, answers",
        "score": "give P(the answer is better than a reference): rows of prompt, answer, reference",
    }.items():
        question = _add(questions, name, text, _judge)
        _add_files(question)
        _add_which_judge(question)
    serve = _add(verbs, "serve", "serve a judge over HTTP", _serve)
    _add_which_judge(serve)
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8080)
    serve.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key of clients")
    serve.add_argument("--allow-remote", action="store_true", help="bind to other hosts without a key")
    report = _add(verbs, "report", "rebuild the report of a run", _report, clean=False)
    report.add_argument("run_folder", metavar="RUN", help="run folder")
    workers = _add(verbs, "workers", "show what each worker of a run did, and what it waited for", _workers)
    workers.add_argument("run_folder", metavar="RUN", help="run folder")
    text = "compare runs, with paired significance tests"
    compare = _add(verbs, "compare", text, _compare, clean=False)
    compare.add_argument(
        "run_folders", nargs="+", metavar="RUN", help="run folders; the first is the baseline"
    )
    compare.add_argument(
        "--out", default="runs/compare", help="folder for compare.md and compare.html (%(default)s)"
    )


def _add_which_judge(verb: argparse.ArgumentParser) -> None:
    _add_recipe(verb)
    verb.add_argument("--judge", help="its name in the recipe, or base; by default the first")


def _add_answers(verbs: Any) -> None:
    """Add the verbs that collect ranked answers."""
    steps = verbs.add_parser("answers", help="generate answers, and rank them by hand").add_subparsers(
        dest="step", required=True
    )
    text = "generate several answers to each prompt of a YAML file"
    generate = _add(steps, "generate", text, _generate_answers)
    _add_config(generate, "configs/answers/phi-2.yaml")
    generate.add_argument("--out", required=True, metavar="FILE", help="JSONL")
    text = "rank answers in the terminal, or on a local web page"
    rank = _add(steps, "rank", text, _rank_answers, clean=False)
    rank.add_argument("source", help="answers, CSV or JSONL")
    rank.add_argument("--out", required=True, metavar="FILE", help="ranked answers, CSV or JSONL")
    rank.add_argument("--annotator", metavar="NAME", help="your name; on the web page everybody enters one")
    rank.add_argument("--seed", type=int, default=17, help="of the order in which answers are shown")
    rank.add_argument("--web", action="store_true", help="serve a page instead of asking in the terminal")
    rank.add_argument("--host", default="127.0.0.1")
    rank.add_argument("--port", type=int, default=0, help="by default a free one")
    rank.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key of the page")
    rank.add_argument("--journal", metavar="FILE", help="log of every action; by default <out>.journal.jsonl")


def _add_scalar(verbs: Any) -> None:
    """Add the verbs of the classic reward model."""
    scalar = verbs.add_parser("scalar", help="the classic reward model: one number per answer")
    steps = scalar.add_subparsers(dest="step", required=True)
    for name, text in (
        ("train", "train a head on ranked answers or pairs"),
        ("evaluate", "measure how the scores of a trained head agree with ranks"),
        ("notebook", "run notebooks/analyse.ipynb with a trained head"),
    ):
        step = _add(steps, name, text, _scalar_recipe)
        _add_config(step, "configs/scalar/distilbert.yaml")
        if name == "train":
            _add_redo(step, "scalar")
    for name, text in (
        ("score", "score each answer: rows of prompt, answer"),
        ("best", "find the best of several answers: rows of prompt, answers"),
        ("rank", "rank several answers: rows of prompt, answers"),
    ):
        step = _add(steps, name, text, _scalar_rows)
        step.add_argument("model", help="folder of a trained head")
        _add_files(step)
        step.add_argument("--batch-size", type=int, default=32, help="answers per forward pass")


def _recipe(options: argparse.Namespace) -> Recipe:
    from reasongenrm.config.loading import load_recipe

    path, *overrides = options.recipe or [""]
    if not path or re.match(r"[\w.-]+=", path):  # an override already
        path, overrides = os.environ.get("RECIPE") or DEFAULT_RECIPE, options.recipe
        console.say(f"recipe: {path} ({'from $RECIPE' if os.environ.get('RECIPE') else 'the default'})")
    return load_recipe(path, overrides, limit=getattr(options, "limit", None))


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
    recipe = _recipe(options)
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
    from reasongenrm.config.loading import section
    from reasongenrm.config.merge import MergeConfig
    from reasongenrm.train.merge import merge

    keys = ("method", "density", "rank", "factors", "base", "seed", "shard_size")
    settings = {key: value for key in keys if (value := getattr(options, key)) is not None}
    if options.weights is not None:
        settings["weights"] = options.weights.split(",")
    out = Path(options.out)
    record = merge(options.inputs, section(MergeConfig, settings, "merge"), out)
    what = f"adapter of rank {record['rank']}" if "rank" in record else "model"
    console.say(f"{out}: {what}, {record['settings']['method']} of {', '.join(options.inputs)}")


def _doctor(options: argparse.Namespace) -> None:
    recipe = _recipe(options)
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

    select(_recipe(options), options.selector or (), options.against)


def _export(options: argparse.Namespace) -> None:
    from reasongenrm.data.export import export

    export(_recipe(options), options.to, Path(options.out) if options.out else None)


def _start_judge(options: argparse.Namespace) -> Judge:
    from reasongenrm.judge.api import Judge

    return Judge.from_recipe(_recipe(options), options.judge)


def _judge(options: argparse.Namespace) -> None:
    from reasongenrm.stages.ask import ask

    ask(options.question, lambda: _start_judge(options), options.source, options.target)


def _serve(options: argparse.Namespace) -> None:
    from reasongenrm.judge.server import serve

    if log := console.log_path():
        console.say(f"log: {log}")
    keys = ("host", "port", "api_key_env", "allow_remote")
    serve(lambda: _start_judge(options), **{key: getattr(options, key) for key in keys})


def _report(options: argparse.Namespace) -> None:
    from reasongenrm.report.run_report import write_report

    console.show(write_report(Path(options.run_folder)))


def _compare(options: argparse.Namespace) -> None:
    from reasongenrm.report.compare import compare_runs

    compare_runs([Path(run) for run in options.run_folders], Path(options.out))


def _generate_answers(options: argparse.Namespace) -> None:
    from reasongenrm.answers.generate import generate
    from reasongenrm.config.loading import load_config
    from reasongenrm.config.scalar import AnswersConfig

    counts = generate(load_config(AnswersConfig, options.config, options.overrides), Path(options.out))
    console.say(f"{options.out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


def _rank_answers(options: argparse.Namespace) -> None:
    from reasongenrm.answers.rank import rank

    keys = ("annotator", "seed", "web", "host", "port", "journal", "api_key_env")
    rank(options.source, options.out, **{key: getattr(options, key) for key in keys})


def _scalar_recipe(options: argparse.Namespace) -> None:
    from reasongenrm.config.loading import load_config
    from reasongenrm.config.scalar import ScalarRecipe
    from reasongenrm.scalar.notebook import execute
    from reasongenrm.stages import scalar

    recipe = load_config(ScalarRecipe, options.config, options.overrides)
    if options.step == "notebook":
        out = recipe.folder / "analyse.ipynb"
        execute(Path("notebooks/analyse.ipynb"), scalar=recipe.folder / "scalar", out=out)
        console.show(out)
    elif options.step == "train":
        scalar.train(recipe, options.redo)
    else:
        scalar.evaluate(recipe)


def _scalar_rows(options: argparse.Namespace) -> None:
    from reasongenrm.stages.scalar import score_rows

    score_rows(options.step, options.model, options.source, options.target, batch_size=options.batch_size)


def _toy(options: argparse.Namespace) -> None:
    from reasongenrm.demo.base import build_base
    from reasongenrm.demo.build import build

    if options.toy == "build":
        build(options.out, pairs=options.pairs, rows=options.rows, seed=options.seed)
    else:
        build_base(Path(options.out), seed=options.seed)


def main(argv: list[str] | None = None) -> int:
    """Run one verb; return 0, 2 for an error that the user can correct, or 141 where a pipe's reader is gone.

    Args:
        argv: the arguments; by default those of this process, whose console is then kept clean until it exits.
    """
    if argv is None:
        console.open_streams()
    try:
        return _run(argv)
    except console.OutputError as error:
        if error.closed_pipe:
            return 141  # as a shell reports a process that died of SIGPIPE
        console.say(f"reasongenrm: {error}")
        return 2


def _run(argv: list[str] | None) -> int:
    parser = _parser()
    # argparse does not find overrides that follow an option.
    options, rest = parser.parse_known_args(argv)
    if rest:
        words = getattr(options, "recipe", getattr(options, "overrides", None))
        if words is None or any(word.startswith("-") for word in rest):
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        words += rest
    if argv is None and options.clean:
        console.redirect_libraries()
    try:
        options.run(options)
        console.stdout().flush()
    except ReasonGenRMError as error:
        note = console.log_note() if isinstance(error, EngineError) else ""
        console.say(f"reasongenrm: {error}{note}")
        return 2
    except OSError as error:
        if not error.filename or error.errno not in USERS_ERRORS:
            raise
        console.say(f"reasongenrm: {error.filename}: {error.strerror} ({write_hint(error)})")
        return 2
    except KeyboardInterrupt:
        console.say("reasongenrm: interrupted; the same command resumes from here")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
