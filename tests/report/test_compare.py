"""Compared runs: differences of official scores, every changed row is listed, text stays text."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reasongenrm.benchmarks.base import Benchmark, aggregate, score_difference
from reasongenrm.benchmarks.ppe import CORRECTNESS, HUMAN
from reasongenrm.benchmarks.registry import BENCHMARKS
from reasongenrm.benchmarks.rewardbench import PRIOR_SETS, RewardBench
from reasongenrm.cli import main
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.metrics.diagnostics import diagnose
from reasongenrm.metrics.intervals import holm
from reasongenrm.records import PairResult, Row
from reasongenrm.report.compare import compare_runs
from reasongenrm.report.explorer import pair_outcome
from reasongenrm.store import read_jsonl, write_json, write_jsonl
from support.html_pages import Page
from support.judged import judged as judged_pair
from support.judged_run import EVIL_PROMPT, judged, published_run, rows_of, scored, toy_run, write_run

pytestmark = pytest.mark.unit

Models = Mapping[str, Mapping[str, PairResult]]
FILES = ("changes.jsonl", "compare.html", "compare.json", "compare.md")


def write_kinds(folder: Path, benchmarks: Mapping[str, tuple[str, Sequence[Row], Models]]) -> Path:
    """A run folder with benchmarks of any kind: `{key: (kind, rows, {model: results})}`."""
    write_run(folder, {})
    entries: dict[str, Any] = {}
    for key, (kind, rows, models) in benchmarks.items():
        write_jsonl(folder / "evaluate" / key / "rows.jsonl", map(asdict, rows))
        write_jsonl(folder / "evaluate" / key / "dropped.jsonl", [])
        model_entries = {}
        for name, results in models.items():
            write_jsonl(folder / "evaluate" / key / name / "results.jsonl", map(asdict, results.values()))
            score = BENCHMARKS[kind].score(rows, results)
            model_entries[name] = {
                "score": asdict(score),
                "diagnostics": asdict(diagnose(rows, results)),
                "cost": None,
            }
        entries[key] = {
            "kind": kind,
            "mode": "pairs",
            "name": BENCHMARKS[kind].name,
            "path": "somewhere",
            "rows": len(rows),
            "unreadable_rows": 0,
            "models": model_entries,
        }
    write_json(folder / "scores.json", {"run": folder.name, "benchmarks": entries})
    return folder


def row(subset: str, at: int, /, right: int = 1, wrong: int = 1, **details: Any) -> Row:
    answers = [f"{subset} answer {at}.{place}" for place in range(right + wrong)]
    turns = [{"role": "user", "content": f"{subset} question {at}"}]
    return Row.make(subset, turns, answers[:right], answers[right:], details=details)  # type: ignore[arg-type]


KINDS: dict[str, list[Row]] = {
    "rewardbench": rows_of(["alpacaeval-easy", "math-prm", "hep-go", "donotanswer", "mt-bench-hard"], 12),
    "rewardbench2": [
        *(row(subset, n, wrong=3) for subset in ("Factuality", "Math", "Focus") for n in range(10)),
        *(row("Ties", n, right=1, wrong=2, kind="ref", number=n) for n in range(8)),
        *(row("Ties", 100 + n, right=3, wrong=2, kind="tied", number=n) for n in range(8)),
    ],
    "rmbench": [
        row(s, n, 3, 3) for s in ("chat", "math", "safety-refuse", "safety-response") for n in range(8)
    ],
    "judgebench": [
        row(s, n, source="x", split="gpt") for s in ("Knowledge", "Reasoning", "Math") for n in range(15)
    ],
    "llmbar": [row(s, n) for s in ("Natural", "Neighbor", "Manual") for n in range(10)],
    "ppe": [
        *(row("human/English", n, part=HUMAN, flags=["is_code"]) for n in range(10)),
        *(row("MATH", n, 2, 2, part=CORRECTNESS) for n in range(7)),
    ],
    "rmb": [
        *(row("Pairwise/Helpfulness", n, kind="Pairwise", section="Helpfulness Pairwise") for n in range(9)),
        *(row("BoN/Harmlessness", n, wrong=3, kind="BoN", section="Harmlessness BoN") for n in range(9)),
    ],
    "pairs": [row("mine", n) for n in range(20)],
}


def two(kind: str) -> tuple[list[Row], Models]:
    rows = KINDS[kind]
    return rows, {"base": judged(rows, "base", skill=0.6), "better": judged(rows, "better", skill=0.8)}


def compared(runs: list[Path], out: Path) -> dict[str, Any]:
    compare_runs(runs, out)
    numbers: dict[str, Any] = json.loads((out / "compare.json").read_text(encoding="utf-8"))
    return numbers


def bytes_of(out: Path) -> dict[str, bytes]:
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    return {name: (out / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_run(tmp_path_factory.mktemp("runs") / "toy", each=6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_difference_is_that_of_the_two_official_scores(tmp_path: Path, kind: str) -> None:
    rows, models = two(kind)
    run = write_kinds(tmp_path / "r", {kind: (kind, rows, models)})
    [numbers] = compared([run], tmp_path / "out")["comparisons"]
    base, better = (BENCHMARKS[kind].score(rows, models[name]) for name in ("base", "better"))
    assert numbers["difference"] == better.score - base.score != 0
    assert (numbers["reference"]["score"], numbers["model"]["score"]) == (base.score, better.score)
    assert (numbers["reference"]["interval"], numbers["model"]["interval"]) == (
        list(base.interval),
        list(better.interval),
    )
    low, high = numbers["difference_interval"]
    assert low < numbers["difference"] < high and numbers["rows"] == len(rows)
    published = json.loads((run / "scores.json").read_text(encoding="utf-8"))["benchmarks"][kind]["models"]
    assert numbers["model"]["score"] == published["better"]["score"]["score"]


def test_the_difference_with_the_prior_sets(tmp_path: Path) -> None:
    rows = [row(subset, n) for subset in ("hep-go", *PRIOR_SETS) for n in range(10)]
    models = {name: judged(rows, name) for name in ("one", "other")}
    benchmark = RewardBench(prior_sets=True)
    run = write_run(tmp_path / "r", {"rb": (rows[:10], {n: judged(rows[:10], n) for n in models})})
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    for name, results in models.items():
        write_jsonl(run / "evaluate" / "rb" / name / "results.jsonl", map(asdict, results.values()))
        score = asdict(benchmark.score(rows, results))
        scores["benchmarks"]["rb"]["models"][name]["score"] = score
    write_jsonl(run / "evaluate" / "rb" / "rows.jsonl", map(asdict, rows))
    scores["benchmarks"]["rb"]["rows"] = len(rows)
    write_json(run / "scores.json", scores)
    [numbers] = compared([run], tmp_path / "out")["comparisons"]
    one, other = (benchmark.score(rows, models[name]).score for name in ("one", "other"))
    assert numbers["difference"] == other - one != 0 and numbers["notes"] == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_interval_is_that_of_the_official_metric_on_resampled_rows(kind: str) -> None:
    rows, models = two(kind)
    rows = [r for r in rows if r.subset != "Ties"]  # whose questions are resampled, not their rows
    benchmark: Benchmark = BENCHMARKS[kind]
    ours, theirs = (benchmark.score_details(rows, models[name]) for name in ("better", "base"))
    subsets = {name: [r for r in rows if r.subset == name] for name in ours.credits}
    draw = np.random.default_rng(7)
    resamples = 50_000
    places = {name: draw.integers(0, len(some), (resamples, len(some))) for name, some in subsets.items()}
    drawn = [
        aggregate(side.table, {n: np.array(side.credits[n])[places[n]].mean(axis=1) for n in subsets})[1]
        for side in (ours, theirs)
    ]
    for number in range(3):  # the definition itself
        chosen = [some[place] for name, some in subsets.items() for place in places[name][number]]
        for values, model in zip(drawn, ("better", "base"), strict=True):
            assert values[number] == pytest.approx(benchmark.score(chosen, models[model]).score)
    spread = float(np.std(drawn[0] - drawn[1]))
    difference, interval = score_difference(ours, theirs, seed=1)
    assert interval == pytest.approx(np.quantile(drawn[0] - drawn[1], [0.025, 0.975]), abs=0.25 * spread)
    assert difference == ours.score.score - theirs.score.score


def test_the_two_sides_of_a_difference_have_the_same_rows() -> None:
    rows, models = two("judgebench")
    whole, part = (BENCHMARKS["judgebench"].score_details(some, models["base"]) for some in (rows, rows[1:]))
    with pytest.raises(ValueError, match="same rows"):
        score_difference(whole, part)


ORDERS = {"right": ("right", "right"), "wrong": ("wrong", "wrong"), "inconsistent": ("right", "wrong")}


def results_with(rows: Sequence[Row], *outcomes: str) -> dict[str, PairResult]:
    return {
        r.id: replace(judged_pair(r.id, ORDERS[outcome]), subset=r.subset)
        for r, outcome in zip(rows, outcomes, strict=True)
    }


def test_a_small_example_by_hand(tmp_path: Path) -> None:
    rows = [row("toy-chat", n) for n in range(4)]
    models = {
        "base": results_with(rows, "right", "right", "wrong", "inconsistent"),
        "new": results_with(rows, "right", "wrong", "right", "right"),
    }
    run = write_run(tmp_path / "r", {"toy": (rows, models)})
    [numbers] = compared([run], tmp_path / "out")["comparisons"]
    assert (numbers["reference"]["score"], numbers["model"]["score"], numbers["difference"]) == (
        0.625,
        0.75,
        0.125,
    )
    assert (numbers["better"], numbers["worse"], numbers["p"], numbers["p_holm"]) == (2, 1, 1.0, None)
    assert numbers["changes"] == {"right to wrong": 1, "wrong to right": 1, "other change": 1}
    assert numbers["transitions"] == [
        {"before": "right", "after": "right", "rows": 1},
        {"before": "right", "after": "wrong", "rows": 1},
        {"before": "wrong", "after": "right", "rows": 1},
        {"before": "inconsistent", "after": "right", "rows": 1},
    ]
    # All 256 resamples of the four rows' differences.
    means = [sum(drawn) / 4 for drawn in itertools.product((0, -1, 1, 0.5), repeat=4)]
    assert numbers["difference_interval"] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.13)
    changes = {change["id"]: change for change in read_jsonl(tmp_path / "out" / "changes.jsonl")}
    assert {name: (c["before"], c["after"], c["change"]) for name, c in changes.items()} == {
        rows[1].id: ("right", "wrong", "right to wrong"),
        rows[2].id: ("wrong", "right", "wrong to right"),
        rows[3].id: ("inconsistent", "right", "other change"),
    }
    assert changes[rows[1].id]["prompt"] == "toy-chat question 1" and changes[rows[1].id]["model"] == "r/new"
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "| r/new | 4 | 62.5 " in text and "| +12.5 \\[" in text and "(Holm)" not in text
    assert f"| {rows[1].id} | toy-chat | right | wrong | toy-chat question 1 |" in text
    assert "#### right to wrong: 1\n" in text and "| inconsistent | right | 1 |" in text


def test_ten_rows_gained_of_ten_is_beyond_chance(tmp_path: Path) -> None:
    rows = [row("toy-chat", n) for n in range(12)]
    models = {
        "base": results_with(rows, *["wrong"] * 10, "right", "wrong"),
        "new": results_with(rows, *["right"] * 11, "wrong"),
    }
    run = write_run(tmp_path / "r", {"toy": (rows, models)})
    [numbers] = compared([run], tmp_path / "out")["comparisons"]
    assert (numbers["better"], numbers["worse"], numbers["p"]) == (10, 0, pytest.approx(2 / 2**10))


def test_identical_runs_differ_in_nothing(toy: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(toy, tmp_path / "other" / "toy")
    numbers = compared([Path(f"{toy}:reasongenrm"), Path(f"{copy}:reasongenrm")], tmp_path / "out")
    [one] = numbers["comparisons"]
    assert one["difference"] == 0 and one["difference_interval"] == [0, 0]
    assert (one["better"], one["worse"], one["p"]) == (0, 0, 1.0) and set(one["changes"].values()) == {0}
    assert (tmp_path / "out" / "changes.jsonl").read_bytes() == b""
    assert numbers["settings"] == [{"run": "other/toy", "differences": []}]
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "rows that changed\n\nNone.\n" in text and "+0.0 \\[+0.0, +0.0\\]" in text
    assert "The manifests show no difference." in text
    page = Page((tmp_path / "out" / "compare.html").read_text(encoding="utf-8"))
    assert page.inside["script"] and page.values("script", "id") == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_against_itself_differs_in_nothing_whatever_the_benchmark(kind: str) -> None:
    rows, models = two(kind)
    one = BENCHMARKS[kind].score_details(rows, models["base"])
    difference, interval = score_difference(one, one)
    assert difference == 0 and interval == pytest.approx((0, 0), abs=1e-12)


def test_the_order_of_lines_in_the_files_does_not_matter(tmp_path: Path) -> None:
    runs = [
        write_kinds(tmp_path / "a", {kind: (kind, *two(kind)) for kind in KINDS}),
        toy_run(tmp_path / "b", each=4),
        toy_run(tmp_path / "c", each=4),
    ]
    compare_runs(runs, tmp_path / "first")
    for path in tmp_path.glob("[abc]/evaluate/**/*.jsonl"):
        lines = path.read_bytes().splitlines(keepends=True)
        random.Random(path.name).shuffle(lines)
        path.write_bytes(b"".join(lines))
    compare_runs(runs, tmp_path / "second")
    assert bytes_of(tmp_path / "first") == bytes_of(tmp_path / "second")


def test_a_row_of_several_comparisons_changes_with_any_of_them(tmp_path: Path) -> None:
    rows = [row("Math", n, wrong=3) for n in range(3)]

    def results_of(*outcomes: str) -> dict[str, PairResult]:
        pairs = [pair for one in rows for pair in one.pairs]
        return {
            pair.id: replace(judged_pair(pair.id, ORDERS[s]), subset="Math")
            for pair, s in zip(pairs, outcomes, strict=True)
        }

    base = results_of("right", "right", "right", "right", "wrong", "right", "wrong", "wrong", "wrong")
    new = results_of("right", "right", "right", "right", "right", "wrong", "right", "right", "right")
    run = write_kinds(tmp_path / "r", {"rb2": ("rewardbench2", rows, {"base": base, "new": new})})
    [numbers] = compared([run], tmp_path / "out")["comparisons"]
    assert (numbers["better"], numbers["worse"]) == (1, 0)
    assert numbers["changes"] == {"right to wrong": 0, "wrong to right": 1, "other change": 1}
    changes = {change["id"]: change for change in read_jsonl(tmp_path / "out" / "changes.jsonl")}
    assert changes.keys() == {rows[1].id, rows[2].id}
    mixed = changes[rows[1].id]
    assert (mixed["before"], mixed["after"]) == ("mixed", "mixed")
    assert [(c["before"], c["after"]) for c in mixed["comparisons"]] == [
        ("wrong", "right"),
        ("right", "wrong"),
    ]
    page = Page((tmp_path / "out" / "compare.html").read_text(encoding="utf-8"))
    data = json.loads(page.inside["script"][0])
    assert [pair["id"] for pair in data["pairs"]] == [
        c["id"] for name in sorted(changes) for c in changes[name]["comparisons"]
    ]


def test_text_of_the_runs_stays_text(toy: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(toy, tmp_path / "evil")
    scores = json.loads((moved / "scores.json").read_text(encoding="utf-8"))
    scores["run"] = "<b>1</b> | {{ 7 * 7 }} \x1b[31m \ud800 [x](y)"
    for model in scores["benchmarks"]["toy"]["models"].values():
        model["score"]["benchmark"] = "<i>name</i> | `x`"
    (moved / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    manifest = json.loads((moved / "manifest" / "evaluate.json").read_text(encoding="utf-8"))
    manifest["git"], manifest["recipe"]["model"]["path"] = "<u>git</u>", "<script>1</script> | *x*"
    write_json(moved / "manifest" / "evaluate.json", manifest)
    numbers = compared([moved, toy], tmp_path / "out")
    assert numbers["runs"][0]["label"] == "<b>1</b> | {{ 7 * 7 }} ?[31m ? [x](y)"
    page = Page((tmp_path / "out" / "compare.html").read_text(encoding="utf-8"))
    assert not {"b", "i", "u", "img"} & set(page.tags)
    assert {"<u>git</u>", "<script>1</script> | *x*", "<b>1</b> | {{ 7 * 7 }} ?[31m ? [x](y)"} <= set(
        page.cells
    )
    rows, script = page.inside["script"][:-1], page.inside["script"][-1]
    assert len(rows) == sum(bool(sum(one["changes"].values())) for one in numbers["comparisons"])
    assert not any(re.search("[<>&\u2028\u2029]", text) for text in rows)
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(|fetch\(|https?:", script)
    assert any(EVIL_PROMPT in json.dumps(json.loads(text), ensure_ascii=False) for text in rows)
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "<" not in text.replace("\\<", "").replace("| <0.0001 |", "") and "\x1b" not in text
    assert "\\<b>bold\\</b> what is $x$ \\| y?" in text and "\\[x\\](y)" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    for _, table in itertools.groupby(text.splitlines(), lambda line: line.startswith("|")):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table if line.startswith("|")}) <= 1
    assert len(tables) > 20


def test_the_page_allows_its_script_and_style_alone_and_loads_nothing(toy: Path, tmp_path: Path) -> None:
    compare_runs([toy], tmp_path / "out")
    html = (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")
    page = Page(html)
    [policy] = page.values("meta", "content")[:1]
    assert policy.startswith("default-src 'none'; ") and policy.count("'sha256-") == 2
    assert page.values("link", "href") == ["data:,"] and page.values("script", "src") == []
    assert all(target.startswith("#") for target in page.values("a", "href"))
    assert [value for value in page.values("option", "value") if "change" in value or " to " in value] == [
        "right to wrong",
        "wrong to right",
        "other change",
    ] * 3
    kinds = {(c["model"], c["id"]): c["change"] for c in read_jsonl(tmp_path / "out" / "changes.jsonl")}
    kinds_on_page = {}
    for text in page.inside["script"][:-1]:
        data = json.loads(text)
        for pair in data["pairs"]:
            kinds_on_page[data["models"][1], data["rows"][pair["row"]]["id"]] = pair["change"]
            before, after = pair["results"]
            assert before["outcome"] != after["outcome"]
            assert len(before["verdicts"]) == 2 and before["verdicts"][0]["reason"].startswith("base")
    assert kinds_on_page == kinds and len(kinds) > 30


def test_every_change_is_listed_and_no_other_row(toy: Path, tmp_path: Path) -> None:
    numbers = compared([toy], tmp_path / "out")
    results = {
        name: {r["pair_id"]: r for r in read_jsonl(toy / "evaluate" / "toy" / name / "results.jsonl")}
        for name in ("base", "genrm")
    }
    outcomes = {
        name: {
            key: pair_outcome(PairResult(key, "", (), tuple(r["correct"]), tuple(r["outcomes"])))
            for key, r in results_by_id.items()
        }
        for name, results_by_id in results.items()
    }
    [one] = [one for one in numbers["comparisons"] if one["model"]["name"] == "toy/genrm"]
    expected = {k: (outcomes["base"][k], outcomes["genrm"][k]) for k in outcomes["base"]}
    changes = [c for c in read_jsonl(tmp_path / "out" / "changes.jsonl") if c["model"] == "toy/genrm"]
    assert {c["id"]: (c["before"], c["after"]) for c in changes} == {
        k: pair for k, pair in expected.items() if pair[0] != pair[1]
    }
    assert changes == sorted(changes, key=lambda c: (c["subset"], c["id"]))
    right = {
        name: {k for k, o in results_by_id.items() if o == "right"}
        for name, results_by_id in outcomes.items()
    }
    assert one["better"] == len(right["genrm"] - right["base"])
    assert one["worse"] == len(right["base"] - right["genrm"])
    assert sum(entry["rows"] for entry in one["transitions"]) == one["rows"] == 25
    assert sum(one["changes"].values()) == len(changes)


def test_rows_of_only_one_run_are_counted_and_named(tmp_path: Path) -> None:
    rows = rows_of(["toy-chat", "toy-safety"], 10)
    changed = replace(rows[5], details={"of": "another version"})
    mine, theirs = rows[:16], [*rows[2:5], changed, *rows[6:]]
    runs = [
        write_run(tmp_path / name, {"toy": (some, {"base": judged(some, name)})})
        for name, some in (("mine", mine), ("theirs", theirs))
    ]
    [numbers] = compared(runs, tmp_path / "out")["comparisons"]
    shared = [r for r in rows[2:16] if r.id != changed.id]
    assert numbers["rows"] == len(shared) == 13
    assert numbers["only_reference"] == sorted(r.id for r in rows[:2])
    assert numbers["only_model"] == sorted(r.id for r in rows[16:]) and numbers["unlike"] == [changed.id]
    ours, other = (BENCHMARKS["rewardbench"].score(shared, judged(shared, n)) for n in ("mine", "theirs"))
    assert numbers["difference"] == other.score - ours.score
    assert numbers["reference"]["score"] == ours.score and numbers["model"]["score"] == other.score
    [note] = numbers["notes"]
    assert "13 rows that both judged" in note and "2 only in mine/base" in note
    assert "4 only in theirs/base" in note and all(r.id in note for r in (*rows[:2], *rows[16:], changed))
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "13 rows that both judged" in text and "1 with other subsets, comparisons or details" in text
    listed = {c["id"] for c in read_jsonl(tmp_path / "out" / "changes.jsonl")}
    assert listed <= {r.id for r in shared}


def test_a_benchmark_that_the_reference_has_not_judged(tmp_path: Path) -> None:
    toys, pairs = rows_of(["toy-chat"], 5), KINDS["pairs"]
    first = write_kinds(tmp_path / "a", {"toy": ("rewardbench", toys, {"base": judged(toys, "a")})})
    both = {"toy": ("rewardbench", toys, {"base": judged(toys, "b")}), "p": ("pairs", pairs, {"base": judged(pairs, "b")})}  # fmt: skip
    second = write_kinds(tmp_path / "b", both)
    third = write_kinds(tmp_path / "c", {"p": ("pairs", pairs, {"base": judged(pairs, "c")})})
    numbers = compared([first, second, third], tmp_path / "out")
    assert [
        (one["benchmark"], one["reference"]["name"], one["model"]["name"]) for one in numbers["comparisons"]
    ] == [
        ("toy", "a/base", "b/base"),
        ("p", "b/base", "c/base"),
    ]
    assert any("p (pairs) was not judged by a/base" in note for note in numbers["notes"])
    numbers = compared([first, second], tmp_path / "out")
    assert any("p (pairs) was judged only by b/base" in note for note in numbers["notes"])
    with pytest.raises(DataError, match="a/base: shares no judged row"):
        compare_runs([first, third], tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_runs_without_a_shared_row_cannot_be_compared(tmp_path: Path) -> None:
    rows = rows_of(["toy-chat"], 10)
    runs = [
        write_run(tmp_path / name, {"toy": (some, {"base": judged(some, name)})})
        for name, some in (("one", rows[:5]), ("two", rows[5:]))
    ]
    with pytest.raises(DataError, match="one/base: shares no judged row") as caught:
        compare_runs(runs, tmp_path / "out")
    assert "evaluate.benchmarks" in caught.value.hint


def test_invalid_arguments_are_named_in_the_error(toy: Path, tmp_path: Path) -> None:
    def refused(*runs: Path | str) -> Any:
        with pytest.raises((ConfigError, DataError)) as caught:
            compare_runs([Path(run) for run in runs], tmp_path / "out")
        assert caught.value.hint and not (tmp_path / "out").exists()
        return caught.value

    assert "not a run folder" in str(refused(toy, tmp_path / "nowhere"))
    assert "not a run folder" in str(refused(toy, f"{tmp_path}/nowhere:base"))
    (tmp_path / "empty").mkdir()
    assert "file not found" in refused(toy, tmp_path / "empty").problem
    wrong = refused(f"{toy}:gpt")
    assert "no model 'gpt'" in wrong.problem and wrong.hint == "it has base, genrm, reasongenrm, scalar"
    assert "only one model" in refused(f"{toy}:base", f"{toy}/../toy:base").problem
    broken = shutil.copytree(toy, tmp_path / "broken")
    (broken / "evaluate" / "toy" / "genrm" / "results.jsonl").unlink()
    assert refused(toy, broken).location.endswith("genrm/results.jsonl")
    scores = json.loads((toy / "scores.json").read_text(encoding="utf-8"))
    scores["benchmarks"]["toy"]["kind"] = "mine"
    unknown = shutil.copytree(toy, tmp_path / "unknown")
    write_json(unknown / "scores.json", scores)
    assert "unknown kind of benchmark 'mine'" in refused(unknown).problem


def test_models_of_runs_are_columns_and_each_counts_once(toy: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(toy, tmp_path / "x" / "toy")
    renamed = shutil.copytree(toy, tmp_path / "third")
    scores = json.loads((renamed / "scores.json").read_text(encoding="utf-8"))
    write_json(renamed / "scores.json", scores | {"run": "third"})
    runs = [Path(f"{toy}:genrm"), toy, Path(f"{copy}:scalar"), renamed, toy]
    numbers = compared(runs, tmp_path / "out")
    parent = toy.parent.name
    names = [one["model"]["name"] for one in numbers["comparisons"]]
    assert {one["reference"]["name"] for one in numbers["comparisons"]} == {f"{parent}/toy/genrm"}
    assert names == [
        *(f"{parent}/toy/{model}" for model in ("base", "reasongenrm", "scalar")),
        "x/toy/scalar",
        *(f"third/{model}" for model in ("base", "genrm", "reasongenrm", "scalar")),
    ]
    assert [run["models"] for run in numbers["runs"]][1] == ["scalar"]
    p_values = [one["p"] for one in numbers["comparisons"]]
    assert [one["p_holm"] for one in numbers["comparisons"]] == holm(p_values)
    assert any("Holm 1979" in note and note.startswith("8 comparisons") for note in numbers["notes"])


def test_differing_settings_are_listed(toy: Path, tmp_path: Path) -> None:
    other = shutil.copytree(toy, tmp_path / "other")
    scores = json.loads((other / "scores.json").read_text(encoding="utf-8"))
    write_json(other / "scores.json", scores | {"run": "other"})
    manifest = json.loads((other / "manifest" / "evaluate.json").read_text(encoding="utf-8"))
    recipe, mine = (
        manifest["recipe"],
        json.loads((toy / "manifest" / "evaluate.json").read_text(encoding="utf-8")),
    )

    def add_files(to: dict[str, Any], **hashes: str) -> None:
        to["steps"]["evaluate.toy.base"]["settings"] |= {f"file {name}": one for name, one in hashes.items()}

    add_files(mine, **{"judges/genrm/adapter": "aa", "prompts.yaml": "bb", "old": "cc"})
    recipe["name"], recipe["seed"], recipe["model"]["path"] = "other", 18, "x" * 300
    recipe["train"]["lora"] = {"r": 8}
    add_files(manifest, **{"judges/genrm/adapter": "ab", "prompts.yaml": "bb", "new": "cc"})
    manifest["versions"] = {k: v for k, v in manifest["versions"].items() if k != "trl"} | {"torch": "9.9"}
    manifest["git"] = "abc"
    write_json(other / "manifest" / "evaluate.json", manifest)
    first = shutil.copytree(toy, tmp_path / "first")
    write_json(first / "manifest" / "evaluate.json", mine)
    numbers = compared([first, other], tmp_path / "out")
    [entry] = numbers["settings"]
    differences = {one["setting"]: (one["before"], one["after"]) for one in entry["differences"]}
    assert list(differences) == [
        "model.path", "seed", "train.lora.lora_alpha", "train.lora.r", "file judges/genrm/adapter",
        "package torch", "package trl", "git",
    ]  # fmt: skip
    assert differences["seed"] == ("17", "18") and differences["train.lora.lora_alpha"] == ("128", "none")
    assert (
        differences["file judges/genrm/adapter"] == ("aa", "ab") and differences["package trl"][1] == "none"
    )
    assert differences["model.path"][1] == "x" * 100 + "…"
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "### other against toy" in text and "| train.lora.r | 64 | 8 |" in text
    assert "<td>64</td><td>8</td>" in (tmp_path / "out" / "compare.html").read_text(encoding="utf-8")


def test_unlike_orders_and_scores_of_another_metric_are_noted(tmp_path: Path) -> None:
    rows = rows_of(["toy-chat"], 10)
    both = judged(rows, "both")
    single = {
        name: replace(r, verdicts=r.verdicts[:1], correct=r.correct[:1], outcomes=r.outcomes[:1])
        for name, r in both.items()
    }
    run = write_run(tmp_path / "r", {"toy": (rows, {"base": both, "one": single, "scalar": scored(rows)})})
    scores = json.loads((run / "scores.json").read_text(encoding="utf-8"))
    scores["benchmarks"]["toy"]["models"]["one"]["score"]["score"] = 0.123
    write_json(run / "scores.json", scores)
    one, scalar = compared([run], tmp_path / "out")["comparisons"]
    assert "scores.json says 0.123000" in one["notes"][0]
    assert one["model"]["score"] == BENCHMARKS["rewardbench"].score(rows, single).score
    assert "r/base in 2 order(s); r/one in 1 order(s)" in one["notes"][1]
    assert "r/scalar by scores, without orders" in scalar["notes"][0]


def test_long_lists_are_cut_only_in_markdown(tmp_path: Path) -> None:
    rows = rows_of(["toy-chat"], 60)
    models = {"base": results_with(rows, *["wrong"] * 60), "new": results_with(rows, *["right"] * 60)}
    run = write_run(tmp_path / "r", {"toy": (rows, models)})
    compare_runs([run], tmp_path / "out")
    text = (tmp_path / "out" / "compare.md").read_text(encoding="utf-8")
    assert "#### wrong to right: 60 (the first 25; all of them are in changes.jsonl)" in text
    assert text.count("| wrong | right | toy-chat") == 25
    assert len(list(read_jsonl(tmp_path / "out" / "changes.jsonl"))) == 60
    data = json.loads(
        Page((tmp_path / "out" / "compare.html").read_text(encoding="utf-8")).inside["script"][0]
    )
    assert len(data["pairs"]) == 60


def test_the_command_prints_the_table_and_the_path_of_the_page(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["compare", f"{toy}:base", f"{toy}:reasongenrm", "--out", str(out)]) == 0
    output = capsys.readouterr().out
    assert "toy/reasongenrm" in output and "better" in output and output.endswith(f"{out / 'compare.html'}\n")
    before = bytes_of(out)
    assert main(["compare", f"{toy}:base", f"{toy}:reasongenrm", "--out", str(out)]) == 0
    assert bytes_of(out) == before
    assert main(["compare", str(tmp_path / "nowhere")]) == 2
    assert "not a run folder" in capsys.readouterr().err


def test_all_of_rewardbench_takes_seconds(tmp_path: Path) -> None:
    run = published_run(tmp_path / "r", words=200)
    began = time.process_time()
    [numbers] = compared([Path(f"{run}:base"), Path(f"{run}:reasongenrm")], tmp_path / "out")["comparisons"]
    assert numbers["rows"] == 2985 and time.process_time() - began < 8


def test_real_rows_of_three_benchmarks(shared: Path, tmp_path: Path) -> None:
    files = {
        "rewardbench": "rewardbench_llmbar.jsonl",
        "rmbench": "rmbench_chat.json",
        "judgebench": "judgebench_claude.jsonl",
    }
    benchmarks: dict[str, Any] = {}
    for kind, file in files.items():
        items = BENCHMARKS[kind].rows(str(shared / "benchmarks" / file))
        rows = [one for one in items if isinstance(one, Row)]
        benchmarks[kind] = (
            kind,
            rows,
            {n: judged(rows, n, skill=s) for n, s in (("base", 0.6), ("new", 0.7))},
        )
    run = write_kinds(tmp_path / "real", benchmarks)
    comparisons = compared([run], tmp_path / "out")["comparisons"]
    assert [one["benchmark"] for one in comparisons] == sorted(files)
    for one in comparisons:
        kind, rows, models = benchmarks[one["benchmark"]]
        score: Callable[[str], float] = lambda name: BENCHMARKS[kind].score(rows, models[name]).score  # noqa: B023, E731
        assert one["difference"] == score("new") - score("base") and one["rows"] == len(rows)
