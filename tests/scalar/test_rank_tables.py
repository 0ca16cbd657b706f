"""Tables and figures of ranked answers: known agreements, lengths and correlations."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from reasongenrm.data.ranked import read_ranked
from reasongenrm.records import PreferencePair
from reasongenrm.scalar.metrics import AnswerScore, evaluate_scores
from reasongenrm.scalar.rank_tables import (
    LONGER,
    accuracy_table,
    agreement_table,
    answer_table,
    correlation_table,
    length_figure,
    pair_table,
    rank_table,
    score_rank_figure,
    with_length_ranks,
)

pytestmark = pytest.mark.unit

ROWS = """prompt,answer,rank,annotator
p,a b c d,1,ann
p,a b,2,ann
p,a,3,ann
q,x y z,2,ann
q,x y,1,ann
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "answers.csv"
    path.write_text(ROWS, encoding="utf-8")
    return path


def test_the_length_annotator_ranks_by_words(file: Path) -> None:
    prompts, _ = read_ranked(str(file))
    both = with_length_ranks(prompts)
    assert [[answer.ranks[LONGER] for answer in prompt.answers] for prompt in both] == [[1, 2, 3], [1, 2]]
    assert all(LONGER not in answer.ranks for prompt in prompts for answer in prompt.answers)
    assert agreement_table(prompts).splitlines()[2:] == [
        "| p | 1 | – | – |", "| q | 1 | – | – |", "| mean | (empty) | – | – |",
    ]  # fmt: skip
    # The same order, then the opposite one: W = (1 + rho) / 2 of two annotators.
    assert agreement_table(both).splitlines()[2:] == [
        "| p | 2 | 1.00 | 1.00 |", "| q | 2 | 0.00 | -1.00 |", "| mean | (empty) | 0.50 | 0.00 |",
    ]  # fmt: skip


def test_tables_of_ranks_and_pairs(file: Path) -> None:
    prompts, _ = read_ranked(str(file))
    assert rank_table(prompts).splitlines()[2:] == [
        "| p | 1 | 4 | a b c d |", "| p | 2 | 2 | a b |", "| p | 3 | 1 | a |", "| q | 1 | 2 | x y |", "| q | 2 | 3 | x y z |",
    ]  # fmt: skip
    history = [{"role": "user", "content": "p"}]
    pair = PreferencePair.make(history, "good", "b" * 60, "s", distance=2.0)
    assert pair_table([pair, pair], count=1).splitlines()[2:] == [f"| p | good | {'b' * 44}… | 2 |"]


def test_the_accuracy_beside_guesses() -> None:
    # Wilson 1927: 9 of 12 is [46.8, 91.1].
    assert accuracy_table({"held out": (9, 12)}).splitlines()[2] == (
        r"| held out | 12 | 75.0 \[46.8, 91.1\] | 25.0 – 75.0 |"
    )


def scored(prompt: str, *pairs: tuple[float | None, float]) -> list[AnswerScore]:
    return [AnswerScore(prompt, prompt, f"{score}", score, rank, 1, False) for rank, score in pairs]


def test_scores_against_ranks() -> None:
    answers = scored("p", (1.5, 2.0), (1.5, 1.0), (3, 0.0)) + scored("q", (1, 5.0), (2, 7.0), (None, 9.0))
    metrics = evaluate_scores(answers, seed=0)
    row = correlation_table({"all": metrics}).splitlines()[2]
    assert row.startswith("| all | 3 | 2 | 66.7 ")
    # Prompt p has tau-b = 2 / sqrt(3 · 2), prompt q −1; the mean is printed.
    assert f"{(2 / np.sqrt(6) - 1) / 2:.2f} " in row
    assert answer_table(answers, prompts=1).splitlines()[2:] == [
        "| p | 2.0 | 1.5 | +2.00 |", "| p | 1.0 | 1.5 | +1.00 |", "| p | 0.0 | 3 | +0.00 |",
    ]  # fmt: skip
    picture = score_rank_figure(answers, metrics, "all")
    assert picture == score_rank_figure(answers[::-1], metrics, "all")
    unranked = [*answers, *scored("r", (1, 50.0), (1, 60.0))]
    assert picture == score_rank_figure(unranked, metrics, "all"), "prompts without an order are left out"


def test_figures_of_lengths(file: Path) -> None:
    from matplotlib.image import imread

    prompts, _ = read_ranked(str(file))
    content = length_figure(prompts)
    assert content == length_figure(prompts) != length_figure(prompts[:1])
    assert imread(io.BytesIO(content))[..., :3].std() > 0.05
