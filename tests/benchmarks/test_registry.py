"""All benchmarks together, RewardBench as one of them, its prior sets, and the leaderboard's layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.benchmarks.base import answer_ratings, inconsistent_share, scalar_result
from reasongenrm.benchmarks.leaderboard import Entry, leaderboard_files
from reasongenrm.benchmarks.pairs import Pairs
from reasongenrm.benchmarks.registry import BENCHMARKS, configured_benchmark, named_benchmark
from reasongenrm.benchmarks.rewardbench import PRIOR_SETS, RewardBench
from reasongenrm.config.evaluate import HUB_IDS, BenchmarkConfig
from reasongenrm.errors import DataError
from reasongenrm.metrics.intervals import share_interval, wilson_interval
from reasongenrm.records import Message, PreferencePair, Row
from support.judged import judge_all, judged, lines, rewardbench_rows, rewardbench_score, score_all
from support.published import NEMOTRON, scalar_rows

pytestmark = pytest.mark.unit
TURNS = (Message(role="user", content="q"),)


def rows_of(accuracies: dict[str, float]) -> tuple[list[Row], dict[str, Any]]:
    """Return rows of RewardBench and a scalar head's results with these accuracies."""
    results = scalar_rows(accuracies)
    return rewardbench_rows(results), {r.pair_id: r for r in results}


@pytest.mark.parametrize("kind", BENCHMARKS)
def test_every_benchmark_has_a_name_and_refuses_empty_input(kind: str, tmp_path: Path) -> None:
    bench = BENCHMARKS[kind]
    assert bench.name and bench.split
    with pytest.raises(DataError, match="no rows to score"):
        bench.score([], {})
    with pytest.raises(DataError, match="no such file"):
        list(bench.rows(str(tmp_path / "none.jsonl")))
    with pytest.raises(DataError, match="no readable row"):
        list(bench.rows(lines(tmp_path / "x.jsonl", ["{}", "[]"])))
    assert (kind in HUB_IDS) == (kind not in ("llmbar", "rmb", "ifrewardbench", "pairs"))


def test_settings_of_a_recipe_make_the_benchmark_and_its_score_names_it_again() -> None:
    for config, subset, name in (
        (BenchmarkConfig(kind="rmbench"), "chat", "RM-Bench"),
        (BenchmarkConfig(kind="rmbench", safety="halves"), "chat", "RM-Bench (safety: mean of its halves)"),
        (BenchmarkConfig(prior_sets=True, max_messages=4), "shp", "RewardBench (with prior sets)"),
        (BenchmarkConfig(), "hep-go", "RewardBench"),
        (BenchmarkConfig(kind="judgebench", split="both"), "Math", "JudgeBench"),
    ):
        benchmark = configured_benchmark(config)
        details = {"split": "gpt"} if config.kind == "judgebench" else {}
        right, wrong = (["a", "b", "c"], ["d", "e", "f"]) if config.kind == "rmbench" else (["a"], ["b"])
        rows = [Row.make(subset, TURNS, right, wrong, details=details)]
        results = score_all(rows, lambda _, place: -place)
        score = benchmark.score(rows, results)
        assert score.benchmark == name
        again = named_benchmark(config.kind, score.benchmark, {subset})
        assert again.score(rows, results) == score
    assert getattr(configured_benchmark(BenchmarkConfig(max_messages=4)), "max_messages", None) == 4
    for wrong_key in ({"kind": "pairs", "path": "x", "safety": "halves"}, {"kind": "ppe", "max_messages": 4}):
        with pytest.raises(ValueError, match="only the kind"):
            BenchmarkConfig.model_validate(wrong_key)


def prior_folder(folder: Path) -> Iterator[str]:
    for name in PRIOR_SETS:
        turns = [{"role": "user", "content": name}]
        raw = {"prompt": turns, "chosen": "c", "rejected": "r", "subset": "finer"}
        yield lines(folder / f"{name}.jsonl", [raw, raw, raw | {"chosen": None}])


def test_prior_sets_are_a_section_of_half_weight(tmp_path: Path) -> None:
    assert list(prior_folder(tmp_path))
    own = lines(tmp_path / "own.jsonl", [{"prompt": "q", "chosen": "c", "rejected": "r", "subset": "hep-go"}])
    bench = RewardBench(prior_sets=True, prior_path=str(tmp_path))
    items = list(bench.rows(own))
    rows = [row for row in items if isinstance(row, Row)]
    assert len(items) - len(rows) == 4 and len({row.id for row in rows}) == 9
    assert [row.subset for row in rows[1:]] == [name for name in PRIOR_SETS for _ in range(2)]
    assert len(list(bench.rows(own, limit=3))) == 3
    # hep-go right; of the prior sets the first row of every set, and both of shp: mean (0.5 + 0.5 + 1 + 0.5) / 4.
    right = {row.id for n, row in enumerate(rows) if n % 2 == 1 or row.subset in ("hep-go", "shp")}
    results = score_all(rows, lambda row, place: -place if row.id in right else place)
    scored = bench.score(rows, results)
    assert scored.sections["Prior Sets"] == 0.625
    assert scored.score == pytest.approx((1.0 + 0.5 * 0.625) / 1.5)
    assert scored.partial and "anthropic_helpful" in scored.missing and "alpacaeval-easy" in scored.missing


def test_a_folder_without_one_of_the_prior_sets_and_a_single_file_are_refused(tmp_path: Path) -> None:
    assert list(prior_folder(tmp_path))
    own = lines(tmp_path / "own.jsonl", [{"prompt": "q", "chosen": "c", "rejected": "r", "subset": "hep-go"}])
    with pytest.raises(DataError, match="one file in place of the four prior sets"):
        RewardBench(prior_sets=True, prior_path=str(tmp_path / "shp.jsonl")).rows(own)
    (tmp_path / "shp.jsonl").rename(tmp_path / "shp-00000-of-00001.jsonl")
    bench = RewardBench(prior_sets=True, prior_path=str(tmp_path))
    assert sum(isinstance(one, Row) and one.subset == "shp" for one in bench.rows(own)) == 2
    (tmp_path / "shp-00000-of-00001.jsonl").rename(tmp_path / "other.jsonl")
    with pytest.raises(DataError, match=r"no file of the prior set shp.*shp\.jsonl"):
        bench.rows(own)


def test_upstreams_generative_runner_judges_at_most_four_messages(tmp_path: Path) -> None:
    talk = [{"role": role, "content": role} for role in ("user", "assistant") * 2]
    raw = [{"prompt": [*talk[:n], talk[0]], "chosen": "c", "rejected": "r"} for n in (0, 2, 4)]
    for name in PRIOR_SETS:
        lines(tmp_path / f"{name}.jsonl", raw)
    own = lines(tmp_path / "own.jsonl", [{"prompt": "q", "chosen": "c", "rejected": "r", "subset": "hep-go"}])
    for limit, kept in ((None, 13), (4, 9), (2, 5)):
        items = list(RewardBench(prior_sets=True, prior_path=str(tmp_path), max_messages=limit).rows(own))
        drops = [one for one in items if not isinstance(one, Row)]
        assert len(items) == 13 and len(items) - len(drops) == kept
        assert {drop.reason for drop in drops} <= {"too_many_messages"}


def test_prior_sets_with_all_published_rows() -> None:
    rows, results = rows_of(NEMOTRON)
    prior = [
        scalar_result(f"{s}{n}", s, float(n % 4 > 0), 0.5) for s in PRIOR_SETS for n in range(PRIOR_SETS[s])
    ]
    rows += rewardbench_rows(prior)
    results |= {r.pair_id: r for r in prior}
    scored = RewardBench(prior_sets=True).score(rows, results)
    four = rewardbench_score(scalar_rows(NEMOTRON)).score
    third = scored.sections["Prior Sets"] or 0
    assert third == pytest.approx(0.75, abs=0.002)
    assert scored.score == pytest.approx((4 * four + 0.5 * third) / 4.5)  # upstream: weights 2, 2, 2, 2, 1
    assert not scored.partial
    entry = Entry("org/model", "Seq. Classifier", "tokenizer")
    files = leaderboard_files(RewardBench(prior_sets=True).score_details(rows, results), rows, results, entry)
    folders = ("eval-set", "pref-sets", "eval-set-scores", "pref-sets-scores")
    assert list(files) == [f"{folder}/org/model.json" for folder in folders]
    assert set(files["pref-sets/org/model.json"]) == {"model", "model_type", "chat_template", *PRIOR_SETS}
    assert len(files["pref-sets-scores/org/model.json"]["results"]) == sum(PRIOR_SETS.values())


def test_the_toy_benchmark_has_no_prior_sets() -> None:
    row = Row.make("toy-chat", TURNS, ["a"], ["b"])
    results = score_all([row], lambda _, place: -place)
    assert RewardBench(prior_sets=True).score([row], results) == RewardBench().score([row], results)
    other = Row.make("nothing", TURNS, ["a"], ["b"])
    with pytest.raises(DataError, match="unknown subset 'nothing'"):
        RewardBench(prior_sets=True).score([other], score_all([other], lambda _, place: -place))


@given(st.floats(-1e6, 1e6), st.integers(1, 7), st.integers(1, 7))
def test_equal_scores_stay_equal_in_ratings(value: float, right: int, wrong: int) -> None:
    row = Row.make("s", TURNS, [f"r{n}" for n in range(right)], [f"w{n}" for n in range(wrong)])
    assert answer_ratings(row, score_all([row], lambda _, place: value)) == [value] * (right + wrong)


def test_ratings_do_not_mix_scores_and_credits() -> None:
    row = Row.make("s", TURNS, ["r"], ["v", "w"])
    results = score_all([row], lambda _, place: float("nan") if place == 2 else 5.0 - place)
    assert answer_ratings(row, results) == [0.5, 0.0, 1.0]  # won against v; the score of w is an error
    assert answer_ratings(row, judge_all([row], lambda _, i, j: ("right", "tie"))) == [0.75, 0.25, 0.25]


def test_a_strict_result_is_right_in_every_order() -> None:
    assert Pairs().strict_result(judged("p", ("right", "tie"))).outcomes == ("wrong",)
    assert Pairs().strict_result(judged("p", ("right", "right"))).correct == (1.0,)
    scalar = scalar_result("p", "s", 1.0, 1.0)
    assert Pairs().strict_result(scalar) == scalar


@pytest.mark.parametrize(
    ("verdicts", "share"),
    [
        (("right", "right"), 0.0),
        (("right", "wrong"), 1.0),
        (("error", "unparsed"), 0.0),
        (("tie", "error"), 1.0),
        (("right",), None),
    ],
)
def test_orders_are_inconsistent_if_their_decisions_differ(
    verdicts: tuple[str, ...], share: float | None
) -> None:
    row = Row.make("s", TURNS, ["a"], ["b"])
    assert inconsistent_share([row], judge_all([row], lambda *_: verdicts)) == share


def test_intervals_of_shares() -> None:
    assert share_interval([1.0, 0.0, 1.0], seed=0) == wilson_interval(2, 3)
    low, high = share_interval([0.25, 0.5, 1.0, 0.75], seed=0)
    assert low < 0.625 < high
    assert share_interval([0.25, 0.5], seed=1) == share_interval([0.5, 0.25], seed=1)


def test_a_pair_of_a_row_with_one_comparison_has_the_rows_id() -> None:
    row = Row.make("s", TURNS, ["a"], ["b"])
    assert [row.id] == [pair.id for pair in row.pairs] == [PreferencePair.make(TURNS, "a", "b", "s").id]
