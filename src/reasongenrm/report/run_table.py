"""The numbers of one benchmark of a run as a table with a column per model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from reasongenrm.benchmarks.protocols import AVERAGED, CONSISTENT, MAJORITY, PROTOCOLS, SINGLE
from reasongenrm.metrics.diagnostics import Diagnostics
from reasongenrm.metrics.scores import OUTCOMES
from reasongenrm.report.run_files import BenchmarkRun, ModelRun
from reasongenrm.report.tables import (
    COUNTS,
    MISSING,
    TextTable,
    footnotes,
    percent,
    points,
    score_cell,
    with_interval,
)

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

ABSENT = "n/a"
"""The cell of a protocol that does not apply to a model."""

_COSTS = {
    "prompt tokens": "prompt_tokens",
    "sampled tokens": "tokens",
    "requests": "requests",
    "seconds": "seconds",
}


class MetricLine(NamedTuple):
    """One line of the table: one cell per model; lines of a group (a topic) follow each other."""

    group: str
    label: str
    cells: tuple[str, ...]


def sections_and_subsets(benchmark: BenchmarkRun) -> tuple[list[str], list[str]]:
    """Return the benchmark's sections and subsets.

    Those of its rows come first, in the order of the rows, since the keys of scores.json are sorted.
    """
    scores = [model.score for model in benchmark.models.values()]
    section_by_subset = {name: s.section for score in scores for name, s in score.subsets.items()}
    names = dict.fromkeys([*(row.subset for row in benchmark.judged_rows), *section_by_subset])
    subsets = [name for name in names if name in section_by_subset]
    sections = [section_by_subset[name] for name in subsets]
    sections += [name for score in scores for name in score.sections]
    return list(dict.fromkeys(sections)), subsets


def facts(benchmark: BenchmarkRun) -> str:
    """Return where the rows came from and how many there are, as a sentence."""
    return (
        f"{benchmark.rows:,} rows of {benchmark.path} ({benchmark.kind}); "
        f"{benchmark.unreadable_rows:,} more could not be read."
    )


def metric_lines(benchmark: BenchmarkRun) -> list[MetricLine]:
    """Return the lines of the table; shares are percentages without a sign."""
    cells_by_model = [list(_model_cells(benchmark, model)) for model in benchmark.models.values()]
    return [
        MetricLine(lines[0][0], lines[0][1], tuple(cell for *_, cell in lines))
        for lines in zip(*cells_by_model, strict=True)
    ]


def _model_cells(benchmark: BenchmarkRun, model: ModelRun) -> Iterator[tuple[str, str, str]]:
    """Yield the group, the label and the cell of every line."""
    score = model.score
    yield "Score", "score [95%]", score_cell(score)
    for name in sections_and_subsets(benchmark)[0]:
        cell = with_interval(score.sections.get(name), score.section_interval(name))
        yield "Score", f"{name} [95%]", cell
    yield "Score", "swap mean", percent(score.swap_mean)
    yield "Score", "strict", percent(score.strict)
    for name in dict.fromkeys(name for other in benchmark.models.values() for name in other.score.details):
        yield "Score", name, percent(score.details.get(name))
    for group, label, cell_of in _DIAGNOSTICS:
        yield group, label, cell_of(model.diagnostics)
    for outcome in COUNTS:
        yield "Judgements", outcome, f"{getattr(score.counts, outcome):,}"
    for label, key in _COSTS.items():
        value = getattr(model.cost, key, None)
        yield (
            "Cost",
            label,
            MISSING if value is None else f"{value:,.1f}" if key == "seconds" else f"{value:,}",
        )


def protocol_table(benchmark: BenchmarkRun) -> TextTable:
    """Return the protocol matrix: one line per model and protocol, with the three ways to average and the outcomes."""
    rows = []
    for name, model in benchmark.models.items():
        for protocol in PROTOCOLS if model.protocols else ():  # the keys of scores.json are sorted
            score = model.protocols.get(protocol)
            if score is None:
                rows.append((name, protocol, *[ABSENT] * (3 + len(OUTCOMES) + 1)))
                continue
            label = protocol.replace("of k", f"of {score.judgements}")
            averages = (
                with_interval(score.score, score.interval),
                with_interval(score.macro, score.macro_interval),
                with_interval(score.micro, score.micro_interval),
            )
            counts = (f"{getattr(score.counts, outcome):,}" for outcome in ("n", *OUTCOMES))
            rows.append((name, label, *averages, *counts))
    headings = ("model", "protocol", "official weights [95%]", "macro [95%]", "micro [95%]", "n", *OUTCOMES)
    return TextTable(headings, tuple(rows), 2, "Protocols", tuple(_protocol_notes(benchmark)))


def _protocol_notes(benchmark: BenchmarkRun) -> Iterator[str]:
    """Yield why protocols do not apply to some models."""
    for name, model in benchmark.models.items():
        absent = [protocol for protocol, score in model.protocols.items() if score is None]
        if SINGLE in absent:
            yield f"{ABSENT} for {name}: answers have scores, ratings, or one verdict on all of them: no pair was judged in two orders."
            continue
        if AVERAGED in absent:
            yield f"{ABSENT} for {name}, {AVERAGED} and {CONSISTENT}: one order was judged (evaluate.both_orders)."
        if MAJORITY in absent:
            yield f"{ABSENT} for {name}, {MAJORITY}: there is one vote per order (evaluate.votes)."


def run_table(benchmark: BenchmarkRun) -> TextTable:
    """Return the lines as a table with its footnotes."""
    rows = tuple((line.label, *line.cells) for line in metric_lines(benchmark))
    notes = footnotes([model.score for model in benchmark.models.values()])
    return TextTable(("", *benchmark.models), rows, notes=notes)


def _decimal(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"
