"""The generated reference: every key is described, every verb and every public name has its place."""

from __future__ import annotations

import argparse
import importlib
import re
from typing import Any

import pytest

pytest.importorskip("mkdocstrings", reason="no mkdocs: pip install '.[docs]'")

import reasongenrm
from generate import api, commands, formulas, links, protocols, settings
from generate.settings import PAGES, sections
from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.config.engines import Strict
from support.doc_blocks import ROOT, all_blocks, inline_code, pages

pytestmark = pytest.mark.unit

FILE = re.compile(r"\.(jsonl?|md|py|yaml|csv|html|png|jinja|log|parquet|txt)$")


def test_every_key_of_every_recipe_has_a_description() -> None:
    assert settings.undocumented() == []


def test_a_key_without_a_description_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Bare(Strict):
        """A model.

        Attributes:
            first, second: of two keys,
                in two lines.
        """

        first: int = 1
        second: str | None = None
        third: float = 0.5

    monkeypatch.setattr(settings, "PAGES", {"bare": settings.SettingsPage(Bare, "Bare", "nobody")})
    assert settings.undocumented() == ["bare: third"]
    assert settings.descriptions(Bare)["second"] == "of two keys, in two lines."


def models(package: str) -> set[type[Strict]]:
    """The settings models that the modules of a package define."""
    folder = ROOT / "src" / package.replace(".", "/")
    modules = [importlib.import_module(f"{package}.{file.stem}") for file in folder.glob("[!_]*.py")]
    return {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Strict) and value.__module__ == module.__name__
    }


def test_every_settings_model_is_on_a_page() -> None:
    shown = {
        model
        for page in PAGES.values()
        for section in sections(page.model)
        for model in section.model.__mro__
    }
    assert models("reasongenrm.config") - shown == set()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_every_key_once(name: str) -> None:
    text = settings.settings_page(PAGES[name])
    anchors = re.findall(r"\{#(\S+?)\}", text)
    assert len(anchors) == len(set(anchors))
    assert set(re.findall(r"\]\(#(\S+?)\)", text)) <= set(anchors)
    top = set(PAGES[name].model.model_fields)
    assert top <= set(anchors)
    if PAGES[name].example:
        assert (ROOT / PAGES[name].example).is_file()


@pytest.mark.parametrize(
    ("key", "cells"),
    [
        ("train.batch", ("whole number ≥ 1", "`128`", "records of an optimizer step")),
        ("engine.workers", ("`auto` or whole number ≥ 1", "`auto`", "engines that work side by side")),
        ("evaluate.margin", ("number ≥ 0, < 0.5", "`0.0`", "is a tie")),
        ("data.sources", ("list of [sections](#data.sources.N-section), 1 or more", "**required**", "under `limit`")),
        ("teachers.NAME.server", ("[section](#teachers.NAME.server-openai-section) or null", "`null`", "vLLM")),
        ("scalar", ("[section](#scalar-section) or null", "its defaults", "scalar head")),
    ],
)  # fmt: skip
def test_a_row_has_type_default_and_description(key: str, cells: tuple[str, str, str]) -> None:
    text = settings.settings_page(PAGES["recipe"])
    (row,) = [line for line in text.splitlines() if line.startswith(f"| [`{key}`]")]
    _, kind, default, meaning = row.strip("| ").split(" | ", 3)
    assert (kind, default) == cells[:2] and cells[2] in meaning


NO_KEYS = {"head.scale"}
"""Inline code that looks like a dotted key: an attribute in Python."""


def key_patterns() -> dict[str, re.Pattern[str]]:
    """Dotted key of every recipe -> what it may look like in a text; a mapping of a library's arguments has any keys."""
    patterns = {}
    for page in PAGES.values():
        for section in sections(page.model):
            for name, field in section.model.model_fields.items():
                key = section.key(name)
                is_open = "mapping" in settings.type_text(field.annotation, field.metadata)
                pattern = re.sub(r"\b(NAME|N)\b", "[^.]+", re.escape(key)) + r"(\..+)?" * is_open
                patterns[key] = re.compile(pattern)
    return patterns


def test_the_dotted_keys_in_the_text_exist() -> None:
    patterns = key_patterns()
    sections_at_the_top = {key.partition(".")[0] for key in patterns if "." in key}
    unknown = []
    for page in pages():
        for place, code in inline_code(page):
            match = re.match(r"([a-z_]+(?:\.[\w@-]+)+)(?:$|[=:])", code)
            key = match[1] if match else ""
            if key.partition(".")[0] not in sections_at_the_top or key in NO_KEYS or FILE.search(key):
                continue
            known = any(pattern.fullmatch(key) for pattern in patterns.values())
            if not known and not any(name.startswith(f"{key}.") for name in patterns):
                unknown.append(f"{place}: {code}")
    assert unknown == []


def test_the_help_of_every_verb_is_there_in_any_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    text = commands.commands_page()
    monkeypatch.delenv("COLUMNS")
    assert commands.commands_page() == text
    for verb in ("prepare", "judge compare", "distil export-dpo", "app", "scalar filter"):
        assert f"## reasongenrm {verb}\n" in text and f"usage: reasongenrm {verb} " in text


def test_every_option_says_what_it_is() -> None:
    """An option without help must be clear from its name and its default."""
    clear = {"help", "host", "seed"}
    bare = [
        f"{parser.prog} {action.dest}"
        for parser in commands.parsers(commands.command_parser())
        for action in parser._actions
        if not isinstance(action, argparse._SubParsersAction) and not action.help and action.dest not in clear
    ]
    assert len(bare) <= 5, bare


def test_the_api_page_has_every_public_name_and_every_import_of_the_documentation() -> None:
    listed = {path.rpartition(".")[2] for paths in api.SECTIONS.values() for path in paths}
    assert set(reasongenrm.__all__) <= listed
    pattern = re.compile(r"^from reasongenrm[\w.]* import (.+)$", re.MULTILINE)
    imported = {name.strip() for block in all_blocks("python") for names in pattern.findall(block.code) for name in names.split(",")}  # fmt: skip
    assert imported - listed == set()
    for paths in api.SECTIONS.values():
        for path in paths:
            module, _, name = path.rpartition(".")
            assert getattr(importlib.import_module(module), name).__doc__


def test_the_protocols_follow_from_the_code() -> None:
    assert protocols.applicable(2, 3) == list(protocols.PROTOCOLS)
    assert protocols.applicable(0, 0) == ["official"]
    assert protocols.modes("rewardbench2") == ["pairs", "ratings", "fourway"]
    text = protocols.protocols_page()
    assert all(f"| `{kind}` | " in text for kind in BENCHMARKS)
    assert "| Reasoning | math-prm | 447 | 50.0 % | 12.5 % |" in text
    handwritten = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    for kind in BENCHMARKS:
        (row,) = [line for line in handwritten.splitlines() if line.startswith(f"| `{kind}` | ")]
        assert row.split(" | ")[-1].strip(" |") == ", ".join(protocols.modes(kind))


@pytest.mark.parametrize(
    ("source", "markdown", "translated"),
    [
        ("README.md", "[a](docs/data.md#pairs)", "[a](data.md#pairs)"),
        ("README.md", '<img src="docs/images/x.svg">', '<img src="images/x.svg">'),
        ("README.md", '<a href="docs/data.md">', '<a href="data.html">'),
        ("docs/how-to/x.md", "[a](../../configs/demo.yaml)", "[a](../files/configs/demo.yaml.md)"),
        ("docs/x.md", "[a](../README.md)", "[a](index.md)"),
        ("docs/x.md", "[a](generate/http.py#post-rate)", "[a](reference/http.md#post-rate)"),
        ("data/README.md", "[a](../docs/toy-world.md)", "[a](../toy-world.md)"),
        ("docs/x.md", "[a](https://x.y/z) [b](#there) [c](y.md)", "[a](https://x.y/z) [b](#there) [c](y.md)"),
    ],
)  # fmt: skip
def test_links_lead_to_pages_of_the_site(source: str, markdown: str, translated: str) -> None:
    assert links.translated(markdown, source) == translated


def test_a_file_becomes_a_page_with_a_longer_fence(tmp_path: Any) -> None:
    (tmp_path / "x.md").write_text("````\n```bash\n```\n````\n", encoding="utf-8")
    text = links.page_text("x.md", tmp_path)
    assert "`````md\n````\n" in text and text.rstrip().endswith("`````")


def test_formulas_become_mathml() -> None:
    html = formulas.drawn('a <span class="arithmatex">\\(x &lt; \\frac{1}{2}\\)</span> b')
    assert (
        html.startswith("a <math")
        and "<mfrac>" in html
        and "<mo>&#x0003C;</mo>" in html
        and "arithmatex" not in html
    )
    assert 'display="block"' in formulas.drawn('<div class="arithmatex">\\[x\\]</div>')
