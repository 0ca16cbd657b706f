"""docs/troubleshooting.md quotes messages that exist: each is a part of a text in the source, `…` standing for a value."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
VALUE = "…"


def quoted(text: str) -> list[str]:
    """Return the messages of a page: the code in the first column of the tables with the heading `message`."""
    tables = re.findall(r"^\| message \|[^\n]*\n\|[- |]+\n((?:\|[^\n]*\n)+)", text, re.MULTILINE)
    return [row.split("|")[1].strip().strip("`") for table in tables for row in table.splitlines()]


def texts(tree: ast.Module) -> Iterator[str]:
    """Yield the strings of a module but its docstrings, with `…` in place of the values of f-strings."""
    skipped = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values]
            skipped |= {part for part in node.values if isinstance(part, ast.Constant)}
            yield "".join(parts)
    yield from (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in skipped
    )


@cache
def source_texts() -> str:
    """Return all strings of the package, one per line."""
    files = sorted((ROOT / "src").rglob("*.py"))
    found = (text for file in files for text in texts(ast.parse(file.read_text(encoding="utf-8"))))
    return "\n".join(re.sub(f"{VALUE}+", VALUE, text.replace("\n", " ")) for text in found)


def exists(message: str) -> bool:
    """Whether a message is a part of a string of the package; values at its ends may be missing there."""
    core = message.strip(VALUE).strip()
    return len(core) >= 8 and core in source_texts()


MESSAGES = quoted(PAGE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_in_the_source(message: str) -> None:
    assert exists(message)


def test_no_message_is_quoted_twice_and_there_are_many() -> None:
    assert max(Counter(MESSAGES).values()) == 1 and len(MESSAGES) >= 40


def test_a_message_that_nobody_writes_is_found() -> None:
    assert not exists("the moon is in the wrong place: …") and not exists("…: a b")


def test_messages_and_values_are_read_from_source() -> None:
    module = ast.parse('"""Doc."""\ndef f(x):\n    raise E(f"{x} is gone: {x}", hint="a" "b")\n')
    assert sorted(texts(module)) == ["ab", "… is gone: …"]
    page = "| message | cause |\n| --- | --- |\n| `… is gone` | x |\n\n| other | a |\n| --- | --- |\n| `no` | x |\n"
    assert quoted(page) == ["… is gone"]
