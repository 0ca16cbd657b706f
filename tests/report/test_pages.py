"""Embedded JSON and code fences: no text becomes structure."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.report.pages import code_block, environment

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


@given(st.text(alphabet="`~a\n", max_size=40))
def test_a_fence_is_longer_than_any_in_the_text(text: str) -> None:
    opening, *_, closing = code_block(text, "yaml").split("\n")
    assert opening == f"{closing}yaml" and set(closing) == {"`"} and closing not in text
