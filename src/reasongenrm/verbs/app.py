"""The verb of the local web page: app."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from reasongenrm import console
from reasongenrm.errors import ConfigError
from reasongenrm.verbs.options import add_recipe, add_verb, named_recipe


def add_app(verbs: Any) -> None:
    """Add the verb of the page."""
    text = "serve a local web page: try a judge, rank answers, label pairs, browse runs"
    app = add_verb(verbs, "app", text, _serve_page)
    add_recipe(app)
    app.add_argument(
        "--judge", metavar="NAME", help="judge that loads at the start; by default the recipe's first"
    )
    app.add_argument("--runs", default="runs", metavar="FOLDER", help="folder of the run folders")
    app.add_argument("--answers", metavar="FILE", help="answers to rank, CSV or JSONL; needs --out")
    app.add_argument("--out", metavar="FILE", help="ranked answers, CSV or JSONL")
    app.add_argument("--pairs", metavar="FILE", help="pairs to label, JSONL; needs --labels")
    app.add_argument("--labels", metavar="FILE", help="labels, JSONL")
    app.add_argument(
        "--verdicts", metavar="FILE", help="a judge's verdicts on the pairs, shown after each label"
    )
    app.add_argument("--annotator", default="", metavar="NAME", help="first value of the fields for a name")
    app.add_argument("--host", default="127.0.0.1")
    app.add_argument("--port", type=int, default=0, help="by default a free one")
    app.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key of the page")


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _serve_page(options: argparse.Namespace) -> None:
    from reasongenrm.app.server import serve
    from reasongenrm.app.sources import AppSources
    from reasongenrm.serving import is_loopback

    for first, second in (("answers", "out"), ("pairs", "labels")):
        if (getattr(options, first) is None) != (getattr(options, second) is None):
            missing = second if getattr(options, second) is None else first
            raise ConfigError(
                "the option is missing", location=f"--{missing}", hint=f"give --{first} and --{second}"
            )
    if options.verdicts and not options.pairs:
        hint = "give --pairs and --labels, too"
        raise ConfigError("there are no pairs to label", location="--verdicts", hint=hint)
    if log := console.log_path():
        console.say(f"log: {log}")
    sources = AppSources(
        recipe=named_recipe(options) if options.recipe or options.judge else None,
        judge=options.judge,
        runs=Path(options.runs),
        answers=_path(options.answers),
        ranks=_path(options.out),
        pairs=_path(options.pairs),
        labels=_path(options.labels),
        verdicts=_path(options.verdicts),
        local=is_loopback(options.host),
        annotator=options.annotator,
    )
    serve(sources, options.host, options.port, api_key_env=options.api_key_env)
