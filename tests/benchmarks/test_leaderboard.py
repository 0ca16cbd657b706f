"""The leaderboards' files: the layout of upstream's `save_to_hub`, and of what its runners pass to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reasongenrm.benchmarks.leaderboard import Entry, json_text, leaderboard_files
from reasongenrm.benchmarks.rewardbench import REWARDBENCH, RewardBench
from reasongenrm.benchmarks.rewardbench2 import TIES, RewardBench2
from reasongenrm.errors import DataError
from reasongenrm.records import Message, Row
from support.judged import good, judge_all, rewardbench_rows, score_all
from support.published import NEMOTRON, scalar_rows

pytestmark = pytest.mark.unit
HEADER = {"model", "model_type", "chat_template"}
TURNS = (Message(role="user", content="q"),)


def test_accuracies_of_a_published_row() -> None:
    results = {one.pair_id: one for one in scalar_rows(NEMOTRON)}
    rows = rewardbench_rows(results.values())
    entry = Entry("nvidia/x", "Seq. Classifier", "tokenizer")
    files = leaderboard_files(RewardBench().score_details(rows, results), rows, results, entry)
    assert list(files) == ["eval-set/nvidia/x.json", "eval-set-scores/nvidia/x.json"]
    content = files["eval-set/nvidia/x.json"]
    assert set(content) == {*HEADER, *REWARDBENCH.subsets}
    assert {name: content[name] for name in NEMOTRON} == pytest.approx(NEMOTRON, abs=1e-5)
    assert (content["model"], content["model_type"], content["chat_template"]) == (
        "nvidia/x",
        "Seq. Classifier",
        "tokenizer",
    )
    # As upstream writes it: json.dumps(results_dict, indent=4, sort_keys=True).
    text = json_text(content)
    assert text.startswith('{\n    "alpacaeval-easy": ') and list(json.loads(text)) == sorted(content)


def test_the_scores_of_each_row_are_columns(shared: Path) -> None:
    """The columns of `out_dataset.to_dict()` in `run_generative.py` and `run_rm.py`."""
    rows = good(RewardBench().rows(str(shared / "benchmarks" / "rewardbench_llmbar.jsonl")))
    judge = judge_all(rows, lambda row, *_: ("right", "wrong" if row.subset == "llmbar-natural" else "right"))
    scalar = score_all(rows, lambda row, place: -place)
    for results, columns in ((judge, set()), (scalar, {"scores_chosen", "scores_rejected"})):
        scored = RewardBench().score_details(rows, results)
        table = leaderboard_files(scored, rows, results, Entry("o/m"))["eval-set-scores/o/m.json"]
        names = {"text_chosen", "text_rejected", "results", "subset", "id", *columns}
        assert set(table) == HEADER | names
        assert {len(table[name]) for name in names} == {234}
        for subset in ("llmbar-natural", "llmbar-adver-neighbor"):
            credits = [c for c, s in zip(table["results"], table["subset"], strict=True) if s == subset]
            assert sum(credits) / len(credits) == scored.score.subsets[subset].accuracy
        assert table["text_chosen"][0] == [
            *rows[0].history,
            {"role": "assistant", "content": rows[0].answers[0]},
        ]
        assert table["id"] == [row.details["id"] for row in rows]
    assert set(table["scores_chosen"]) == {0}


def test_rewardbench_2_has_lists_of_answers_and_no_results_of_ties() -> None:
    """The columns of `run_generative_v2.py` and `run_v2.py`; `process_single_model` sets the results of Ties to None."""
    best = Row.make("Math", TURNS, ["a"], ["b", "c", "d"], details={"id": "7"})
    details = {"id": "tied:1", "kind": "tied", "number": 1}
    tied = Row.make(TIES, TURNS, ["x", "y"], ["z"], details=details)
    rows = [best, tied]
    judge = judge_all(rows, lambda *_: ("right", "right"))
    scalar = score_all(rows, lambda row, place: 3.0 - place)
    tables = [
        leaderboard_files(RewardBench2().score_details(rows, results), rows, results, Entry("o/m"))[
            "eval-set-scores/o/m.json"
        ]
        for results in (judge, scalar)
    ]
    common = HEADER | {"results", "subset", "id", "num_correct"}
    assert set(tables[0]) == common | {"texts_chosen", "texts_rejected"}
    assert set(tables[1]) == common | {"text", "scores"}
    for table in tables:
        assert (
            table["results"] == [1.0, None]
            and table["id"] == ["7", "tied:1"]
            and table["num_correct"] == [1, 2]
        )
    assert tables[1]["scores"] == [[3.0, 2.0, 1.0, 0.0], [3.0, 2.0, 1.0]]
    assert [len(texts) for texts in tables[0]["texts_rejected"]] == [3, 1]


@pytest.mark.parametrize(
    ("model", "file"),
    [
        ("org/name", "org/name.json"),
        ("gpt-4o", "gpt-4o.json"),
        ("/models/a/b", "a/b.json"),
        ("../../../etc/x", "etc/x.json"),
        ("../x", "x.json"),
    ],
)
def test_the_files_of_a_local_model_stay_in_the_folder(model: str, file: str) -> None:
    assert Entry(model).file == file and Entry(model).header()["model"] == model


def test_a_toy_benchmark_has_no_leaderboard() -> None:
    row = Row.make("toy-chat", TURNS, ["a"], ["b"])
    results = score_all([row], lambda _, place: -place)
    with pytest.raises(DataError, match="no leaderboard"):
        leaderboard_files(RewardBench().score_details([row], results), [row], results, Entry("o/m"))
