"""The report of stage 3, from the run folder alone: one HTML page, the same numbers as Markdown, and the pictures."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from reasongenrm.report.charts import Estimate, bias_chart, interval_bars, reliability_diagram
from reasongenrm.report.pages import OUTCOME_NOTES, embedded_json, payload, printable, render
from reasongenrm.report.run_files import BenchmarkRun, RunFiles, read_run
from reasongenrm.report.run_table import (
    facts,
    lines,
    markdown,
    notes,
    ordered,
    section_estimates,
    subset_estimates,
)
from reasongenrm.report.tables import escape_markdown
from reasongenrm.store import replacing, write_text

_TEMPLATE = "judge_report.html.jinja"
_MOST_DROPS = 200

Plots = Mapping[str, tuple[str, bytes]]
"""Name of the file without its ending -> title and PNG."""


def write_report(folder: Path) -> Path:
    """Write `report.html`, `report.md` and `plots/*.png` into a run folder, and return the path of the page.

    The same folder gives the same bytes. The page asks no network for anything; its policy forbids it.

    Args:
        folder: a run folder after stage 3; nothing outside it is read.

    Raises:
        DataError: a file of the folder is missing or broken, or one cannot be written.
    """
    run = read_run(folder)
    drawn = {benchmark.key: plots(benchmark) for benchmark in run.benchmarks}
    for pictures in drawn.values():
        for name, (_, png) in pictures.items():
            with replacing(folder / "plots" / f"{name}.png") as out:
                out.write(png)
    write_text(folder / "report.md", markdown_report(run, drawn))
    path = folder / "report.html"
    write_text(path, page(run, drawn))
    return path


def plots(benchmark: BenchmarkRun) -> Plots:
    """Return a benchmark's pictures: sections, subsets, reliability, biases; those with nothing to show are left out."""
    sections, subsets = ordered(benchmark)
    by_section: dict[str, list[Estimate | None]] = {}
    by_subset: dict[str, list[Estimate | None]] = {}
    for model in benchmark.models:
        score = model.score
        whole = {"score": (score.score, *score.interval), **section_estimates(score)}
        by_section[model.name] = [whole.get(name) for name in ("score", *sections)]
        estimates = subset_estimates(score)
        by_subset[model.name] = [estimates.get(name) for name in subsets]
    axis = "accuracy, with its 95% interval"
    found = {
        "sections": ("Sections", interval_bars(["score", *sections], by_section, "Sections", axis)),
        "subsets": ("Subsets", interval_bars(subsets, by_subset, "Subsets", axis)),
    }
    calibrated = {m.name: m.diagnostics.reliability for m in benchmark.models}
    if any(calibrated.values()):
        title = "Reliability of P(right answer)"
        found["reliability"] = (title, reliability_diagram(calibrated, title))
    biases = {m.name: (m.diagnostics.position_bias, m.diagnostics.length_bias) for m in benchmark.models}
    if any(value is not None for pair in biases.values() for value in pair):
        title = "Position and length bias"
        found["bias"] = (title, bias_chart(biases, title))
    return {
        f"{benchmark.key}-{name}": (f"{benchmark.name}: {title}", png) for name, (title, png) in found.items()
    }


def markdown_report(run: RunFiles, drawn: Mapping[str, Plots]) -> str:
    """Return the numbers as Markdown: a table per benchmark, its footnotes, and links to the pictures."""
    text = f"# {escape_markdown(run.name)}\n"
    for benchmark in run.benchmarks:
        text += f"\n## {escape_markdown(benchmark.name)}\n\n{escape_markdown(facts(benchmark))}\n\n"
        text += markdown(benchmark)
        for name, (title, _) in drawn[benchmark.key].items():
            text += f"\n![{escape_markdown(title)}](plots/{name}.png)\n"
    return printable(text)


def page(run: RunFiles, drawn: Mapping[str, Plots]) -> str:
    """Return the report as one HTML document."""
    from markupsafe import Markup

    benchmarks = [_part(benchmark, drawn[benchmark.key]) for benchmark in run.benchmarks]
    # Escaped by `embedded_json` for the inside of a script, where HTML's own escapes are not read.
    for part, benchmark in zip(benchmarks, run.benchmarks, strict=True):
        part["json"] = Markup(embedded_json(payload(benchmark)))
    return render(
        _TEMPLATE,
        run={"name": run.name, "student": _student(run.manifest.recipe)},
        benchmarks=benchmarks,
        outcomes=OUTCOME_NOTES,
        facts=list(_run_facts(run)),
        recipe=json.dumps(run.manifest.recipe, indent=2, sort_keys=True, ensure_ascii=False),
    )


def _part(benchmark: BenchmarkRun, pictures: Plots) -> dict[str, Any]:
    comparisons = sum(len(row.places) for row in benchmark.rows)
    drops = benchmark.drops[:_MOST_DROPS]
    return {
        "name": benchmark.name,
        "facts": facts(benchmark),
        "models": [model.name for model in benchmark.models],
        "groups": [
            {"name": name, "lines": list(group)}
            for name, group in groupby(lines(benchmark), lambda line: line.group)
        ],
        "notes": notes(benchmark),
        "plots": [
            {"title": title, "png": base64.b64encode(png).decode("ascii")} for title, png in pictures.values()
        ],
        "drops": drops,
        "unreadable": f"{len(benchmark.drops):,}"
        + (f", the first {len(drops):,}" if len(drops) < len(benchmark.drops) else ""),
        "comparisons": f"Rows: {benchmark.count:,}"
        + (f", {comparisons:,} comparisons" if comparisons != benchmark.count else ""),
    }


def _student(recipe: Mapping[str, Any]) -> str:
    model = recipe.get("model", {})
    revision = model.get("revision")
    return f"{model.get('path', 'unknown')}" + (f" at {revision}" if revision else "")


def _run_facts(run: RunFiles) -> Iterator[tuple[str, str]]:
    manifest = run.manifest
    yield "seed", str(manifest.recipe.get("seed", "unknown"))
    limit = manifest.recipe.get("limit")
    if limit is not None:
        yield "limit", f"only the first {limit:,} rows of every benchmark were judged"
    yield "git", manifest.git
    yield "Python", manifest.python
    yield "packages", ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))
    yield "machine", ", ".join(f"{key}: {value}" for key, value in sorted(manifest.machine.items()))
