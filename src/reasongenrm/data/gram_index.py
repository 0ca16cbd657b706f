"""The n-grams of benchmarks as sorted arrays: which rows hold a given one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Entries = tuple[NDArray[np.uint64], NDArray[np.int32]]
    """Hashes of n-grams, and the row in which each stands."""


@dataclass(frozen=True, slots=True)
class Grams:
    """The n-grams of one size in one part of all benchmarks.

    Attributes:
        hashes: ascending; one entry per n-gram and row; shape (entries,).
        rows: the row of each entry; shape (entries,).
        filter: whether some hash begins with these bits; most lookups end here.
        shift: by how many bits a hash is shifted to give its place in `filter`.
    """

    hashes: NDArray[np.uint64]
    rows: NDArray[np.int32]
    filter: NDArray[np.bool_]
    shift: int

    @classmethod
    def of(cls, hashes: NDArray[np.uint64], rows: NDArray[np.int32]) -> Grams:
        import numpy as np

        order = np.argsort(hashes, kind="stable")
        bits = min(24, max(10, (8 * len(hashes)).bit_length()))
        shift = 64 - bits
        filter_ = np.zeros(1 << bits, np.bool_)
        filter_[hashes >> np.uint64(shift)] = True
        return cls(hashes[order], rows[order], filter_, shift)

    def find(self, hashes: NDArray[np.uint64]) -> Iterator[tuple[int, NDArray[np.int32]]]:
        """Yield the place of each hash that is there, and its rows."""
        import numpy as np

        places = np.flatnonzero(self.filter[hashes >> np.uint64(self.shift)])
        if len(places) and len(self.hashes):
            left = np.searchsorted(self.hashes, hashes[places], "left")
            right = np.searchsorted(self.hashes, hashes[places], "right")
            for at in np.flatnonzero(right > left).tolist():
                yield int(places[at]), self.rows[left[at] : right[at]]


def joined(parts: Sequence[Entries]) -> Entries:
    """Return the parts' hashes and rows, each n-gram once per row."""
    import numpy as np

    hashes = np.concatenate([hashes for hashes, _ in parts]).astype(np.uint64)
    rows = np.concatenate([rows for _, rows in parts]).astype(np.int32)
    order = np.lexsort((rows, hashes))
    hashes, rows = hashes[order], rows[order]
    new = np.ones(len(hashes), np.bool_)
    new[1:] = (hashes[1:] != hashes[:-1]) | (rows[1:] != rows[:-1])
    return hashes[new], rows[new]


def without_common(hashes: NDArray[np.uint64], rows: NDArray[np.int32], common: int) -> Entries:
    """Leave out the n-grams that stand in more than `common` rows; `hashes` ascend."""
    import numpy as np

    _, inverse, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    good = counts[inverse] <= common
    return hashes[good], rows[good]
