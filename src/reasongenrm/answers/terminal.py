"""Rank answers in a terminal: one line of input per prompt."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any

from reasongenrm.answers.journal import StaleItem
from reasongenrm.answers.session import RankingSession
from reasongenrm.answers.table import PromptAnswers
from reasongenrm.errors import ConfigError, DataError, ReasonGenRMError

HELP = (
    "Type the numbers of the answers, the best first, with = between equally good ones: 3 1=2 4. "
    "s skips the prompt (it comes again at the end), u undoes the last ranking or skip, "
    "q quits (all rankings are kept), ? shows this help."
)
INPUT_PROMPT = "best first (3 1=2 4), s skip, u undo, q quit, ? help: "

# Unicode's pictures of the controls (␛ for an escape), then the code of other controls, of line separators that a
# terminal may act on, and of controls of the text direction.
_VISIBLE = {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"} | {0x7F: "␡"}
_RANGES = (range(0x80, 0xA0), range(0x2028, 0x202F), range(0x2066, 0x206A))
_VISIBLE |= {code: f"‹U+{code:04X}›" for codes in _RANGES for code in codes}


def visible(text: str) -> str:
    """Return a text whose control characters and bidi overrides are replaced by visible signs.

    New lines and tabs are kept; a Windows line end becomes a new line.
    """
    return text.replace("\r\n", "\n").translate(_VISIBLE)


def parse_ranking(text: str) -> list[list[int]]:
    """Return the groups of a line such as `3 1=2 4`, the best first.

    Raises:
        ConfigError: a part is not a number.
    """
    hint = "example: 3 1=2 4; ? for help"
    groups = re.sub(r"\s*=\s*", "=", text).split()
    for number in (part for group in groups for part in group.split("=")):
        if not number:
            raise ConfigError("a tie (=) needs an answer on both sides", location="ranking", hint=hint)
        if not re.fullmatch("[0-9]{1,6}", number):
            problem = f"{visible(number)[:40]!r} is not the number of an answer"
            raise ConfigError(problem, location="ranking", hint=hint)
    return [[int(number) for number in group.split("=")] for group in groups]


def _read_line(question: str) -> str:
    line = input(question)
    if not sys.stdin.isatty():
        print()  # the input has no visible line end
    return line


def rank_in_terminal(
    session: RankingSession,
    *,
    console: Any = None,
    ask: Callable[[str], str] = _read_line,
    changed: Callable[[], None] = lambda: None,
) -> None:
    """Ask for rankings until the annotator quits or input ends.

    Args:
        session: of the annotator.
        console: a rich console; standard output if not given.
        ask: shows a text and returns a line; raises EOFError at the end of the input.
        changed: called after every ranking, skip and undo.

    Raises:
        ConfigError, DataError: the journal cannot be used, or the input is not UTF-8.
    """
    from rich.console import Console

    console = console or Console(highlight=False)
    question = session.current
    _show(console, session, question)
    while True:
        try:
            typed = ask(INPUT_PROMPT).strip()
        except EOFError:
            console.print()  # end the line of the input prompt
            return
        except UnicodeDecodeError:
            raise DataError("the input is not UTF-8", location="stdin", hint="set LANG=C.UTF-8") from None
        if typed.lower() == "q" or (not typed and question is None):
            return
        if not typed or typed == "?":
            _say(console, HELP)
            continue
        if _execute(console, session, question, typed):
            changed()
            question = session.current
            _show(console, session, question)


def _execute(console: Any, session: RankingSession, question: PromptAnswers | None, typed: str) -> bool:
    """Execute one line; print its error and return False if nothing changed."""
    prompt = question.id if question else None
    try:
        if typed.lower() == "u":
            session.undo()
        elif typed.lower() == "s":
            session.skip(item=prompt)
        else:
            session.rank(parse_ranking(typed), prompt=prompt)
    except StaleItem as error:  # the same annotator also works elsewhere
        _say(console, str(error))
        return True
    except DataError:  # of the journal, not of the line
        raise
    except ReasonGenRMError as error:
        _say(console, str(error))
        return False
    return True


def _say(console: Any, text: str) -> None:
    console.print(visible(text), markup=False, emoji=False, highlight=False, soft_wrap=True)


def _show(console: Any, session: RankingSession, question: PromptAnswers | None) -> None:
    """Show a prompt and its answers, or that all are ranked."""
    from rich.panel import Panel
    from rich.rule import Rule
    from rich.text import Text

    console.print(Rule(Text(f"{visible(session.annotator)}: {session.progress.text('ranked')}")))
    if question is None:
        _say(console, "All prompts are ranked: q quits, u undoes the last ranking.")
        return
    # Text, never markup: a model's answer is data.
    for turn in question.history:
        console.print(
            Panel(Text(visible(turn["content"])), title=Text(visible(turn["role"])), border_style="cyan")
        )
    for number, answer in enumerate(question.answers, 1):
        console.print(Panel(Text(visible(answer.text)), title=Text(f"answer {number}"), title_align="left"))
