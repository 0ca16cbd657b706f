"""Verbs that run a judge, and the one that drafts its rubric: judge, serve, rubric."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reasongenrm import console
from reasongenrm.errors import ConfigError
from reasongenrm.verbs.options import add_files, add_recipe, add_redo, add_verb, named_recipe

if TYPE_CHECKING:
    from reasongenrm.config.recipe import Recipe
    from reasongenrm.judge.api import Judge
    from reasongenrm.service.reward_options import RewardOptions

DEFAULT_DRAFT = "configs/rubric/draft.yaml"
REWARDS_HINT = "give a YAML file with keys such as schedule: circular; see docs/reward.md"


def add_judges(verbs: Any) -> None:
    """Add the verbs of judges."""
    _add_judge(verbs)
    _add_rubric(verbs)


def _add_judge(verbs: Any) -> None:
    """Add the verbs that run a judge."""
    judge = verbs.add_parser("judge", help="judge the rows of a JSONL file or of stdin")
    questions = judge.add_subparsers(dest="question", required=True)
    for name, text in {
        "compare": "name the better of two answers: rows of prompt, a, b",
        "rank": "rank several answers by a round robin: rows of prompt, answers",
        "best": "find the best of several answers by a knockout: rows of prompt, answers",
        "score": "give P(the answer is better than a reference): rows of prompt, answer, reference",
        "rate": "rate an answer from 1 to 10, or by a rubric: rows of prompt, answer",
    }.items():
        question = add_verb(questions, name, text, _judge)
        add_files(question)
        question.add_argument(
            "--rubric", metavar="FILE",
            help="YAML file with `criteria`, each of which is judged alone; a row's own `rubric` or `criteria` come before it",
        )  # fmt: skip
        _add_which_judge(question)
        question.add_argument(
            "--own-engine", action="store_true",
            help="load the judge even where `reasongenrm serve` has loaded the same one, which is asked by default",
        )  # fmt: skip
    serve = add_verb(verbs, "serve", "serve a judge or a scalar head over HTTP", _serve)
    _add_which_judge(serve)
    serve.add_argument("--scalar", metavar="FOLDER", help="serve this trained head, without a recipe")
    serve.add_argument("--host", default="127.0.0.1")
    serve.add_argument("--port", type=int, default=8080)
    serve.add_argument("--api-key-env", metavar="NAME", help="environment variable with the key of clients")
    serve.add_argument("--allow-remote", action="store_true", help="bind to other hosts without a key")
    serve.add_argument(
        "--rewards", metavar="FILE",
        help="YAML file with the settings of rewards: schedule, unread, shaping",
    )  # fmt: skip
    serve.add_argument(
        "--cohort", type=int, metavar="N",
        help="number of samples that a trainer draws for each prompt, up to 64: those that arrive alone wait for the others",
    )  # fmt: skip
    serve.add_argument(
        "--cohort-timeout", type=float, metavar="SECONDS",
        help="judge those that came after this time, by default 120",
    )  # fmt: skip
    serve.add_argument(
        "--response-end", metavar="TEXT", action="append", default=[],
        help="what ends the responses of OpenRLHF and is not judged, such as the policy's <|im_end|>",
    )  # fmt: skip


def _add_which_judge(verb: argparse.ArgumentParser) -> None:
    add_recipe(verb)
    verb.add_argument("--judge", help="its name in the recipe, or base; by default the first")


def _add_rubric(verbs: Any) -> None:
    """Add the verbs that make rubrics."""
    steps = verbs.add_parser("rubric", help="criteria by which answers are judged").add_subparsers(
        dest="step", required=True
    )
    text = (
        "draft a rubric from preference rows: criteria that a model proposes, and that agree with the labels"
    )
    draft = add_verb(steps, "draft", text, _draft_rubric)
    draft.add_argument("rows", metavar="ROWS", help="JSONL, Parquet or hub id: prompt, chosen, rejected")
    draft.add_argument(
        "overrides", nargs="*", metavar="CONFIG|key=value",
        help=f"YAML file, by default {DEFAULT_DRAFT}; then overrides of its keys, such as judge.server.model=…",
    )  # fmt: skip
    draft.add_argument("--out", required=True, metavar="FILE", help="the rubric, a new YAML file")
    draft.add_argument("--dry-run", action="store_true", help="print counts and the first request; then stop")
    add_redo(draft, "selection")


def _start_judge(options: argparse.Namespace, recipe: Recipe) -> Judge:
    from reasongenrm.judge.api import Judge

    return Judge.from_recipe(recipe, options.judge)


def _warm_judge(options: argparse.Namespace, recipe: Recipe) -> Judge | None:
    """Return the judge that a server has loaded; None where none runs, which is quickly known."""
    from reasongenrm.run import SERVERS

    if options.own_engine or not (recipe.folder / SERVERS).is_dir():
        return None
    from reasongenrm.service.warm import ServerNote

    return ServerNote.of_judge(recipe, options.judge).server()


def _judge(options: argparse.Namespace) -> None:
    from reasongenrm.judge.criteria import load_rubric
    from reasongenrm.stages.ask import ask

    rubric = load_rubric(options.rubric) if options.rubric else None

    def start() -> Judge:
        recipe = named_recipe(options)
        return _warm_judge(options, recipe) or _start_judge(options, recipe)

    ask(options.question, start, options.source, options.target, rubric=rubric)


def _reward_options(options: argparse.Namespace) -> RewardOptions:
    from reasongenrm.config.loading import load_config
    from reasongenrm.config.rewards import RewardSettings
    from reasongenrm.service.reward_options import RewardOptions

    settings = RewardSettings()
    if options.rewards is not None:
        settings = load_config(RewardSettings, options.rewards, name="file of rewards", hint=REWARDS_HINT)
    timeout = {} if options.cohort_timeout is None else {"timeout": options.cohort_timeout}
    return RewardOptions(settings, options.cohort, **timeout)


def _serve(options: argparse.Namespace) -> None:
    from reasongenrm.service.head_server import serve_head
    from reasongenrm.service.serve import serve
    from reasongenrm.service.warm import ServerNote

    if log := console.log_path():
        console.say(f"log: {log}")
    keys = {key: getattr(options, key) for key in ("host", "port", "api_key_env", "allow_remote")}
    if options.scalar is None:
        recipe = named_recipe(options)
        if "" in options.response_end:
            hint = "give the text that ends the responses, or leave it out"
            raise ConfigError("an empty text ends nothing", location="--response-end", hint=hint)
        note = ServerNote.of_judge(recipe, options.judge, options.api_key_env)
        keys |= {"ends": tuple(options.response_end), "rewards": _reward_options(options)}
        serve(lambda: _start_judge(options, recipe), **keys, note=note)
        return
    if options.recipe or options.judge:
        hint = "leave out the recipe and --judge, or --scalar"
        raise ConfigError("a head needs no recipe", location="--scalar", hint=hint)
    of_judges = (options.rewards, options.cohort, options.cohort_timeout, options.response_end or None)
    if any(value is not None for value in of_judges):
        hint = "leave out --rewards, --cohort and --response-end, or serve a judge: a head scores each sample alone"
        raise ConfigError("a head compares no samples", location="--scalar", hint=hint)
    serve_head(options.scalar, **keys)


def _draft_rubric(options: argparse.Namespace) -> None:
    from reasongenrm.config.draft import RubricDraft
    from reasongenrm.config.loading import load_config
    from reasongenrm.stages.draft import draft

    path, *overrides = options.overrides or [DEFAULT_DRAFT]
    if re.match(r"[\w.-]+=", path):  # an override already
        path, overrides = DEFAULT_DRAFT, options.overrides
    settings = load_config(RubricDraft, path, overrides)
    draft(options.rows, settings, Path(options.out), redo=options.redo, dry_run=options.dry_run)
