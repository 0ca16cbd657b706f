"""The numbers of one benchmark of a run as a table with a column per model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import starmap

from reasongenrm.metrics.diagnostics import Diagnostics
from reasongenrm.metrics.intervals import Interval
from reasongenrm.metrics.scores import OUTCOMES, BenchmarkScore
from reasongenrm.report.charts import Estimate
from reasongenrm.report.run_files import BenchmarkRun, ModelRun
from reasongenrm.report.tables import (
    MISSING,
    TextTable,
    footnotes,
    percent,
    points,
    score_cell,
    with_interval,
)

_Z = 1.959963984540054  # the 97.5% quantile of the normal distribution

_DIAGNOSTICS: tuple[tuple[str, str, Callable[[Diagnostics], str]], ...] = (
    ("Bias", "consistency [95%]", lambda d: with_interval(d.consistency, d.consistency_interval)),
    ("Bias", "share of A", lambda d: percent(d.position_bias)),
    ("Bias", "first answer when inconsistent", lambda d: percent(d.first_preference)),
    ("Bias", "second answer when inconsistent", lambda d: percent(d.second_preference)),
    ("Bias", "length bias", lambda d: points(d.length_bias)),
    ("Bias", "accuracy, right answer longer", lambda d: percent(d.longer_right_accuracy)),
    ("Bias", "accuracy, right answer shorter", lambda d: percent(d.shorter_right_accuracy)),
    ("Calibration", "ECE", lambda d: _decimal(d.ece)),
    ("Calibration", "Brier score", lambda d: _decimal(d.brier)),
)

_COSTS = {
    "prompt tokens": "prompt_tokens",
    "sampled tokens": "tokens",
    "requests": "requests",
    "seconds": "seconds",
}


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One line of the table.

    Attributes:
        group: the topic; lines of a group follow each other.
        label: what is measured.
        cells: one per model.
    """

    group: str
    label: str
    cells: tuple[str, ...]


def subset_estimates(score: BenchmarkScore) -> dict[str, Estimate]:
    """Return each subset's accuracy with its 95% Wilson interval over rows.

    A row's credit may lie between 0 and 1, which makes the interval too wide rather than too narrow: no variable
    on [0, 1] varies more than one that is 0 or 1 with the same mean.
    """
    return {name: (s.accuracy, *_wilson(s.accuracy, s.rows)) for name, s in score.subsets.items()}


def section_estimates(score: BenchmarkScore) -> dict[str, Estimate | None]:
    """Return each section's accuracy with its 95% interval, None for a section that is absent.

    The interval follows from the subsets' Wilson intervals by variance recovery (Zou, Huang & Zhang 2009,
    Computational Statistics & Data Analysis 53:1080-1085): with the subsets' shares w_i of the section's weight,
    accuracies a_i and intervals [l_i, u_i], it is

        a - sqrt(sum w_i² (a_i - l_i)²)   to   a + sqrt(sum w_i² (u_i - a_i)²).

    There is none for a section that is not a weighted mean of its subsets.
    """
    return {
        name: None if accuracy is None else _section_estimate(score, name, accuracy)
        for name, accuracy in score.sections.items()
    }


def _section_estimate(score: BenchmarkScore, name: str, accuracy: float) -> Estimate:
    subsets = [subset for subset in score.subsets.values() if subset.section == name]
    total = sum(subset.weight for subset in subsets)
    mean = math.fsum(s.weight * s.accuracy for s in subsets) / total if total else math.nan
    if not math.isclose(mean, accuracy, abs_tol=1e-9):
        return accuracy, None, None
    below = above = 0.0
    for subset in subsets:
        low, high = _wilson(subset.accuracy, subset.rows)
        below += (subset.weight / total * (subset.accuracy - low)) ** 2
        above += (subset.weight / total * (high - subset.accuracy)) ** 2
    return accuracy, max(0.0, accuracy - math.sqrt(below)), min(1.0, accuracy + math.sqrt(above))


def _wilson(share: float, n: int) -> Interval:
    """Return `intervals.wilson_interval` of a share that need not be a whole number of successes."""
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return min(max(0.0, middle - half), share), max(min(1.0, middle + half), share)


def ordered(benchmark: BenchmarkRun) -> tuple[list[str], list[str]]:
    """Return the benchmark's sections and subsets.

    Those of its rows come first, in the order of the rows, since the keys of scores.json are sorted.
    """
    scores = [model.score for model in benchmark.models]
    section_by_subset = {name: s.section for score in scores for name, s in score.subsets.items()}
    names = dict.fromkeys([*(row.subset for row in benchmark.rows), *section_by_subset])
    subsets = [name for name in names if name in section_by_subset]
    sections = [section_by_subset[name] for name in subsets]
    sections += [name for score in scores for name in score.sections]
    return list(dict.fromkeys(sections)), subsets


def facts(benchmark: BenchmarkRun) -> str:
    """Return where the rows came from and how many there are, as a sentence."""
    return (
        f"{benchmark.count:,} rows of {benchmark.path} ({benchmark.kind}); "
        f"{benchmark.unreadable:,} more could not be read."
    )


def metric_lines(benchmark: BenchmarkRun) -> list[MetricLine]:
    """Return the lines of the table; shares are percentages without a sign."""
    models = benchmark.models

    def line(group: str, label: str, cell: Callable[[ModelRun], str]) -> MetricLine:
        return MetricLine(group, label, tuple(map(cell, models)))

    def section(name: str) -> MetricLine:
        return line("Score", f"{name} [95%]", lambda m: _section_cell(m, name))

    def detail(name: str) -> MetricLine:
        return line("Score", name, lambda m: percent(m.score.details.get(name)))

    def diagnostic(group: str, label: str, cell: Callable[[Diagnostics], str]) -> MetricLine:
        return line(group, label, lambda m: cell(m.diagnostics))

    def count(outcome: str) -> MetricLine:
        return line("Judgements", outcome, lambda m: f"{getattr(m.score.counts, outcome):,}")

    def cost(label: str) -> MetricLine:
        return line("Cost", label, lambda m: _cost_cell(m, _COSTS[label]))

    details = dict.fromkeys(name for model in models for name in model.score.details)
    return [
        line("Score", "score [95%]", lambda m: score_cell(m.score)),
        *map(section, ordered(benchmark)[0]),
        line("Score", "swap mean", lambda m: percent(m.score.swap_mean)),
        line("Score", "strict", lambda m: percent(m.score.strict)),
        *map(detail, details),
        *starmap(diagnostic, _DIAGNOSTICS),
        *map(count, ("n", *OUTCOMES, "rescued")),
        *map(cost, _COSTS),
    ]


def run_table(benchmark: BenchmarkRun) -> TextTable:
    """Return the lines as a table with its footnotes."""
    headings = ("", *(model.name for model in benchmark.models))
    rows = tuple((line.label, *line.cells) for line in metric_lines(benchmark))
    return TextTable(headings, rows, notes=footnotes([model.score for model in benchmark.models]))


def _decimal(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _section_cell(model: ModelRun, name: str) -> str:
    value, *interval = section_estimates(model.score).get(name) or (None,)
    return with_interval(value, interval)


def _cost_cell(model: ModelRun, key: str) -> str:
    value = getattr(model.cost, key, None)
    if value is None:
        return MISSING
    return f"{value:,.1f}" if key == "seconds" else f"{value:,}"
