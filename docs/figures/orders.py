"""Where both orders of a pair meet: two pairs as the demo's judge has judged them (`demo_verdicts.jsonl`)."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from drawing import Drawing

VERDICTS = Path(__file__).with_name("demo_verdicts.jsonl")
"""Lines of evaluate/toy/reasongenrm/verdicts.jsonl of the demo's run, at commit 422bc37."""
TITLE = (
    "Each pair is judged twice, once with each answer as A. Where both orders name the same answer, its probability is the mean "
    "of both; where the judge names the same letter twice, one order is wrong and the mean is one half"
)
WIDTH, ROW = 900, 196


class JudgedPair(NamedTuple):
    """A pair, its verdicts in both orders, and what follows from them.

    Attributes:
        pair: the toy benchmark's pair.
        verdicts: of the orders AB and BA.
        comparison: both orders combined (`compare_orders`).
        result: the benchmark's result (`judge_result`): a credit per order.
        strict: the credit if every order must be right.
    """

    pair: Any
    verdicts: tuple[Any, ...]
    comparison: Any
    result: Any
    strict: float


@lru_cache(maxsize=1)
def judged_pairs() -> tuple[JudgedPair, ...]:
    """Return the two pairs of the figure."""
    from reasongenrm.benchmarks.base import judge_result
    from reasongenrm.benchmarks.registry import BENCHMARKS
    from reasongenrm.demo.world import toy_pairs
    from reasongenrm.judge.ask import compare_orders
    from reasongenrm.records import Verdict

    rows = [json.loads(line) for line in VERDICTS.read_text(encoding="utf-8").splitlines()]
    pairs = {pair.id: pair for pair in toy_pairs("test", 100, 17)}
    benchmark = BENCHMARKS["rewardbench"]
    judged = []
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        verdicts = Verdict(**first), Verdict(**second)
        pair = pairs[verdicts[0].pair_id]
        comparison = compare_orders(pair.id, [(verdict, ()) for verdict in verdicts], margin=0.0)
        result = judge_result(pair.id, pair.source, verdicts)
        strict = benchmark.strict_result(result).credit
        judged.append(JudgedPair(pair, verdicts, comparison, result, strict))
    return tuple(judged)


def _pair_card(figure: Drawing, y: float, one: JudgedPair) -> None:
    figure.rect(24, y + 44, 206, 92, "lane", border=True)
    figure.text(36, y + 66, one.pair.history[0]["content"], size=13, mono=True, bold=True)
    figure.text(36, y + 94, f"✓ {one.pair.chosen}", size=12.5, mono=True, color="good")
    figure.text(36, y + 118, f"✗ {one.pair.rejected}", size=12.5, mono=True, color="bad")


def _order_card(figure: Drawing, y: float, one: JudgedPair, number: int) -> None:
    """Draw one prompt with its answers in their order, and the verdict on it."""
    verdict = one.verdicts[number]
    figure.rect(276, y, 234, 84, "lane", border=True)
    figure.text(288, y + 19, f"order {verdict.order}", size=12, color="soft", bold=True)
    answers = (one.pair.chosen, one.pair.rejected)[:: 1 if verdict.order == "AB" else -1]
    for line, (letter, answer) in enumerate(zip("AB", answers, strict=True)):
        color, mark = ("good", "✓") if answer == one.pair.chosen else ("bad", "✗")
        figure.text(288, y + 42 + 24 * line, f"{letter}: {answer} {mark}", size=12.5, mono=True, color=color)
    figure.arrow([(510, y + 42), (546, y + 42)])
    right = one.result.correct[number] == 1
    figure.rect(546, y, 124, 84, "reason" if right else "verdict", border=True)
    figure.text(608, y + 24, f"[[{verdict.winner}]]", size=15, anchor="middle", mono=True, bold=True)
    figure.text(608, y + 47, f"P(A) = {verdict.prob_a:.4f}", size=12.5, anchor="middle")
    share = "P(A)" if verdict.order == "AB" else "1 − P(A)"
    figure.text(608, y + 68, f"P(✓) = {share}", size=12.5, anchor="middle")


def _meeting(figure: Drawing, y: float, one: JudgedPair) -> None:
    """Draw what both orders give together."""
    same = one.strict == 1
    figure.rect(716, y + 20, 160, 140, "reason" if same else "header", border=True)
    figure.text(
        796, y + 46, "same answer twice" if same else "same letter twice", size=13, anchor="middle", bold=True
    )
    texts = (
        f"mean P(✓) = {one.comparison.prob_a:.4f}",
        f"credit {one.result.correct[0]:g} and {one.result.correct[1]:g}: {one.result.credit:g}",
        f"strict: {one.strict:g}",
        "consistent" if same else "position bias",
    )
    for line, text in enumerate(texts):
        figure.text(796, y + 74 + 24 * line, text, size=12.5, anchor="middle")


def draw() -> Drawing:
    """Return the figure."""
    figure = Drawing(WIDTH, 2 * ROW + 26, TITLE)
    for number, one in enumerate(judged_pairs()):
        y = 22 + number * (ROW + 8)
        _pair_card(figure, y, one)
        for order, top in enumerate((y, y + 96)):
            middle = top + 42
            figure.arrow([(230, y + 90), (253, y + 90), (253, middle), (276, middle)])
            _order_card(figure, top, one, order)
            figure.arrow([(670, middle), (693, middle), (693, y + 90), (716, y + 90)])
        _meeting(figure, y, one)
    return figure
