"""Criteria judged alone: what a judge reads of them, the weighted results, and rubrics of files and rows."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.config.rubric import Criterion, Rubric
from reasongenrm.errors import ConfigError
from reasongenrm.judge.criteria import (
    combine_comparisons,
    combine_list_verdicts,
    combine_ratings,
    comparison_text,
    load_rubric,
    rating_score,
    rating_text,
    score_of_rating,
)
from reasongenrm.records import Comparison, ListVerdict, Rating
from reasongenrm.rows.turns import BadRow, read_rubric

pytestmark = pytest.mark.unit

LEVELS = Criterion(name="tone", text="friendly", levels={1: "rude", 3: "neutral", 5: "warm"})
RUBRIC = Rubric.model_validate([{"name": "tone", "weight": 3}, {"name": "brevity", "scale": (0, 10)}])


def compared(winner: Any, prob_a: float | None, outcome: Any = "ok", error: str | None = None) -> Comparison:
    return Comparison("c", winner, prob_a, "r", outcome, (), prompt_tokens=5, tokens=2, error=error)


def rated(rating: float | None, outcome: Any = "ok") -> Rating:
    return Rating("r", rating, outcome, "why", tokens=2, prompt_tokens=5)


def test_a_judge_reads_a_criterion_as_a_list_of_one() -> None:
    assert comparison_text(Criterion(name="tone")) == "- tone"
    assert comparison_text(LEVELS) == "- tone: friendly\n  score 1: rude\n  score 3: neutral\n  score 5: warm"
    # 3 on 1 to 5 is the middle, 5.5 on 1 to 10.
    assert rating_text(LEVELS) == "- tone: friendly\n  1: rude\n  6: neutral\n  10: warm"
    close = Criterion(name="n", scale=(0, 100), levels={0: "none", 1: "one", 100: "all"})
    assert rating_text(close) == "- n\n  1: none; one\n  10: all"


@given(low=st.integers(-20, 20), width=st.integers(1, 30), rating=st.floats(1, 10))
def test_a_rating_keeps_its_share_of_the_scale(low: int, width: int, rating: float) -> None:
    criterion = Criterion(name="n", scale=(low, low + width))
    score = score_of_rating(criterion, rating)
    assert low <= score <= low + width + 1e-9
    assert criterion.share(score) == pytest.approx((rating - 1) / 9, abs=1e-9)
    assert (score_of_rating(criterion, 1), score_of_rating(criterion, 10)) == (low, low + width)


def listed(
    winner: int | None, probs: Any = None, outcome: Any = "ok", error: str | None = None
) -> ListVerdict:
    return ListVerdict("v", "l", winner, probs, outcome, "why", tokens=2, error=error)


def test_the_weighted_result_of_verdicts_on_lists() -> None:
    def combined(tone: ListVerdict, brevity: ListVerdict) -> Any:
        return combine_list_verdicts(RUBRIC, {"tone": tone, "brevity": brevity}, 3, verdict_id="id")

    result = combined(listed(0, (0.6, 0.3, 0.1)), listed(2, (0.1, 0.1, 0.8)))
    assert result.probs == pytest.approx([0.475, 0.25, 0.275]), "weights 3 and 1"
    assert (result.winner, result.outcome, result.tokens, result.list_id) == (0, "ok", 4, "id")
    assert result.criteria["brevity"].winner == 2
    letters = combined(listed(1), listed(2))
    assert (letters.winner, letters.probs) == (1, (0, 0.75, 0.25)), "a letter counts as 1"
    unread, failed = listed(None, None, "unparsed"), listed(None, None, "error", "too long")
    one = combined(unread, listed(2, (0.1, 0.1, 0.8)))
    assert (one.winner, one.outcome, one.error) == (2, "ok", None)
    assert one.probs == pytest.approx([0.1, 0.1, 0.8]), "a criterion that cannot be read does not count"
    even = combined(listed(None, (0.4, 0.4, 0.2), "tie"), listed(None, (0.4, 0.4, 0.2), "tie"))
    assert (even.winner, even.outcome) == (None, "tie")
    assert combined(failed, unread).error == "too long"
    assert combined(unread, failed).outcome == "unparsed" and combined(unread, failed).error is None


def test_the_weighted_result_of_comparisons() -> None:
    parts = {"tone": compared("A", 0.9), "brevity": compared("B", 0.2)}
    result = combine_comparisons(RUBRIC, parts, comparison_id="x", margin=0.0)
    assert result.prob_a == pytest.approx((3 * 0.9 + 1 * 0.2) / 4)
    assert (result.winner, result.outcome, result.tokens, result.prompt_tokens) == ("A", "ok", 4, 10)
    assert result.criteria == parts and result.reason is None
    tie = combine_comparisons(RUBRIC, parts, comparison_id="x", margin=0.3)
    assert (tie.winner, tie.outcome) == ("tie", "tie")
    letters = {"tone": compared("B", None), "brevity": compared("tie", None)}
    assert combine_comparisons(RUBRIC, letters, comparison_id="x", margin=0.0).prob_a == 0.125


def test_a_criterion_that_cannot_be_read_does_not_count() -> None:
    unread = compared(None, None, "truncated")
    one = combine_comparisons(
        RUBRIC, {"tone": unread, "brevity": compared("B", 0.2)}, comparison_id="x", margin=0.0
    )
    assert (one.winner, one.prob_a, one.outcome) == ("B", 0.2, "ok")
    failed = {"tone": compared(None, None, "error", "no room"), "brevity": unread}
    none = combine_comparisons(RUBRIC, failed, comparison_id="x", margin=0.0)
    assert (none.winner, none.prob_a, none.outcome, none.error) == (None, None, "error", "no room")


@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=6),
    probabilities=st.lists(st.floats(0, 1), min_size=6, max_size=6),
)
def test_the_weighted_probability_lies_between_its_parts(
    weights: list[float], probabilities: list[float]
) -> None:
    rubric = Rubric.model_validate([{"name": f"c{n}", "weight": weight} for n, weight in enumerate(weights)])
    used = probabilities[: len(weights)]
    parts = {f"c{n}": compared("A" if p > 0.5 else "B", p) for n, p in enumerate(used)}
    result = combine_comparisons(rubric, parts, comparison_id="x", margin=0.0).prob_a
    assert result is not None and 0 <= result <= 1
    assert min(used) - 1e-9 <= result <= max(used) + 1e-9


def test_ratings_by_a_rubric() -> None:
    result = combine_ratings(RUBRIC, {"tone": rated(10), "brevity": rated(5.5)}, rating_id="x")
    assert result.scores == {"tone": 5.0, "brevity": 5.0}, "each on its own scale"
    assert result.score == pytest.approx((3 * 1 + 1 * 0.5) / 4) == rating_score(result)
    assert result.rating == pytest.approx(1 + 9 * 0.875)
    assert (result.outcome, result.tokens, result.prompt_tokens) == ("ok", 4, 10)
    assert rating_score(rated(4)) == pytest.approx(1 / 3) and rating_score(rated(None)) is None


def test_a_score_without_all_criteria_is_none() -> None:
    result = combine_ratings(RUBRIC, {"tone": rated(10), "brevity": rated(None, "unparsed")}, rating_id="x")
    assert (result.score, result.rating, result.outcome) == (None, None, "unparsed")
    assert result.scores == {"tone": 5.0}


@pytest.mark.parametrize(
    "text",
    [
        "criteria: [short, {name: polite, weight: 2}]",
        "rubric: {criteria: [short, {name: polite, weight: 2}]}\nsamples: 3",
        "rubric: [short, {name: polite, weight: 2}]",
    ],
)
def test_rubrics_of_files(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(text)
    rubric = load_rubric(tmp_path / "r.yaml")
    assert rubric == Rubric(criteria=(Criterion(name="short"), Criterion(name="polite", weight=2)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("criteria: []", "at least 1"),
        ("criteria: [short, short]", "'short' occurs 2 times"),
        ("criteria: [{name: x, wieght: 2}]", "did you mean 'weight'"),
        ("criteria: [{name: x, levels: {'9': best}}]", "level 9 is not on the scale"),
        ("criteria: [{name: x, scale: [1]}]", "criteria.0.scale.1: Field required"),
        ("criteria: [{name: x, scale: [0, 100000000]}]", "less than or equal to 1000"),
        ("criteria: [{name: x, weight: 1.0e+308}]", "less than or equal to 1000000"),
        ("criteria: [{name: ' '}]", "name"),
        ("rubric: 3", "tuple"),
        ("other: 3", "unknown key"),
    ],
)
def test_rubrics_of_files_that_are_not_valid(text: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_rubric(path)
    assert problem in str(error.value) and str(path) in str(error.value)


def test_rubrics_of_rows() -> None:
    assert read_rubric(None) is None and read_rubric([]) is None
    # As Arrow gives a column of objects: every key in every object.
    value = [{"name": "tone", "text": None, "weight": 2.0, "levels": {"1": "rude", "5": None}}, "short"]
    rubric = read_rubric([value[0], {"name": "short", "weight": None}])
    assert rubric == read_rubric(value) == read_rubric({"criteria": value})
    assert rubric and rubric.criteria[0] == Criterion(name="tone", weight=2, levels={1: "rude"})


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("brevity", "`rubric` is a string; make it a list"),
        (3, "is a number"),
        ([3], r"`rubric.criteria\[0\]`"),
        ([" "], r"`rubric.criteria\[0\].name`: String should have at least 1"),
        (["a", "a"], "`rubric`: criterion 'a' occurs 2 times"),
        ([{"name": "x", "wieght": 1}], "unknown key 'wieght'"),
        ([{"name": "x", "weight": 0}], "greater than 0"),
        (["half \ud800"], "half of a surrogate pair"),
    ],
)
def test_rubrics_of_rows_that_are_not_valid(value: Any, problem: str) -> None:
    with pytest.raises(BadRow, match=problem):
        read_rubric(value)


def test_levels_of_ratings_never_fall() -> None:
    for low, high in ((1, 5), (0, 1), (0, 100), (-3, 3), (1, 10)):
        criterion = Criterion(
            name="n", scale=(low, high), levels={n: f"level {n}" for n in range(low, high + 1)}
        )
        lines = rating_text(criterion).splitlines()[1:]
        ratings = [int(line.split(":")[0]) for line in lines]
        assert ratings[0] == 1 and ratings[-1] == 10
        assert all(one < other for one, other in pairwise(ratings))
        assert sum(line.count("level") for line in lines) == high - low + 1
