"""Chance level of a pair accuracy: the binomial interval, and labels that are permuted on purpose."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from reasongenrm.metrics.intervals import Interval
from reasongenrm.records import PreferencePair, unit_hash
from reasongenrm.report.charts import encode_png, figure
from reasongenrm.scalar.metrics import AnswerScore, ranked_groups


def chance_interval(pairs: int, level: float = 0.95) -> Interval:
    """Return the central interval of the accuracy of guesses, Binomial(pairs, 1/2) / pairs, in [0, 1].

    It holds for pairs that are independent; pairs of one prompt share answers, so theirs varies more (`permuted_ranks`).

    Args:
        pairs: number of pairs, at least 1.
        level: probability of the interval, at least.
    """
    from scipy.stats import binom

    low, high = binom.interval(level, pairs, 0.5)
    return float(low) / pairs, float(high) / pairs


def permutation_p_value(accuracy: float, null: Sequence[float]) -> float:
    """Return (1 + number of null accuracies at least as high) / (1 + their number), in (0, 1].

    Source: Phipson & Smyth 2010, "Permutation P-values should never be zero", arXiv 1603.05766.
    """
    return (1 + sum(other >= accuracy - 1e-12 for other in null)) / (1 + len(null))


def permuted_ranks(answers: Sequence[AnswerScore], draws: int = 1000, seed: int = 0) -> NDArray[np.float64]:
    """Return the pair accuracies of the same scores after the ranks of each prompt were permuted, shape (draws,).

    This is how accuracy varies if scores and ranks have nothing to do with each other, with pairs that share answers.

    Args:
        answers: scored answers with ranks; groups as in `ranked_groups`.
        draws: number of permutations.
        seed: of the permutations.

    Raises:
        ValueError: no two answers to a prompt differ in rank.
    """
    rng = np.random.default_rng(seed)
    credit, pairs = np.zeros(draws), 0
    for group in ranked_groups(answers):
        scores = np.asarray([answer.score for answer in group])
        ranks = np.asarray([answer.rank for answer in group], dtype=np.float64)
        drawn = rng.permuted(np.tile(ranks, (draws, 1)), axis=1)
        for one, other in combinations(range(len(group)), 2):
            leads = drawn[:, other] - drawn[:, one]  # positive: `one` is better
            credit += np.abs(np.sign(leads)) * (1 + np.sign(leads) * np.sign(scores[one] - scores[other])) / 2
        pairs += sum(ranks[one] != ranks[other] for one, other in combinations(range(len(group)), 2))
    if not pairs:
        raise ValueError("no two answers to a prompt differ in rank")
    return credit / pairs


def permuted_labels(pairs: Sequence[PreferencePair], seed: int) -> list[PreferencePair]:
    """Return the pairs with their two answers swapped in half of the prompts: labels that say nothing about the texts.

    All pairs of a prompt are swapped together, so that they still are the pairs of one order. A head that is right about
    held-out pairs after a training on these is lucky, or has seen the held-out pairs.
    """
    return [
        PreferencePair.make(pair.history, pair.rejected, pair.chosen, pair.source, distance=pair.distance)
        if unit_hash(seed, "permuted labels", list(pair.history)) < 0.5
        else pair
        for pair in pairs
    ]


def chance_figure(accuracy: float, null: Sequence[float], pairs: int, title: str) -> bytes:
    """Draw an accuracy beside those under permuted labels and the binomial interval of guesses, and return a PNG.

    Args:
        accuracy: of the real labels, in [0, 1].
        null: accuracies under permuted labels; 20 or more are a histogram, fewer are one line each.
        pairs: number of held-out pairs.
        title: the text above the picture.
    """
    low, high = chance_interval(pairs)
    drawing, [[axes]] = figure(3.0)
    axes.axvspan(low, high, color="#999", alpha=0.25, label=f"95% of guesses, {pairs} independent pairs")
    axes.axvline(0.5, color="#666", linewidth=0.8)
    if len(null) >= 20:
        axes.hist(null, bins=np.linspace(0, 1, 51).tolist(), color="C1", alpha=0.6, label="labels permuted")
        axes.set_ylabel("trainings")
    else:
        for number, value in enumerate(null):
            label = "labels permuted" if not number else None
            axes.axvline(value, color="C1", linestyle="--", linewidth=1.5, label=label)
        axes.set_yticks([])
    axes.axvline(accuracy, color="C2", linewidth=2.5, label="labels as people gave them")
    axes.set(xlim=(0, 1), xlabel="accuracy on held-out pairs")
    axes.set_title(title, parse_math=False)
    drawing.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    return encode_png(drawing)
