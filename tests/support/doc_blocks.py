"""Code blocks and inline code of the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]

_PART = re.compile(
    r"^(?P<marks>#{1,4}) (?P<heading>[^\n]+)$"
    r"|^(?P<indent> *)(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)(?P=fence)$",
    re.MULTILINE | re.DOTALL,
)


class CodeBlock(NamedTuple):
    """A fenced block, and the heading above it.

    Attributes:
        page: path from the repository's root.
        line: of the fence.
        heading: the nearest one above; empty before the first.
        language: the word after the fence.
        code: its lines, without the fence's indentation.
    """

    page: str
    line: int
    heading: str
    language: str
    code: str

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.page}:{self.line}"


def pages() -> list[Path]:
    """Return the pages whose code is checked: those of `docs/`, and the others that a reader starts from."""
    others = [
        ROOT / name for name in ("README.md", "SECURITY.md", "data/README.md", "examples/tutor/README.md")
    ]
    return [*others, *sorted((ROOT / "docs").rglob("*.md"))]


def code_blocks(page: Path) -> list[CodeBlock]:
    """Return the blocks of a page, in their order."""
    text, name = page.read_text(encoding="utf-8"), str(page.relative_to(ROOT))
    blocks, heading = [], ""
    for match in _PART.finditer(text):
        if match["heading"]:
            heading = match["heading"]
            continue
        code = re.sub(f"^{match['indent']}", "", match["code"], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start()) + 1
        blocks.append(CodeBlock(name, line, heading, match["language"].strip(), code))
    return blocks


def all_blocks(*languages: str) -> list[CodeBlock]:
    """Return the blocks of all pages, or those in some languages."""
    blocks = [block for page in pages() for block in code_blocks(page)]
    return [block for block in blocks if not languages or block.language in languages]


def inline_code(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the inline code of a page outside its blocks, each with its place."""
    name = page.relative_to(ROOT)
    text = _PART.sub(
        lambda part: re.sub(r"[^\n]", "", part[0]) if part["fence"] else part[0],
        page.read_text(encoding="utf-8"),
    )
    for match in re.finditer(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", text):
        yield f"{name}:{text.count(chr(10), 0, match.start()) + 1}", " ".join(match[1].split())


def replaced(code: str, values: dict[str, str]) -> str:
    """Return code with other names of models and servers."""
    for old, new in values.items():
        code = code.replace(old, new)
    return code
