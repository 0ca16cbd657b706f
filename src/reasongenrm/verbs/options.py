"""Options that several verbs share."""

from __future__ import annotations

import argparse
import os
import re
from typing import TYPE_CHECKING, Any

from reasongenrm import console

if TYPE_CHECKING:
    from reasongenrm.config.recipe import Recipe

DEFAULT_RECIPE = "configs/qwen2.5-7b.yaml"


def add_verb(verbs: Any, name: str, text: str, run: Any, *, clean: bool = True) -> argparse.ArgumentParser:
    """Add a verb and the function that runs it; where `clean`, what libraries print goes to a log."""
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    verb.set_defaults(run=run, clean=clean)
    return verb


def count(text: str) -> int:
    """Return the number of an option that takes 1 or more.

    Raises:
        ValueError: it is not such a number; argparse names the option.
    """
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def add_recipe(verb: argparse.ArgumentParser) -> None:
    """Add a recipe of the three stages, and overrides of its keys."""
    verb.add_argument(
        "recipe", nargs="*", metavar="RECIPE|key=value",
        help=f"YAML file, by default $RECIPE or {DEFAULT_RECIPE}; then overrides of its keys, such as model.path=…",
    )  # fmt: skip


def add_config(verb: argparse.ArgumentParser, example: str) -> None:
    """Add the YAML file of a verb with settings of its own, and overrides of its keys."""
    verb.add_argument("config", help=f"YAML file such as {example}")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of its keys")


def add_redo(verb: argparse.ArgumentParser, example: str) -> None:
    """Add `--redo`; the example is a step of the verb."""
    text = f"do a step again, and those that build on it, such as {example}; repeatable; its files move to replaced/"
    verb.add_argument("--redo", action="append", default=[], metavar="STEP", help=text)


def add_dry_run(verb: argparse.ArgumentParser) -> None:
    """Add `--dry-run` to a verb with settings of its own."""
    text = "print the resolved settings, counts, two inputs and the steps; then stop"
    verb.add_argument("--dry-run", action="store_true", help=text)


def add_files(verb: argparse.ArgumentParser) -> None:
    """Add the file that is read, and the one that is written."""
    verb.add_argument("--in", dest="source", default="-", metavar="FILE", help="JSONL; by default stdin")
    verb.add_argument("--out", dest="target", default="-", metavar="FILE", help="JSONL; by default stdout")


def add_replies(verb: argparse.ArgumentParser) -> None:
    """Add the file of replies that a head scores, and the one that is written."""
    rows = "rows of prompt and answer, or of context, message and response; docs/data-format.md"
    verb.add_argument("--in", dest="source", required=True, metavar="FILE", help=rows)
    verb.add_argument("--out", dest="target", required=True, metavar="FILE", help="JSONL")
    verb.add_argument("--batch-size", type=count, default=32, help="replies per forward pass")


def named_recipe(options: argparse.Namespace) -> Recipe:
    """Return the recipe that a command names, else that of $RECIPE, else the default.

    Raises:
        ConfigError: it cannot be read, or is not valid.
    """
    from reasongenrm.config.loading import load_recipe

    path, *overrides = options.recipe or [""]
    if not path or re.match(r"[\w.-]+=", path):  # an override already
        path, overrides = os.environ.get("RECIPE") or DEFAULT_RECIPE, options.recipe
        console.say(f"recipe: {path} ({'from $RECIPE' if os.environ.get('RECIPE') else 'the default'})")
    return load_recipe(path, overrides, limit=getattr(options, "limit", None))
