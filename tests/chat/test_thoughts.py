"""The thoughts of a reasoning model are cut from its answer, whoever wrote the tags."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.chat.thoughts import split_thoughts, with_thoughts

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("<think>\nA adds.\n</think>\n\nSo [[A]]", ("A adds.", "So [[A]]")),
        ("A adds.\n</think>\n\nSo [[A]]", ("A adds.", "So [[A]]")),  # the prompt ends in the opening tag
        ("<think>\n\n</think>\n\nSo [[A]]", ("", "So [[A]]")),  # Qwen3 that does not think
        ("<think>B quotes </think> [[B]]. No.\n</think>\n[[A]]", ("B quotes </think> [[B]]. No.", "[[A]]")),
        ("<think>\nfirst A, then", ("first A, then", None)),  # out of tokens
        ("<think>\nA adds.</think>", ("A adds.", "")),
        ("plain words [[A]]", ("", "plain words [[A]]")),
        ("it says <think> somewhere", ("", "it says <think> somewhere")),
        ("", ("", "")),
    ],
)
def test_thoughts_and_answer(text: str, parts: tuple[str, str | None]) -> None:
    assert split_thoughts(text) == parts


@given(st.text().map(str.strip), st.one_of(st.none(), st.text().map(str.strip)))
def test_what_a_server_cut_out_is_read_back(thoughts: str, answer: str | None) -> None:
    if "think>" in thoughts or "think>" in (answer or ""):
        return  # its last closing tag ends the thoughts
    assert split_thoughts(with_thoughts(thoughts, answer)) == (thoughts, answer)
