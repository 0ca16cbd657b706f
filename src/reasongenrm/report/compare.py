"""Compare runs from their folders: every model against the first, on the rows that both have judged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from reasongenrm.errors import ConfigError, DataError
from reasongenrm.report.compare_table import (
    Difference,
    Report,
    RunFacts,
    differences,
    excerpt,
    markdown,
    tables,
    transitions,
    versus,
)
from reasongenrm.report.comparison import CHANGES, Comparison, Side, compare_models, corrected
from reasongenrm.report.pages import OUTCOME_NOTES, embedded_json, payload, printable, render
from reasongenrm.report.run_files import RunFiles, read_run
from reasongenrm.store import write_json, write_jsonl, write_text


def page(report: Report) -> str:
    """Return the comparison as one HTML document."""
    parts = report.parts
    numbered = enumerate((one for part in parts for one in part.comparisons), 1)
    changed = [[_changed(next(numbered)) for _ in part.comparisons] for part in parts]
    return render(
        "compare_runs.html.jinja",
        report=report,
        parts=list(zip(parts, changed, strict=True)),
        outcomes=OUTCOME_NOTES,
        changes=CHANGES,
    )


def _changed(numbered: tuple[int, Comparison]) -> dict[str, Any]:
    """Return what the page shows of the rows on which two models differ."""
    from markupsafe import Markup

    number, one = numbered
    return {
        "id": f"rows-{number}",
        "title": f"{versus(one)}: {len(one.changes):,} row(s) that changed",
        "transitions": transitions(one),
        # Escaped by `embedded_json` for the inside of a script, where HTML's own escapes are not read.
        "json": Markup(embedded_json(_rows(one))) if one.changes else None,
    }


def _rows(one: Comparison) -> dict[str, Any]:
    """Return the comparisons that changed, as the page's script reads them."""
    models = tuple(replace(side.model, name=side.label) for side in (one.reference, one.model))
    rows = tuple(change.row for change in one.changes)
    told = payload(replace(one.reference.benchmark, models=models, rows=rows))
    kinds = {name: change.kind for change in one.changes for name in change.pairs}
    pairs = [pair | {"change": kinds[pair["id"]]} for pair in told["pairs"] if pair["id"] in kinds]
    return told | {"pairs": pairs, "order": "subset and id"}


def numbers(report: Report) -> dict[str, Any]:
    """Return everything that is counted, as plain values; shares are in [0, 1]."""
    return {
        "runs": [asdict(run) for run in report.runs],
        "comparisons": [_numbers(one) for one in report.comparisons],
        "settings": [{"run": run, "differences": list(map(asdict, found))} for run, found in report.settings],
        "notes": [*report.explained, *report.notes],
    }


def _numbers(one: Comparison) -> dict[str, Any]:
    benchmark = one.reference.benchmark
    sides = {
        name: {"name": side.label, "score": score.score, "interval": score.interval}
        for name, side, score in zip(
            ("reference", "model"), (one.reference, one.model), one.scores, strict=True
        )
    }
    return {
        "benchmark": benchmark.key,
        "kind": benchmark.kind,
        **sides,
        "rows": one.rows,
        "difference": one.difference,
        "difference_interval": one.interval,
        **asdict(one.paired),
        "p_holm": one.p_holm,
        "changes": one.counts,
        "transitions": [{"before": b, "after": a, "rows": n} for (b, a), n in one.transitions.items()],
        "only_reference": one.only_reference,
        "only_model": one.only_model,
        "unlike": one.unlike,
        "notes": one.notes,
    }


def changed_rows(report: Report) -> Iterator[dict[str, Any]]:
    """Yield every row that changed, of every comparison."""
    for one in report.comparisons:
        for change in one.changes:
            yield {
                "benchmark": one.reference.benchmark.key,
                "reference": one.reference.label,
                "model": one.model.label,
                "id": change.row.id,
                "subset": change.row.subset,
                "change": change.kind,
                "before": change.before,
                "after": change.after,
                "comparisons": [
                    {"id": name, "before": before, "after": after}
                    for name, (before, after) in change.pairs.items()
                ],
                "prompt": excerpt(change),
            }


@dataclass(frozen=True, slots=True)
class _Column:
    """A model of a run that was asked for."""

    run: str
    files: RunFiles
    model: str

    @property
    def label(self) -> str:
        return f"{self.run}/{self.model}"


def compare_runs(runs: list[Path], out: Path) -> None:
    """Compare every model of some runs with the first one, print the tables, and write what was found.

    Writes `compare.html`, `compare.md`, `compare.json` and `changes.jsonl`. The same folders give the same bytes.

    Args:
        runs: run folders after stage 3, or `RUN:MODEL` for a single model of one. A model that is named twice counts
            once.
        out: the folder to write to.

    Raises:
        ConfigError: a model that a run does not have, or one model alone.
        DataError: no run folder, a broken file in one, or no row that two models have both judged.
    """
    report = compared(_columns(runs))
    write_jsonl(out / "changes.jsonl", changed_rows(report))
    write_json(out / "compare.json", numbers(report))
    write_text(out / "compare.md", markdown(report))
    write_text(out / "compare.html", page(report))
    from rich.console import Console

    console = Console(width=160, highlight=False)
    for table in tables(report):
        console.print(table)
    for note in (*report.correction, *report.notes, *_also(report), str(out / "compare.html")):
        console.print(note, markup=False, soft_wrap=True)


def _also(report: Report) -> list[str]:
    """Say of every other run how much else differs from the first."""
    return [
        f"{run}: {len(found)} settings differ from those of {report.runs[0].label}; see compare.md."
        for run, found in report.settings
    ]


def compared(columns: Sequence[_Column]) -> Report:
    """Return all that is known of some models side by side.

    Raises:
        DataError: a model shares no row with any other.
    """
    groups: dict[tuple[str, str], list[Side]] = {}
    for column in columns:
        seed = column.files.manifest.recipe.get("seed", 0)
        for benchmark in column.files.benchmarks:
            for model in benchmark.models:
                if model.name == column.model:
                    side = Side(column.label, benchmark, model, seed)
                    groups.setdefault((benchmark.key, benchmark.kind), []).append(side)
    found: list[Comparison] = []
    notes: list[str] = []
    for (key, kind), (reference, *others) in groups.items():
        if not others:
            notes.append(f"{key} ({kind}) was judged by {reference.label} alone, and is not compared.")
        elif reference.label != columns[0].label:
            notes.append(f"{key} ({kind}) was not judged by {columns[0].label}: the reference is the next.")
        for other in others:
            comparison = compare_models(reference, other)
            if comparison is None:
                notes.append(f"{key} ({kind}): {reference.label} and {other.label} share no row.")
            else:
                found.append(comparison)
    _check_all_compared(columns, found)
    return Report(tuple(corrected(found)), tuple(notes), tuple(_facts(columns)), tuple(_settings(columns)))


def _check_all_compared(columns: Sequence[_Column], found: Sequence[Comparison]) -> None:
    met = {side.label for one in found for side in (one.reference, one.model)}
    for column in columns:
        if column.label not in met:
            raise DataError(
                f"no row was judged both by {column.label} and by another model that is compared",
                hint="compare runs of the same benchmark, under the same name in evaluate.benchmarks",
            )


def _columns(given: Sequence[Path]) -> list[_Column]:
    """Return the models that were asked for, each once."""
    wanted = [_target(path) for path in given]
    folders = list(dict.fromkeys(folder.resolve() for folder, _ in wanted))
    files = {folder.resolve(): read_run(folder) for folder, _ in reversed(wanted)}
    labels = dict(zip(folders, _labels(folders, [files[folder].name for folder in folders]), strict=True))
    columns: dict[str, _Column] = {}
    for folder, model in wanted:
        run = files[folder.resolve()]
        known = list(dict.fromkeys(m.name for benchmark in run.benchmarks for m in benchmark.models))
        if model is not None and model not in known:
            hint = f"it has {', '.join(known)}"
            raise ConfigError(f"no model {model!r} in this run", location=str(folder), hint=hint)
        for name in known if model is None else [model]:
            column = _Column(labels[folder.resolve()], run, name)
            columns.setdefault(column.label, column)
    if len(columns) < 2:
        hint = "name a second run, or a run of several models"
        raise ConfigError("there is one model, and nothing to compare it with", hint=hint)
    return list(columns.values())


def _target(given: Path) -> tuple[Path, str | None]:
    """Return a run folder, and the model of it that is wanted; None for all."""
    if given.is_dir():
        return given, None
    folder, colon, model = str(given).rpartition(":")
    if colon and Path(folder).is_dir():
        return Path(folder), model
    hint = "name a folder that stage 3 has written, or FOLDER:MODEL for one of its models"
    raise DataError("not a run folder", location=str(given), hint=hint)


def _labels(folders: Sequence[Path], names: Sequence[str]) -> list[str]:
    """Return a name for every run: its own, or as many parts of its folder's path as tell apart those of one name."""
    labels = [_plain(name) for name in names]
    depth = 0
    while len(set(labels)) < len(labels):
        depth += 1
        tails = [_plain("/".join(folder.parts[-depth:])) for folder in folders]
        labels = [
            tail if names.count(name) > 1 else _plain(name) for name, tail in zip(names, tails, strict=True)
        ]
        if depth > max(len(folder.parts) for folder in folders):
            return [f"{label} ({number})" for number, label in enumerate(labels, 1)]
    return labels


def _plain(name: str) -> str:
    """Return a name on one line that any terminal can show."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(printable(name).split())) or "?"


def _facts(columns: Sequence[_Column]) -> list[RunFacts]:
    """Return the runs in the order of their first model."""
    models: dict[str, list[str]] = {}
    files = {column.run: column.files for column in columns}
    for column in columns:
        models.setdefault(column.run, []).append(column.model)
    return [RunFacts(run, tuple(names), files[run].manifest.git) for run, names in models.items()]


def _settings(columns: Sequence[_Column]) -> list[tuple[str, tuple[Difference, ...]]]:
    """Return what differs in every other run's manifest from that of the first."""
    files = {column.run: column.files for column in columns}
    first, *others = files
    return [(run, tuple(differences(files[first].manifest, files[run].manifest))) for run in others]
