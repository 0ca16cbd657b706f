"""A model against a reference on the rows that both have judged: difference, significance and changed rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reasongenrm.benchmarks.base import Benchmark, ScoredBenchmark, row_results, score_difference
from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.benchmarks.rewardbench import PRIOR_SETS, RewardBench
from reasongenrm.errors import DataError
from reasongenrm.metrics.intervals import Interval, McNemar, mcnemar
from reasongenrm.metrics.scores import BenchmarkScore
from reasongenrm.records import PairResult, Row
from reasongenrm.report.explorer import OUTCOME_NOTES, pair_outcome
from reasongenrm.report.run_files import BenchmarkRun, ModelRun
from reasongenrm.report.tables import percent

MIXED = "mixed"
"""Outcome of a row whose comparisons have different ones, in benchmarks with several comparisons per row."""
ROW_OUTCOMES: Mapping[str, str] = {**OUTCOME_NOTES, MIXED: "not the same in all comparisons of the row"}
"""The outcomes of a row, and what they mean."""

LOST, GAINED, OTHER = CHANGES = ("right to wrong", "wrong to right", "other change")
_MOST_IDS = 5  # ids in a note; compare.json has all of them


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """A model of a run, on one benchmark.

    Attributes:
        label: its name in the comparison, `run/model`.
        benchmark: the run's benchmark.
        model: its results.
        seed: of the run's recipe.
    """

    label: str
    benchmark: BenchmarkRun
    model: ModelRun
    seed: int

    def results(self, row: Row) -> list[PairResult]:
        """Return the results of a row's comparisons."""
        return row_results(row, self.model.results)


@dataclass(frozen=True, slots=True)
class RowChange:
    """A row on which the two models differ.

    Attributes:
        row: the row.
        kind: one of CHANGES.
        before, after: its outcome with the reference, and with the model: keys of ROW_OUTCOMES.
        pairs: the comparisons that changed: pair id -> (outcome before, outcome after).
    """

    row: Row
    kind: str
    before: str
    after: str
    pairs: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """A model against the reference, on the rows that both judged. Shares are in [0, 1].

    Attributes:
        reference, model: the two.
        rows: how many rows both judged.
        only_reference, only_model: ids of the rows that only one of them judged.
        unlike: ids that both have, of rows that are not the same in subset, comparisons or details.
        scores: the official scores of reference and model on these rows.
        difference: the model's score minus the reference's.
        interval: 95% paired bootstrap interval of the difference.
        paired: McNemar's exact test; "better" are rows that only the model has right in every order.
        p_holm: its p-value corrected for all comparisons of the call; None where there is only one.
        transitions: (outcome with the reference, outcome with the model) -> rows.
        changes: the rows on which they differ, by subset and id.
        notes: what a reader must know besides.
    """

    reference: ComparedModel
    model: ComparedModel
    rows: int
    only_reference: tuple[str, ...]
    only_model: tuple[str, ...]
    unlike: tuple[str, ...]
    scores: tuple[BenchmarkScore, BenchmarkScore]
    difference: float
    interval: Interval
    paired: McNemar
    p_holm: float | None
    transitions: Mapping[tuple[str, str], int]
    changes: tuple[RowChange, ...]
    notes: tuple[str, ...]

    @property
    def title(self) -> str:
        """The names of the two models."""
        return f"{self.model.label} against {self.reference.label}"

    @property
    def counts(self) -> dict[str, int]:
        """How many rows changed, by kind of change."""
        counts = Counter(change.kind for change in self.changes)
        return {kind: counts[kind] for kind in CHANGES}


def compare_models(reference: ComparedModel, model: ComparedModel) -> ModelComparison | None:
    """Compare two models on a benchmark; None where they share no row.

    The result does not depend on the order of the rows in their files.

    Args:
        reference, model: of the same kind of benchmark.

    Raises:
        DataError: the kind of benchmark is unknown.
    """
    ours, theirs = ({row.id: row for row in one.benchmark.rows} for one in (model, reference))
    rows = [row for row in reference.benchmark.rows if ours.get(row.id) == row]
    if not rows:
        return None
    models = (reference, model)
    scored = [_benchmark(one, rows).score_details(rows, one.model.results, seed=one.seed) for one in models]
    difference, interval = score_difference(scored[1], scored[0], seed=reference.seed)
    outcomes = [[_row_outcome(one.results(row)) for row in rows] for one in models]
    right = [[outcome == "right" for outcome in column] for column in outcomes]
    transitions = Counter(zip(*outcomes, strict=True))
    only = tuple(tuple(sorted(a.keys() - b.keys())) for a, b in ((theirs, ours), (ours, theirs)))
    unlike = tuple(sorted(key for key in theirs.keys() & ours.keys() if theirs[key] != ours[key]))
    return ModelComparison(
        reference=reference,
        model=model,
        rows=len(rows),
        only_reference=only[0],
        only_model=only[1],
        unlike=unlike,
        scores=(_published(reference, scored[0]), _published(model, scored[1])),
        difference=difference,
        interval=interval,
        paired=mcnemar(right[1], right[0]),
        p_holm=None,
        transitions={
            (a, b): transitions[a, b] for a in ROW_OUTCOMES for b in ROW_OUTCOMES if (a, b) in transitions
        },
        changes=_changes(rows, reference, model),
        notes=(
            *_row_notes(models, len(rows), only, unlike),
            *_score_notes(models, scored, len(rows)),
            *_order_notes(models, rows),
        ),
    )


def correct_p_values(comparisons: Sequence[ModelComparison]) -> list[ModelComparison]:
    """Return the comparisons with their p-values corrected for being several; a single one is unchanged."""
    if len(comparisons) < 2:
        return list(comparisons)
    adjusted = holm([comparison.paired.p for comparison in comparisons])
    return [replace(comparison, p_holm=p) for comparison, p in zip(comparisons, adjusted, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for being several, in their order.

    Those at or below a level are the hypotheses that Holm's step-down procedure rejects at that level, which keeps
    the probability of any false rejection below it, however the tests depend on each other. Source: S. Holm, "A
    Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _benchmark(compared: ComparedModel, rows: Sequence[Row]) -> Benchmark:
    kind = compared.benchmark.kind
    if kind not in BENCHMARKS:
        hint = f"known: {', '.join(BENCHMARKS)}"
        raise DataError(f"unknown kind of benchmark {kind!r}", location=compared.label, hint=hint)
    if kind == "rewardbench" and any(row.subset in PRIOR_SETS for row in rows):
        return RewardBench(prior_sets=True)
    return BENCHMARKS[kind]


def _published(compared: ComparedModel, scored: ScoredBenchmark) -> BenchmarkScore:
    """Return the score of scores.json, whose interval may come from another seed, where it is of the same rows."""
    score = compared.model.score
    same = (score.rows, score.score) == (scored.score.rows, scored.score.score)
    return score if same else scored.score


def _row_outcome(results: Sequence[PairResult]) -> str:
    """Return the outcome of a row over all its comparisons and their orders."""
    outcomes = {pair_outcome(result) for result in results}
    return outcomes.pop() if len(outcomes) == 1 else MIXED


def _changes(rows: Sequence[Row], reference: ComparedModel, model: ComparedModel) -> tuple[RowChange, ...]:
    changes = []
    for row in sorted(rows, key=lambda row: (row.subset, row.id)):
        old, new = reference.results(row), model.results(row)
        pairs: dict[str, tuple[str, str]] = {
            before.pair_id: (pair_outcome(before), pair_outcome(after))
            for before, after in zip(old, new, strict=True)
            if pair_outcome(before) != pair_outcome(after)
        }
        if pairs:
            ends = (_row_outcome(old), _row_outcome(new))
            kind = {("right", "wrong"): LOST, ("wrong", "right"): GAINED}.get(ends, OTHER)
            changes.append(RowChange(row, kind, *ends, pairs))
    return tuple(changes)


def _row_notes(
    models: Sequence[ComparedModel], rows: int, only: Sequence[tuple[str, ...]], unlike: tuple[str, ...]
) -> list[str]:
    """Return which rows were left out."""

    def names(ids: Sequence[str]) -> str:
        return ", ".join(ids[:_MOST_IDS]) + (", …" if len(ids) > _MOST_IDS else "")

    absent = [
        f"{len(ids):,} only in {one.label} ({names(ids)})"
        for one, ids in zip(models, only, strict=True)
        if ids
    ]
    if unlike:
        absent.append(f"{len(unlike):,} with other subsets, comparisons or details ({names(unlike)})")
    if not absent:
        return []
    scores = " and ".join(f"{one.label} {percent(one.model.score.score)}" for one in models)
    return [
        f"Compared on the {rows:,} rows that both judged. Left out: {'; '.join(absent)}. "
        f"Over all its own rows each has: {scores}."
    ]


def _score_notes(models: Sequence[ComparedModel], scored: Sequence[ScoredBenchmark], rows: int) -> list[str]:
    """Return where the score in scores.json is not that of the verdicts."""
    return [
        f"{one.label}: scores.json says {one.model.score.score:.6f}, but its verdicts give {new.score.score:.6f}, "
        "which is used here; another version of the metric wrote the file."
        for one, new in zip(models, scored, strict=True)
        if rows == len(one.benchmark.rows) and new.score.score != one.model.score.score
    ]


def _order_notes(models: Sequence[ComparedModel], rows: Sequence[Row]) -> list[str]:
    """Return where "right in every order" is not equally hard for both."""
    ways = []
    for one in models:
        results = [result for row in rows for result in one.results(row)]
        orders = sorted({len(result.outcomes) for result in results if result.scores is None})
        ways.append(f"in {' or '.join(map(str, orders))} order(s)" if orders else "by scores, without orders")
    if ways[0] == ways[1]:
        return []
    listed = "; ".join(f"{one.label} {way}" for one, way in zip(models, ways, strict=True))
    return [f"Judged {listed}: right in every order is harder with more orders."]
