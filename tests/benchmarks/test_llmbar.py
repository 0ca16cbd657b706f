"""LLMBar: upstream's statistics reproduced from their counts, and its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.benchmarks.llmbar import ROWS, LLMBar
from reasongenrm.records import Message, Rating, Row
from reasongenrm.stages.rating import rating_result
from support.judged import VERDICTS, array, dropped, good, judge_all, lines, score_all
from support.published import AVERAGES, GPT4, llmbar_games

pytestmark = pytest.mark.unit
BENCH = LLMBar()
TURNS = (Message(role="user", content="q"),)


def row(name: str, subset: str = "Natural") -> Row:
    return Row.make(subset, TURNS, [f"{name} r"], [f"{name} w"])


def test_upstreams_statistics() -> None:
    rows = [row(f"{s}{n}", s) for s in ROWS for n in range(ROWS[s])]
    verdicts_by_id = {r.id: one for r, one in zip(rows, llmbar_games(ROWS), strict=True)}
    scored = BENCH.score(rows, judge_all(rows, lambda r, *_: verdicts_by_id[r.id]))
    assert [100 * one.accuracy for one in scored.subsets.values()] == pytest.approx(AVERAGES)
    for subset, (_, _, both, _) in GPT4.items():
        assert scored.subsets[subset].strict == pytest.approx(both / ROWS[subset])
    assert scored.details["agreement"] == pytest.approx(sum(equal for *_, equal in GPT4.values()) / 419)
    assert 100 * (scored.sections["Adversarial"] or 0) == pytest.approx(sum(AVERAGES[1:]) / 4)
    assert 100 * scored.score == pytest.approx(sum(AVERAGES) / 5)
    assert not scored.partial and scored.rows == 419


def test_only_the_right_output_counts() -> None:
    rows = [row("a"), row("b"), row("c")]
    verdicts = {rows[0].id: ("right", "unparsed"), rows[1].id: ("tie", "tie"), rows[2].id: ("right", "right")}
    scored = BENCH.score(rows, judge_all(rows, lambda r, *_: verdicts[r.id]))
    assert scored.score == pytest.approx((0.5 + 0 + 1) / 3) and scored.strict == pytest.approx(1 / 3)


def test_equal_scores_are_half_right() -> None:
    rows = [row("a"), row("b"), row("c")]
    scores = {rows[0].id: (2, 1), rows[1].id: (1, 1), rows[2].id: (0, 1)}
    scored = BENCH.score(rows, score_all(rows, lambda r, place: float(scores[r.id][place])))
    assert scored.score == 0.5 and scored.details["agreement"] is None


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(list(ROWS)), *[st.sampled_from(VERDICTS)] * 2), min_size=1, max_size=12
    )
)
def test_the_score_is_the_mean_over_subsets_of_the_mean_over_orders(verdicts: list[Any]) -> None:
    rows = [row(str(n), subset) for n, (subset, *_) in enumerate(verdicts)]
    verdicts_by_id = {r.id: tuple(one[1:]) for r, one in zip(rows, verdicts, strict=True)}
    results = judge_all(rows, lambda r, *_: verdicts_by_id[r.id])
    scored = BENCH.score(rows, results)
    means = []
    for subset in {one[0] for one in verdicts}:
        games = [verdict for s, *pair in verdicts for verdict in pair if s == subset]
        means.append(sum(one == "right" for one in games) / len(games))
    natural = [s for s in ("Natural",) if s in scored.subsets]
    if natural and len(means) == 5:
        assert scored.score == pytest.approx(sum(means) / 5)
    if not natural or len(means) == 1:
        assert scored.score == pytest.approx(sum(means) / len(means))
    assert scored.strict <= scored.score + 1e-12
    assert BENCH.score(rows[::-1], results) == scored


def raw(**changes: Any) -> dict[str, Any]:
    return {"input": "q", "output_1": "a", "output_2": "b", "label": 2} | changes


def test_upstreams_folder_is_read_without_the_evaluators_results(tmp_path: Path) -> None:
    array(tmp_path / "Natural" / "dataset.json", [raw(), raw(label=1)])
    array(tmp_path / "Adversarial" / "GPTOut" / "dataset.json", [raw()])
    array(tmp_path / "Natural" / "evaluators" / "GPT-4" / "CoT" / "result.json", [raw(), raw()])
    rows = good(BENCH.rows(str(tmp_path)))
    assert [(r.subset, r.answers) for r in rows] == [
        ("GPTOut", ("b", "a")),
        ("Natural", ("b", "a")),
        ("Natural", ("a", "b")),
    ]
    assert len({r.id for r in rows}) == 3


@pytest.mark.parametrize(
    ("changes", "file", "subset"),
    [
        ({"subset": "llmbar-adver-neighbor"}, "x", "Neighbor"),
        ({"subset": "Adversarial_Manual"}, "natural", "Manual"),
        ({}, "llmbar_natural", "Natural"),
        ({"label": "1"}, "gptinst", "GPTInst"),
        ({}, "natural/GPTInst/dataset", "GPTInst"),
        ({}, "Adversarial/Natural/dataset", "Natural"),
    ],
)
def test_the_subset_is_a_column_or_in_the_path(
    tmp_path: Path, changes: dict[str, Any], file: str, subset: str
) -> None:
    path = tmp_path / f"{file}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    (one,) = good(BENCH.rows(lines(path, [raw(**changes)])))
    assert one.subset == subset


def test_a_name_of_two_subsets_is_refused(tmp_path: Path) -> None:
    items = list(
        BENCH.rows(lines(tmp_path / "x.jsonl", [raw(subset="natural_manual"), raw(subset="natural")]))
    )
    assert dropped(items) == [("jsonl:1", "unknown_subset")]


def test_an_answer_without_a_readable_rating_is_half_right() -> None:
    """Upstream's `annotate` then names output 1, whichever it is: right in one of the two orders."""
    rows = [row("a"), row("b"), row("c"), row("d")]
    ratings = {
        rows[0].id: (7.0, 3.0),
        rows[1].id: (None, 3.0),
        rows[2].id: (4.0, 4.0),
        rows[3].id: (2.0, None),
    }
    results = {
        pair.id: rating_result(pair, *(rated(value) for value in ratings[one.id]))
        for one in rows
        for pair in one.pairs
    }
    scored = BENCH.score(rows, results)
    assert scored.score == (1 + 0.5 + 0.5 + 0.5) / 4
    assert scored.counts.unparsed == 2 and scored.counts.tie == 1


def rated(value: float | None) -> Rating:
    return Rating("r", value, "ok" if value is not None else "unparsed", "")


def test_bad_rows_are_drops_with_their_location(tmp_path: Path) -> None:
    without = raw()
    del without["output_2"]
    bad = [
        raw(label=0),
        raw(label=True),
        raw(label="A"),
        without,
        raw(output_1=None),
        raw(subset="x"),
        "[]",
        raw(),
    ]
    items = list(BENCH.rows(lines(tmp_path / "natural.jsonl", bad)))
    assert dropped(items) == [
        ("jsonl:1", "bad_label"),
        ("jsonl:2", "bad_label"),
        ("jsonl:3", "bad_label"),
        ("jsonl:4", "missing_column"),
        ("jsonl:5", "missing_column"),
        ("jsonl:6", "unknown_subset"),
        ("jsonl:7", "broken_json"),
    ]
