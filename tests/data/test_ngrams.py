"""Words and n-grams."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.data.ngrams import HashedTexts, words

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("It's  snake_case, OK?\n(1)", "it s snake case ok 1"),
        ("It’s “snake_case”, OK?\n(1)", "it s snake case ok 1"),
        ("ﬁne ＡＢＣ Straße É e\u0301", "fine abc strasse é é"),
        ("हिन्दी में", "हिन्दी में"),
        ("שָׁלוֹם", "ש\u05b8\u05c1לו\u05b9ם"),
        ("我們去 Paris 吧。", "我 們 去 paris 吧"),
        ("한국어 문장", "한국어 문장"),
        ("東京タワー", "東 京 タ ワ ー"),
        ("❤️ 👍🏽 !!!", ""),
        ("", ""),
    ],
)
def test_words(raw: str, expected: str) -> None:
    assert words(raw) == expected.split()


@given(st.text(st.characters(codec="ascii"), max_size=40), st.sampled_from(["", " ’", " …"]))
def test_ascii_words_equal_those_of_a_unicode_text(raw: str, tail: str) -> None:
    assert words(raw) == words(raw + " …") == words(raw + tail)


@given(st.lists(st.lists(st.sampled_from("abcdefg"), max_size=8), max_size=6), st.integers(1, 6))
def test_ngrams_are_equal_where_their_words_are_and_stay_in_their_text(
    texts: list[list[str]], n: int
) -> None:
    flat = HashedTexts([(10 * number, text) for number, text in enumerate(texts)])
    assert (flat.group == 10 * flat.owner).all()
    hashes, starts = flat.ngrams(n)
    expected = [tuple(t[at : at + n]) for t in texts for at in range(len(t) - n + 1)]
    ngrams = []
    for start in starts.tolist():
        owner = int(flat.owner[start])
        at = start - int(flat.first[owner])
        ngrams.append(tuple(texts[owner][at : at + n]))
    assert ngrams == expected
    names = dict(zip(hashes.tolist(), expected, strict=True))
    assert [names[value] for value in hashes.tolist()] == expected
    assert len(set(expected)) == len(set(hashes.tolist()))


def test_hashes_are_the_same_in_every_process() -> None:
    assert HashedTexts([(0, ["a", "b", "c"])]).ngrams(3)[0].tolist() == [GOLDEN]


GOLDEN = 24509317627306925
