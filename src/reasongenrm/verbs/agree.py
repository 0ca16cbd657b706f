"""Verbs that compare judges with people: agree, rationale."""

from __future__ import annotations

import argparse
import re
from typing import Any

from reasongenrm.errors import ConfigError
from reasongenrm.verbs.options import add_redo, add_verb

FAILED_GATE = 1
"""Exit code where a judge is below the gate."""


def add_agreement(verbs: Any) -> None:
    """Add the verbs."""
    _add_agree(verbs)
    text = "measure how many of people's points the reasons of a run's judges contain, by a second judge"
    rationale = add_verb(verbs, "rationale", text, _rationale)
    rationale.add_argument("run_folder", metavar="RUN", help="run folder of a finished stage 3")
    rationale.add_argument("--benchmark", default="helpsteer3", help="its name in the run (%(default)s)")
    rationale.add_argument(
        "--model", required=True, metavar="NAME", help="the second judge, as its server calls it"
    )
    rationale.add_argument(
        "--server",
        required=True,
        metavar="URL",
        help="chat API of an OpenAI-compatible server, or: anthropic",
    )
    rationale.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable with the key of the server"
    )
    rationale.add_argument(
        "--prompt",
        default="configs/rubric/matching.jinja",
        metavar="FILE",
        help="wording of the request (%(default)s)",
    )


def _add_agree(verbs: Any) -> None:
    text = "measure how well people agree with each other, and a judge with people"
    verb = add_verb(verbs, "agree", text, _agree)
    verb.add_argument(
        "labels", metavar="LABELS", help="JSONL, CSV, Parquet or hub id: prompt, a, b (or answer), labels"
    )
    verb.add_argument(
        "recipe", nargs="*", metavar="RECIPE|key=value", help="recipe of the judge; then overrides of its keys, or of the model's"
    )  # fmt: skip
    verb.add_argument("--out", required=True, metavar="FOLDER", help="where verdicts and reports are written")
    verb.add_argument(
        "--columns", nargs="+", action="extend", default=[], metavar="OURS=THEIRS",
        help="names of the columns, such as prompt=instruction,input a=response1 labels=ann,ben",
    )  # fmt: skip
    judge = verb.add_argument_group(
        "judges", "The column `judges` of the rows, these files, and one judge that judges now."
    )
    judge.add_argument(
        "--verdicts", action="append", default=[], metavar="NAME=FILE", help="written by `judge compare` or `judge rate`"
    )  # fmt: skip
    judge.add_argument("--judge", help="name in the recipe, or base; by default the first")
    judge.add_argument("--model", metavar="ID", help="chat model: hub id, folder, or its name on the server")
    judge.add_argument("--adapter", metavar="FOLDER", help="LoRA adapter of a judge on this model")
    judge.add_argument(
        "--server", metavar="URL", help="chat API of an OpenAI-compatible server, or: anthropic"
    )
    judge.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable with the key of the server"
    )
    judge.add_argument(
        "--rubric", metavar="FILE", help="YAML file with `criteria`, each of which is judged alone"
    )
    judge.add_argument("--name", help="name of this judge in the tables")
    judge.add_argument(
        "--pass-score", type=float, default=0.5, metavar="X", help="score in [0, 1] from which on a single answer passes (%(default)s)"
    )  # fmt: skip
    gate = verb.add_argument_group("gate", f"Exit code {FAILED_GATE} where a judge fails.")
    gate.add_argument("--min-kappa", type=float, metavar="X", help="least kappa with people's majority")
    gate.add_argument("--baseline", metavar="FILE", help="agreement.json of an earlier call")
    gate.add_argument(
        "--max-drop", type=float, default=0.05, metavar="X", help="most by which kappa may be below the baseline's (%(default)s)"
    )  # fmt: skip
    verb.add_argument("--seed", type=int, default=17, help="of the intervals (%(default)s)")
    add_redo(verb, "verdicts.NAME")


def _agree(options: argparse.Namespace) -> int:
    from reasongenrm.config.agree import AgreeConfig
    from reasongenrm.config.loading import validate
    from reasongenrm.stages.agree import agree

    judge, name = _judge(options)
    values = {
        "labels": options.labels, "out": options.out, "columns": options.columns, "verdicts": _verdicts(options.verdicts),
        "judge": judge, "judge_name": options.name or name, "rubric": options.rubric, "pass_score": options.pass_score,
        "gate": {"min_kappa": options.min_kappa, "baseline": options.baseline, "max_drop": options.max_drop},
        "seed": options.seed,
    }  # fmt: skip
    config = validate(AgreeConfig, values, "agree: ", "see reasongenrm agree --help")
    return 0 if agree(config, options.redo) else FAILED_GATE


def _rationale(options: argparse.Namespace) -> None:
    from pathlib import Path

    from pydantic import TypeAdapter

    from reasongenrm.config.engines import APIConfig
    from reasongenrm.config.models import server_keys
    from reasongenrm.stages.rationale import rationale

    keys = server_keys(options.server, options.model, options.api_key_env)
    server = TypeAdapter(APIConfig).validate_python(keys)
    rationale(Path(options.run_folder), options.benchmark, server, options.prompt)


def _verdicts(words: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        name, equals, path = word.partition("=")
        if not (name and equals and path) or name in found:
            problem = f"two files are called {name!r}" if name in found else f"not NAME=FILE: {word!r}"
            raise ConfigError(problem, location="--verdicts", hint="write NAME=FILE, each name once")
        found[name] = path
    return found


def _judge(options: argparse.Namespace) -> tuple[dict[str, Any] | None, str | None]:
    """Return the settings of the judge that judges now, and its name; None where there is none.

    Raises:
        ConfigError: options of a recipe and of a model together, or options of a judge without one.
    """
    from reasongenrm.config.agree import AnyJudge
    from reasongenrm.config.loading import overridden
    from reasongenrm.config.models import row_name, server_keys

    words = list(options.recipe)
    path = words.pop(0) if words and not re.match(r"[\w.-]+=", words[0]) else None
    if path is not None and options.model is not None:
        raise ConfigError("a recipe names its model itself", location="--model", hint="leave out one of them")
    if path is not None:
        return {
            "recipe": {"recipe": path, "overrides": words, "name": options.judge}
        }, options.judge or _first(path, words)
    if options.model is None:
        unused = [
            o for o in ("judge", "adapter", "server", "api_key_env", "rubric", "name") if getattr(options, o)
        ]
        if unused or words:
            location = f"--{unused[0].replace('_', '-')}" if unused else words[0]
            raise ConfigError("no judge is named", location=location, hint="give a recipe, or --model ID")
        return None, None
    if options.judge is not None:
        raise ConfigError("it needs a recipe", location="--judge", hint="leave it out, or --model")
    raw: dict[str, Any] = {"adapter": options.adapter}
    if options.server is not None:
        raw["other"] = {"server": server_keys(options.server, options.model, options.api_key_env)}
    else:
        raw["model"] = options.model
    judge = overridden(AnyJudge, raw, words, "agree: ", "see reasongenrm agree --help")
    return judge.model_dump(mode="json"), row_name(options.adapter or options.model)


def _first(path: str, overrides: list[str]) -> str:
    from reasongenrm.config.own_judge import OwnJudge

    return OwnJudge(recipe=path, overrides=overrides).load()[1]
