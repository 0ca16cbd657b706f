"""Write a comparison of runs: tables for the terminal and Markdown, one HTML page, all numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import count, groupby
from pathlib import Path
from typing import Any

from reasongenrm.console import show
from reasongenrm.report.comparison import (
    CHANGES,
    ROW_OUTCOMES,
    ModelComparison,
    RunsComparison,
    compare_all,
)
from reasongenrm.report.explorer import OUTCOME_NOTES, payload
from reasongenrm.report.pages import render
from reasongenrm.report.run_files import Manifest
from reasongenrm.report.tables import TextTable, footnotes, one_line, points, score_cell
from reasongenrm.store import write_json, write_jsonl, write_text

_LONGEST_VALUE = 100
_MOST_ROWS = 25  # changed rows of a kind in compare.md; changes.jsonl and the page have all of them
_FIRST_SETTINGS = "model prompts templates judges seed limit evaluate data select train".split()
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

    comparison = compare_all(runs)
    numbers, tables = _numbers(comparison), list(benchmark_tables(comparison.comparisons))
    view = _view(numbers, tables)
    write_jsonl(out / "changes.jsonl", _changed_rows(comparison.comparisons))
    write_json(out / "compare.json", numbers)
    write_text(out / "compare.md", render("compare_runs.md.jinja", **view))
    write_text(out / "compare.html", render("compare_runs.html.jinja", **view))
    console = Console(width=160, highlight=False)
    for table, _ in tables:
        console.print(table.rich(narrow=True))
    first = numbers["runs"][0]["label"]
    settings = [
        f"{run['run']}: {len(run['differences'])} settings differ from those of {first}; see compare.md."
        for run in numbers["settings"]
    ]
    for line in (*comparison.notes, *settings, str(out / "compare.html")):
        show(line)


def _numbers(comparison: RunsComparison) -> dict[str, Any]:
    """Return all numbers as plain values; shares are in [0, 1]."""
    (_, first), *others = comparison.manifests.items()
    return {
        "runs": [
            {
                "label": run,
                "models": [name for other, name in comparison.models if other == run],
                "git": one.git,
            }
            for run, one in comparison.manifests.items()
        ],
        "comparisons": list(map(_comparison_numbers, comparison.comparisons)),
        "settings": [{"run": run, "differences": setting_differences(first, one)} for run, one in others],
        "notes": [*_EXPLANATIONS, *comparison.notes],
    }


def _comparison_numbers(one: ModelComparison) -> dict[str, Any]:
    sides = zip(("reference", "model"), (one.reference, one.model), one.scores, strict=True)
    return {
        "benchmark": one.reference.benchmark.key,
        "kind": one.reference.benchmark.kind,
        **{
            side: {"name": compared.label, "score": score.score, "interval": score.interval}
            for side, compared, score in sides
        },
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


def _changed_rows(comparisons: Sequence[ModelComparison]) -> Iterator[dict[str, Any]]:
    """Yield every row that changed, of every comparison."""
    for one in comparisons:
        for change in one.changes:
            models = {"reference": one.reference.label, "model": one.model.label}
            yield {"benchmark": one.reference.benchmark.key, **models, **change}


def benchmark_tables(
    comparisons: Sequence[ModelComparison],
) -> Iterator[tuple[TextTable, list[ModelComparison]]]:
    """Yield one table per benchmark, with the comparisons in it."""
    for _, group in groupby(
        comparisons, lambda one: (one.reference.benchmark.key, one.reference.benchmark.kind)
    ):
        rows = list(group)
        reference = rows[0].reference
        notes = (
            *footnotes([score for one in rows for score in one.scores]),
            *dict.fromkeys(note for one in rows for note in one.notes),
        )
        yield (
            TextTable(
                ("", *_cells(rows[0])),
                tuple((one.model.label, *_cells(one).values()) for one in rows),
                title=f"{reference.benchmark.name}, against {reference.label}",
                notes=notes,
            ),
            rows,
        )


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


def _view(
    numbers: dict[str, Any], tables: Sequence[tuple[TextTable, list[ModelComparison]]]
) -> dict[str, Any]:
    """Return what the page and the Markdown file show."""
    first, *others = (run["label"] for run in numbers["runs"])
    ids = (f"rows-{number}" for number in count(1))
    return {
        "title": f"{', '.join(others)} against {first}" if others else f"The models of {first}",
        "runs": TextTable(
            ("run", "models", "git"),
            tuple((run["label"], ", ".join(run["models"]), run["git"]) for run in numbers["runs"]),
            text_columns=3,
        ),
        "notes": numbers["notes"],
        "benchmarks": [
            {"table": table, "changed": [_changed_view(one, next(ids)) for one in comparisons]}
            for table, comparisons in tables
        ],
        "settings": [
            TextTable(
                ("setting", first, run["run"]),
                tuple(tuple(one.values()) for one in run["differences"]),
                text_columns=3,
                title=f"{run['run']} against {first}",
            )
            for run in numbers["settings"]
        ],
        "no_difference": "The manifests show no difference.",
        "outcomes": OUTCOME_NOTES,
        "changes": CHANGES,
    }


def _changed_view(one: ModelComparison, html_id: str) -> dict[str, Any]:
    """Return what is shown of the rows on which two models differ."""
    name = f"{one.model.label} against {one.reference.label}"
    transitions = [(*ends, f"{rows:,}") for ends, rows in one.transitions.items() if ends[0] != ends[1]]
    return {
        "id": html_id,
        "name": name,
        "title": f"{name}: {len(one.changes):,} row(s) that changed",
        "transitions": TextTable(
            ("with the reference", "with the model", "rows"), tuple(transitions), text_columns=2
        ),
        "listed": list(_changed_tables(one)),
        "payload": changed_payload(one) if one.changes else None,
    }


def _changed_tables(one: ModelComparison) -> Iterator[TextTable]:
    """Yield for every kind of change a table of the first rows that changed so."""
    headings = ("row", "subset", "with the reference", "with the model", "prompt")
    keys = ("id", "subset", "before", "after", "prompt")
    for kind, number in one.counts.items():
        changes = [change for change in one.changes if change["change"] == kind][:_MOST_ROWS]
        rest = (
            f" (the first {len(changes)}; all of them are in changes.jsonl)" if number > len(changes) else ""
        )
        rows = tuple(tuple(change[key] for key in keys) for change in changes)
        if rows:
            title = f"{kind}: {number:,}{rest}"
            yield TextTable(headings, rows, text_columns=5, title=title)


def changed_payload(one: ModelComparison) -> dict[str, Any]:
    """Return the comparisons that changed, as the page's script reads them: see `explorer.payload`; each has its `change`."""
    models = {compared.label: compared.model for compared in (one.reference, one.model)}
    row_by_id = {row.id: row for row in one.reference.benchmark.judged_rows}
    rows = tuple(row_by_id[change["id"]] for change in one.changes)
    values = payload(replace(one.reference.benchmark, models=models, judged_rows=rows))
    kinds = {pair["id"]: change["change"] for change in one.changes for pair in change["comparisons"]}
    pairs = [pair | {"change": kinds[pair["id"]]} for pair in values["pairs"] if pair["id"] in kinds]
    return values | {"pairs": pairs, "order": "subset and id"}


def setting_differences(before: Manifest, after: Manifest) -> list[dict[str, str]]:
    """Return `setting`, `before` and `after` of the settings that differ, the recipe first.

    A setting is a dotted key of the recipe, `file PATH`, a package, or another entry of the manifest; long values are
    shortened, and an absent one is `none`. A run's name does not count as a difference; of a file that both runs name, the
    hashes are compared.
    """
    both = (before, after)
    recipes = [{key: value for key, value in one.recipe.items() if key != "name"} for one in both]
    rank = {section: place for place, section in enumerate(_FIRST_SETTINGS)}
    differences = sorted(
        _differences(*recipes), key=lambda one: (rank.get(one[0].split(".")[0], len(rank)), one[0])
    )
    files = _differences(*(one.file_hashes for one in both))
    differences += [(f"file {name}", old, new) for name, old, new in files if None not in (old, new)]
    differences += [
        (f"package {name}", old, new) for name, old, new in _differences(before.versions, after.versions)
    ]
    differences += _differences(
        *({"git": one.git, "python": one.python, "machine": one.machine} for one in both)
    )
    return [
        {"setting": name, "before": _value_text(old), "after": _value_text(new)}
        for name, old, new in differences
    ]


def _differences(before: Any, after: Any, *, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted key and both values of every leaf that differs, in the order of the keys; None is absent."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in sorted(before.keys() | after.keys()):
            dotted = f"{key}.{name}" if key else str(name)
            yield from _differences(before.get(name), after.get(name), key=dotted)
    elif before != after:
        yield key, before, after


def _value_text(value: Any) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
    return one_line(text, _LONGEST_VALUE)
