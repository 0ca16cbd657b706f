"""The command line: each verb is one function, imported when it is called."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from reasongenrm.errors import ReasonGenRMError

STAGES = {
    "prepare": ("reasongenrm.stages.prepare", "pairs to judge prompts, reasons and training records"),
    "train": ("reasongenrm.stages.train", "the judges and the scalar head"),
    "evaluate": ("reasongenrm.stages.evaluate", "the benchmark: one table for all models"),
}


SELECTORS = (
    "rstar",
    "random_correct",
    "longest_correct",
    "shortest_correct",
    "max_p_verdict",
    "self_consistency",
)
"""As in `recipe_data.Selector`, which is not imported for the sake of a quick `--help`."""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="reasongenrm", description="Generative reasoning reward models.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, (_, text) in STAGES.items():
        stage = verbs.add_parser(verb, help=text, description=text)
        stage.add_argument("recipe", help="a YAML file in configs/")
        stage.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of the recipe")
        stage.add_argument("--limit", type=int, help="use only the first N rows")
        stage.add_argument(
            "--dry-run", action="store_true", help="print recipe, row counts and two prompts; then stop"
        )
    _add_selection(verbs)
    _add_judge(verbs)
    _add_answers(verbs)
    _add_scalar(verbs)
    toy = verbs.add_parser("toy", help="the toy world of the demo").add_subparsers(dest="toy", required=True)
    build = toy.add_parser("build", help="toy pairs, toy benchmark and a tiny DistilBERT")
    build.add_argument("--out", default="build/toy")
    build.add_argument("--pairs", type=int, default=700, help="training pairs per family")
    build.add_argument("--rows", type=int, default=100, help="benchmark rows per family")
    build.add_argument("--seed", type=int, default=17)
    base = toy.add_parser("base", help="pretrain the toy base anew (about an hour on one core)")
    base.add_argument("--out", required=True)
    base.add_argument("--seed", type=int, default=17)
    return parser


def _add_selection(verbs: Any) -> None:
    """The verbs that work on what stage 1 has written."""
    select = verbs.add_parser("select", help="what other selectors would keep of the scored reasons")
    export = verbs.add_parser("export", help="the records in another trainer's layout")
    for verb in (select, export):
        verb.add_argument("recipe", help="a YAML file in configs/")
        verb.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of the recipe")
    select.add_argument(
        "--selector", action="append", choices=SELECTORS, help="may be repeated; all of them if not given"
    )
    select.add_argument(
        "--against", choices=SELECTORS, help="whose choice to compare with; the recipe's if not given"
    )
    export.add_argument("--to", required=True, choices=("trl", "llamafactory", "openrlhf", "plain"))
    export.add_argument("--out", help="folder; runs/<name>/export/<layout> if not given")


def _add_judge(verbs: Any) -> None:
    """The verbs that ask a judge, and those that look at what judges have said."""
    judge = verbs.add_parser("judge", help="ask a judge about the rows of a JSONL file, or of stdin")
    serve = verbs.add_parser("serve", help="a judge over HTTP")
    asked = judge.add_subparsers(dest="question", required=True)
    rows = {
        "compare": "which of two answers is better: rows of prompt, a, b",
        "rank": "several answers, by a round robin: rows of prompt, answers",
        "best": "the best of several answers, by a knockout: rows of prompt, answers",
        "score": "P(the answer is better than a reference): rows of prompt, answer, reference",
    }
    for verb in [asked.add_parser(name, help=text, description=text) for name, text in rows.items()]:
        verb.add_argument(
            "--in", dest="source", default="-", metavar="FILE", help="JSONL; stdin if not given"
        )
        verb.add_argument(
            "--out", dest="target", default="-", metavar="FILE", help="JSONL; stdout if not given"
        )
        _add_which(verb)
    _add_which(serve)
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8080)
    serve.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable that holds the clients' key"
    )
    serve.add_argument("--allow-remote", action="store_true", help="bind to other hosts without a key")
    report = verbs.add_parser("report", help="write a run's report anew, from its files")
    report.add_argument("run", help="a run folder")
    compare = verbs.add_parser("compare", help="runs side by side, with paired significance")
    compare.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders; the others are compared with the first"
    )
    compare.add_argument("--out", help="folder for compare.md and compare.html; runs/compare if not given")


def _add_answers(verbs: Any) -> None:
    """The verbs that collect ranked answers."""
    answers = verbs.add_parser("answers", help="answers to prompts, and people's ranks of them")
    steps = answers.add_subparsers(dest="step", required=True)
    text = "several answers of a model to each prompt of a YAML file"
    generate = steps.add_parser("generate", help=text, description=text)
    generate.add_argument("config", help="a YAML file such as configs/answers/phi-2.yaml")
    generate.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of that file")
    generate.add_argument("--out", required=True, metavar="FILE", help="JSONL")
    text = "rank answers in the terminal, or on a local web page"
    rank = steps.add_parser("rank", help=text, description=text)
    rank.add_argument("source", help="answers, CSV or JSONL")
    rank.add_argument("--out", required=True, metavar="FILE", help="ranked answers, CSV or JSONL")
    rank.add_argument("--annotator", metavar="NAME", help="who ranks; on the web page each says so")
    rank.add_argument("--seed", type=int, default=17, help="of the order in which answers are shown")
    rank.add_argument("--web", action="store_true", help="serve a page instead of asking here")
    rank.add_argument("--host", default="127.0.0.1")
    rank.add_argument("--port", type=int, default=0, help="a free one if not given")
    rank.add_argument("--api-key-env", metavar="NAME", help="environment variable that holds the page's key")
    rank.add_argument("--journal", metavar="FILE", help="every step taken; <out>.journal.jsonl if not given")


def _add_scalar(verbs: Any) -> None:
    """The verbs of the classic reward model."""
    scalar = verbs.add_parser("scalar", help="the classic reward model: one number per answer")
    steps = scalar.add_subparsers(dest="step", required=True)
    for name, text in (
        ("train", "a head, from ranked answers or pairs"),
        ("evaluate", "how a trained head's scores agree with ranks"),
        ("notebook", "run notebooks/analyse.ipynb with a trained head"),
    ):
        step = steps.add_parser(name, help=text, description=text)
        step.add_argument("config", help="a YAML file such as configs/scalar/distilbert.yaml")
        step.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of that file")
    for name, text in (
        ("score", "one number each: rows of prompt, answer"),
        ("best", "the best of several answers: rows of prompt, answers"),
        ("rank", "several answers in order: rows of prompt, answers"),
    ):
        step = steps.add_parser(name, help=text, description=text)
        step.add_argument("model", help="folder of a trained head")
        step.add_argument(
            "--in", dest="source", default="-", metavar="FILE", help="JSONL; stdin if not given"
        )
        step.add_argument(
            "--out", dest="target", default="-", metavar="FILE", help="JSONL; stdout if not given"
        )
        step.add_argument("--batch-size", type=int, default=32, help="answers per forward pass")


def _add_which(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("recipe", help="a YAML file in configs/ whose judge is trained")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="dotted keys of the recipe")
    verb.add_argument("--judge", help="its name in the recipe, or base; the first one if not given")


def _started(options: argparse.Namespace) -> Any:
    from reasongenrm.config.loading import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    import_module("reasongenrm.console").quiet_libraries()
    return import_module("reasongenrm.judge.api").Judge.from_recipe(recipe, options.judge)


def _judge(options: argparse.Namespace) -> None:
    ask = import_module("reasongenrm.stages.ask").ask
    ask(options.question, lambda: _started(options), options.source, options.target)


def _serve(options: argparse.Namespace) -> None:
    serve = import_module("reasongenrm.judge.server").serve
    serve(
        lambda: _started(options),
        host=options.host,
        port=options.port,
        api_key_env=options.api_key_env,
        allow_remote=options.allow_remote,
    )


def _report(options: argparse.Namespace) -> None:
    print(import_module("reasongenrm.report.run_report").write_report(Path(options.run)))


def _compare(options: argparse.Namespace) -> None:
    out = Path(options.out or "runs/compare")
    import_module("reasongenrm.report.compare").compare_runs([Path(run) for run in options.runs], out)


def _answers(options: argparse.Namespace) -> None:
    if options.step == "rank":
        given = {k: v for k, v in vars(options).items() if k not in ("verb", "step")}
        import_module("reasongenrm.answers.rank").rank(**given)
        return
    from reasongenrm.config.loading import load_config
    from reasongenrm.config.scalar import AnswersConfig

    config = load_config(AnswersConfig, options.config, options.overrides)
    progress = import_module("reasongenrm.console")
    progress.quiet_libraries()
    told = import_module("reasongenrm.answers.generate").generate(config, Path(options.out))
    progress.say(f"{options.out}: " + ", ".join(f"{count} {name}" for name, count in told.items()))


def _scalar(options: argparse.Namespace) -> None:
    import_module("reasongenrm.console").quiet_libraries()
    if options.step in ("score", "best", "rank"):
        rows = import_module("reasongenrm.stages.scalar")
        rows.score_rows(
            options.step, options.model, options.source, options.target, batch_size=options.batch_size
        )
        return
    from reasongenrm.config.loading import load_config
    from reasongenrm.config.scalar import ScalarRecipe

    recipe = load_config(ScalarRecipe, options.config, options.overrides)
    if options.step == "notebook":
        out = recipe.folder / "analyse.ipynb"
        module = import_module("reasongenrm.scalar.notebook")
        module.execute(Path("notebooks/analyse.ipynb"), scalar=recipe.folder / "scalar", out=out)
        print(out)
        return
    getattr(import_module("reasongenrm.stages.scalar"), options.step)(recipe)


def _select(options: argparse.Namespace) -> None:
    from reasongenrm.config.loading import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    module = import_module("reasongenrm.stages.selection")
    module.select(recipe, options.selector or (), options.against)


def _export(options: argparse.Namespace) -> None:
    from reasongenrm.config.loading import load_recipe

    recipe = load_recipe(options.recipe, options.overrides)
    module = import_module("reasongenrm.data.export")
    module.export(recipe, options.to, Path(options.out) if options.out else None)


def _stage(options: argparse.Namespace) -> None:
    from reasongenrm.config.loading import load_recipe

    recipe = load_recipe(options.recipe, options.overrides, limit=options.limit)
    import_module("reasongenrm.console").quiet_libraries()
    if options.dry_run:
        import_module("reasongenrm.stages.preview").preview(recipe, options.verb)
        return
    module = import_module(STAGES[options.verb][0])
    getattr(module, options.verb)(recipe)


def _toy(options: argparse.Namespace) -> None:
    module = import_module("reasongenrm.demo.build")
    if options.toy == "build":
        module.build(options.out, pairs=options.pairs, rows=options.rows, seed=options.seed)
    else:
        module.base(options.out, seed=options.seed)


VERBS = {
    "toy": _toy,
    "select": _select,
    "export": _export,
    "judge": _judge,
    "answers": _answers,
    "scalar": _scalar,
    "serve": _serve,
    "report": _report,
    "compare": _compare,
}


def main(argv: list[str] | None = None) -> int:
    """Run one verb; return 0, or 2 for an error the user can mend."""
    parser = _parser()
    # Overrides may stand behind an option as well, where argparse does not look for them.
    options, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(options, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        if rest:
            options.overrides += rest
        VERBS.get(options.verb, _stage)(options)
    except ReasonGenRMError as error:
        print(f"reasongenrm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("reasongenrm: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
