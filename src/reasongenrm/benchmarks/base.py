"""What every benchmark is: rows of answers, the comparisons its score needs, and one official score."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from reasongenrm.records import Drop, Message, PairResult, PreferencePair, content_id
from reasongenrm.report.scores import BenchmarkScore

if TYPE_CHECKING:
    from reasongenrm.benchmarks.common import Working


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a benchmark: right and wrong answers to one prompt.

    Attributes:
        id: content hash of the row (a repeated row gets `-2`, `-3`, …).
        subset: the benchmark's subset.
        history: turns up to and including the last user turn.
        answers: the candidates, the right ones first.
        right: how many of them are right, at least one; what is left is wrong, at least one.
        places: the comparisons, as (index of a right answer, index of a wrong one).
        details: what else the benchmark's metric needs, as plain values.
    """

    id: str
    subset: str
    history: tuple[Message, ...]
    answers: tuple[str, ...]
    right: int
    places: tuple[tuple[int, int], ...]
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def pairs(self) -> list[PreferencePair]:
        """The comparisons as pairs, the right answer chosen; of a row with a single one, it has the row's id."""
        single = len(self.places) == 1
        return [
            PreferencePair(
                self.id if single else f"{self.id}.{right}-{wrong}",
                self.history,
                self.answers[right],
                self.answers[wrong],
                self.subset,
            )
            for right, wrong in self.places
        ]

    @classmethod
    def make(
        cls,
        subset: str,
        history: Sequence[Message],
        right: Sequence[str],
        wrong: Sequence[str],
        *,
        places: Sequence[tuple[int, int]] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> Row:
        """Build a row; its id is the content hash of history and answers.

        Args:
            places: the comparisons; every right answer with every wrong one when not given.
        """
        turns, answers = tuple(history), (*right, *wrong)
        if places is None:
            places = [(i, len(right) + j) for i in range(len(right)) for j in range(len(wrong))]
        # The id of a row with two answers is that of its pair, as everywhere else.
        name = content_id(turns, *answers) if len(answers) == 2 else content_id(turns, right, wrong)
        return cls(name, subset, turns, answers, len(right), tuple(places), details or {})


class Benchmark(Protocol):
    """One benchmark: how its rows are read, and its official metric."""

    @property
    def name(self) -> str:
        """The name in tables."""
        ...

    @property
    def split(self) -> str:
        """The split of its hub dataset that is read when the recipe names none."""
        ...

    def rows(
        self, path: str, *, split: str | None = None, revision: str | None = None, limit: int | None = None
    ) -> Iterator[Row | Drop]:
        """Yield one item per row of a hub dataset or a local file in the benchmark's own format.

        Only rows that cannot be read are Drops (stage `load`); row ids are distinct.

        Raises:
            ConfigError: a negative limit, or a revision of a local path.
            DataError: nothing is at `path`, or no row can be read.
        """
        ...

    def work(self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0) -> Working:
        """Return the official score with what it was computed from; see `score`."""
        ...

    def score(
        self, rows: Sequence[Row], results: Mapping[str, PairResult], *, seed: int = 0
    ) -> BenchmarkScore:
        """Return the official score.

        Args:
            rows: the rows that were judged.
            results: pair id -> result, one for every pair of every row.
            seed: of the bootstrap behind the interval.
        """
        ...


def rating(row: Row, results: Mapping[str, PairResult]) -> list[float]:
    """Return one number per answer of a row, the higher the better.

    The scores that a scalar head, or a judge that rates, gave the answers; of a judge that compares (or where a
    comparison of the row has no scores), the mean credit of an answer in its comparisons, in [0, 1]. Every
    answer must be in some comparison.
    """
    pairs = [(results[pair.id], place) for pair, place in zip(row.pairs, row.places, strict=True)]
    scored = all(result.scores is not None for result, _ in pairs)  # scores and credits have no common scale
    found: list[list[float]] = [[] for _ in row.answers]
    for result, (right, wrong) in pairs:
        values = result.scores if scored and result.scores else (result.credit, 1 - result.credit)
        found[right].append(values[0])
        found[wrong].append(values[1])
    return [_mean(values) for values in found]


def _mean(values: Sequence[float]) -> float:
    """Return the mean; of equal values, that value itself, so that equal scores stay equal."""
    return values[0] if min(values) == max(values) else math.fsum(values) / len(values)
