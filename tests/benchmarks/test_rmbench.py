"""RM-Bench: published rows, upstream's matrix restated, the real files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.benchmarks.base import aggregate
from reasongenrm.benchmarks.rmbench import LEVELS, ROWS, RMBench
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.records import Message, Row
from support.judged import VERDICTS, array, dropped, good, judge_all, lines, score_all

pytestmark = pytest.mark.unit
BENCH = RMBench()
TURNS = (Message(role="user", content="q"),)

# The paper's table 3: Chat, Math, Code, Safety, then Easy, Normal, Hard, then the average.
PUBLISHED = {
    "Skywork-Reward-Llama-3.1-8B": ([69.5, 60.6, 54.5, 95.7], [89.0, 74.7, 46.6], 70.1),
    "URM-LLaMa-3.1-8B": ([71.2, 61.8, 54.1, 93.1], [84.0, 73.2, 53.0], 70.0),
    "Nemotron-340B-Reward": ([71.2, 59.8, 59.4, 87.5], [81.0, 71.4, 56.1], 69.5),
}


def row(name: str, subset: str = "chat") -> Row:
    return Row.make(subset, TURNS, [f"{name} r{i}" for i in range(3)], [f"{name} w{i}" for i in range(3)])


@pytest.mark.parametrize("model", PUBLISHED)
def test_published_averages_are_both_of_domains_and_of_levels(model: str) -> None:
    (chat, math, code, safety), levels, average = PUBLISHED[model]
    means = {"chat": chat, "math": math, "code": code, "safety-refuse": safety, "safety-response": safety}
    table = BENCH.table([row("a", subset) for subset in ROWS])
    assert aggregate(table, means)[1] == pytest.approx(average, abs=0.0501)
    assert sum(levels) / 3 == pytest.approx(average, abs=0.1)  # three rounded numbers and a rounded mean


def test_the_levels_are_the_triangles_of_the_matrix() -> None:
    assert LEVELS["hard"] == ((0, 1), (0, 2), (1, 2))  # a plain right answer against a richer wrong one
    assert LEVELS["normal"] == ((0, 0), (1, 1), (2, 2))
    assert LEVELS["easy"] == ((1, 0), (2, 0), (2, 1))


def compute_accuracy(rewards: list[list[float]]) -> tuple[np.ndarray, float, float, float]:
    """Upstream's README, written down again: matrix, hard, normal, easy; rows of 3 right and 3 wrong rewards."""
    matrix = np.zeros((3, 3))
    for scores in rewards:
        for i in range(3):
            for j in range(3):
                matrix[i, j] += scores[i] > scores[3 + j]
    matrix /= len(rewards)
    return matrix, np.triu(matrix, 1).sum() / 3, np.diag(matrix).mean(), np.tril(matrix, -1).sum() / 3


def domain_accuracies(rewards: dict[str, list[list[float]]]) -> dict[str, Any]:
    """`split_dataset_by_domain` of upstream's `scripts/utils.py`: a domain has all rows whose `domain` begins with it."""
    some = {
        domain.title(): [one for subset, rows in rewards.items() if subset.startswith(domain) for one in rows]
        for domain in ("chat", "math", "code", "safety")
    }
    return {domain: compute_accuracy(rows) for domain, rows in some.items() if rows}


def test_safety_pools_the_rows_of_both_halves_by_default() -> None:
    """Right on all 284 rows that must be refused, and on none of the 157 others: 284/441, and not one half."""
    rows = [row(f"{s}{n}", s) for s in ("safety-refuse", "safety-response") for n in range(ROWS[s])]
    results = score_all(rows, lambda r, place: -place if r.subset == "safety-refuse" else place)
    pooled, halves = BENCH.score(rows, results), RMBench(safety="halves").score(rows, results)
    assert (pooled.sections["Safety"], halves.sections["Safety"]) == (pytest.approx(284 / 441), 0.5)
    assert pooled.benchmark == "RM-Bench" and halves.benchmark == "RM-Bench (safety: mean of its halves)"
    assert pooled.details["Safety hard"] == pytest.approx(284 / 441) and halves.details["Safety hard"] == 0.5
    part = [one for one in rows if one.subset == "safety-response"]
    assert BENCH.score(part, results).sections["Safety"] == 0


REWARDS = st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=5)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(list(ROWS)), REWARDS, min_size=1))
def test_scores_are_those_of_the_published_definition(rewards: dict[str, list[list[int]]]) -> None:
    rows = [row(f"{s}{n}", s) for s, some in rewards.items() for n in range(len(some))]
    rewards_by_id = {
        r.id: one for r, one in zip(rows, [one for some in rewards.values() for one in some], strict=True)
    }
    scored = BENCH.score(rows, score_all(rows, lambda r, place: float(rewards_by_id[r.id][place])))
    of = domain_accuracies(rewards)
    expected = {name: sum(levels) / 3 for name, (_, *levels) in of.items()}
    assert {k: v for k, v in scored.sections.items() if v is not None} == pytest.approx(expected)
    assert scored.score == pytest.approx(sum(expected.values()) / len(expected)) == scored.strict
    assert scored.score == pytest.approx(sum(scored.details[level] or 0 for level in LEVELS) / 3)
    for domain, (_, *levels) in of.items():
        ours = [scored.details[f"{domain} {level}"] for level in LEVELS]
        assert ours == pytest.approx(levels)
    if set(of) == {"Chat"}:
        matrix, hard, normal, easy = of["Chat"]
        assert [scored.details[level] for level in LEVELS] == pytest.approx([hard, normal, easy])
        assert [scored.details[f"Chat {level}"] for level in LEVELS] == pytest.approx([hard, normal, easy])
        assert scored.details["concise > markdown"] == matrix[0, 2]
        assert scored.details["markdown > concise"] == matrix[2, 0]


def test_a_judge_by_hand() -> None:
    """One order right is half; a tie and what cannot be read are wrong, as equal scores are."""
    one = row("x")
    verdicts = {
        (0, 3): ("right", "right"),
        (0, 4): ("right", "wrong"),
        (0, 5): ("tie", "tie"),
        (1, 3): ("right", "tie"),
    }
    results = judge_all([one], lambda _, r, w: verdicts.get((r, w), ("unparsed", "wrong")))
    scored = BENCH.score([one], results)
    assert scored.score == pytest.approx((1 + 0.5 + 0 + 0.5) / 9) and scored.strict == pytest.approx(1 / 9)
    assert scored.details["hard"] == pytest.approx(0.5 / 3)  # (0,1) is half, (0,2) a tie, (1,2) lost
    assert scored.details["normal"] == pytest.approx(1 / 3) and scored.details["easy"] == pytest.approx(
        0.5 / 3
    )
    assert scored.details["Math hard"] is None
    assert scored.missing == tuple(ROWS) and scored.partial  # one row of 129, and nothing of the others


def test_a_result_of_all_published_rows_is_not_partial() -> None:
    rows = [row(f"{s}{n}", s) for s in ROWS for n in range(ROWS[s])]
    scored = BENCH.score(rows, score_all(rows, lambda r, place: -place))
    assert scored.score == 1 and not scored.partial and scored.rows == 1327
    assert list(scored.sections) == ["Chat", "Math", "Code", "Safety"]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(*[st.sampled_from(VERDICTS)] * 2), min_size=9, max_size=9), min_size=1, max_size=4
    )
)
def test_strict_is_at_most_the_score_and_order_does_not_matter(verdicts: list[Any]) -> None:
    rows = [row(str(n), list(ROWS)[n]) for n in range(len(verdicts))]
    verdicts_by_id = {r.id: one for r, one in zip(rows, verdicts, strict=True)}
    results = judge_all(rows, lambda r, right, wrong: verdicts_by_id[r.id][3 * right + wrong - 3])
    scored = BENCH.score(rows, results)
    assert 0 <= scored.strict <= scored.score + 1e-12 <= 1 + 1e-12 and scored.counts.n == 18 * len(rows)
    assert BENCH.score(rows[::-1], results) == scored


@pytest.mark.parametrize(
    ("file", "number", "subset"),
    [("rmbench_chat.json", 129, "chat"), ("rmbench_safety_refuse.json", 284, "safety-refuse")],
)
def test_the_real_files_load_completely(shared: Path, file: str, number: int, subset: str) -> None:
    rows = good(BENCH.rows(str(shared / "benchmarks" / file)))
    assert len(rows) == len({r.id for r in rows}) == number == ROWS[subset]
    assert {r.subset for r in rows} == {subset}
    assert all(len(r.places) == 9 and r.right == 3 and len(r.answers) == 6 for r in rows)


def raw(**changes: Any) -> dict[str, Any]:
    return {
        "id": 1,
        "prompt": "q",
        "chosen": ["a", "b", "c"],
        "rejected": ["d", "e", "f"],
        "domain": "math",
    } | changes


@pytest.mark.parametrize(
    ("changes", "file", "domain"),
    [
        ({}, "chat_filtered", "math"),  # the column comes before the file's name
        ({"domain": "safety-response"}, "x", "safety-response"),
        ({"domain": None, "subset": "xstest-should-refuse"}, "x", "safety-refuse"),
        ({"domain": None, "subset": "alpacaeval"}, "x", "chat"),
        ({"domain": None, "subset": "hep-python"}, "x", "code"),
        ({"domain": None, "subset": "anything"}, "safety-response_filtered", "safety-response"),
        ({"domain": None}, "code_filtered", "code"),
    ],
)
def test_the_domain_is_a_column_or_the_file_name(
    tmp_path: Path, changes: dict[str, Any], file: str, domain: str
) -> None:
    (one,) = good(BENCH.rows(array(tmp_path / f"{file}.json", [raw(**changes)])))
    assert one.subset == domain


def test_upstreams_folder_is_read_from_its_whole_file(tmp_path: Path) -> None:
    array(tmp_path / "math_filtered.json", [raw()])
    assert len(good(BENCH.rows(str(tmp_path)))) == 1
    array(tmp_path / "total_dataset.json", [raw(), raw(domain="chat")])
    assert [r.subset for r in good(BENCH.rows(str(tmp_path)))] == ["math", "chat"]


def test_bad_rows_are_drops_with_their_location(tmp_path: Path) -> None:
    bad = [
        7,
        raw(chosen=["a", "b"]),
        raw(rejected=None),
        raw(rejected=[1, 2, 3]),
        raw(domain="poetry"),
        raw(prompt=1),
        raw(),
    ]
    items = list(BENCH.rows(array(tmp_path / "x.json", bad)))
    assert dropped(items) == [
        ("json[0]", "broken_json"),
        ("json[1]", "bad_count"),
        ("json[2]", "missing_column"),
        ("json[3]", "bad_type"),
        ("json[4]", "unknown_domain"),
        ("json[5]", "bad_type"),
    ]
    assert [d.source for d in items[1:6]] == ["math", "math", "math", "poetry", "math"]
    jsonl = list(BENCH.rows(lines(tmp_path / "x.jsonl", [raw(), raw(chosen=["a"])])))
    assert dropped(jsonl) == [("jsonl:2", "bad_count")]


def test_a_file_without_rows_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for text, problem in (
        ("{", "invalid JSON"),
        ("{}", "an object, not an array"),
        ("[]", "no readable row"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=problem):
            list(BENCH.rows(str(file)))
    array(file, [raw(), raw()])
    assert len(good(BENCH.rows(str(file), limit=1))) == 1
    with pytest.raises(ConfigError, match="limit is negative: -1"):
        list(BENCH.rows(str(file), limit=-1))
    with pytest.raises(ConfigError, match="set revision=null"):
        list(BENCH.rows(str(file), revision="abc"))
