"""Too few prompts keep a reason: quantiles, counts by teacher, and what to change."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.config.prepare import SelectConfig
from reasongenrm.reasons.select import selector
from reasongenrm.reasons.shortfall import HINTS, ScoreDistribution, advice, drop_table, quantile
from reasongenrm.records import ScoredReason

pytestmark = pytest.mark.unit

CONFIG = SelectConfig(formula="verdict", threshold=-0.5)
"""R* is the log-probability of the verdict, so that tests can choose it."""


def group(prompt: int, values: Sequence[float], verdict: Any = "A") -> list[ScoredReason]:
    return [
        ScoredReason(f"{prompt}#t#{n}", str(prompt), "text", verdict, "A", -2.0, value, 5, "t", "blind")
        for n, value in enumerate(values)
    ]


def test_quantiles_are_values() -> None:
    values = [1.0, 2.0, 3.0, 4.0]
    assert [quantile(values, share) for share in (0.0, 0.25, 0.26, 0.5, 1.0)] == [1.0, 1.0, 2.0, 2.0, 4.0]


def test_wrong_reasons_are_not_in_the_distribution() -> None:
    groups = [group(0, [-1.0, -0.2]), group(1, [-0.1], "B"), group(2, [-0.7])]
    scores = ScoreDistribution.from_groups(groups, CONFIG)
    assert (scores.value, scores.best, scores.reason) == ([-1.0, -0.7, -0.2], [-0.7, -0.2], [-2.0] * 3)
    table = scores.table()
    assert [row[:2] for row in table.rows][2:] == [("R*", "3"), ("R*, best of each prompt", "2")]
    assert table.rows[2][2:] == ("-1.000", "-1.000", "-0.700", "-0.200", "-0.200")
    assert table.headings[2:] == ("5 %", "25 %", "50 %", "75 %", "95 %")


def test_a_table_without_right_reasons() -> None:
    table = ScoreDistribution.from_groups([group(0, [-1.0], "B")], CONFIG).table()
    assert all(row[1] == "0" and set(row[2:]) == {"–"} for row in table.rows)


@given(
    st.lists(st.lists(st.floats(-3, 0), max_size=3), min_size=1, max_size=30), st.sampled_from([0.2, 0.5, 0.9, 1.0])
)  # fmt: skip
def test_the_threshold_keeps_enough_prompts_and_hardly_more(
    values: list[list[float]], min_kept: float
) -> None:
    groups = [group(number, row) for number, row in enumerate(values)]
    threshold = ScoreDistribution.from_groups(groups, CONFIG).threshold(len(groups), min_kept)
    needed = max(1, math.ceil(min_kept * len(groups)))

    def kept(value: float) -> int:
        rule = selector(SelectConfig(formula="verdict", threshold=value), 1)
        return sum(rule(row) is not None for row in groups)

    if threshold is None:
        assert sum(bool(row) for row in values) < needed
    else:
        assert kept(threshold) >= needed
        assert kept(threshold + 2e-4) < needed or kept(threshold + 2e-4) == kept(threshold)


def test_reasons_by_teacher_add_up() -> None:
    dropped = Counter({("truncated", "a"): 3, ("not_the_best", "b"): 2, ("truncated", "b"): 1})
    table = drop_table({"a": 4, "b": 4}, {"a": 1, "b": 1}, dropped)
    assert table.headings == ("reasons", "a", "b", "all")
    assert table.rows == (
        ("sampled", "4", "4", "8"),
        ("not_the_best", "0", "2", "2"),
        ("truncated", "3", "1", "4"),
        ("kept", "1", "1", "2"),
    )


def test_advice_is_a_threshold_where_one_is_enough() -> None:
    scores = ScoreDistribution.from_groups([group(n, [-n / 10]) for n in range(10)], CONFIG)
    config = CONFIG.model_copy(update={"threshold": -0.2})
    dropped = Counter({("truncated", "t"): 99})
    assert advice(config, scores, 10, dropped) == "select.threshold=-0.4001 keeps 50 %"
    assert "truncated" in advice(
        config.model_copy(update={"selector": "random_correct"}), scores, 10, dropped
    )
    assert "truncated" in advice(config, scores, 50, dropped), "too few prompts have a right reason"


@pytest.mark.parametrize("slug", HINTS)
def test_advice_names_the_most_frequent_drop(slug: str) -> None:
    dropped = Counter({(slug, "a"): 2, (slug, "b"): 2, ("not_the_best", "a"): 50})
    dropped["truncated" if slug != "truncated" else "no_verdict", "a"] = 3
    text = advice(CONFIG, ScoreDistribution([], [], [], []), 9, dropped)
    assert text == f"most are {slug}: {HINTS[slug]}"
