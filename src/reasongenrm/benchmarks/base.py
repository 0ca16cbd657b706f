"""`Benchmark`, the base class: read rows, give each a credit, aggregate the credits to the official score."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import chain, islice
from statistics import fmean
from typing import Any

from reasongenrm.benchmarks.loading import parsed_rows, source_files
from reasongenrm.errors import DataError
from reasongenrm.metrics.intervals import Interval, bootstrap_interval, paired_interval, share_interval
from reasongenrm.metrics.scores import BenchmarkScore, Counts, SubsetScore
from reasongenrm.records import Drop, PairResult, Row, Verdict
from reasongenrm.rows.files import RawRow, read_rows

Results = Mapping[str, PairResult]
"""Pair id -> result, one for every pair of every row."""

Rating = float | Fraction
"""How good an answer is; higher is better (see `answer_ratings`)."""

Shares = dict[str, float | None]
"""Name -> share in [0, 1]; None where nothing was counted."""

DECISIONS = frozenset(("correct", "wrong", "tie"))
"""The outcomes of an order with a readable verdict."""


@dataclass(frozen=True, slots=True)
class Table:
    """The sections of a benchmark and their weights.

    Attributes:
        name: the benchmark's name.
        sections: section -> subset -> weight within the section.
        published_rows: subset -> number of published rows; empty where the number is not known.
        section_weights: section -> weight within the score; 1 for sections without an entry.
        toy: whether it is the suite's own toy benchmark.
        published_section_rows: section -> number of published rows, where only that is known.
        published_total: number of published rows, where only that is known; else 0.
    """

    name: str
    sections: Mapping[str, Mapping[str, float]]
    published_rows: Mapping[str, int] = field(default_factory=dict)
    section_weights: Mapping[str, float] = field(default_factory=dict)
    toy: bool = False
    published_section_rows: Mapping[str, int] = field(default_factory=dict)
    published_total: int = 0

    @property
    def subsets(self) -> list[str]:
        """The subsets of all sections, in the table's order."""
        return [subset for weights in self.sections.values() for subset in weights]

    def missing(self, judged: Mapping[str, int]) -> tuple[str, ...]:
        """Return the sections and subsets that are absent, or have fewer rows than were published.

        Args:
            judged: subset -> number of rows judged.
        """
        few = [
            section
            for section, subsets in self.sections.items()
            if not subsets
            or sum(judged.get(s, 0) for s in subsets) < self.published_section_rows.get(section, 0)
        ]
        few += [name for name in self.subsets if judged.get(name, 0) < self.published_rows.get(name, 1)]
        total = sum(judged.values())
        if not few and total < self.published_total:
            few.append(f"{self.published_total - total:,} of {self.published_total:,} rows")
        return tuple(few)


@dataclass(frozen=True, slots=True)
class ScoredBenchmark:
    """An official score and its parts.

    Attributes:
        score: the score.
        table: the sections over which the credits were aggregated.
        credits: subset -> the credit of every row (in RewardBench 2's Ties: of every question).
    """

    score: BenchmarkScore
    table: Table
    credits: Mapping[str, Sequence[float]]


class Benchmark(ABC):
    """One benchmark: how its rows are read, and its official metric.

    Attributes:
        name: the name in tables.
        split: the split of its hub dataset that is read by default.
        columns: the columns to read if they exist (Parquet files and hub datasets).
        required: the columns that must exist there.
        row_hint: the columns that a row needs, for the error when no row can be read.
        array_file: the name of the files to read in a folder that has such files; all other files are ignored.
        fixed_table: the sections of a benchmark whose sections do not depend on its rows.
        split_column: the column that gets the name of a row's split, where a row lacks it and its metric needs it.
    """

    name: str
    split: str
    columns: Sequence[str] = ()
    required: Sequence[str] = ()
    row_hint: str
    array_file: str | None = None
    fixed_table: Table
    split_column: str = ""

    def rows(
        self, path: str, *, split: str | None = None, revision: str | None = None, limit: int | None = None
    ) -> Iterator[Row | Drop]:
        """Yield one item per row of a hub dataset or a local file in the benchmark's own format.

        Only rows that cannot be read are Drops (stage `load`); row ids are distinct.

        Raises:
            ConfigError: a negative limit, or a revision of a local path.
            DataError: `path` does not exist, or no row can be read.
        """
        raw = self.raw_rows(path, split=split, revision=revision, limit=limit)
        return parsed_rows(raw, self.read_row, location=path, hint=self.row_hint)

    def raw_rows(
        self, path: str, *, split: str | None, revision: str | None, limit: int | None
    ) -> Iterator[RawRow | Drop]:
        """Stream the rows before they are checked; see `read_rows`, and `source_files` for folders of `.json` files."""
        rows = [
            self._with_split(
                read_rows(
                    file,
                    required=self.required,
                    optional=self.columns,
                    split=name,
                    revision=revision,
                    limit=limit,
                ),
                name,
            )
            for file, name in self.sources(path, split)
        ]
        return islice(chain.from_iterable(rows), limit)

    def _with_split(self, rows: Iterator[RawRow | Drop], name: str) -> Iterator[RawRow | Drop]:
        if not self.split_column:
            return rows
        return (
            raw if isinstance(raw, Drop) else replace(raw, columns={self.split_column: name} | raw.columns)
            for raw in rows
        )

    def sources(self, path: str, split: str | None) -> list[tuple[str, str]]:
        """Return the files (or the hub dataset) to read, each with its split; see `source_files`."""
        return [
            (file, name) for file in source_files(path, self.array_file) for name in self.splits(file, split)
        ]

    def splits(self, file: str, split: str | None) -> list[str]:
        """Return the splits to read of a file, folder or hub dataset: the split, by default the benchmark's own."""
        return [split or self.split]

    @abstractmethod
    def read_row(self, raw: RawRow) -> Row:
        """Return one row.

        Raises:
            BadRow: the row cannot be used.
        """

    def table(self, rows: Sequence[Row]) -> Table:
        """Return the sections over which these rows are aggregated: by default `fixed_table`."""
        return self.fixed_table

    def row_credit(self, row: Row, results: Sequence[PairResult]) -> float:
        """Return the credit of one row from the results of its comparisons, in the order of its places.

        By default it is the mean credit of the comparisons, so a tie is half right.
        """
        return fmean(result.credit for result in results)

    def credits(self, rows: Sequence[Row], results: Results) -> dict[str, list[float]]:
        """Return subset -> the credits of its rows; their mean is the subset's accuracy."""
        return {
            subset: [self.row_credit(row, row_results(row, results)) for row in group]
            for subset, group in rows_by_subset(rows).items()
        }

    def strict_result(self, result: PairResult) -> PairResult:
        """Return a judge's comparison with a single outcome: correct if every order is correct, otherwise wrong.

        A comparison by scores (of a scalar head, or of a judge that rates) has no orders and is unchanged.
        """
        if result.scores is not None or not result.verdicts:
            return result
        right = min(result.correct) == 1
        return replace(result, correct=(float(right),), outcomes=("correct" if right else "wrong",))

    def details(self, rows: Sequence[Row], results: Results, sections: Shares) -> Shares:
        """Return the benchmark's further numbers; `sections` has the accuracies of the sections."""
        return {}

    def score(self, rows: Sequence[Row], results: Results, *, seed: int = 0) -> BenchmarkScore:
        """Return the official score; see `score_details`."""
        return self.score_details(rows, results, seed=seed).score

    def score_details(self, rows: Sequence[Row], results: Results, *, seed: int = 0) -> ScoredBenchmark:
        """Return the official score and its parts. They do not depend on the order of the rows.

        Args:
            rows: the rows that were judged.
            results: their results.
            seed: of the bootstrap of the interval.

        Raises:
            DataError: no rows, or subsets that the benchmark does not have.
        """
        if not rows:
            raise DataError("no rows to score", location=self.name, hint="judge a benchmark first")
        table, credits = self.table(rows), self.credits(rows, results)
        strict = self.credits(rows, {name: self.strict_result(result) for name, result in results.items()})
        sections, overall = aggregate(table, _means(credits))
        groups = rows_by_subset(rows)
        missing = table.missing({name: len(group) for name, group in groups.items()})
        judged = [result for row in rows for result in row_results(row, results)]
        letters = Counter(v.winner for result in judged for v in result.verdicts if v.winner in ("A", "B"))
        subsets = {
            name: SubsetScore(
                section=section,
                weight=weight,
                rows=len(groups[name]),
                accuracy=fmean(credits[name]),
                strict=fmean(strict[name]),
                strict_interval=share_interval(strict[name], seed=seed),
                counts=Counts.from_results(
                    result for row in groups[name] for result in row_results(row, results)
                ),
            )
            for section, weights in table.sections.items()
            for name, weight in weights.items()
            if name in credits
        }
        score = BenchmarkScore(
            benchmark=table.name,
            toy=table.toy,
            partial=bool(missing),
            missing=missing,
            score=overall,
            interval=bootstrap_interval(credits, lambda means: aggregate(table, means)[1], seed=seed),
            strict=aggregate(table, _means(strict))[1],
            swap_mean=fmean(result.credit for result in judged),
            position_bias=letters["A"] / letters.total() if letters else None,
            sections=sections,
            subsets=subsets,
            rows=len(rows),
            counts=Counts.from_results(judged),
            details=self.details(rows, results, sections),
        )
        return ScoredBenchmark(score, table, credits)


def aggregate(table: Table, means: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the accuracies of the sections, and their weighted mean, the score.

    The accuracy of a section is the mean of its subsets' accuracies, weighted by the table. A section without any
    subset present is None and is left out of the score (RewardBench's own code counts it as 0, which would
    make a partial benchmark look like a bad model).

    Args:
        means: subset -> mean credit: floats, or arrays of one shape, such as the bootstrap's.
    """
    sections: dict[str, Any] = {}
    for section, weights in table.sections.items():
        present = {subset: weight for subset, weight in weights.items() if subset in means}
        weighted = sum(weight * means[subset] for subset, weight in present.items())
        sections[section] = weighted / sum(present.values()) if present else None
    counted = [name for name, accuracy in sections.items() if accuracy is not None]
    section_weights = {name: table.section_weights.get(name, 1) for name in counted}
    return sections, sum(section_weights[n] * sections[n] for n in counted) / sum(section_weights.values())


def micro_table(name: str, sections: Mapping[str, Mapping[str, int]], published: Mapping[str, int]) -> Table:
    """Return a table in which every row has the same weight, from section -> subset -> rows judged."""
    return Table(name, sections, published, {s: sum(rows.values()) for s, rows in sections.items()})


def share(values: Iterable[float]) -> float | None:
    """Return the mean of the values, None without any; their order does not change it."""
    numbers = list(values)
    return fmean(numbers) if numbers else None


def _means(credits: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: fmean(values) for name, values in credits.items()}


def rows_by_subset(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return subset -> its rows, in their order."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.subset, []).append(row)
    return groups


def row_results(row: Row, results: Results) -> list[PairResult]:
    """Return the results of a row's comparisons, in the order of its places."""
    return [results[pair.id] for pair in row.pairs]


def answer_ratings(row: Row, results: Results) -> list[Rating]:
    """Return one number per answer of a row; higher is better.

    These are the scores from a scalar head or from a judge that rates answers. For a judge that compares answers (or
    if a comparison of the row has no scores), it is the mean credit of an answer over its comparisons, a fraction in
    [0, 1], so that differences of means are exact. Every answer must be part of a comparison.
    """
    compared = row_results(row, results)
    scored = all(result.scores is not None for result in compared)  # scores and credits have no common scale
    values: list[list[Rating]] = [[] for _ in row.answers]
    for result, (right, wrong) in zip(compared, row.places, strict=True):
        credit = Fraction(result.credit)
        pair = result.scores if scored and result.scores else (credit, 1 - credit)
        values[right].append(pair[0])
        values[wrong].append(pair[1])
    # The mean of equal scores must be that score, so that ties between answers remain ties.
    return [one[0] if min(one) == max(one) else sum(one) / len(one) for one in values]


def best_is_right(row: Row, results: Results) -> float:
    """Return 1 if the answer with the highest rating is right; answers that share the highest rating share the 1."""
    ratings = answer_ratings(row, results)
    best = max(ratings)
    return fmean(place < row.right for place, rating in enumerate(ratings) if rating == best)


def correct_share(result: PairResult) -> float:
    """Return the share of a comparison's orders in which the right answer was named; all other outcomes are wrong."""
    return fmean(outcome == "correct" for outcome in result.outcomes)


def inconsistent_share(rows: Sequence[Row], results: Results) -> float | None:
    """Return the share of comparisons whose orders decide differently; None if no comparison has two orders.

    A tie is a decision of its own, and so are all verdicts that cannot be read.
    """
    decisions = [
        {outcome if outcome in DECISIONS else "unreadable" for outcome in result.outcomes}
        for row in rows
        for result in row_results(row, results)
        if len(result.outcomes) > 1
    ]
    return share(len(names) > 1 for names in decisions)


def score_difference(
    ours: ScoredBenchmark, theirs: ScoredBenchmark, *, seed: int = 0
) -> tuple[float, Interval]:
    """Return our official score minus theirs, and the 95% paired bootstrap interval of the difference.

    Rows are resampled within their subsets, both models' credits of a row together.

    Args:
        ours, theirs: scores of the same rows in the same order.
        seed: of the bootstrap.

    Raises:
        ValueError: the two are scores of different rows.
    """
    interval = paired_interval(
        ours.credits, theirs.credits, lambda means: aggregate(ours.table, means)[1], seed=seed
    )
    return ours.score.score - theirs.score.score, interval


def judge_result(pair_id: str, subset: str, verdicts: Sequence[Verdict]) -> PairResult:
    """Return the result of a judged comparison, one credit and outcome per verdict.

    In order AB the chosen answer is A. The credit is 1 for the chosen answer's letter, 0 for the other letter, 0.5 for
    a tie and for a verdict without a letter (RewardBench's `scripts/run_generative.py`: "effectively a tie").
    """
    outcomes = tuple(map(_outcome, verdicts))
    credits = tuple({"correct": 1.0, "wrong": 0.0}.get(outcome, 0.5) for outcome in outcomes)
    return PairResult(pair_id, subset, tuple(verdicts), credits, outcomes)


def _outcome(verdict: Verdict) -> str:
    if verdict.outcome != "ok":
        return verdict.outcome
    return "correct" if (verdict.winner == "A") == (verdict.order == "AB") else "wrong"


def scalar_result(pair_id: str, subset: str, chosen_score: float, rejected_score: float) -> PairResult:
    """Return the result of a comparison scored by a scalar head: credit 1 if the chosen answer's score is higher.

    Equal scores have credit 0 (RewardBench's `scripts/run_rm.py`: chosen > rejected) and the outcome `tie`. If a score
    is not finite, the credit is 0, the outcome `error`, and the scores are left out, as JSON cannot hold them.
    """
    scores = (chosen_score, rejected_score)
    if not all(map(math.isfinite, scores)):
        return PairResult(pair_id, subset, (), (0.0,), ("error",))
    right = chosen_score > rejected_score
    outcome = "correct" if right else "tie" if chosen_score == rejected_score else "wrong"
    return PairResult(pair_id, subset, (), (float(right),), (outcome,), scores)
