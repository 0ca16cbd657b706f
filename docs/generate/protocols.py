"""Reference of the benchmarks: their data, modes and weights, and which protocols apply to which judge, from the code."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import get_args

from pydantic import ValidationError

from reasongenrm.benchmarks.base import Benchmark, Table
from reasongenrm.benchmarks.protocols import PROTOCOLS, protocol_scores
from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.config.evaluate import HUB_IDS, BenchmarkConfig
from reasongenrm.records import Order, PairResult, Row, Verdict

ORDERS: tuple[Order, ...] = get_args(Order)

JUDGES: Mapping[str, tuple[int, int]] = {
    "compares, both orders, one vote": (2, 1),
    "compares, both orders, several votes": (2, 3),
    "compares, one order, one vote": (1, 1),
    "compares, one order, several votes": (1, 3),
    "gives scores (a scalar head, a judge that rates)": (0, 0),
}
"""Kind of judge -> orders of a comparison, and votes of an order."""


def _result(row: Row, orders: int, votes: int) -> PairResult:
    (pair,) = row.pairs
    verdicts = tuple(
        Verdict(f"{pair.id}-{order}", pair.id, order, "A", 0.9, "ok", "", votes=("A",) * (votes > 1) * votes)
        for order in ORDERS[:orders]
    )
    outcomes = tuple("correct" if verdict.order == "AB" else "wrong" for verdict in verdicts) or ("correct",)
    credits = tuple(float(outcome == "correct") for outcome in outcomes)
    return PairResult(
        pair.id, row.subset, verdicts, credits, outcomes, scores=None if verdicts else (1.0, 0.0)
    )


def applicable(orders: int, votes: int) -> list[str]:
    """Return the protocols that have a score for a judge with these orders and votes; 0 orders: it gives scores."""
    row = Row.make("s", [{"role": "user", "content": "?"}], ["right"], ["wrong"])
    scores = protocol_scores(BENCHMARKS["pairs"], [row], {row.id: _result(row, orders, votes)})
    return [name for name in PROTOCOLS if scores[name] is not None]


def modes(kind: str) -> list[str]:
    """Return the values of `mode` that a kind of benchmark takes."""

    def takes(mode: str) -> bool:
        try:
            BenchmarkConfig.model_validate({"kind": kind, "path": "rows.jsonl", "mode": mode})
        except ValidationError:
            return False
        return True

    return [mode for mode in get_args(BenchmarkConfig.model_fields["mode"].annotation) if takes(mode)]


def _module(benchmark: Benchmark) -> tuple[str, str]:
    """Return the first line of a benchmark's module, and the address of its paper."""
    text = (sys.modules[type(benchmark).__module__].__doc__ or "").strip()
    paper = next((word for word in text.split() if word.startswith("https://arxiv.org/")), "")
    return text.splitlines()[0], paper


def _fixed_table(benchmark: Benchmark) -> Table | None:
    """Return the sections of a benchmark, or None where they depend on its rows."""
    if hasattr(benchmark, "fixed_table"):
        return benchmark.fixed_table
    module = sys.modules[type(benchmark).__module__]
    return getattr(module, "REWARDBENCH", None)


def _benchmark_rows() -> Iterator[str]:
    for kind, benchmark in BENCHMARKS.items():
        paper = _module(benchmark)[1]
        name = f"[{benchmark.name}]({paper})" if paper else benchmark.name
        hub = f"`{HUB_IDS[kind]}`" if kind in HUB_IDS else "a file"  # type: ignore[index]
        codes = ", ".join(f"`{mode}`" for mode in modes(kind))
        yield f"| `{kind}` | {name} | {hub} | `{benchmark.split}` | {codes} | {benchmark.row_hint.removeprefix('a row has ').removeprefix('the columns ')} |"


def _weights(table: Table) -> Iterator[str]:
    total = sum(table.section_weights.get(section, 1) for section in table.sections)
    for section, subsets in table.sections.items():
        share = table.section_weights.get(section, 1) / total
        for subset, weight in subsets.items():
            of_section = weight / sum(subsets.values())
            rows = table.published_rows.get(subset)
            count = f"{rows:,}" if rows else "–"
            yield f"| {section} | {subset} | {count} | {100 * of_section:.1f} % | {100 * share * of_section:.1f} % |"


def protocols_page() -> str:
    """Return the page as Markdown."""
    lines = ["# Benchmarks: data, protocols, weights", "", "Metrics and their sources: [Benchmarks](../benchmarks.md). This page is made from the code.", ""]  # fmt: skip
    lines += ["## Data", "", "| kind | benchmark | hub id | split | modes | columns |", "| --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    lines += [*_benchmark_rows(), ""]
    lines += ["## Protocols by judge", "", f"| judge | {' | '.join(PROTOCOLS)} |", f"| --- |{' :-: |' * len(PROTOCOLS)}"]  # fmt: skip
    for judge, (orders, votes) in JUDGES.items():
        scored = applicable(orders, votes)
        lines.append(f"| {judge} | {' | '.join('yes' if name in scored else 'n/a' for name in PROTOCOLS)} |")
    lines += ["", "## Weights", ""]
    for kind, benchmark in BENCHMARKS.items():
        lines += [f"### {benchmark.name}", "", f"`{kind}`: {_module(benchmark)[0]}", ""]
        table = _fixed_table(benchmark)
        if table is None:
            lines += ["Its sections, and how much they weigh, follow from the rows that are judged: see the page on metrics.", ""]  # fmt: skip
            continue
        head = ["| section | subset | published rows | share of its section | share of the score |", "| --- | --- | ---: | ---: | ---: |"]  # fmt: skip
        lines += [*head, *_weights(table), ""]
    return "\n".join(lines)
