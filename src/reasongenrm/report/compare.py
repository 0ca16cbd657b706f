"""Write a comparison of runs: tables for the terminal and Markdown, one HTML page, all numbers as JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count, groupby
from pathlib import Path
from typing import Any

from reasongenrm.report.compared_runs import RunsComparison, compare_all, read_runs
from reasongenrm.report.comparison import CHANGES, ROW_OUTCOMES, ModelComparison, RowChange
from reasongenrm.report.explorer import OUTCOME_NOTES, payload
from reasongenrm.report.pages import embedded_json, render
from reasongenrm.report.tables import TextTable, footnotes, one_line, points, score_cell
from reasongenrm.store import write_json, write_jsonl, write_text

_LONGEST_EXCERPT = 80
_MOST_ROWS = 25  # changed rows of a kind in compare.md; changes.jsonl and the page have all of them
_EXPLANATIONS = (
    "Scores are the benchmark's official ones, in %. The difference is that of the two scores, in points, with its 95% "
    "paired bootstrap interval: rows are resampled within their subsets, both models' results of a row together.",
    "Better and worse: rows that only the model, or only the reference, has right in every order of every "
    "comparison. p: McNemar's exact test of whether both are equally likely (McNemar 1947, Psychometrika 12:153-157).",
    "The last three columns count the rows that changed from the reference to the model: right to wrong and wrong to "
    "right in every order of every comparison, and every other change of outcome. Outcomes: "
    + "; ".join(f"{name}: {note}" for name, note in ROW_OUTCOMES.items())
    + ".",
)
_HOLM = (
    "{count} comparisons are listed here; p (Holm) is corrected for their number (Holm 1979, Scandinavian Journal of Statistics "
    "6:65-70). The intervals are not: each holds for its own comparison."
)


def compare_runs(runs: list[Path], out: Path) -> None:
    """Compare every model of some runs with the first one, print the tables, and write the results.

    Writes `compare.html`, `compare.md`, `compare.json` and `changes.jsonl`. The same folders give the same bytes.

    Args:
        runs: run folders after stage 3, or `RUN:MODEL` for a single model of one. A repeated model counts once.
        out: the folder to write to.

    Raises:
        ConfigError: a model that a run does not have, or only one model in all.
        DataError: not a run folder, a broken file in one, or no row that two models have both judged.
    """
    from rich.console import Console

    comparison = compare_all(*read_runs(runs))
    write_jsonl(out / "changes.jsonl", _changed_rows(comparison))
    write_json(out / "compare.json", _numbers(comparison))
    view = _view(comparison)
    write_text(out / "compare.md", render("compare_runs.md.jinja", **view))
    write_text(out / "compare.html", render("compare_runs.html.jinja", **view))
    console = Console(width=160, highlight=False)
    for table, _ in _benchmark_tables(comparison):
        console.print(table.rich(narrow=True))
    first, *others = comparison.runs
    settings = [
        f"{run.label}: {len(run.differences)} settings differ from those of {first.label}; see compare.md."
        for run in others
    ]
    for line in (*_correction(comparison), *comparison.notes, *settings, str(out / "compare.html")):
        console.print(line, markup=False, soft_wrap=True)


def _correction(comparison: RunsComparison) -> list[str]:
    """Return how p-values are corrected for several comparisons."""
    number = len(comparison.comparisons)
    return [_HOLM.format(count=number)] if number > 1 else []


def _notes(comparison: RunsComparison) -> list[str]:
    """Return what the columns mean, and what was not compared."""
    return [*_EXPLANATIONS, *_correction(comparison), *comparison.notes]


def _benchmark_tables(comparison: RunsComparison) -> list[tuple[TextTable, list[ModelComparison]]]:
    """Return one table per benchmark, with the comparisons in it."""
    tables = []
    for _, group in groupby(
        comparison.comparisons, lambda one: (one.reference.benchmark.key, one.reference.benchmark.kind)
    ):
        rows = list(group)
        reference = rows[0].reference
        table = TextTable(
            ("", *_cells(rows[0])),
            tuple((one.model.label, *_cells(one).values()) for one in rows),
            title=f"{reference.benchmark.name}, against {reference.label}",
            notes=(
                *footnotes([score for one in rows for score in one.scores]),
                *dict.fromkeys(note for one in rows for note in one.notes),
            ),
        )
        tables.append((table, rows))
    return tables


def _cells(one: ModelComparison) -> dict[str, str]:
    """Return the cells by their headings."""
    reference, model = map(score_cell, one.scores)
    low, high = map(points, one.interval)
    return {
        "rows": f"{one.rows:,}",
        "reference [95%]": reference,
        "score [95%]": model,
        "difference [95%]": f"{points(one.difference)} [{low}, {high}]",
        "better": f"{one.paired.better:,}",
        "worse": f"{one.paired.worse:,}",
        "p": _p_value(one.paired.p),
        **({} if one.p_holm is None else {"p (Holm)": _p_value(one.p_holm)}),
        **{kind: f"{rows:,}" for kind, rows in one.counts.items()},
    }


def _p_value(p: float) -> str:
    return "<0.0001" if p < 0.0001 else f"{p:.4f}"


def _changed_tables(one: ModelComparison) -> list[TextTable]:
    """Return for every kind of change a table of the first rows that changed so."""
    tables = []
    for kind in CHANGES:
        changes = [change for change in one.changes if change.kind == kind]
        rest = (
            f" (the first {_MOST_ROWS}; all of them are in changes.jsonl)"
            if len(changes) > _MOST_ROWS
            else ""
        )
        rows = tuple((c.row.id, c.row.subset, c.before, c.after, _excerpt(c)) for c in changes[:_MOST_ROWS])
        headings = ("row", "subset", "with the reference", "with the model", "prompt")
        title = f"{kind}: {len(changes):,}{rest}"
        tables += [TextTable(headings, rows, text_columns=5, title=title)] if rows else []
    return tables


def _excerpt(change: RowChange) -> str:
    """Return the beginning of the row's last turn, on one line."""
    return one_line(change.row.history[-1]["content"], _LONGEST_EXCERPT) if change.row.history else ""


def _view(comparison: RunsComparison) -> dict[str, Any]:
    """Return what the page and the Markdown file show."""
    first, *others = comparison.runs
    numbers = count(1)
    return {
        "title": f"{', '.join(run.label for run in others)} against {first.label}"
        if others
        else f"The models of {first.label}",
        "runs": TextTable(
            ("run", "models", "git"),
            tuple((run.label, ", ".join(run.models), run.git) for run in comparison.runs),
            text_columns=3,
        ),
        "notes": _notes(comparison),
        "benchmarks": [
            {"table": table, "changed": [_changed_view(one, next(numbers)) for one in comparisons]}
            for table, comparisons in _benchmark_tables(comparison)
        ],
        "settings": [
            TextTable(
                ("setting", first.label, run.label),
                tuple((one.setting, one.before, one.after) for one in run.differences),
                text_columns=3,
                title=f"{run.label} against {first.label}",
            )
            for run in others
        ],
        "no_difference": "The manifests show no difference.",
        "outcomes": OUTCOME_NOTES,
        "changes": CHANGES,
    }


def _changed_view(one: ModelComparison, number: int) -> dict[str, Any]:
    """Return what is shown of the rows on which two models differ."""
    transitions = [(*ends, f"{rows:,}") for ends, rows in one.transitions.items() if ends[0] != ends[1]]
    return {
        "id": f"rows-{number}",
        "name": one.title,
        "title": f"{one.title}: {len(one.changes):,} row(s) that changed",
        "transitions": TextTable(
            ("with the reference", "with the model", "rows"), tuple(transitions), text_columns=2
        ),
        "listed": _changed_tables(one),
        "json": embedded_json(_changed_payload(one)) if one.changes else None,
    }


def _changed_payload(one: ModelComparison) -> dict[str, Any]:
    """Return the comparisons that changed, as the page's script reads them."""
    models = tuple(replace(compared.model, name=compared.label) for compared in (one.reference, one.model))
    rows = tuple(change.row for change in one.changes)
    values = payload(replace(one.reference.benchmark, models=models, rows=rows))
    kinds = {pair_id: change.kind for change in one.changes for pair_id in change.pairs}
    pairs = [pair | {"change": kinds[pair["id"]]} for pair in values["pairs"] if pair["id"] in kinds]
    return values | {"pairs": pairs, "order": "subset and id"}


def _numbers(comparison: RunsComparison) -> dict[str, Any]:
    """Return all numbers as plain values; shares are in [0, 1]."""
    first, *others = comparison.runs
    return {
        "runs": [{"label": run.label, "models": run.models, "git": run.git} for run in (first, *others)],
        "comparisons": list(map(_comparison_numbers, comparison.comparisons)),
        "settings": [{"run": run.label, "differences": list(map(asdict, run.differences))} for run in others],
        "notes": _notes(comparison),
    }


def _comparison_numbers(one: ModelComparison) -> dict[str, Any]:
    models = {
        name: {"name": compared.label, "score": score.score, "interval": score.interval}
        for name, compared, score in zip(
            ("reference", "model"), (one.reference, one.model), one.scores, strict=True
        )
    }
    return {
        "benchmark": one.reference.benchmark.key,
        "kind": one.reference.benchmark.kind,
        **models,
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


def _changed_rows(comparison: RunsComparison) -> Iterator[dict[str, Any]]:
    """Yield every row that changed, of every comparison."""
    for one in comparison.comparisons:
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
                "prompt": _excerpt(change),
            }
