"""A comparison of runs as one HTML page that opens every row that changed, and as plain values for JSON."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from reasongenrm.report.compare_table import Report, excerpt, transitions, versus
from reasongenrm.report.comparison import CHANGES, Comparison
from reasongenrm.report.page import render
from reasongenrm.report.run_rows import OUTCOME_NOTES, embedded_json, payload


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
