"""The documentation site as `make docs` builds it: nothing from another host, no broken link, a search without a server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from support.doc_blocks import ROOT

pytest.importorskip("mkdocs", reason="no mkdocs: pip install '.[docs]'")
pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SCREENSHOTS = ROOT / "build" / "screenshots"
LOADED = {("script", "src"), ("img", "src"), ("link", "href"), ("iframe", "src"), ("source", "src"), ("video", "src"),
          ("object", "data"), ("image", "href"), ("use", "href"), ("img", "srcset")}  # fmt: skip
"""Attributes whose address the browser loads with the page."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with the command of `make docs` into another folder."""
    folder = tmp_path_factory.mktemp("site")
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    (words,) = re.findall(r"^docs:.*\n.*(mkdocs build .*)$", recipe, re.MULTILINE)
    assert "quiet" not in words, "MkDocs counts no warning that it does not print"
    command = [sys.executable, "-m", *words.split(), "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    return folder


class SitePage(HTMLParser):
    """A page's links, loaded addresses and anchors."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if (tag, key) in LOADED:
                self.loaded.append(value or "")
            elif tag == "a" and key == "href":
                self.links.append(value or "")
            if key == "id" or (tag, key) == ("a", "name"):
                self.anchors.append(value or "")


@pytest.fixture(scope="module")
def html_pages(site: Path) -> dict[Path, SitePage]:
    return {
        path.relative_to(site): SitePage(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")
    }


def is_external(address: str) -> bool:
    return bool(urlsplit(address).netloc)


def test_pages_load_nothing_from_another_host(site: Path, html_pages: dict[Path, SitePage]) -> None:
    assert len(html_pages) > 40
    outside = {
        (str(path), address)
        for path, page in html_pages.items()
        for address in page.loaded
        if is_external(address)
    }
    assert outside == set()
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert re.findall(r"url\(\s*['\"]?(?:https?:)?//[^)]*|@import[^;]*//[^;]*", text) == [], style


def test_nothing_needs_a_script_of_another_host(site: Path) -> None:
    """Material for MkDocs loads Mermaid from a CDN where a page has a diagram, and another script in old browsers."""
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r'class="[^"]*\bmermaid\b', text), path
        assert "arithmatex" not in text and "cdn" not in text.lower().replace("cdn.openai", ""), path


def test_every_link_and_anchor_works(site: Path, html_pages: dict[Path, SitePage]) -> None:
    broken = []
    for path, page in html_pages.items():
        if path.name == "404.html":
            continue  # its addresses are absolute: a server shows it at any path
        for address in [*page.links, *page.loaded]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                continue
            target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
            if target.is_dir() or not (site / target).exists():
                broken.append(f"{path}: {address}")
            elif parts.fragment and target in html_pages:
                anchors = html_pages[target].anchors
                if unquote(parts.fragment) not in anchors and parts.fragment != "__skip":
                    broken.append(f"{path}: {address}")
    assert broken == []


def test_no_anchor_occurs_twice(html_pages: dict[Path, SitePage]) -> None:
    for path, page in html_pages.items():
        twice = {name for name in page.anchors if page.anchors.count(name) > 1}
        assert twice == set(), path


def test_every_page_of_docs_is_in_the_menu(html_pages: dict[Path, SitePage]) -> None:
    menu = {
        os.path.normpath(urlsplit(link).path) for link in html_pages[Path("index.html")].links if not is_external(link)
    }  # fmt: skip
    pages = {str(path) for path in html_pages if path.parts[0] != "files" and path.name not in ("404.html",)}
    assert pages <= menu | {"index.html"}
    source = {
        str(path.relative_to(ROOT / "docs").with_suffix(".html")) for path in (ROOT / "docs").rglob("*.md")
    }
    assert source <= pages


def test_formulas_are_drawn(site: Path) -> None:
    text = (site / "reward-modeling.html").read_text(encoding="utf-8")
    assert text.count("<math") > 10 and "\\mathcal" not in re.sub("<annotation.*?</annotation>", "", text)


@pytest.fixture
def opened(browser: Any, site: Path) -> Iterator[Any]:
    browser.set_window_size(1300, 900)
    browser.get((site / "index.html").as_uri())
    yield browser
    browser.set_window_size(1300, 900)


def test_the_search_works_from_a_folder(opened: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    opened.find_element(By.CSS_SELECTOR, "input[data-md-component=search-query]").send_keys("tensor_parallel")
    selector = ".md-search-result__item a"
    WebDriverWait(opened, 30).until(lambda driver: driver.find_elements(By.CSS_SELECTOR, selector))
    found = [link.get_attribute("href") for link in opened.find_elements(By.CSS_SELECTOR, selector)]
    assert any("reference/recipe.html" in link for link in found)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    opened.save_screenshot(str(SCREENSHOTS / "docs-search.png"))
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.parametrize("page", ["index.html", "start.html", "reward-modeling.html", "reference/recipe.html", "benchmarks.html"])  # fmt: skip
def test_a_page_fits_a_phone_in_light_and_dark(opened: Any, site: Path, page: str) -> None:
    for width in (1300, 390):
        opened.set_window_size(width, 900)
        opened.get((site / page).as_uri())
        still = "const s = document.createElement('style'); s.textContent = '* {transition: none !important}'; document.head.append(s)"
        opened.execute_script(still)  # a picture in the middle of a change of colours shows neither
        for scheme in ("default", "slate"):
            opened.execute_script("document.body.setAttribute('data-md-color-scheme', arguments[0])", scheme)
            name = f"docs-{page.replace('/', '-').removesuffix('.html')}-{width}-{scheme}.png"
            SCREENSHOTS.mkdir(parents=True, exist_ok=True)
            opened.save_screenshot(str(SCREENSHOTS / name))
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert opened.execute_script(wide) <= 0, f"{page} is wider than {width} pixels"
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []
