"""Intervals of subsets and sections."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reasongenrm.benchmarks.base import judge_result
from reasongenrm.benchmarks.rewardbench import REWARDBENCH
from reasongenrm.metrics.intervals import wilson_interval
from reasongenrm.records import Verdict
from support.judged import rewardbench_score
from support.judged_run import judged, rows_of

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(("right", "n"), [(0, 5), (3, 7), (7, 7), (40, 50), (984, 985)])
def test_subset_intervals_are_wilson_intervals(right: int, n: int) -> None:
    results = [judge_result(f"p{i}", "hep-go", [verdict(i < right)]) for i in range(n)]
    score = rewardbench_score(results)
    assert score.subsets["hep-go"].interval == pytest.approx(wilson_interval(right, n))
    # A section of a single subset has that subset's interval.
    assert score.section_interval("Reasoning") == pytest.approx(wilson_interval(right, n))
    assert score.section_interval("Chat") is None


def verdict(right: bool) -> Verdict:
    return Verdict("v", "p", "AB", "A" if right else "B", None, "ok", "")


def test_section_intervals_follow_the_weights_and_cover_the_section() -> None:
    rows = [row for subset, n in REWARDBENCH.published_rows.items() for row in rows_of([subset], n, 2)]
    result = rewardbench_score(judged(rows, "m", words=1).values())
    for name, accuracy in result.sections.items():
        interval = result.section_interval(name)
        assert accuracy is not None and interval is not None
        low, high = interval
        assert 0 <= low < accuracy < high <= 1
        parts = [s for s in result.subsets.values() if s.section == name]
        rows_of_section = sum(part.rows for part in parts)
        # As wide as the interval of a share of about so many rows, up to what the weights cost.
        plain = wilson_interval(round(accuracy * rows_of_section), rows_of_section)
        assert 0.7 < (high - low) / (plain[1] - plain[0]) < 2
    shifted = replace(result, sections={**result.sections, "Chat": 0.123})
    assert shifted.section_interval("Chat") is None


@pytest.mark.parametrize("n", [2, 200])
def test_a_subset_with_an_accuracy_above_one_has_an_interval(n: int) -> None:
    score = rewardbench_score([judge_result(f"p{i}", "hep-go", [verdict(True)]) for i in range(n)])
    subset = replace(score.subsets["hep-go"], accuracy=1.01)  # as RewardBench 2's Ties can be
    assert subset.interval == score.subsets["hep-go"].interval
    low, high = replace(score, sections={"Reasoning": 1.01}, subsets={"hep-go": subset}).section_interval(
        "Reasoning"
    ) or (0, 0)
    assert 0 < low < high == 1
