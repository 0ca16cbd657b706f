"""Near duplicates: pairs that are alike but for some words, found by MinHash and locality-sensitive hashing.

MinHash: Broder 1997, "On the resemblance and containment of documents". Bands: Leskovec, Rajaraman & Ullman,
"Mining of Massive Datasets", ch. 3.4.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from reasongenrm.config.prepare import NearDuplicateConfig
from reasongenrm.data.ngrams import Texts, batches, factors, fold, words
from reasongenrm.records import Drop, HasPair, PreferencePair

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Row = TypeVar("Row", bound=HasPair)

BATCH = 256
SEED = 17
_FULL_STOPS = " .!?。"
RECALL = 0.98
"""The probability with which two pairs exactly at the threshold must share a band."""
BUCKET = 32
"""Rows remembered per band value. rensa's own index remembers all of them, and takes quadratic time on rows that
share a template and are not alike enough. Under a template shared by more rows than this, an exact copy is still
found, and an edited one may be missed."""


def drop_near_duplicates(
    rows: Iterable[Row],
    config: NearDuplicateConfig,
    on_drop: Callable[[Drop], None],
) -> Iterator[Row]:
    """Yield the pairs that are not alike to an earlier one that was kept, in their order.

    See `NearDuplicates` for what is alike. Pairs are read 256 at a time. Time grows linearly, and memory is about
    2.5 KB per pair kept (128 permutations, threshold 0.8).

    Args:
        rows: pairs, or what holds a `pair`.
        config: what is alike.
        on_drop: called once for each pair left out: stage `clean`, reason `near_duplicate`, the pair's id as
            `where`; the detail names the earlier pair.
    """
    index = NearDuplicates(config)
    for batch in batches(rows, BATCH):
        pairs = [row.pair for row in batch]
        for row, pair, problem in zip(batch, pairs, index.problems(pairs), strict=True):
            if problem is None:
                yield row
            else:
                on_drop(Drop(pair.id, pair.source, *problem, "clean"))


def bands_for(threshold: float, permutations: int) -> tuple[int, int]:
    """Return the number of bands and the rows of each, for signatures of `permutations` rows.

    b bands of r rows make two texts of similarity s meet with probability 1 - (1 - s^r)^b. The longest bands
    are taken (they bring the fewest chance meetings) that make texts at the threshold meet with RECALL.
    """
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return permutations, 1


class NearDuplicates:
    """The pairs met so far that are not alike.

    Two pairs are alike when
    - the estimated Jaccard similarity of their word shingles, of the user's and assistant's turns and both answers
      together, reaches the threshold, and
    - each answer finds its counterpart, in the same or in the other order, with at least half of it: two
      comparisons under one long prompt are not alike if their answers are not.
    Shingles do not run from one text into the next, so that the order of the answers does not matter. System
    turns are left out. A text of fewer words than a shingle is one shingle, with its signs (2+2 is not
    2-2) but those at its end.
    """

    def __init__(self, config: NearDuplicateConfig) -> None:
        self.config = config
        self.bands, self.rows = bands_for(config.threshold, config.permutations)
        self._ids: list[str] = []
        # Of each signature the lower 16 of 32 bits are kept (b-bit MinHash, Li & König 2010, arXiv 0910.3349):
        # they agree by chance once in 65,536. Shape (3, permutations): whole, chosen, rejected.
        self._signatures: list[NDArray[np.uint16]] = []
        self._buckets: dict[int, int | list[int]] = {}

    def problem(self, pair: PreferencePair) -> tuple[str, str] | None:
        """Return the slug and the sentence for a pair that is alike to an earlier one; else None, and remember it."""
        return next(self.problems([pair]))

    def problems(self, pairs: Sequence[PreferencePair]) -> Iterator[tuple[str, str] | None]:
        """Do `problem` for each of the pairs, in order; some hundred at once are much faster than one."""
        import numpy as np

        parts = self._sketch(pairs)  # (pairs, 3, permutations) uint32: history, chosen, rejected
        parts[:, 0] = parts.min(axis=1)  # the MinHash of a union is the minimum of the MinHashes
        bands = parts[:, 0, : self.bands * self.rows].reshape(len(pairs), self.bands, self.rows)
        weights = np.array(factors(self.config.permutations), np.uint64)
        of_bands = weights[: self.bands * self.rows].reshape(self.bands, self.rows)
        keys = (bands * of_bands).sum(axis=2, dtype=np.uint64)
        # And one band of all rows: a copy is found however crowded the buckets of its bands are.
        keys = np.column_stack((keys, (parts[:, 0] * weights).sum(axis=1, dtype=np.uint64))).tolist()
        short = parts.astype(np.uint16)
        for pair, signature, row_keys in zip(pairs, short, keys, strict=True):
            found = self._alike(signature, row_keys)
            if found is None:
                self._remember(pair.id, signature, row_keys)
                yield None
            else:
                yield "near_duplicate", found

    def _sketch(self, pairs: Sequence[PreferencePair]) -> NDArray[np.uint32]:
        import numpy as np
        from rensa import RMinHash

        texts: list[list[str]] = []
        groups: list[int] = []  # text -> 3 * pair + (0 history, 1 chosen, 2 rejected)
        for number, pair in enumerate(pairs):
            turns = [turn["content"] for turn in pair.history if turn["role"] != "system"]
            texts += map(self._shingled, (*turns, pair.chosen, pair.rejected))
            groups += [3 * number] * len(turns) + [3 * number + 1, 3 * number + 2]
        flat = Texts(texts)
        shingles, starts = flat.ngrams(self.config.shingle)
        sizes = np.bincount(np.array(groups)[flat.owner[starts]], minlength=3 * len(pairs))
        ends = np.concatenate(([0], np.cumsum(sizes))).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            np.ascontiguousarray(shingles), ends, self.config.permutations, SEED
        )
        return np.array(matrix.to_rows(), np.uint32).reshape(len(pairs), 3, self.config.permutations)

    def _shingled(self, text: str) -> list[str]:
        """Return the words of a text, or of a short one a single shingle: itself, filled up with empty words."""
        found = words(text)
        if len(found) < self.config.shingle:
            folded = fold(text)
            return [folded.rstrip(_FULL_STOPS) or folded] + [""] * (self.config.shingle - 1)
        return found

    def _alike(self, signature: NDArray[np.uint16], keys: Sequence[int]) -> str | None:
        """Return what to say of a pair that is alike to an earlier one: the most similar, and of those the first."""
        import numpy as np

        rows: set[int] = set()
        for key in keys:
            held = self._buckets.get(key)
            if held is not None:
                rows.update((held,) if isinstance(held, int) else held)
        if not rows:
            return None
        order = sorted(rows)
        earlier = np.stack([self._signatures[row] for row in order])  # (candidates, 3, permutations)
        whole, first, second = np.moveaxis((earlier == signature).mean(axis=2), 1, 0)
        crossed = (earlier[:, [2, 1]] == signature[1:]).mean(axis=2).min(axis=1)
        straight = np.minimum(first, second)
        answers = np.maximum(straight, crossed)
        good = (whole >= self.config.threshold) & (answers >= self.config.threshold / 2)
        if not good.any():
            return None
        best = int(np.argmax(np.where(good, whole, -1)))
        turned = ", and prefers the other answer" if crossed[best] > straight[best] else ""
        return (
            f"Alike to the earlier row {self._ids[order[best]]} (similarity about {whole[best]:.2f}){turned};"
            " remove one of them, or raise data.near_duplicates.threshold."
        )

    def _remember(self, pair_id: str, signature: NDArray[np.uint16], keys: Sequence[int]) -> None:
        row = len(self._ids)
        self._ids.append(pair_id)
        self._signatures.append(signature)
        for key in keys:
            held = self._buckets.get(key)
            if held is None:
                self._buckets[key] = row
            elif isinstance(held, int):
                self._buckets[key] = [held, row]
            elif len(held) < BUCKET:
                held.append(row)
