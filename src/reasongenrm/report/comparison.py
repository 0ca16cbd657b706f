"""Compare models of one or several runs on the rows that both have judged: difference, significance, changed rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reasongenrm.benchmarks.base import Benchmark, ScoredBenchmark, row_results, score_difference
from reasongenrm.benchmarks.registry import BENCHMARKS, named_benchmark
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.metrics.intervals import Interval, McNemar, holm, mcnemar
from reasongenrm.metrics.scores import BenchmarkScore
from reasongenrm.records import Row
from reasongenrm.report.explorer import OUTCOME_NOTES, pair_outcome
from reasongenrm.report.pages import printable
from reasongenrm.report.run_files import BenchmarkRun, Manifest, ModelRun, RunFiles, read_run
from reasongenrm.report.tables import one_line, percent

MIXED = "mixed"
"""Outcome of a row whose comparisons have different ones, in benchmarks with several comparisons per row."""
ROW_OUTCOMES: Mapping[str, str] = {**OUTCOME_NOTES, MIXED: "not the same in all comparisons of the row"}
"""The outcomes of a row, and what they mean."""

CHANGES = ("right to wrong", "wrong to right", "other change")
_HOLM = (
    "{count} comparisons are listed here; p (Holm) is corrected for their number (Holm 1979, Scandinavian Journal of Statistics "
    "6:65-70). The intervals are not: each holds for its own comparison."
)
_LONGEST_EXCERPT = 80
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
        transitions: (outcome with the reference, outcome with the model) -> rows.
        changes: the rows on which they differ, by subset and id: `id`, `subset`, `change` (one of CHANGES), `before` and
            `after` (keys of ROW_OUTCOMES), `comparisons` (`id`, `before`, `after` of those that changed), `prompt`.
        notes: what a reader must know besides.
        p_holm: the p-value corrected for all comparisons of the call; None where there is only one.
    """

    reference: ComparedModel
    model: ComparedModel
    rows: int
    only_reference: Sequence[str]
    only_model: Sequence[str]
    unlike: Sequence[str]
    scores: tuple[BenchmarkScore, BenchmarkScore]
    difference: float
    interval: Interval
    paired: McNemar
    transitions: Mapping[tuple[str, str], int]
    changes: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    p_holm: float | None = None

    @property
    def counts(self) -> dict[str, int]:
        """How many rows changed, by kind of change."""
        counts = Counter(change["change"] for change in self.changes)
        return {kind: counts[kind] for kind in CHANGES}


@dataclass(frozen=True, slots=True)
class RunsComparison:
    """Some models of one or several runs.

    Attributes:
        comparisons: those of a benchmark follow each other.
        notes: how p-values are corrected, what was not compared, and why.
        models: (run label, model), the reference first.
        manifests: run label -> what the run was made with, the reference's run first.
    """

    comparisons: list[ModelComparison]
    notes: list[str]
    models: list[tuple[str, str]]
    manifests: dict[str, Manifest]


def compare_all(paths: Sequence[Path]) -> RunsComparison:
    """Compare every model with the first one, benchmark by benchmark.

    Args:
        paths: run folders, or `RUN:MODEL` for a single model of one.

    Raises:
        ConfigError: a model that a run does not have, or only one model in all.
        DataError: not a run folder, a broken file in one, or a model shares no row with any other.
    """
    runs, models = _read_runs(paths)
    labels = list(map("/".join, models))
    by_benchmark: dict[tuple[str, str], list[ComparedModel]] = {}
    for label, (run, name) in zip(labels, models, strict=True):
        for benchmark in runs[run].benchmarks:
            if name in benchmark.models:
                seed = runs[run].manifest.recipe.get("seed", 0)
                compared = ComparedModel(label, benchmark, benchmark.models[name], seed)
                by_benchmark.setdefault((benchmark.key, benchmark.kind), []).append(compared)
    comparisons: list[ModelComparison] = []
    notes: list[str] = []
    for (key, kind), (reference, *others) in by_benchmark.items():
        if not others:
            notes.append(f"{key} ({kind}) was judged only by {reference.label}, and is not compared.")
        elif reference.label != labels[0]:
            notes.append(f"{key} ({kind}) was not judged by {labels[0]}: the reference is the next model.")
        for other in others:
            comparison = compare_models(reference, other)
            if comparison is None:
                notes.append(f"{key} ({kind}): {reference.label} and {other.label} share no row.")
            else:
                comparisons.append(comparison)
    shared = {one.label for c in comparisons for one in (c.reference, c.model)}
    for label in labels:
        if label not in shared:
            problem = "shares no judged row with another compared model"
            hint = "compare runs of the same benchmark, under the same name in evaluate.benchmarks"
            raise DataError(problem, location=label, hint=hint)
    if len(comparisons) > 1:
        p_values = holm([one.paired.p for one in comparisons])
        comparisons = [replace(one, p_holm=p) for one, p in zip(comparisons, p_values, strict=True)]
        notes.insert(0, _HOLM.format(count=len(comparisons)))
    return RunsComparison(comparisons, notes, models, {run: files.manifest for run, files in runs.items()})


def _read_runs(paths: Sequence[Path]) -> tuple[dict[str, RunFiles], list[tuple[str, str]]]:
    """Return the runs by label, and the (run label, model) pairs to compare, each once."""
    targets = [_target(path) for path in paths]
    files: dict[Path, RunFiles] = {}
    for folder, _ in targets:
        if folder.resolve() not in files:
            files[folder.resolve()] = read_run(folder)
    labels = dict(zip(files, _labels(list(files), [run.name for run in files.values()]), strict=True))
    models: dict[tuple[str, str], None] = {}
    for folder, model in targets:
        key = folder.resolve()
        names = list(dict.fromkeys(name for benchmark in files[key].benchmarks for name in benchmark.models))
        if model is not None and model not in names:
            hint = f"it has {', '.join(names)}"
            raise ConfigError(f"no model {model!r} in this run", location=str(folder), hint=hint)
        models |= dict.fromkeys((labels[key], name) for name in (names if model is None else [model]))
    if len(models) < 2:
        problem, hint = (
            "only one model, so nothing to compare",
            "name a second run, or a run of several models",
        )
        raise ConfigError(problem, location=", ".join(map(str, paths)), hint=hint)
    return {labels[key]: run for key, run in files.items()}, list(models)


def _target(path: Path) -> tuple[Path, str | None]:
    """Return a run folder, and a model of it, or None for all of them."""
    if path.is_dir():
        return path, None
    folder, colon, model = str(path).rpartition(":")
    if colon and Path(folder).is_dir():
        return Path(folder), model
    hint = "give a folder that stage 3 has written, or FOLDER:MODEL for one of its models"
    raise DataError("not a run folder", location=str(path), hint=hint)


def _labels(folders: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Return a label for every run: its name, or for runs of one name as many parts of the path as tell them apart."""
    for depth in range(max(len(folder.parts) for folder in folders) + 1):
        labels = [
            _printable_name("/".join(folder.parts[-depth:]) if depth and names.count(name) > 1 else name)
            for folder, name in zip(folders, names, strict=True)
        ]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{label} ({number})" for number, label in enumerate(labels, 1)]


def _printable_name(name: str) -> str:
    """Return a name on one line that any terminal can show."""
    return "".join(c if c.isprintable() else "?" for c in one_line(printable(name))) or "?"


def compare_models(reference: ComparedModel, model: ComparedModel) -> ModelComparison | None:
    """Compare two models on a benchmark; None where they share no row.

    The result does not depend on the order of the rows in their files.

    Args:
        reference, model: of the same kind of benchmark.

    Raises:
        DataError: the kind of benchmark is unknown.
    """
    models = (reference, model)
    theirs, ours = ({row.id: row for row in one.benchmark.judged_rows} for one in models)
    rows = [row for row in theirs.values() if ours.get(row.id) == row]
    if not rows:
        return None
    scored = [_benchmark(one, rows).score_details(rows, one.model.results, seed=one.seed) for one in models]
    difference, interval = score_difference(scored[1], scored[0], seed=reference.seed)
    outcomes = [
        [[pair_outcome(result) for result in row_results(row, one.model.results)] for row in rows]
        for one in models
    ]
    before, after = ([_row_outcome(names) for names in column] for column in outcomes)
    transitions = Counter(zip(before, after, strict=True))
    only = [sorted(a.keys() - b.keys()) for a, b in ((theirs, ours), (ours, theirs))]
    unlike = sorted(key for key in theirs.keys() & ours.keys() if theirs[key] != ours[key])
    return ModelComparison(
        reference=reference,
        model=model,
        rows=len(rows),
        only_reference=only[0],
        only_model=only[1],
        unlike=unlike,
        scores=(_file_score(reference, scored[0]), _file_score(model, scored[1])),
        difference=difference,
        interval=interval,
        paired=mcnemar([name == "right" for name in after], [name == "right" for name in before]),
        transitions={
            (a, b): transitions[a, b] for a in ROW_OUTCOMES for b in ROW_OUTCOMES if (a, b) in transitions
        },
        changes=sorted(_changes(rows, *outcomes), key=lambda change: (change["subset"], change["id"])),
        notes=[
            *_row_notes(models, len(rows), only, unlike),
            *_score_notes(models, scored, len(rows)),
            *_order_notes(models, rows),
        ],
    )


def _benchmark(compared: ComparedModel, rows: Sequence[Row]) -> Benchmark:
    kind = compared.benchmark.kind
    if kind not in BENCHMARKS:
        hint = f"known: {', '.join(BENCHMARKS)}"
        raise DataError(f"unknown kind of benchmark {kind!r}", location=compared.label, hint=hint)
    return named_benchmark(kind, compared.model.score.benchmark, {row.subset for row in rows})


def _file_score(compared: ComparedModel, scored: ScoredBenchmark) -> BenchmarkScore:
    """Return the score of scores.json, whose interval may come from another seed, where it is of the same rows."""
    score = compared.model.score
    same = (score.rows, score.score) == (scored.score.rows, scored.score.score)
    return score if same else scored.score


def _row_outcome(outcomes: Sequence[str]) -> str:
    return outcomes[0] if len(set(outcomes)) == 1 else MIXED


def _changes(
    rows: Sequence[Row], old: Sequence[Sequence[str]], new: Sequence[Sequence[str]]
) -> Iterator[dict[str, Any]]:
    """Yield the rows that changed, as in changes.jsonl, from the outcomes of their comparisons."""
    for row, *outcomes in zip(rows, old, new, strict=True):
        changes = [
            {"id": pair.id, "before": a, "after": b}
            for pair, a, b in zip(row.pairs, *outcomes, strict=True)
            if a != b
        ]
        if changes:
            before, after = map(_row_outcome, outcomes)
            kind = f"{before} to {after}"
            yield {
                "id": row.id,
                "subset": row.subset,
                "change": kind if kind in CHANGES else CHANGES[-1],
                "before": before,
                "after": after,
                "comparisons": changes,
                "prompt": one_line(row.history[-1]["content"], _LONGEST_EXCERPT) if row.history else "",
            }


def _row_notes(
    models: Sequence[ComparedModel], rows: int, only: Sequence[Sequence[str]], unlike: Sequence[str]
) -> Iterator[str]:
    """Yield which rows were left out."""

    def names(ids: Sequence[str]) -> str:
        return ", ".join(ids[:_MOST_IDS]) + (", …" if len(ids) > _MOST_IDS else "")

    absent = [
        f"{len(ids):,} only in {one.label} ({names(ids)})"
        for one, ids in zip(models, only, strict=True)
        if ids
    ]
    if unlike:
        absent.append(f"{len(unlike):,} with other subsets, comparisons or details ({names(unlike)})")
    if absent:
        scores = " and ".join(f"{one.label} {percent(one.model.score.score)}" for one in models)
        yield (
            f"Compared on the {rows:,} rows that both judged. Left out: {'; '.join(absent)}. "
            f"Over all its own rows each has: {scores}."
        )


def _score_notes(
    models: Sequence[ComparedModel], scored: Sequence[ScoredBenchmark], rows: int
) -> Iterator[str]:
    """Yield where the score in scores.json is not that of the verdicts."""
    for one, new in zip(models, scored, strict=True):
        score = one.model.score.score
        if rows == one.benchmark.rows and new.score.score != score:
            yield (
                f"{one.label}: scores.json says {score:.6f}, but its verdicts give {new.score.score:.6f}, "
                "which is used here; another version of the metric wrote the file."
            )


def _order_notes(models: Sequence[ComparedModel], rows: Sequence[Row]) -> Iterator[str]:
    """Yield where "right in every order" is not equally hard for both."""
    ways = []
    for one in models:
        results = [result for row in rows for result in row_results(row, one.model.results)]
        orders = sorted({len(result.outcomes) for result in results if result.scores is None})
        ways.append(f"in {' or '.join(map(str, orders))} order(s)" if orders else "by scores, without orders")
    if ways[0] != ways[1]:
        listed = "; ".join(f"{one.label} {way}" for one, way in zip(models, ways, strict=True))
        yield f"Judged {listed}: right in every order is harder with more orders."
