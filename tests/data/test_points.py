"""Points of a reference reason, and the texts that cover them."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.data.ngrams import words
from reasongenrm.data.points import _split_quotes, coverage

pytestmark = pytest.mark.unit

QUOTE = re.compile(r'"([^"]+)"|“([^”]+)”|`([^`]+)`')
"""The rule of quotes; its time is quadratic where marks are not closed."""


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (("The SUM is 131.", "A has 130"), 1.0),  # case and order do not matter
        (("The sum is 131.", "the numbers are sorted"), 0.5),
        (("it is so",), 0.0),  # words of fewer than four characters count where there are no others
        (("is sum",), 1.0),
        (("!",), 0.0),  # a point without a word is not covered
        ((), 1.0),  # nothing to cover
        (
            ('"a has 130"', "`sum is 131` . `A has 130`"),
            1.0,
        ),  # quotes: word for word, punctuation and case apart
        (("`131 is sum`", "“130 has A”"), 0.0),  # in another order
        (("`sum is 13`", "`has 130 , right`"), 0.0),
        (
            ('the total is "131"', 'the total: "sum is 131"'),
            0.0,
        ),  # a quote, and of the others two thirds: total is not said
        (('it is "131"', 'the sum of 12 is "131"'), 0.5),  # with a quote, short words do not count; 12 does
        (("``", '"!"'), 0.0),
    ],
)
def test_coverage_is_the_share_of_covered_points(points: tuple[str, ...], expected: float) -> None:
    assert coverage("sum is 131 . A has 130 , wrong .", points) == expected


@pytest.mark.parametrize(
    ("reason", "point", "expected"),
    [
        ("回答甲把面积算错了。", "甲的面积算错", 1.0),  # five of six characters, each of which is a word
        ("回答甲很有礼貌。", "甲的面积算错", 0.0),
        (
            "React 组件没有状态",
            "React 组件的 `没有状态`",
            1.0,
        ),  # and two thirds of three characters and React
        ("React 很快", "React 组件没有状态", 0.0),
        ("Der Weg über die Brücke", "die BRU\u0308CKE ist der Weg", 1.0),  # another way to write ü
    ],
)
def test_points_in_other_scripts(reason: str, point: str, expected: float) -> None:
    assert coverage(reason, [point]) == expected


@given(st.lists(st.from_regex(r"[a-z]{1,6}|[0-9]{1,3}", fullmatch=True), min_size=1, max_size=12), st.data())
def test_a_quote_is_covered_where_it_is_said_and_nowhere_else(said: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(said) - 1))
    run = said[start : data.draw(st.integers(start + 1, len(said)))]
    text = " , ".join(said)
    assert coverage(text, [f"`{' '.join(run)}`"]) == 1
    shuffled = data.draw(st.permutations(run))
    places = range(len(said) - len(run) + 1)
    is_said = any(said[at : at + len(run)] == shuffled for at in places)
    assert coverage(text, [f'"{" ".join(shuffled)}"']) == is_said


@given(st.text(st.sampled_from('"“”`a1 !'), max_size=20))
def test_quotes_are_those_of_the_rule(point: str) -> None:
    quotes = [quote for match in QUOTE.findall(point) if (quote := words("".join(match)))]
    split = _split_quotes(point)
    assert (split[0], words(split[1])) == (quotes, words(QUOTE.sub(" ", point)))


@pytest.mark.parametrize("point", ["“" * 200_000 + " word", "“" * 100_000 + "`" + '"' + "“" * 100_000])
def test_the_time_for_unclosed_quotes_is_linear(point: str) -> None:
    start = time.perf_counter()
    coverage("some word", [point])
    assert time.perf_counter() - start < 5, "a search to the end for every mark takes ten minutes"
