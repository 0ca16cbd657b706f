"""Ranking in a terminal: what is typed, what is said of it, and that no text of a model steers the terminal."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

import reasongenrm
from reasongenrm.answers.session import RankingSession
from reasongenrm.answers.table import PromptAnswers, read_answers
from reasongenrm.answers.terminal import parse_ranking, rank_in_terminal, visible
from reasongenrm.errors import ConfigError, DataError

pytestmark = pytest.mark.unit

SOURCE = Path(reasongenrm.__file__).parents[1]
EVIL = "[bold red]x[/] [/nothing] :smile: \x1b[2J\x1b]0;pwned\x07 a\u202eb \x9b31m \r\x7f\x00"


def write_answers(folder: Path, *texts: str, prompts: int = 2) -> tuple[PromptAnswers, ...]:
    file = folder / "in.jsonl"
    rows = [
        {"prompt": f"prompt {n}" + texts[0] * (n == 0), "answer": text, "model": "secret-model"}
        for n in range(prompts)
        for text in texts
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_answers(str(file)).prompts


class Terminal:
    """A session with what was typed beforehand, and all that was shown."""

    def __init__(self, folder: Path, *texts: str, prompts: int = 2) -> None:
        self.session = RankingSession(write_answers(folder, *texts, prompts=prompts), folder / "j", "ann")
        self.out = io.StringIO()
        self.changes = 0

    def type(self, *typed: str, colours: bool = False) -> str:
        begin = self.out.tell()
        console = Console(file=self.out, width=100, force_terminal=colours or None, highlight=False)
        left: Iterator[str] = iter(typed)

        def ask(question: str) -> str:
            self.out.write(question)
            for line in left:
                return line
            raise EOFError

        rank_in_terminal(self.session, console=console, ask=ask, changed=self.changed)
        return self.out.getvalue()[begin:]

    def changed(self) -> None:
        self.changes += 1


def test_skip_rank_undo_and_help(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "one", "two", "three")
    output = terminal.type("s", " 3 1=2 ", "u", "u", "?", "2 = 1 3", "1 2 3", "never read"[:0])
    assert terminal.session.progress.done == 2 and terminal.changes == 6
    orders = [entry.order for entry in terminal.session.journal.read() if entry.kind == "rank"]
    assert [[len(group) for group in order] for order in orders] == [[1, 2], [2, 1], [1, 1, 1]]
    for text in ("ann: 0 of 2 ranked", "0 of 2 ranked, 1 skipped", "ann: 2 of 2 ranked", "answer 3", "user"):
        assert text in output, text
    assert "All prompts are ranked" in output and "= between equally good" in output
    assert "secret-model" not in output


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("1 2", "not ranked: answer 3 (give each of 1 to 3 once, the best first)"),
        ("1 2 3 4", "there is no answer 4"),
        ("1 1 2 3", "answer 1 is repeated"),
        ("1 2 x", "'x' is not the number"),
        ("1= 2 3 =", "a tie (=) needs an answer on both sides"),
        ("1,2,3", "'1,2,3' is not the number"),
        ("-1 2 3", "'-1' is not the number"),
        ("٣ 1 2", "is not the number"),
        ("1 2 \x1b[2J", "is not the number"),
        ("u", "there is nothing to undo"),
        ("", "u undoes"),
    ],
)
def test_an_invalid_line_gets_a_message_and_a_new_input_prompt(
    tmp_path: Path, typed: str, message: str
) -> None:
    terminal = Terminal(tmp_path, "one", "two", "three")
    answer = terminal.type(typed, "q").split("? help: ")[1]
    assert message in answer and answer.count("\n") == 1 and "\x1b" not in answer
    assert terminal.changes == 0 and not terminal.session.can_undo


def test_quitting_and_the_end_of_input_keep_the_rankings(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "one", "two")
    terminal.type("1 2", "q", "2 1")
    assert terminal.session.progress.done == 1
    assert "1 of 2 ranked" in terminal.type()
    terminal.type("2 1", "", "u")
    assert terminal.session.progress.done == 2, "an empty line ends it when all is ranked"


@pytest.mark.parametrize("colours", [False, True])
def test_texts_are_shown_and_do_nothing(tmp_path: Path, colours: bool) -> None:
    terminal = Terminal(tmp_path, EVIL, "fine " + EVIL, prompts=1)
    output = terminal.type("1 2", colours=colours)
    for text in ("[bold red]x[/] [/nothing] :smile: ␛[2J␛]0;pwned␇ a‹U+202E›b ‹U+009B›31m ␍␡␀",):
        assert output.count(text) == 3
    assert not set("\x07\u202e\x9b\r\x7f\x00") & set(output)
    assert "\x1b" not in output if not colours else "\x1b[2J" not in output and "\x1b]" not in output


@given(st.text())
def test_nothing_visible_steers(text: str) -> None:
    output = visible(text)
    assert all(c in "\n\t" or (c >= " " and not "\x7f" <= c < "\xa0") for c in output)
    assert visible(output) == output
    assert visible("a\r\nb\tc é 😀 שלום") == "a\nb\tc é 😀 שלום"


@given(st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=4), max_size=5))
def test_a_line_says_its_groups(groups: list[list[int]]) -> None:
    for tie in ("=", " = ", "= "):
        assert parse_ranking("  ".join(tie.join(map(str, group)) for group in groups)) == groups
    with pytest.raises(ConfigError):
        parse_ranking("1 ==2")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, "one", "two")

    def ask(_: str) -> str:
        return b"\xff".decode("utf-8")

    with pytest.raises(DataError, match="not UTF-8"):
        rank_in_terminal(terminal.session, console=Console(file=terminal.out), ask=ask)


def test_piped_input_of_a_process(tmp_path: Path) -> None:
    write_answers(tmp_path, "one", "two", prompts=3)
    code = "import sys; from reasongenrm.answers.rank import rank; rank(*sys.argv[1:3], annotator='ann')"
    command = [sys.executable, "-c", code, str(tmp_path / "in.jsonl"), str(tmp_path / "out.csv")]
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    for typed, ranked in (("1 2\n", 1), ("1=2\n7\n2 1", 3)):
        done = subprocess.run(
            command, input=typed.encode(), capture_output=True, env=environment, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        assert done.stdout.decode().splitlines()[-1].endswith(f"3 prompts; ranked by ann {ranked}")
