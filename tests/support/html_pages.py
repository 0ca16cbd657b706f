"""Parse an HTML page and check that its tags are balanced."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "link", "input", "br"}


class Page(HTMLParser):
    """A page's tags, attributes, text, headings, cells and scripts; fails where a tag is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.cells: list[str] = []
        self.titles: list[str] = []
        self.text = ""
        self.inside: dict[str, list[str]] = {"script": [], "style": []}
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")
        if tag in ("h2", "h3"):
            self.titles.append("")
        if tag in self.inside:
            self.inside[tag].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._open and self._open[-1] in ("td", "th"):
            self.cells[-1] += data
        if self._open and self._open[-1] in ("h2", "h3"):
            self.titles[-1] += data
        if self._open and self._open[-1] in self.inside:
            self.inside[self._open[-1]][-1] += data

    def values(self, tag: str, key: str) -> list[str]:
        return [value for t, k, value in self.attributes if (t, k) == (tag, key)]
