"""The tabs Rank and Label without a browser: what their functions put on the page."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

EVIL = (
    "<img src=x onerror=\"document.title='pwned'\"><script>document.title='pwned'</script>\u202e&lt;b&gt;"
    "{{value}} ${7*7} @children {{#each value}}x{{/each}} **bold** [x](javascript:alert(1)) \x1b[2J"
)
"""A text that is markup, a template, Markdown and terminal control at once; a page shows it as text."""

SHOWN_EVIL = EVIL.replace("\u202e", "\\u202e").replace("\x1b", "\\u001b")
"""How the page shows it."""


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Shown:
    """What a function of a tab changes: component id without the tab's name -> its text, as a person reads it.

    Args:
        tab: the tab.
        updates: what its function returned.
    """

    def __init__(self, tab: Any, updates: dict[Any, Any]) -> None:
        ids = {component: (component.elem_id or "").partition("-")[2] for component in updates}
        self.updates = {ids[component]: value for component, value in updates.items() if ids[component]}

    def __getitem__(self, name: str) -> str:
        return text_of(self.updates[name])

    def __contains__(self, name: str) -> bool:
        return name in self.updates


def text_of(html: str) -> str:
    """Return the text of a piece of HTML, in which only our own tags and attributes occur."""
    parser = _Text()
    parser.feed(html)
    parser.close()
    return "".join(parser.texts)


class _Text(HTMLParser):
    TAGS = frozenset("div p b kbd button span details summary".split())
    ATTRIBUTES = frozenset("class role type aria-label dir".split())

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.TAGS, tag
        assert {name for name, _ in attrs} <= self.ATTRIBUTES, attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
