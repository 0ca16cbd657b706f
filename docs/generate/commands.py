"""Reference of the command line: the help of every verb, as its parser prints it."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator

from reasongenrm.cli import command_parser

WIDTH = 100
"""Characters of a line of help."""


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of its verbs, in the order of the help."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in action.choices.values():
                yield from parsers(verb)


def help_text(parser: argparse.ArgumentParser) -> str:
    """Return the help of a parser in lines of `WIDTH` characters, whatever the terminal's width is."""
    width, os.environ["COLUMNS"] = os.environ.get("COLUMNS"), str(WIDTH)
    try:
        return parser.format_help()
    finally:
        os.environ.pop("COLUMNS")
        if width is not None:
            os.environ["COLUMNS"] = width


def commands_page() -> str:
    """Return the page as Markdown."""
    lines = [
        "# Command line",
        "",
        "Errors that you can correct are one line, with exit code 2. The three scripts call `prepare`, `train` and `evaluate`.",
        "",
    ]
    for parser in parsers(command_parser()):
        lines += [f"## {parser.prog}", "", "```text", help_text(parser).rstrip(), "```", ""]
    return "\n".join(lines)
