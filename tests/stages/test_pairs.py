"""First part of stage 1: what is written for each pair, what is dropped, and that worker processes change nothing."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from reasongenrm import processes
from reasongenrm.config.evaluate import BenchmarkConfig
from reasongenrm.config.prepare import DecontaminateConfig
from reasongenrm.config.recipe import Recipe
from reasongenrm.demo.build import rewardbench_row, skywork_row
from reasongenrm.demo.world import toy_pairs
from reasongenrm.errors import DataError
from reasongenrm.records import PreferencePair
from reasongenrm.run import Run
from reasongenrm.stages import pairs as pairs_module
from reasongenrm.stages.pairs import _decontaminator, compare_new_benchmarks, write_pairs
from reasongenrm.store import read_json, read_jsonl, to_json, write_json, write_jsonl
from support.judged import array, lines

pytestmark = pytest.mark.unit

FILES = ("pairs", "prompts", "dropped", "contamination")


def recipe(folder: Path, *, limit: int | None = None, **data: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "pairs",
            "limit": limit,
            "model": {"path": "data/toy-base", "dtype": "float32"},
            "prompts": "configs/prompts/toy.yaml",
            "engine": {"max_model_len": 512},
            "data": {"sources": [{"path": str(folder / "train.jsonl")}], "max_tokens": 256} | data,
            "teachers": {"student": {"max_tokens": 64}},
            "judges": {"reasongenrm": {}},
            "train": {"launch": "configs/accelerate/cpu-2proc.yaml"},
            "evaluate": {
                "benchmarks": {"toy": {"path": str(folder / "benchmark.jsonl")}},
                "max_tokens": 64,
            },
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 40 training pairs and a benchmark of 8 rows."""
    write_jsonl(tmp_path / "train.jsonl", map(skywork_row, toy_pairs("train", 10, 17)))
    rows = enumerate(toy_pairs("test", 2, 17))
    write_jsonl(tmp_path / "benchmark.jsonl", (rewardbench_row(number, pair) for number, pair in rows))
    return tmp_path


def write(folder: Path, settings: Recipe) -> tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]:
    """Write the pairs; return the report and the rows of each file."""
    run = Run(settings, "prepare")
    run.folder = folder / "run"
    run.folder.mkdir(exist_ok=True)
    report = write_pairs(settings, run)
    return report, {name: list(read_jsonl(run.path(f"{name}.jsonl"))) for name in FILES}


def test_every_pair_is_written_with_its_judge_prompt(folder: Path) -> None:
    report, rows = write(folder, recipe(folder))
    assert report["total"]["in"] == report["total"]["kept"] == len(rows["pairs"]) == 40
    assert [row["pair_id"] for row in rows["prompts"]] == [row["id"] for row in rows["pairs"]]
    winners = Counter(row["winner"] for row in rows["prompts"])
    counts = report["total"]["judge_prompts"]
    assert winners == {"A": counts["A"], "B": counts["B"]} and min(winners.values()) > 10
    assert not rows["dropped"] and not rows["contamination"]


def test_both_orders_make_two_prompts_of_a_pair(folder: Path) -> None:
    _, rows = write(folder, recipe(folder, both_orders=True))
    assert [row["pair_id"] for row in rows["prompts"]] == [
        row["id"] for row in rows["pairs"] for _ in range(2)
    ]
    assert Counter(row["winner"] for row in rows["prompts"]) == {"A": 40, "B": 40}
    assert Counter(row["order"] for row in rows["prompts"]) == {"AB": 40, "BA": 40}


def test_every_row_left_out_is_listed_and_counted(folder: Path) -> None:
    pair = next(toy_pairs("train", 1, 17))
    too_long = PreferencePair.make(pair.history, "a " * 400, "b", "long")
    extra = [skywork_row(pair), skywork_row(too_long), skywork_row(pair) | {"source": "magpie_ultra"}, {}]
    with (folder / "train.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in extra)
    report, rows = write(folder, recipe(folder))
    assert Counter((row["stage"], row["reason"]) for row in rows["dropped"]) == {
        ("load", "missing_column"): 1,
        ("clean", "unwanted_source"): 1,
        ("clean", "duplicate"): 1,
        ("length", "prompt_too_long"): 1,
    }
    assert (report["total"]["in"], report["total"]["kept"], report["total"]["dropped"]) == (44, 40, 4)


def test_reference_points_come_through_the_filters_and_are_counted(folder: Path) -> None:
    source = folder / "train.jsonl"
    rows = list(read_jsonl(source))
    points = rows[0]["reference_points"]
    for row in rows[1:]:
        del row["reference_points"]
    again = rows[1] | {"reference_points": ["a repeated row"]}
    write_jsonl(source, [*rows, again, rows[2] | {"reference_points": "no list"}])
    report, written = write(folder, recipe(folder))
    assert written["pairs"][0]["reference_points"] == points
    assert not any("reference_points" in row for row in written["pairs"][1:]), (
        "of equal pairs the first one stays"
    )
    expected = {"pairs": 1, "points": len(points)}
    assert (
        report["total"]["reference_points"] == report["sources"]["toy-chat"]["reference_points"] == expected
    )
    assert "reference_points" not in report["sources"]["toy-safety"]
    assert [(row["stage"], row["reason"]) for row in written["dropped"]] == [
        ("clean", "duplicate"),
        ("load", "bad_type"),
    ]
    assert not any("reference_points" in row for row in written["prompts"]), (
        "no judge and no teacher sees them"
    )


def test_limit_takes_rows_of_every_source(folder: Path) -> None:
    (folder / "ranked.csv").write_text("prompt,answer,rank\nq,one,1\nq,two,2\nq,three,3\n", encoding="utf-8")
    sources = [{"path": str(folder / "train.jsonl")}, {"path": str(folder / "ranked.csv"), "kind": "ranked"}]
    report, rows = write(folder, recipe(folder, limit=4, sources=sources, near_duplicates=None))
    assert [row["source"] == "ranked" for row in rows["pairs"]] == [False, True, False, True]
    assert report["total"]["kept"] == 4


def test_worker_processes_write_the_same_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = write(folder, recipe(folder))
    monkeypatch.setattr(pairs_module, "CHUNK", 8)  # more than one chunk: a process of its own
    monkeypatch.setattr(processes, "cores", lambda: 1)
    assert write(folder, recipe(folder)) == alone


def test_pairs_are_compared_with_benchmarks_that_were_added(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report, rows = write(folder, recipe(folder))
    run = Run(recipe(folder), "prepare")
    run.folder = folder / "run"
    pairs_file = run.path("pairs_report.json")
    write_json(pairs_file, report)
    before = {path.name: path.read_bytes() for path in run.folder.iterdir()}
    compare_new_benchmarks(recipe(folder), run, pairs_file)
    assert {path.name: path.read_bytes() for path in run.folder.iterdir()} == before, "nothing was added"
    history, text = rows["pairs"][3]["history"], " ".join(f"w{number}" for number in range(20))
    overlapping = PreferencePair.make(history, text, "no", "s")
    write_jsonl(run.path("pairs.jsonl"), [*rows["pairs"], to_json(overlapping)])
    added = folder / "added.jsonl"
    write_jsonl(added, [rewardbench_row(0, PreferencePair.make(history, text, "bad", "s"))])
    settings = recipe(folder)
    benchmarks = settings.evaluate.benchmarks | {"added": BenchmarkConfig(path=str(added))}
    settings = settings.model_copy(
        update={"evaluate": settings.evaluate.model_copy(update={"benchmarks": benchmarks})}
    )
    write_json(run.path("data_report.json"), {})
    compare_new_benchmarks(settings, run, pairs_file)
    assert "2 pairs overlap benchmarks that were added" in capsys.readouterr().err
    matches = [row for row in read_jsonl(run.path("contamination.jsonl")) if row["part"] == "answer"]
    assert {(row["benchmark"], row["n"]) for row in matches} == {(str(added), 8), (str(added), 13)}
    report = read_json(pairs_file)
    assert [one["benchmark"] for one in report["contamination"]["benchmarks"]] == [
        str(folder / "benchmark.jsonl"),
        str(added),
    ]
    assert not run.path("data_report.json").exists(), "it is written again"
    compare_new_benchmarks(settings, run, pairs_file)
    assert capsys.readouterr().err == ""


def test_no_pair_left_names_the_first_row_dropped(folder: Path) -> None:
    with pytest.raises(DataError, match=r"no pair is left; the first row dropped: .*data\.max_tokens is 40"):
        write(folder, recipe(folder, max_tokens=40))
    assert not (folder / "run" / "pairs.jsonl").exists()


def test_training_data_is_compared_with_all_files_and_splits_of_a_benchmark(tmp_path: Path) -> None:
    """A folder of JSON arrays with subfolders, as of RMB; and both splits of JudgeBench."""
    words = [" ".join(f"{name}{n}" for n in range(20)) for name in ("alpha", "beta", "gamma", "delta")]
    for number, goal in enumerate(("Helpfulness", "Harmlessness")):
        raw = {"conversation_input": [{"role": "user", "content": words[number]}], "chosen": {"answer": "a"}}
        array(tmp_path / "RMB" / "Pairwise_set" / goal / "S1.json", [raw])
    shards = tmp_path / "judgebench"
    shards.mkdir()
    for split, text in (("gpt", words[2]), ("claude", words[3])):
        lines(
            shards / f"{split}-00000-of-00001.jsonl",
            [{"question": text, "response_A": "a", "response_B": "b"}],
        )
    benchmarks = [
        BenchmarkConfig(kind="rmb", path=str(tmp_path / "RMB")),
        BenchmarkConfig(kind="judgebench", path=str(shards), split="both"),
    ]
    config = DecontaminateConfig()
    index = _decontaminator(config, benchmarks)
    pairs = [PreferencePair.make([{"role": "user", "content": text}], "c", "r", "s") for text in words]
    assert [bool(matches) for matches in index.matches(pairs)] == [True] * 4
    one = _decontaminator(config, [BenchmarkConfig(kind="judgebench", path=str(shards))])
    assert [bool(matches) for matches in one.matches(pairs)] == [False, False, True, False]
