"""Events of MkDocs (`hooks` in mkdocs.yml): pages that are not files of `docs/`, links and formulas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

from generate import api, commands, formulas, http, links, protocols, settings

ROOT = Path(__file__).resolve().parents[1]


def _made_pages() -> dict[str, str]:
    """Return the pages that are made from the code and from files outside `docs/`, by their file of the site."""
    pages = {f"reference/{name}.md": settings.settings_page(page) for name, page in settings.PAGES.items()}
    pages |= {
        "reference/commands.md": commands.commands_page(),
        "reference/http.md": http.http_page(),
        "reference/python.md": api.api_page(),
        "reference/records.md": api.records_page(),
        "reference/protocols.md": protocols.protocols_page(),
    }
    return pages | {page: links.page_text(path, ROOT) for path, page in links.PROJECT_PAGES.items()}


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that are made from other files."""
    waiting = [file.src_uri for file in files if file.src_uri.endswith(".md")]
    texts = {page: (Path(config.docs_dir) / page).read_text(encoding="utf-8") for page in waiting}
    made = _made_pages()
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    texts |= made
    waiting += made
    while waiting:
        page = waiting.pop()
        for path in links.outside_paths(texts[page], links.source_path(page), ROOT):
            target = links.site_page(path)
            if target not in texts:
                texts[target] = links.page_text(path, ROOT)
                files.append(File.generated(config, target, content=texts[target]))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Give a page the links of the site."""
    uri = page.file.src_uri
    return markdown if uri.startswith("files/") else links.translated(markdown, links.source_path(uri))


def on_page_content(html: str, **_: Any) -> str:
    """Draw a page's formulas."""
    return formulas.drawn(html)
