"""Print the protocol matrix of benchmark files for a scripted judge: what the protocols alone change.

    python bench/protocols.py KIND:FILE ... [--skill 1.0] [--bias 1.5] [--votes 3] [--seed 17]

The judge reads no text: each vote is drawn from a seeded generator. It names the right answer with the probability
sigmoid(skill + bias) where that is shown as A, and sigmoid(skill - bias) where it is B; one vote of fifty is unreadable. A
real judge's matrix is in the report of its run (`reasongenrm evaluate`).
"""

from __future__ import annotations

import argparse
import math
import random

from reasongenrm.benchmarks.base import judge_result
from reasongenrm.benchmarks.protocols import protocol_scores
from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.metrics.diagnostics import diagnose
from reasongenrm.records import Letter, Order, PairResult, Row, Verdict, Winner
from reasongenrm.report.run_files import BenchmarkRun, ModelRun
from reasongenrm.report.run_table import protocol_table

ORDERS: tuple[Order, Order] = ("AB", "BA")
UNREADABLE = 0.02


def verdict(pair_id: str, order: Order, options: argparse.Namespace) -> Verdict:
    """Return the scripted verdict on a pair in one order: the majority of its votes."""
    draw = random.Random(f"{options.seed} {pair_id} {order}")
    right: Letter = "A" if order == "AB" else "B"
    wrong: Letter = "B" if order == "AB" else "A"
    p = 1 / (1 + math.exp(-options.skill - (options.bias if order == "AB" else -options.bias)))
    votes: list[Winner | None] = [
        None if draw.random() < UNREADABLE else right if draw.random() < p else wrong
        for _ in range(options.votes)
    ]
    net = votes.count("A") - votes.count("B")
    winner: Winner | None = "A" if net > 0 else "B" if net < 0 else "tie" if any(votes) else None
    outcome = "unparsed" if winner is None else "tie" if winner == "tie" else "ok"
    several = tuple(votes) if options.votes > 1 else ()
    return Verdict("scripted", pair_id, order, winner, None, outcome, "", votes=several)  # type: ignore[arg-type]


def matrix(kind: str, file: str, options: argparse.Namespace) -> str:
    """Return the matrix of one file as Markdown."""
    benchmark = BENCHMARKS[kind]
    rows = [row for row in benchmark.rows(file) if isinstance(row, Row)]
    results: dict[str, PairResult] = {
        pair.id: judge_result(pair.id, pair.source, [verdict(pair.id, order, options) for order in ORDERS])
        for row in rows
        for pair in row.pairs
    }
    model = ModelRun(
        benchmark.score(rows, results, seed=options.seed),
        diagnose(rows, results),
        None,
        protocol_scores(benchmark, rows, results, seed=options.seed),
    )
    run = BenchmarkRun(kind, "pairs", benchmark.name, file, len(rows), 0, {"scripted": model})
    return f"{benchmark.name}, {len(rows)} rows of {file}:\n\n{protocol_table(run).markdown()}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="+", metavar="KIND:FILE")
    parser.add_argument(
        "--skill", type=float, default=1.0, help="log-odds of the right answer without a bias"
    )
    parser.add_argument("--bias", type=float, default=1.5, help="log-odds in favour of A")
    parser.add_argument("--votes", type=int, default=3, help="votes per order")
    parser.add_argument("--seed", type=int, default=17)
    options = parser.parse_args()
    for word in options.files:
        kind, _, file = word.partition(":")
        print(matrix(kind, file, options))


if __name__ == "__main__":
    main()
