"""Links that leave `docs/`: pages of the site for the files of the repository that they lead to.

A page of the repository is read on a code host, or here as a page of the site. Links are written for the former, and
translated for the latter.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import dirname, normpath, relpath
from typing import Any

PROJECT_PAGES = {
    "README.md": "index.md",
    "CHANGELOG.md": "project/changelog.md",
    "bench/README.md": "project/bench.md",
    "data/README.md": "project/data.md",
    "examples/tutor/README.md": "project/tutor.md",
    "notebooks/analyse.ipynb": "project/analyse.md",
    "notebooks/practice.ipynb": "project/practice.md",
}
"""Path of a page outside `docs/` -> its page of the site; both in the menu."""

GENERATED_PAGES = {"docs/generate/http.py": "reference/http.md"}
"""Path of a generator -> its page of the site: a page of the repository links to the former."""

MOST_CHARACTERS = 100_000
"""Of a file that is shown."""

_TARGET = re.compile(r'(?P<before>\]\(|\b(?:src|href)=")(?P<path>[^)"#\s]*)(?P<rest>#[^)"\s]*)?(?=[)"\s])')


def site_page(path: str) -> str:
    """Return the file of the site for a path of the repository."""
    made = PROJECT_PAGES | GENERATED_PAGES
    if path in made:
        return made[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}.md"


def source_path(page: str) -> str:
    """Return the path in the repository of a page of the site."""
    written = {value: key for key, value in PROJECT_PAGES.items()}
    if page in written:
        return written[page]
    return page.removeprefix("files/").removesuffix(".md") if page.startswith("files/") else f"docs/{page}"


def _local(match: re.Match[str], source: str) -> str | None:
    """Return the repository's path that a link leads to, or None for another host and for an anchor."""
    if not match["path"] or re.match(r"[a-z]+:|/", match["path"]):
        return None
    return normpath(f"{dirname(source)}/{match['path']}".lstrip("/"))


def translated(markdown: str, source: str) -> str:
    """Return a page with the links of the site.

    Args:
        markdown: the page.
        source: its path in the repository.
    """
    folder = dirname(site_page(source)) or "."

    def link(match: re.Match[str]) -> str:
        path = _local(match, source)
        if path is None:
            return match[0]
        target = relpath(site_page(path), folder)
        if match["before"] != "](":  # MkDocs leaves HTML as it is
            target = re.sub(r"\.md$", ".html", target)
        return f"{match['before']}{target}{match['rest'] or ''}"

    return _TARGET.sub(link, markdown)


def outside_paths(markdown: str, source: str, root: Path) -> Iterator[str]:
    """Yield the existing paths outside `docs/` that a page links to."""
    for match in _TARGET.finditer(markdown):
        path = _local(match, source)
        if path is not None and not path.startswith(("docs/", "..")) and (root / path).exists():
            yield path


def page_text(path: str, root: Path) -> str:
    """Return the page of a path outside `docs/`: Markdown as it is, a notebook as Markdown, any other file as code."""
    file = root / path
    if path.endswith(".ipynb"):
        return _notebook_page(json.loads(file.read_text(encoding="utf-8")))
    if path in PROJECT_PAGES:
        return file.read_text(encoding="utf-8")
    head = f"---\nsearch:\n  exclude: true\n---\n\n# `{path}`\n\n"
    files = sorted(child for child in file.iterdir() if child.is_file()) if file.is_dir() else [file]
    return head + "\n\n".join(_file_section(one, one.relative_to(root), len(files) > 1) for one in files)


def _file_section(file: Path, name: Path, titled: bool) -> str:
    text = file.read_text(encoding="utf-8", errors="replace")
    if len(text) > MOST_CHARACTERS:
        text = text[:MOST_CHARACTERS] + f"\n… {len(text) - MOST_CHARACTERS:,} more characters\n"
    fence = "`" * max(4, 1 + max(map(len, re.findall("`+", text)), default=0))
    language = file.suffix.removeprefix(".") or "text"
    title = f"## `{name}`\n\n" if titled else ""
    return f"{title}{fence}{language}\n{text.rstrip()}\n{fence}\n"


def _notebook_page(notebook: dict[str, Any]) -> str:
    """Return the cells of a notebook without their results."""
    cells = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"]).strip()
        cells.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
    return "\n\n".join(cells) + "\n"
