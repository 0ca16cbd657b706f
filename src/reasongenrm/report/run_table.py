"""The numbers of a run's benchmark as one table, its models side by side: cells for the page, Markdown and model card."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from reasongenrm.metrics.intervals import Interval
from reasongenrm.metrics.scores import OUTCOMES, BenchmarkScore
from reasongenrm.report.charts import Estimate
from reasongenrm.report.run_files import BenchmarkRun, ModelRun
from reasongenrm.report.tables import MISSING, escape_markdown, footnotes, grid, percent

_Z = 1.959963984540054  # the 97.5% quantile of the normal distribution


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table.

    Attributes:
        group: what it is about; lines of a group stand together.
        label: what is measured.
        note: what that means, in a sentence or two.
        cells: one per model.
    """

    group: str
    label: str
    note: str
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

    There is none for a section that is no weighted mean of its subsets.
    """
    found: dict[str, Estimate | None] = {}
    for name, accuracy in score.sections.items():
        if accuracy is None:
            found[name] = None
            continue
        parts = [subset for subset in score.subsets.values() if subset.section == name]
        total = sum(part.weight for part in parts)
        mean = math.fsum(part.weight * part.accuracy for part in parts) / total if total else math.nan
        if not math.isclose(mean, accuracy, abs_tol=1e-9):
            found[name] = (accuracy, None, None)
            continue
        below = above = 0.0
        for part in parts:
            low, high = _wilson(part.accuracy, part.rows)
            below += (part.weight / total * (part.accuracy - low)) ** 2
            above += (part.weight / total * (high - part.accuracy)) ** 2
        found[name] = (accuracy, max(0.0, accuracy - math.sqrt(below)), min(1.0, accuracy + math.sqrt(above)))
    return found


def _wilson(share: float, n: int) -> Interval:
    """Return `stats.wilson_interval` of a share that need not be a whole number of successes."""
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2)) / (1 + _Z**2 / n)
    return min(max(0.0, middle - half), share), max(min(1.0, middle + half), share)


def ordered(benchmark: BenchmarkRun) -> tuple[list[str], list[str]]:
    """Return the benchmark's sections and subsets.

    Those of its rows come first, in their order: the keys of scores.json are sorted, which is no order of theirs.
    """
    met = list(dict.fromkeys(row.subset for row in benchmark.rows))
    scores = [model.score for model in benchmark.models]
    present = {name: subset.section for score in scores for name, subset in score.subsets.items()}
    subsets = [name for name in met if name in present]
    subsets += [name for name in present if name not in subsets]
    sections = list(dict.fromkeys(present[name] for name in subsets))
    sections += list(
        dict.fromkeys(name for score in scores for name in score.sections if name not in sections)
    )
    return sections, subsets


def facts(benchmark: BenchmarkRun) -> str:
    """Return where the rows came from and how many there are, as a sentence."""
    return (
        f"{benchmark.count:,} rows of {benchmark.path} ({benchmark.kind}); "
        f"{benchmark.unreadable:,} more could not be read."
    )


def lines(benchmark: BenchmarkRun) -> list[Line]:
    """Return the table of a benchmark; shares are percentages without a sign."""
    return [*_score_lines(benchmark), *_bias_lines(benchmark), *_outcome_lines(benchmark), *_cost_lines(benchmark)]  # fmt: skip


def markdown(benchmark: BenchmarkRun) -> str:
    """Return the table and its footnotes as Markdown, ending in a newline."""
    headings = ["", *(model.name for model in benchmark.models)]
    rows = [[line.label, *line.cells] for line in lines(benchmark)]
    table = grid(headings, rows).replace("| (empty) |", "| |", 1)  # the corner says nothing on purpose
    return table + "\n" + "".join(f"\n{escape_markdown(note)}\n" for note in notes(benchmark))


def notes(benchmark: BenchmarkRun) -> list[str]:
    """Return what a reader must know before comparing the numbers."""
    return footnotes([(model.name, model.score, {}) for model in benchmark.models])


def _line(
    benchmark: BenchmarkRun, group: str, label: str, note: str, cell: Callable[[ModelRun], str]
) -> Line:
    return Line(group, label, note, tuple(cell(model) for model in benchmark.models))


def _with_interval(value: float | None, interval: Sequence[float | None] | None) -> str:
    if value is None or interval is None or None in interval:
        return percent(value)
    return f"{percent(value)} [{percent(interval[0])}, {percent(interval[1])}]"


def _official(model: ModelRun) -> str:
    score = model.score
    marks = ("†" if score.partial else "") + ("‡" if score.toy else "")
    return _with_interval(score.score, score.interval) + marks


def _points(difference: float | None) -> str:
    return MISSING if difference is None else f"{100 * difference:+.1f}"


def _decimal(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _score_lines(benchmark: BenchmarkRun) -> list[Line]:
    group = "Score"
    estimates = [section_estimates(model.score) for model in benchmark.models]
    found = [
        _line(benchmark, group, "score [95%]", "The benchmark's official score, and its bootstrap interval over rows.", _official)
    ]  # fmt: skip
    for section in ordered(benchmark)[0]:
        known = [estimate.get(section) for estimate in estimates]
        cells = tuple(MISSING if one is None else _with_interval(one[0], one[1:]) for one in known)
        found.append(Line(group, f"{section} [95%]", "Accuracy of the section, from its subsets.", cells))
    found += [
        _line(benchmark, group, "swap mean", "Mean credit of the rows over both orders, without section weights.", lambda m: percent(m.score.swap_mean)),
        _line(benchmark, group, "strict", "The score when only rows that are right in every order count.", lambda m: percent(m.score.strict)),
    ]  # fmt: skip
    for name in dict.fromkeys(name for model in benchmark.models for name in model.score.details):
        shares = tuple(percent(model.score.details.get(name)) for model in benchmark.models)
        found.append(Line(group, name, "Also published by the benchmark.", shares))
    return found


def _bias_lines(benchmark: BenchmarkRun) -> list[Line]:
    rows: list[tuple[str, str, str, Callable[[ModelRun], str]]] = [
        ("Bias", "consistency [95%]", "Share of comparisons whose two orders name the same answer, of those with a letter in both.",
         lambda m: _with_interval(m.diagnostics.consistency, m.diagnostics.consistency_interval)),
        ("Bias", "share of A", "Position bias: how often a verdict names A. 50 is unbiased when both orders are judged.",
         lambda m: percent(m.diagnostics.position_bias)),
        ("Bias", "first answer when inconsistent", "Of the inconsistent comparisons, those that name A in both orders.",
         lambda m: percent(m.diagnostics.first_preference)),
        ("Bias", "second answer when inconsistent", "Of the inconsistent comparisons, those that name B in both orders.",
         lambda m: percent(m.diagnostics.second_preference)),
        ("Bias", "length bias", "How much more often the longer answer is taken than it is right, in points.",
         lambda m: _points(m.diagnostics.length_bias)),
        ("Bias", "accuracy, right answer longer", "Mean credit where the right answer is the longer one.",
         lambda m: percent(m.diagnostics.longer_right_accuracy)),
        ("Bias", "accuracy, right answer shorter", "Mean credit where the right answer is the shorter one.",
         lambda m: percent(m.diagnostics.shorter_right_accuracy)),
        ("Calibration", "ECE", "Expected calibration error of P(right answer), ten bins; 0 is calibrated.",
         lambda m: _decimal(m.diagnostics.ece)),
        ("Calibration", "Brier score", "Mean squared error of P(right answer); 0 is best, 0.25 is a coin.",
         lambda m: _decimal(m.diagnostics.brier)),
    ]  # fmt: skip
    return [_line(benchmark, *row) for row in rows]


def _outcome_lines(benchmark: BenchmarkRun) -> list[Line]:
    what = {
        "n": "Judgements: a row judged in both orders counts twice. n is the sum of the six lines below.",
        "unparsed": "No verdict could be read.",
        "truncated": "The completion ran out of tokens before its verdict.",
        "error": "The engine failed, or the prompt did not fit.",
        "rescued": "The verdict was asked for alone; each of these also has an outcome above.",
    }
    return [
        Line(
            "Judgements",
            name,
            what.get(name, ""),
            tuple(f"{getattr(model.score.counts, name):,}" for model in benchmark.models),
        )
        for name in ("n", *OUTCOMES, "rescued")
    ]


def _cost_lines(benchmark: BenchmarkRun) -> list[Line]:
    what = {
        "prompt_tokens": ("prompt tokens", "Tokens read."),
        "tokens": ("sampled tokens", "Tokens written, rescues included."),
        "requests": ("requests", "Requests made of the engine."),
        "seconds": ("seconds", "Wall time of the engine."),
    }

    def cell(model: ModelRun, name: str) -> str:
        if model.cost is None:
            return MISSING
        value = getattr(model.cost, name)
        if value is None:
            return MISSING
        return f"{value:,.1f}" if name == "seconds" else f"{value:,}"

    return [
        Line("Cost", label, note, tuple(cell(model, name) for model in benchmark.models))
        for name, (label, note) in what.items()
    ]
