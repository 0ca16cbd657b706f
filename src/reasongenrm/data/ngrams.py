"""Texts as words, n-grams as 64-bit hashes, and an index of the n-grams of benchmarks."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Row = TypeVar("Row")
Entries = tuple["NDArray[np.uint64]", "NDArray[np.int32]"]
"""Hashes of n-grams, and the number of the row that contains each."""

# Scripts without spaces between words: each of their characters counts as a word. Thai, Lao, Myanmar,
# Khmer, the kana, Han.
_UNSPACED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
# For ASCII texts: letters to lower case, digits unchanged, and a space for everything else.
_ASCII = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}


def batches(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    """Yield the rows in lists of `size`; the last one may be shorter."""
    source = iter(rows)
    while batch := list(islice(source, size)):
        yield batch


def normalized(text: str) -> str:
    """Return the text in Unicode's NFKC form and casefolded, each run of white space as one space."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def words(text: str) -> list[str]:
    """Return the words of a text, normalized and without punctuation.

    A word is a run of letters, digits and the marks on them; an underscore separates words. A character of a script
    without spaces (Chinese, Japanese, Thai, …) is a word of its own, so that an n-gram is n characters there.
    """
    if text.isascii():
        return text.translate(_ASCII).split()
    folded = unicodedata.normalize("NFKC", text).casefold().replace("_", " ")
    return _word().findall(_UNSPACED.sub(r" \g<0> ", folded))


def is_unspaced(word: str) -> bool:
    """Whether a word is a character of a script without spaces between words."""
    return _UNSPACED.fullmatch(word) is not None


@cache
def _word() -> re.Pattern[str]:
    r"""The pattern of a word: `\w` and the marks for vowels in Indic and Semitic scripts, which `\w` leaves out."""
    marks = [
        code
        for code in range(0x0300, 0x3000)
        if unicodedata.category(chr(code)) in ("Mn", "Mc") and not 0x20D0 <= code <= 0x20FF  # on symbols
    ]
    return re.compile(rf"[\w{''.join(map(chr, marks))}]+")


class HashedTexts:
    """Several texts as one array of word hashes.

    Args:
        texts: the words of each text, after the number of the group (pair or row) that it belongs to.

    Attributes:
        hashes: 64-bit hash of each word, text after text; uint64, shape (words,). The same in every process.
        owner: the number of the text of each word, from 0; int64, shape (words,), ascending.
        group: the group of each word's text; int64, shape (words,).
        first: the position in `hashes` where each text begins; int64, shape (texts,).
    """

    def __init__(self, texts: Sequence[tuple[int, Sequence[str]]]) -> None:
        import numpy as np
        from rensa import RMinHash

        flat = [word for _, text in texts for word in text]
        self.hashes: NDArray[np.uint64] = np.fromiter(
            RMinHash.hash_token_sets([flat])[0], dtype=np.uint64, count=len(flat)
        )
        lengths = np.array([len(text) for _, text in texts], np.int64)
        self.owner: NDArray[np.int64] = np.repeat(np.arange(len(texts)), lengths)
        self.group: NDArray[np.int64] = np.repeat(np.array([group for group, _ in texts], np.int64), lengths)
        self.first: NDArray[np.int64] = np.cumsum(lengths) - lengths

    def ngrams(self, n: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """Return the hash of every run of n words within one text, and the position in `hashes` where it begins.

        The hash is sum(c_i * h_i) mod 2^64 over the word hashes h_i with fixed odd c_i (multilinear hashing,
        Lemire & Kaser 2014, arXiv 1202.4961): the word hashes are well mixed, so two different runs have the
        same hash with a probability near 2^-64.
        """
        import numpy as np

        count = len(self.hashes) - n + 1
        if count <= 0:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        total = np.zeros(count, np.uint64)
        for at, factor in enumerate(hash_factors(n)):
            total += self.hashes[at : at + count] * np.uint64(factor)
        starts = np.flatnonzero(self.owner[:count] == self.owner[n - 1 :])
        return total[starts], starts


@cache
def hash_factors(n: int) -> list[int]:
    """Return n fixed odd 64-bit numbers: the outputs of splitmix64 (Steele, Lea & Flood 2014) from 0, made odd."""
    factors, state, mask = [], 0, 2**64 - 1
    for _ in range(n):
        state = (state + 0x9E3779B97F4A7C15) & mask
        mixed = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & mask
        factors.append((mixed ^ (mixed >> 31)) | 1)
    return factors


class NgramIndex:
    """The n-grams of one size in one part of all benchmarks."""

    def __init__(self, parts: Sequence[Entries]) -> None:
        """Index the n-grams of several benchmarks."""
        import numpy as np

        self._hashes, self._rows = distinct_entries(parts)
        bits = min(24, max(10, (8 * len(self._hashes)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._filter = np.zeros(1 << bits, np.bool_)  # whether some hash begins with these bits
        self._filter[self._hashes >> self._shift] = True

    def find(self, hashes: NDArray[np.uint64]) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Yield the position of each hash that is in the index, and its rows."""
        import numpy as np

        places = np.flatnonzero(self._filter[hashes >> self._shift])  # most lookups end here
        left = np.searchsorted(self._hashes, hashes[places], "left")
        right = np.searchsorted(self._hashes, hashes[places], "right")
        for at in np.flatnonzero(right > left).tolist():
            yield int(places[at]), self._rows[left[at] : right[at]]


def distinct_entries(parts: Sequence[Entries]) -> Entries:
    """Return the hashes and rows of all parts in ascending order, each n-gram once per row."""
    import numpy as np

    hashes = np.concatenate([hashes for hashes, _ in parts]).astype(np.uint64)
    rows = np.concatenate([rows for _, rows in parts]).astype(np.int32)
    order = np.lexsort((rows, hashes))
    hashes, rows = hashes[order], rows[order]
    new = np.ones(len(hashes), np.bool_)
    new[1:] = (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1])
    return hashes[new], rows[new]


def rare_entries(parts: Sequence[Entries], common: int) -> Entries:
    """Return the entries of all parts, each once, without the n-grams of more than `common` rows."""
    import numpy as np

    hashes, rows = distinct_entries(parts)
    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    rare = counts[inverse] <= common
    return hashes[rare], rows[rare]
