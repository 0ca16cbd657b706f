"""Chance level and permutations: known binomial intervals, exhaustive permutations, and controls."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from reasongenrm.metrics.intervals import wilson_interval
from reasongenrm.records import PreferencePair
from reasongenrm.scalar.chance import chance_interval, permutation_p_value, permuted_labels, permuted_ranks
from reasongenrm.scalar.metrics import AnswerScore

pytestmark = pytest.mark.unit


def test_the_interval_of_guesses() -> None:
    assert chance_interval(100) == (0.40, 0.60)
    assert chance_interval(12) == (3 / 12, 9 / 12)
    assert chance_interval(1) == (0, 1)
    draws = np.random.default_rng(0).binomial(120, 0.5, 100_000) / 120
    low, high = chance_interval(120)
    assert 0.95 <= np.mean((draws >= low - 1e-9) & (draws <= high + 1e-9)) < 0.97


def test_p_values_of_permutations() -> None:
    assert permutation_p_value(0.9, [0.4, 0.5, 0.9, 0.2]) == 2 / 5
    assert permutation_p_value(1.0, [0.5] * 99) == 1 / 100


def answer(prompt: str, score: float, rank: float | None) -> AnswerScore:
    return AnswerScore(prompt, prompt, f"{score}", score, rank, 1, False)


def test_permuted_ranks_have_the_distribution_of_all_orders() -> None:
    scores = [3.0, 2.0, 2.0, -1.0]
    answers = [answer("p", score, rank) for score, rank in zip(scores, (1, 2, 2, 4), strict=True)]
    accuracies = permuted_ranks([*answers, answer("p", 9.0, None)], draws=20_000, seed=1)

    def accuracy(ranks: tuple[int, ...]) -> float:
        pairs = [(i, j) for i in range(4) for j in range(4) if ranks[i] < ranks[j]]
        credits = [0.5 if scores[i] == scores[j] else float(scores[i] > scores[j]) for i, j in pairs]
        return sum(credits) / len(credits)

    exact = [accuracy(order) for order in permutations((1, 2, 2, 4))]
    values, counts = np.unique(np.round(exact, 9), return_counts=True)
    drawn, drawn_counts = np.unique(np.round(accuracies, 9), return_counts=True)
    assert drawn.tolist() == values.tolist()
    np.testing.assert_allclose(drawn_counts / 20_000, counts / 24, atol=0.012)


def test_without_ranks_there_is_nothing_to_permute() -> None:
    with pytest.raises(ValueError, match="no two answers"):
        permuted_ranks([answer("p", 1.0, 1), answer("p", 2.0, 1), answer("q", 1.0, 1)])


def test_permuted_labels_turn_around_whole_prompts() -> None:
    pairs = [
        PreferencePair.make([{"role": "user", "content": f"q{n}"}], f"good {k}", "bad", "s", distance=k)
        for n in range(400)
        for k in (1.0, 2.0)
    ]
    permuted = permuted_labels(pairs, seed=0)
    swapped = [new.chosen == "bad" for new in permuted]
    assert swapped[::2] == swapped[1::2]
    low, high = wilson_interval(sum(swapped[::2]), 400)
    assert low < 0.5 < high
    for old, new in zip(pairs, permuted, strict=True):
        assert {old.chosen, old.rejected} == {new.chosen, new.rejected} and new.distance == old.distance
    assert permuted == permuted_labels(pairs, seed=0) != permuted_labels(pairs, seed=1)
