"""IF-RewardBench: several answers to one instruction, and a graph of which follows it better than which.

IF-RewardBench: Benchmarking Judge Models for Instruction-Following Evaluation. Wen et al. 2026,
https://arxiv.org/abs/2603.04738
Upstream: `metrics/analysis_overall_assessment.py` of https://github.com/thu-coai/IF-RewardBench. A judge that compares is
asked there about all pairs of answers, and Elo ratings, drawn in a random order, decide the edges; here it is asked about the edges
themselves. Ratings of answers, such as a scalar head's, are used as upstream uses the Elo ratings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from reasongenrm.benchmarks import base, loading
from reasongenrm.benchmarks.base import Benchmark, Results, Shares, Table
from reasongenrm.records import PairResult, Row
from reasongenrm.rows.files import RawRow
from reasongenrm.rows.turns import BadRow, check_text, is_list, kind_of, quoted

TYPES = ("Single_Turn", "Multi_Turn", "System_Prompt")
"""Values of `instruction_type`; rows per type are not published."""
ROWS = 842
"""Instructions of all types, as published."""


class IFRewardBench(Benchmark):
    """IF-RewardBench; the score is the mean of the three types, each the mean over its graphs of the share of right edges."""

    name = "IF-RewardBench"
    split = "train"
    columns = ("id", "instruction_type", "messages", "checklist", "responses", "preference_graph")
    row_hint = "a row has the columns instruction_type, messages, responses and preference_graph"

    def read_row(self, raw: RawRow) -> Row:
        """See `Benchmark`; an edge is an object with `chosen` and `rejected`, each with `response_id`, a place in `responses`."""
        kind = loading.one_of(raw, "instruction_type", {name: name for name in TYPES})
        turns = loading.prompt(raw, "messages")
        answers = _responses(loading.column(raw, "responses"))
        edges = _edges(loading.column(raw, "preference_graph"), len(answers))
        rights = sorted({better for better, _ in edges})
        wrongs = sorted({worse for _, worse in edges})
        places = [(rights.index(better), len(rights) + wrongs.index(worse)) for better, worse in edges]
        chosen, rejected = ([answers[number] for number in numbers] for numbers in (rights, wrongs))
        return Row.make(kind, turns, chosen, rejected, places=places, details=loading.row_name(raw))

    def table(self, rows: Sequence[Row]) -> Table:
        """See `Benchmark`; every type has the same weight."""
        return Table(self.name, {kind: {kind: 1} for kind in TYPES}, published_total=ROWS)

    def row_credit(self, row: Row, results: Sequence[PairResult]) -> float:
        """Return the share of the graph's edges that are right; an undecided edge is not."""
        return sum(_decision(result) > 0 for result in results) / len(results)

    def details(self, rows: Sequence[Row], results: Results, sections: Shares) -> Shares:
        """Return `Kendall tau-b`, the mean of the types, each the mean over its graphs, and that of each type; in [-1, 1]."""
        by_type = base.rows_by_subset(rows)
        taus = {
            kind: base.share(kendall_tau(base.row_results(row, results)) for row in by_type.get(kind, []))
            for kind in TYPES
        }
        overall = base.share(tau for tau in taus.values() if tau is not None)
        return {"Kendall tau-b": overall} | {f"tau-b {kind}": tau for kind, tau in taus.items()}


def kendall_tau(results: Sequence[PairResult]) -> float:
    """Return Kendall's tau-b of one graph, of which no edge is a tie, in [-1, 1].

    τ = (C − D) / √((C + D)(C + D + T)), with C right, D wrong and T undecided edges; 0 where all are undecided
    (upstream's calculate_metric_stats).
    """
    decisions = [_decision(result) for result in results]
    right, wrong = decisions.count(1), decisions.count(-1)
    return (right - wrong) / max(1.0, math.sqrt((right + wrong) * len(decisions)))


def _decision(result: PairResult) -> int:
    """Return 1 for a right edge, -1 for a wrong one, 0 for an undecided one: a tie, or orders that disagree."""
    if result.scores is not None:
        chosen, rejected = result.scores
        return (chosen > rejected) - (chosen < rejected)
    return (result.credit > 0.5) - (result.credit < 0.5)


def _responses(value: Any) -> list[str]:
    if not is_list(value) or not value:
        raise BadRow(
            "bad_type", f"`responses` is {kind_of(value)}; make it a list of objects with `response`."
        )
    return [
        check_text(item.get("response") if isinstance(item, Mapping) else item, f"responses[{number}]")
        for number, item in enumerate(value)
    ]


def _edges(value: Any, count: int) -> list[tuple[int, int]]:
    """Return the edges as (better, worse), each once."""
    if not is_list(value) or not value:
        raise BadRow("no_edges", "`preference_graph` must be a list of at least one edge.")
    edges = []
    for edge in value:
        ends = [_end(edge, name, count) for name in ("chosen", "rejected")]
        if ends[0] == ends[1]:
            raise BadRow("bad_edge", f"`preference_graph` has an edge from {ends[0]} to itself.")
        edges.append((ends[0], ends[1]))
    return list(dict.fromkeys(edges))


def _end(edge: Any, name: str, count: int) -> int:
    end = edge.get(name) if isinstance(edge, Mapping) else None
    number = end.get("response_id") if isinstance(end, Mapping) else end
    if type(number) is not int or not 0 <= number < count:
        problem = f"`preference_graph` has the edge {quoted(edge)}; its `{name}` must name one of {count} responses, from 0."
        raise BadRow("bad_edge", problem)
    return number
