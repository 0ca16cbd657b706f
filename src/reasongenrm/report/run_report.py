"""The report of stage 3 from a run folder: one HTML page, the same numbers as Markdown, and the pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from reasongenrm.report.charts import Estimate, bias_chart, interval_bars, reliability_diagram
from reasongenrm.report.explorer import OUTCOME_NOTES, payload
from reasongenrm.report.pages import render
from reasongenrm.report.run_files import BenchmarkRun, Manifest, RunFiles, read_run
from reasongenrm.report.run_table import facts, metric_lines, protocol_table, run_table, sections_and_subsets
from reasongenrm.report.training_steps import (
    read_steps,
    speed_table,
    step_curves,
    step_table,
    training_alarms,
)
from reasongenrm.store import atomic_writer, write_text

Plots = Mapping[str, tuple[str, bytes]]
"""Name of the file without its ending -> title and PNG."""


def write_report(folder: Path) -> Path:
    """Write `report.html`, `report.md` and `plots/*.png` into a run folder, and return the path of the page.

    The same folder gives the same bytes. The page loads nothing from the network; its policy forbids it.

    Args:
        folder: a run folder after stage 3; nothing outside it is read.

    Raises:
        DataError: a file of the folder is missing or broken, or one cannot be written.
    """
    run = read_run(folder)
    view: dict[str, Any] = {
        "name": run.name,
        "student": run.manifest.recipe.get("model", {}),
        "benchmarks": list(map(_section, run.benchmarks)),
        "training": _training(folder, run),
        "outcomes": OUTCOME_NOTES,
        "facts": list(_run_facts(run.manifest)),
        "recipe": json.dumps(run.manifest.recipe, indent=2, sort_keys=True, ensure_ascii=False),
    }
    for section in (*view["benchmarks"], view["training"]):
        for name, (_, png) in section["plots"].items():
            with atomic_writer(folder / "plots" / f"{name}.png") as out:
                out.write(png)
    write_text(folder / "report.md", render("judge_report.md.jinja", **view))
    path = folder / "report.html"
    write_text(path, render("judge_report.html.jinja", **view))
    return path


def _training(folder: Path, run: RunFiles) -> dict[str, Any]:
    """Return what the report shows of the training steps."""
    steps = read_steps(folder, list(run.manifest.recipe.get("judges", {})))
    trained = list(steps.values())
    return {
        "table": step_table(trained, run.benchmarks),
        "speed": speed_table([step for step in trained if step.logged]),
        "alarms": training_alarms(run, steps),
        "plots": step_curves(trained),
    }


def plots(benchmark: BenchmarkRun) -> Plots:
    """Return a benchmark's pictures: sections, subsets, reliability, biases; those with nothing to show are left out."""
    sections, subsets = sections_and_subsets(benchmark)
    scores = {name: model.score for name, model in benchmark.models.items()}
    diagnostics = {name: model.diagnostics for name, model in benchmark.models.items()}
    by_section: dict[str, list[Estimate]] = {
        name: [(s.score, s.interval), *((s.sections.get(x), s.section_interval(x)) for x in sections)]
        for name, s in scores.items()
    }
    by_subset: dict[str, list[Estimate]] = {
        name: [
            (s.subsets[x].accuracy, s.subsets[x].interval) if x in s.subsets else (None, None)
            for x in subsets
        ]
        for name, s in scores.items()
    }
    axis = "accuracy, with its 95% interval"
    pictures = {
        "sections": ("Sections", interval_bars(["score", *sections], by_section, "Sections", axis)),
        "subsets": ("Subsets", interval_bars(subsets, by_subset, "Subsets", axis)),
    }
    if any(one.reliability for one in diagnostics.values()):
        title = "Reliability of P(right answer)"
        bins = {name: one.reliability for name, one in diagnostics.items()}
        pictures["reliability"] = (title, reliability_diagram(bins, title))
    biases = {name: (one.position_bias, one.length_bias) for name, one in diagnostics.items()}
    if any(value is not None for pair in biases.values() for value in pair):
        title = "Position and length bias"
        pictures["bias"] = (title, bias_chart(biases, title))
    return {
        f"{benchmark.key}-{name}": (f"{benchmark.name}: {title}", png)
        for name, (title, png) in pictures.items()
    }


def _section(benchmark: BenchmarkRun) -> dict[str, Any]:
    """Return what the report shows of a benchmark."""
    return {
        "run": benchmark,
        "facts": facts(benchmark),
        "groups": [
            (name, list(group)) for name, group in groupby(metric_lines(benchmark), lambda line: line.group)
        ],
        "table": run_table(benchmark),
        "protocols": protocol_table(benchmark),
        "plots": plots(benchmark),
        "comparisons": sum(len(row.places) for row in benchmark.judged_rows),
        "payload": payload(benchmark),
    }


def _run_facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    yield "seed", str(manifest.recipe.get("seed", "unknown"))
    limit = manifest.recipe.get("limit")
    if limit is not None:
        yield "limit", f"at most {limit:,} rows of every benchmark were judged"
    yield "git", manifest.git
    yield "Python", manifest.python
    yield "packages", ", ".join(f"{name} {version}" for name, version in sorted(manifest.versions.items()))
    yield "machine", ", ".join(f"{key}: {value}" for key, value in sorted(manifest.machine.items()))
    if manifest.machine.get("gpus"):
        if manifest.recipe.get("engine", {}).get("batch_invariant"):
            rounding = "engine.batch_invariant is on: a verdict does not depend on the requests beside it"
        else:
            rounding = (
                "engine.batch_invariant is off: the requests beside a prompt change the last digits of P(A), and a verdict "
                "near 0.5 may differ in another run"
            )
        yield "rounding", rounding
