"""The protocols that papers use, all from the same verdicts: which orders count, how votes decide, how subsets weigh.

A protocol turns the results of a judge into credits of rows by the benchmark's own rules; each is then averaged in
three ways (see `metrics.scores.ProtocolScore`). docs/benchmarks.md says which papers report which.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from statistics import fmean
from typing import Any

from reasongenrm.benchmarks.base import Benchmark, Results, aggregate
from reasongenrm.chat.prompts import place
from reasongenrm.metrics.intervals import Aggregate, bootstrap_intervals
from reasongenrm.metrics.scores import Counts, ProtocolScore
from reasongenrm.records import Order, PairResult, Row

OFFICIAL = "official"
SINGLE = "single order"
AVERAGED = "both orders averaged"
CONSISTENT = "consistent"
MAJORITY = "majority of k"
PROTOCOLS = (OFFICIAL, SINGLE, AVERAGED, CONSISTENT, MAJORITY)

_CREDITS = {"correct": 1.0, "wrong": 0.0}


def protocol_scores(
    benchmark: Benchmark, rows: Sequence[Row], results: Results, *, seed: int = 0
) -> dict[str, ProtocolScore | None]:
    """Return the scores of a model under every protocol; None for a protocol that does not apply.

    - `official`: the benchmark's own metric.
    - `single order`: only the order that the seed gives to a comparison (see `chat.prompts.place`).
    - `both orders averaged`: the metric of each order alone, averaged.
    - `consistent`: a comparison is right if both orders are right, otherwise wrong.
    - `majority of k`: all votes on a comparison, of both orders, give one decision; as many right as wrong votes are a
      tie. With more than one vote per order.

    A model that gives each answer a score (a scalar head, a judge that rates) has only the official one: it knows no
    orders. Two orders are needed for the averaged and the consistent protocol.

    Args:
        rows: the rows that were judged.
        results: their results.
        seed: of the run: it places the answers, and draws the bootstrap's samples.
    """
    judged = [results[pair.id] for row in rows for pair in row.pairs]
    views: dict[str, list[Results]] = {OFFICIAL: [results]}
    if all(result.verdicts for result in judged):
        views[SINGLE] = [_each(results, lambda result: _one_order(result, place(result.pair_id, seed)))]
        if all(len(result.verdicts) == 2 for result in judged):
            orders: tuple[Order, Order] = ("AB", "BA")
            views[AVERAGED] = [
                _each(results, lambda result, o=order: _one_order(result, o)) for order in orders
            ]
            views[CONSISTENT] = [_each(results, benchmark.strict_result)]
        if all(verdict.votes for result in judged for verdict in result.verdicts):
            views[MAJORITY] = [_each(results, _majority)]
    return {
        name: _score(benchmark, rows, views[name], _judgements(name, judged), seed) if name in views else None
        for name in PROTOCOLS
    }


def _each(results: Results, view: Any) -> Results:
    return {name: view(result) for name, result in results.items()}


def _one_order(result: PairResult, order: Order) -> PairResult:
    """Return a result with one order only; a result that has a single order is unchanged."""
    at = next((n for n, verdict in enumerate(result.verdicts) if verdict.order == order), 0)
    return replace(
        result,
        verdicts=result.verdicts[at : at + 1],
        correct=result.correct[at : at + 1],
        outcomes=result.outcomes[at : at + 1],
    )


def _majority(result: PairResult) -> PairResult:
    """Return a result with one decision by all votes; the first order's outcome where no vote can be read."""
    letters = [
        (winner, verdict.order)
        for verdict in result.verdicts
        for winner in verdict.votes
        if winner is not None
    ]
    points = [
        0 if winner == "tie" else 1 if (winner == "A") == (order == "AB") else -1 for winner, order in letters
    ]
    net = sum(points)
    outcome = "correct" if net > 0 else "wrong" if net < 0 else "tie" if points else result.outcomes[0]
    return replace(result, correct=(_CREDITS.get(outcome, 0.5),), outcomes=(outcome,))


def _judgements(name: str, judged: Sequence[PairResult]) -> int:
    """Return the number of judgements behind one decision: orders, or for the majority all votes."""
    if name == SINGLE:
        return 1
    counts = (
        sum(len(verdict.votes) for verdict in result.verdicts) if name == MAJORITY else len(result.outcomes)
        for result in judged
    )
    return max(counts, default=0)


def _score(
    benchmark: Benchmark, rows: Sequence[Row], views: Sequence[Results], judgements: int, seed: int
) -> ProtocolScore:
    table = benchmark.table(rows)
    of_views = [benchmark.credits(rows, view) for view in views]
    credits = {
        subset: [fmean(values) for values in zip(*(one[subset] for one in of_views), strict=True)]
        for subset in of_views[0]
    }
    sizes = {subset: len(credits[subset]) for subset in sorted(credits)}

    def official(means: Mapping[str, Any]) -> Any:
        return aggregate(table, means)[1]

    def macro(means: Mapping[str, Any]) -> Any:
        return sum(means[subset] for subset in sizes) / len(sizes)

    def micro(means: Mapping[str, Any]) -> Any:
        return sum(size * means[subset] for subset, size in sizes.items()) / sum(sizes.values())

    aggregates: dict[str, Aggregate] = {"score": official, "macro": macro, "micro": micro}
    means = {subset: fmean(values) for subset, values in credits.items()}
    intervals = bootstrap_intervals(credits, aggregates, seed=seed)
    pairs = [pair.id for row in rows for pair in row.pairs]
    return ProtocolScore(
        score=float(official(means)),
        interval=intervals["score"],
        macro=float(macro(means)),
        macro_interval=intervals["macro"],
        micro=float(micro(means)),
        micro_interval=intervals["micro"],
        judgements=judgements,
        counts=Counts.from_results(chain.from_iterable([view[name] for name in pairs] for view in views)),
    )
