"""Filters over pairs: unwanted sources, duplicates, contradictions, and near-duplicates found by MinHash.

MinHash: Broder 1997, "On the resemblance and containment of documents". Bands: Leskovec, Rajaraman & Ullman,
"Mining of Massive Datasets", ch. 3.4.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from reasongenrm.config.prepare import NearDuplicateConfig
from reasongenrm.data.ngrams import HashedTexts, batches, hash_factors, normalized, words
from reasongenrm.records import Drop, HasPair, PreferencePair, content_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Row = TypeVar("Row", bound=HasPair)
Problem = tuple[str, str]
"""Reason and detail of a Drop."""

BATCH = 256
SEED = 17
RECALL = 0.98
"""The probability with which two pairs exactly at the threshold must share a band."""
BUCKET = 32
"""Rows kept per band value. rensa's own index keeps all of them, and takes quadratic time on rows that share a
template and are not near-duplicates. Under a template shared by more rows than this, an exact copy is still found,
and an edited one may be missed."""
_FULL_STOPS = " .!?。"


class PairKey(NamedTuple):
    """Identifies a pair for `clean`.

    Attributes:
        id, source: the pair's.
        content: 63 bits of a hash of history and answers, independent of the answers' order.
        sorted: whether the chosen answer sorts before the rejected one.
    """

    id: str
    source: str
    content: int
    sorted: bool


def pair_key(pair: PreferencePair) -> PairKey:
    """Return a pair's key; `clean` spends nearly all its time here, so that it may run in other processes."""
    content = int(content_id(pair.history, sorted((pair.chosen, pair.rejected))), 16) >> 1
    return PairKey(pair.id, pair.source, content, pair.chosen <= pair.rejected)


def filter_pairs(
    rows: Iterable[Row | Drop],
    problems: Callable[[Sequence[Row]], Iterable[Problem | None]],
    on_drop: Callable[[Drop], None],
) -> Iterator[Row]:
    """Yield the rows without a problem, in their order, read 256 at a time; pass every other row to `on_drop`.

    Args:
        rows: pairs, or objects with a `pair`. Drops of earlier stages pass to `on_drop` unchanged.
        problems: for some rows, yields the problem of each, or None.
        on_drop: called once for each row left out; new Drops have stage `clean` and the pair's id as location.
    """
    for batch in batches(rows, BATCH):
        row_problems = iter(problems([row for row in batch if not isinstance(row, Drop)]))
        for row in batch:
            if isinstance(row, Drop):
                on_drop(row)
            elif problem := next(row_problems):
                on_drop(Drop(row.pair.id, row.source, *problem, "clean"))
            else:
                yield row


def clean(
    rows: Iterable[Row | Drop],
    *,
    drop_sources: Sequence[str],
    on_drop: Callable[[Drop], None],
    key: Callable[[Row], PairKey] = lambda row: pair_key(row.pair),
) -> Iterator[Row]:
    """Yield the rows worth training on: of wanted sources, and neither repetitions nor contradictions of earlier ones.

    The keys of all rows are in a temporary file, so that memory does not grow with their number.

    Args:
        rows, on_drop: see `filter_pairs`.
        drop_sources: sources to leave out whole. `magpie_ultra` of Skywork-80K v0.2 belongs here: all its
            rejected answers contain `<im_start>` and no chosen one does, so a judge learns the marker.
        key: returns the `pair_key` of a row's pair.
    """

    def problem(pair: PairKey) -> Problem | None:
        if pair.source in drop_sources:
            detail = f"The source {pair.source[:80]!r} is in drop_sources; remove it there to keep the row."
            return "unwanted_source", detail
        row = (pair.content, pair.sorted)
        if keys.execute("INSERT OR IGNORE INTO pairs VALUES (?, ?)", row).rowcount:
            return None
        [(ordered,)] = keys.execute("SELECT sorted FROM pairs WHERE content = ?", (pair.content,))
        if ordered == pair.sorted:
            detail = "An earlier row has the same history and the same two answers; remove one of them."
            return "duplicate", detail
        detail = "An earlier row prefers the other of these two answers; remove one of them."
        return "contradicts_earlier_row", detail

    with closing(sqlite3.connect("")) as keys:  # a temporary file, deleted with the connection
        keys.executescript(
            "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA cache_size = -16384;"  # KiB
            "CREATE TABLE pairs (content INTEGER PRIMARY KEY, sorted INTEGER)"
        )
        yield from filter_pairs(rows, lambda batch: map(problem, map(key, batch)), on_drop)


def bands_for(threshold: float, permutations: int) -> tuple[int, int]:
    """Return the number of bands and the rows of each, for signatures of `permutations` rows.

    b bands of r rows let two texts of similarity s share a band with probability 1 - (1 - s^r)^b. The longest bands
    are taken (they have the fewest chance matches) with which texts at the threshold share one with RECALL.
    """
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return permutations, 1


class NearDuplicates:
    """The MinHash index of the pairs that have no near-duplicate before them.

    Two pairs are near-duplicates when
    - the estimated Jaccard similarity of their word shingles, of the user's and assistant's turns and both answers
      together, reaches the threshold, and
    - the similarity of their answers, in the same or in the other order, reaches half of it for both answers: two
      comparisons under one long prompt are not near-duplicates if their answers differ.
    A shingle never spans two texts, so that the order of the answers does not matter. System turns are left out.
    A text of fewer words than a shingle is one shingle, with its punctuation (2+2 is not 2-2) except at its end.

    Time grows linearly with the pairs, and memory is about 2.5 KB per pair kept (128 permutations, threshold 0.8).
    """

    def __init__(self, config: NearDuplicateConfig) -> None:
        self.config = config
        self.bands, self.rows = bands_for(config.threshold, config.permutations)
        self._ids: list[str] = []
        # Of each signature the lower 16 of 32 bits are kept (b-bit MinHash, Li & König 2010, arXiv 0910.3349):
        # they agree by chance once in 65,536. Shape (3, permutations): whole, chosen, rejected.
        self._signatures: list[NDArray[np.uint16]] = []
        self._buckets: dict[int, int | list[int]] = {}  # most have one row: an int takes a third of a list

    def problems(self, rows: Sequence[HasPair]) -> Iterator[Problem | None]:
        """Yield for each pair the problem that names its earlier near-duplicate; else None, and add it to the index.

        Some hundred pairs at once are much faster than one.
        """
        import numpy as np

        pairs = [row.pair for row in rows]
        parts = self._minhashes(pairs)  # (pairs, 3, permutations) uint32: history, chosen, rejected
        parts[:, 0] = parts.min(axis=1)  # the MinHash of a union is the minimum of the MinHashes
        bands = parts[:, 0, : self.bands * self.rows].reshape(len(pairs), self.bands, self.rows)
        factors = np.array(hash_factors(self.config.permutations), np.uint64)
        band_factors = factors[: self.bands * self.rows].reshape(self.bands, self.rows)
        keys = (bands * band_factors).sum(axis=2, dtype=np.uint64)
        # And one band of all rows: a copy is found however full the buckets of its bands are.
        keys = np.column_stack((keys, (parts[:, 0] * factors).sum(axis=1, dtype=np.uint64))).tolist()
        signatures = parts.astype(np.uint16)
        for pair, signature, row_keys in zip(pairs, signatures, keys, strict=True):
            problem = self._problem(signature, row_keys)
            if problem is None:
                self._add(pair.id, signature, row_keys)
            yield problem

    def _minhashes(self, pairs: Sequence[PreferencePair]) -> NDArray[np.uint32]:
        import numpy as np
        from rensa import RMinHash

        texts: list[tuple[int, list[str]]] = []  # the group is 3 * pair + (0 history, 1 chosen, 2 rejected)
        for number, pair in enumerate(pairs):
            turns = [(0, turn["content"]) for turn in pair.history if turn["role"] != "system"]
            parts = [*turns, (1, pair.chosen), (2, pair.rejected)]
            texts += [(3 * number + part, self._words(text)) for part, text in parts]
        hashed = HashedTexts(texts)
        shingles, starts = hashed.ngrams(self.config.shingle)
        sizes = np.bincount(hashed.group[starts], minlength=3 * len(pairs))
        ends = np.concatenate(([0], np.cumsum(sizes))).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            np.ascontiguousarray(shingles), ends, self.config.permutations, SEED
        )
        return np.array(matrix.to_rows(), np.uint32).reshape(len(pairs), 3, self.config.permutations)

    def _words(self, text: str) -> list[str]:
        """Return the words of a text; a text shorter than a shingle is one word, padded to a shingle."""
        text_words = words(text)
        if len(text_words) < self.config.shingle:
            text = normalized(text)
            return [text.rstrip(_FULL_STOPS) or text] + [""] * (self.config.shingle - 1)
        return text_words

    def _problem(self, signature: NDArray[np.uint16], keys: Sequence[int]) -> Problem | None:
        """Return the problem that names the most similar earlier pair, the first one of several, or None."""
        import numpy as np

        candidates: set[int] = set()
        for key in keys:
            bucket = self._buckets.get(key, [])
            candidates.update([bucket] if isinstance(bucket, int) else bucket)
        if not candidates:
            return None
        rows = sorted(candidates)
        earlier = np.stack([self._signatures[row] for row in rows])  # (candidates, 3, permutations)
        whole, chosen, rejected = np.moveaxis((earlier == signature).mean(axis=2), 1, 0)
        swapped = (earlier[:, [2, 1]] == signature[1:]).mean(axis=2).min(axis=1)
        straight = np.minimum(chosen, rejected)
        answers = np.maximum(straight, swapped)
        similar = (whole >= self.config.threshold) & (answers >= self.config.threshold / 2)
        if not similar.any():
            return None
        best = int(np.argmax(np.where(similar, whole, -1)))
        preference = ", and prefers the other answer" if swapped[best] > straight[best] else ""
        return (
            "near_duplicate",
            f"Near-duplicate of the earlier row {self._ids[rows[best]]} (similarity about {whole[best]:.2f})"
            f"{preference}; remove one of them, or raise data.near_duplicates.threshold.",
        )

    def _add(self, pair_id: str, signature: NDArray[np.uint16], keys: Sequence[int]) -> None:
        row = len(self._ids)
        self._ids.append(pair_id)
        self._signatures.append(signature)
        for key in keys:
            bucket = self._buckets.setdefault(key, row)
            if isinstance(bucket, list):
                if len(bucket) < BUCKET:
                    bucket.append(row)
            elif bucket != row:
                self._buckets[key] = [bucket, row]
