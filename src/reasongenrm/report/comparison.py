"""Two models on the rows that both have judged: how far apart they are, by chance or not, and on which rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reasongenrm.benchmarks.base import Benchmark, ScoredBenchmark, found, score_difference
from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.benchmarks.rewardbench import PRIOR_SETS, RewardBench
from reasongenrm.errors import DataError
from reasongenrm.metrics.intervals import Interval
from reasongenrm.metrics.paired import McNemar, mcnemar
from reasongenrm.metrics.scores import BenchmarkScore
from reasongenrm.records import PairResult, Row
from reasongenrm.report.pages import OUTCOME_NOTES, row_outcome
from reasongenrm.report.run_files import BenchmarkRun, ModelRun
from reasongenrm.report.tables import percent

MIXED = "mixed"
"""Outcome of a row whose comparisons have different ones, in benchmarks with several comparisons per row."""
ROW_OUTCOMES: Mapping[str, str] = dict(
    [*OUTCOME_NOTES.items(), (MIXED, "not the same in all comparisons of the row")]
)
"""What can become of a row, and what that means."""

LOST, GAINED, OTHER = CHANGES = ("right to wrong", "wrong to right", "other change")
_NAMED = 5  # ids in a note; compare.json has all of them


@dataclass(frozen=True, slots=True)
class Side:
    """A model of a run, on one benchmark.

    Attributes:
        label: its name here, `run/model`.
        benchmark: the run's benchmark.
        model: what it said.
        seed: of the run's recipe.
    """

    label: str
    benchmark: BenchmarkRun
    model: ModelRun
    seed: int


@dataclass(frozen=True, slots=True)
class Change:
    """A row on which the two models differ.

    Attributes:
        row: the row.
        kind: one of CHANGES.
        before, after: what became of it with the reference, and with the model: keys of ROW_OUTCOMES.
        pairs: the comparisons that changed: pair id -> (outcome before, outcome after).
    """

    row: Row
    kind: str
    before: str
    after: str
    pairs: Mapping[str, tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A model against the reference, on the rows that both judged. Shares are in [0, 1].

    Attributes:
        reference, model: the two.
        rows: how many rows both judged.
        only_reference, only_model: ids of the rows that one alone judged.
        unlike: ids that both have, of rows that are not the same in subset, comparisons or details.
        scores: the official scores of reference and model on these rows.
        difference: the model's score less the reference's.
        interval: 95% paired bootstrap interval of the difference.
        paired: McNemar's exact test; "better" are rows that the model alone has right in every order.
        p_holm: its p-value corrected for all comparisons made together; None where there is one alone.
        transitions: (outcome with the reference, outcome with the model) -> rows.
        changes: the rows on which they differ, by subset and id.
        notes: what a reader must know besides.
    """

    reference: Side
    model: Side
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
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def counts(self) -> dict[str, int]:
        """How many rows changed, by kind of change."""
        counted = Counter(change.kind for change in self.changes)
        return {kind: counted[kind] for kind in CHANGES}


def compare_models(reference: Side, model: Side) -> Comparison | None:
    """Compare two models on a benchmark; None where they share no row.

    Nothing of it depends on the order of the rows in their files.

    Args:
        reference, model: of the same kind of benchmark.

    Raises:
        DataError: the rows are of no benchmark that is known.
    """
    ours, theirs = ({row.id: row for row in side.benchmark.rows} for side in (model, reference))
    rows = [row for row in reference.benchmark.rows if ours.get(row.id) == row]
    if not rows:
        return None
    sides = (reference, model)
    worked = [_working(side, rows) for side in sides]
    difference, interval = score_difference(worked[1], worked[0], seed=reference.seed)
    judged = [[_outcome(found(row, side.model.results)) for row in rows] for side in sides]
    right = [[outcome == "right" for outcome in outcomes] for outcomes in judged]
    only = [tuple(sorted(one.keys() - other.keys())) for one, other in ((theirs, ours), (ours, theirs))]
    unlike = tuple(sorted(key for key in theirs.keys() & ours.keys() if theirs[key] != ours[key]))
    return Comparison(
        reference=reference,
        model=model,
        rows=len(rows),
        only_reference=only[0],
        only_model=only[1],
        unlike=unlike,
        scores=(_published(reference, worked[0]), _published(model, worked[1])),
        difference=difference,
        interval=interval,
        paired=mcnemar(right[1], right[0]),
        p_holm=None,
        transitions=dict(sorted(Counter(zip(*judged, strict=True)).items(), key=_transition)),
        changes=tuple(sorted(_changes(rows, sides), key=lambda change: (change.row.subset, change.row.id))),
        notes=(
            *_row_notes(sides, len(rows), only, unlike),
            *_score_notes(sides, worked, rows),
            *_order_notes(sides, rows),
        ),
    )


def corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return comparisons that are looked at together with their p-values corrected for that; a single one as it is."""
    if len(comparisons) < 2:
        return list(comparisons)
    adjusted = holm([comparison.paired.p for comparison in comparisons])
    return [replace(one, p_holm=p) for one, p in zip(comparisons, adjusted, strict=True)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for being several, in their order.

    Those at or below a level are the hypotheses that Holm's step-down procedure rejects at that level, which holds
    the probability of any false rejection below it, however the tests depend on each other. Source: S. Holm, "A
    Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = highest
    return adjusted


def _working(side: Side, rows: Sequence[Row]) -> ScoredBenchmark:
    return _benchmark(side, rows).score_details(rows, side.model.results, seed=side.seed)


def _benchmark(side: Side, rows: Sequence[Row]) -> Benchmark:
    kind = side.benchmark.kind
    if kind not in BENCHMARKS:
        raise DataError(
            f"unknown kind of benchmark {kind!r}", location=side.label, hint=f"known: {', '.join(BENCHMARKS)}"
        )
    if kind == "rewardbench" and any(row.subset in PRIOR_SETS for row in rows):
        return RewardBench(prior_sets=True)
    return BENCHMARKS[kind]


def _published(side: Side, one: ScoredBenchmark) -> BenchmarkScore:
    """Return the score of scores.json, whose interval may come from another seed, where it is of the same rows."""
    told = side.model.score
    return told if (told.rows, told.score) == (one.score.rows, one.score.score) else one.score


def _outcome(results: Sequence[PairResult]) -> str:
    """Return what became of a row over all its comparisons and their orders."""
    outcomes = {row_outcome(result) for result in results}
    return outcomes.pop() if len(outcomes) == 1 else MIXED


def _transition(entry: tuple[tuple[str, str], int]) -> tuple[int, ...]:
    """Sort transitions as ROW_OUTCOMES is."""
    names = list(ROW_OUTCOMES)
    return tuple(names.index(name) for name in entry[0])


def _changes(rows: Sequence[Row], sides: tuple[Side, Side]) -> list[Change]:
    changes = []
    for row in rows:
        before, after = (found(row, side.model.results) for side in sides)
        pairs: dict[str, tuple[str, str]] = {
            old.pair_id: (row_outcome(old), row_outcome(new)) for old, new in zip(before, after, strict=True)
        }
        changed = {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
        if changed:
            ends = (_outcome(before), _outcome(after))
            kind = {("right", "wrong"): LOST, ("wrong", "right"): GAINED}.get(ends, OTHER)
            changes.append(Change(row, kind, *ends, changed))
    return changes


def _row_notes(
    sides: tuple[Side, Side], rows: int, only: Sequence[tuple[str, ...]], unlike: tuple[str, ...]
) -> list[str]:
    """Say which rows were left out."""
    absent = [
        f"{len(ids):,} of {side.label} alone ({_names(ids)})"
        for side, ids in zip(sides, only, strict=True)
        if ids
    ]
    if unlike:
        absent.append(f"{len(unlike):,} with other subsets, comparisons or details ({_names(unlike)})")
    if not absent:
        return []
    scores = " and ".join(f"{side.label} {percent(side.model.score.score)}" for side in sides)
    return [
        f"Compared on the {rows:,} rows that both judged. Left out: {'; '.join(absent)}. "
        f"Over all its own rows each has: {scores}."
    ]


def _names(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_NAMED]) + (", …" if len(ids) > _NAMED else "")


def _score_notes(
    sides: tuple[Side, Side], worked: Sequence[ScoredBenchmark], rows: Sequence[Row]
) -> list[str]:
    """Say where the files' score is not what the files' verdicts make."""
    return [
        f"{side.label}: scores.json says {side.model.score.score:.6f}, and its verdicts make "
        f"{one.score.score:.6f}, which is taken here; another version of the metric wrote it."
        for side, one in zip(sides, worked, strict=True)
        if len(rows) == len(side.benchmark.rows) and one.score.score != side.model.score.score
    ]


def _order_notes(sides: tuple[Side, Side], rows: Sequence[Row]) -> list[str]:
    """Say where "right in every order" is not equally hard for both."""
    said = []
    for side in sides:
        results = [result for row in rows for result in found(row, side.model.results)]
        orders = sorted({len(result.outcomes) for result in results if result.scores is None})
        said.append(f"in {' or '.join(map(str, orders))} order(s)" if orders else "by scores, without orders")
    if said[0] == said[1]:
        return []
    ways = "; ".join(f"{side.label} {how}" for side, how in zip(sides, said, strict=True))
    return [f"Judged {ways}: right in every order is the harder the more orders there are."]
