"""Embedded JSON and code fences: no text becomes structure."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.report.pages import code_block, csp_hash, environment, render

pytestmark = pytest.mark.unit


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        st.text() | st.sampled_from(["</script>", "<!--", "\ud800", "\u2028"]), st.lists, max_leaves=8
    )
)
def test_embedded_json_is_the_value_and_never_markup(value: Any) -> None:
    text = environment().from_string("{{ value | tojson }}").render(value=value)
    assert json.loads(text) == value
    assert not set(text) & set("<>&\u2028\u2029")
    text.encode("utf-8")


def test_every_page_has_a_policy_that_loads_nothing() -> None:
    """A page is a template that extends another one, or a whole document itself."""
    pages = [name for name in environment().list_templates() if name.endswith(".html.jinja")]
    sources = {name: environment().loader.get_source(environment(), name)[0] for name in pages}  # type: ignore[union-attr]
    documents = {name for name, source in sources.items() if "<head>" in source}
    assert documents == {"report/page.html.jinja"}
    for name in documents:
        policy = re.findall(r'Content-Security-Policy" content="([^>]*)">', sources[name])
        assert len(policy) == 1 and policy[0].startswith("default-src 'none'; ") and "unsafe" not in policy[0]
        assert "base-uri 'none'; form-action 'none'" in policy[0]
    for name in sources.keys() - documents:
        assert '{% extends "report/page.html.jinja" -%}' in sources[name] or "{% macro" in sources[name], name


def test_the_data_report_allows_its_style_and_no_script() -> None:
    html = render("data_report.html.jinja", sections=[])
    [policy] = re.findall(r'Content-Security-Policy" content="([^"]*)">', html)
    [style] = re.findall("<style>(.*?)</style>", html, re.DOTALL)
    assert f"style-src {csp_hash(style)}; script-src 'none'; " in policy.replace("&#39;", "'")
    assert "<script" not in html


@given(st.text(alphabet="`~a\n", max_size=40))
def test_a_fence_is_longer_than_any_in_the_text(text: str) -> None:
    opening, *_, closing = code_block(text, "yaml").split("\n")
    assert opening == f"{closing}yaml" and set(closing) == {"`"} and closing not in text
