"""`scalar filter` and `distil export-dpo`, with a real head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.cli import main
from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.stages import replies as module
from reasongenrm.stages.replies import export_dpo, filter_replies
from reasongenrm.store import write_jsonl
from support.heads import WORDS, save_random_head

pytestmark = pytest.mark.engine

MESSAGES = [f"what is {word}" for word in WORDS[:6]]


def reply(context: str, message: str, response: str, **others: Any) -> dict[str, Any]:
    return {"context": context, "message": message, "response": response} | others


ROWS: list[dict[str, Any]] = [
    reply("a lesson", message, " ".join(WORDS[number : number + length]), number=number, tags=["x"])
    for message in MESSAGES
    for number, length in enumerate((1, 3, 5, 9))
]


@pytest.fixture(scope="module")
def head(_one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_random_head(tmp_path_factory.mktemp("head"), [" ".join(WORDS), "what a lesson system user"])


@pytest.fixture(scope="module")
def scores(head: Path) -> list[float]:
    model = ScalarRewardModel.from_pretrained(head, device="cpu")
    contexts = [
        [{"role": "system", "content": row["context"]}, {"role": "user", "content": row["message"]}]
        for row in ROWS
    ]
    return model.score_batch(contexts=contexts, responses=[row["response"] for row in ROWS])


def rows_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_filter_keeps_whole_rows_and_lists_the_others(
    head: Path, scores: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    middle = sorted(scores)[len(scores) // 2 - 1 : len(scores) // 2 + 1]
    threshold = sum(middle) / 2
    assert middle[1] - middle[0] > 1e-4, "no score lies at the threshold"
    bad = [{"context": "", "message": "q"}, {"prompt": 3, "answer": "x"}]
    other = [{"prompt": "what is he", "answer": "that", "kind": "x"}]
    write_jsonl(tmp_path / "in.jsonl", [*ROWS, *bad, *other])
    out = tmp_path / "kept.jsonl"
    arguments = ["--in", str(tmp_path / "in.jsonl"), "--out", str(out), "--threshold", str(threshold)]
    assert main(["scalar", "filter", str(head), *arguments]) == 0
    kept, dropped = rows_of(out), rows_of(tmp_path / "kept.jsonl.dropped.jsonl")
    expected = [row for row, score in zip(ROWS, scores, strict=True) if score >= threshold]
    own = [{name: row[name] for name in ROWS[0]} for row in kept if "context" in row]
    assert own == expected, "in their order, with all columns"
    assert all(row["score"] >= threshold for row in kept)
    assert len(kept) + len(dropped) == len(ROWS) + 3
    below = [row for row in dropped if row["reason"] == "below_threshold"]
    assert all(row["score"] < threshold for row in below)
    lost = [row["row"] for row in below if "context" in row["row"]]
    assert len(own) + len(lost) == len(ROWS) and all(row in ROWS for row in lost)
    assert [row["reason"] for row in dropped if row["reason"] != "below_threshold"] == [
        "missing_field",
        "bad_type",
    ]
    said = capsys.readouterr().err
    assert "it has learned from pairs, so its scores compare replies to one message" in said
    assert f"27 rows, {len(kept)} kept" in said and f"{len(below)} below_threshold" in said
    assert main(["scalar", "filter", str(head), *arguments]) == 2, "the file exists"


def test_a_row_that_json_cannot_hold_is_dropped_with_its_reason(head: Path, tmp_path: Path) -> None:
    lines = [
        json.dumps(reply("", "what is he", "that", note=float("nan"))),
        json.dumps(reply("", "what is he", "a lesson", note="\ud800")),
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "kept.jsonl"
    counts = filter_replies(str(head), str(tmp_path / "in.jsonl"), str(out), threshold=-1e6)
    assert counts == {"rows": 2, "kept": 1, "not_json": 1}
    assert rows_of(out)[0]["note"] == "\ud800"
    [drop] = rows_of(tmp_path / "kept.jsonl.dropped.jsonl")
    assert drop["location"].endswith("in.jsonl:1") and drop["reason"] == "not_json"


def test_rows_of_parquet_keep_all_their_columns(head: Path, tmp_path: Path) -> None:
    import datetime

    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"kind": "x", "prompt": "what is he", "temperature": 0.5, "answer": "that"},
        {"kind": "y", "prompt": "what is he", "temperature": 1.0, "answer": "a lesson"},
    ]
    source, out = tmp_path / "in.parquet", tmp_path / "kept.jsonl"
    pq.write_table(pa.Table.from_pylist(rows), source)
    counts = filter_replies(str(head), str(source), str(out), threshold=-1e6)
    assert counts == {"rows": 2, "kept": 2}
    assert [list(row) for row in rows_of(out)] == [[*rows[0], "score"]] * 2
    assert [{name: row[name] for name in rows[0]} for row in rows_of(out)] == rows
    pq.write_table(pa.Table.from_pylist([row | {"day": datetime.date(2026, 1, 2)} for row in rows]), source)
    counts = filter_replies(str(head), str(source), str(tmp_path / "days.jsonl"), threshold=-1e6)
    assert counts == {"rows": 2, "kept": 0, "not_json": 2}


def test_a_csv_file_is_refused_with_a_way_to_convert_it(
    head: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "in.csv", tmp_path / "kept.jsonl"
    source.write_text("prompt,answer,rank\nwhat is he,that,1\n", encoding="utf-8")
    arguments = [str(head), "--threshold=-1e6", "--in", str(source), "--out", str(out)]
    assert main(["scalar", "filter", *arguments]) == 2
    error_text = capsys.readouterr().err
    assert "unsupported file type: .csv" in error_text and "save it as JSONL" in error_text
    import pandas

    code = error_text.split("in Python: ")[1].rsplit(")", 1)[0]  # the hint is in brackets
    jsonl = tmp_path / "in.jsonl"
    exec(code, {"pandas": pandas, "FILE": source, "OUT": jsonl})
    assert filter_replies(str(head), str(jsonl), str(out), threshold=-1e6) == {"rows": 1, "kept": 1}


def test_the_dropped_rows_never_replace_the_input(head: Path, tmp_path: Path) -> None:
    source = tmp_path / "kept.jsonl.dropped.jsonl"
    write_jsonl(source, ROWS)
    for use in (
        lambda out: filter_replies(str(head), str(source), out, threshold=0),
        lambda out: export_dpo(str(source), out, head=str(head)),
    ):
        with pytest.raises(ConfigError, match="would replace the input"):
            use(str(tmp_path / "kept.jsonl"))
    assert rows_of(source) == ROWS


@pytest.mark.parametrize(
    "verb", [["scalar", "filter", "head", "--threshold", "0"], ["distil", "export-dpo", "--head", "head"]]
)
def test_a_batch_size_below_one_is_refused(verb: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([*verb, "--in", "a", "--out", "b", "--batch-size", "0"])
    assert caught.value.code == 2 and "--batch-size: invalid count value: '0'" in capsys.readouterr().err


def test_a_score_must_be_a_number_that_a_float_holds(tmp_path: Path) -> None:
    values = ["9" * 400, "NaN", "true", '"1"', "null", "1", "0"]
    rows = [
        json.dumps(reply("", "q", str(number)))[:-1] + f', "score": {value}}}'
        for number, value in enumerate(values)
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n")
    report = export_dpo(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"))
    assert report["counts"] == {"rows": 7, "contexts": 1, "no_score": 5, "pairs": 1}


def test_another_threshold_scores_nothing_again_and_a_kill_loses_a_window_at_most(
    head: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_jsonl(tmp_path / "in.jsonl", ROWS)
    source, out = str(tmp_path / "in.jsonl"), tmp_path / "kept.jsonl"
    monkeypatch.setattr(module, "WINDOW", 5)
    scored: list[int] = []
    real = ScalarRewardModel.score_batch

    def counted(self: Any, contexts: Any, responses: Any, batch_size: int = 32) -> list[float]:
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(len(responses))
        return real(self, contexts, responses, batch_size)

    monkeypatch.setattr(ScalarRewardModel, "score_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        filter_replies(str(head), source, str(out), threshold=0)
    assert not out.exists() and scored == [5, 5]
    scored[:] = [0] * 3
    filter_replies(str(head), source, str(out), threshold=0)
    assert sum(scored) == len(ROWS) - 10
    out.unlink()
    scored.clear()
    counts = filter_replies(str(head), source, str(out), threshold=-1e9)
    assert counts == {"rows": len(ROWS), "kept": len(ROWS)} and not scored


def test_pairs_for_dpo_are_read_by_trl(
    head: Path, scores: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_jsonl(tmp_path / "in.jsonl", [*ROWS, ROWS[0], reply("", "alone", "one"), {"message": "x"}])
    out, gap = tmp_path / "dpo.jsonl", 0.05
    arguments = ["--in", str(tmp_path / "in.jsonl"), "--out", str(out), "--gap", str(gap)]
    assert main(["distil", "export-dpo", "--head", str(head), *arguments]) == 0
    rows, drops = rows_of(out), rows_of(tmp_path / "dpo.jsonl.dropped.jsonl")
    report = json.loads((tmp_path / "dpo.jsonl.report.json").read_text())
    score_by_text = {(r["message"], r["response"]): s for r, s in zip(ROWS, scores, strict=True)}
    for row in rows:
        message = row["prompt"][-1]["content"]
        assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]
        for side in ("chosen", "rejected"):
            [turn] = row[side]
            assert turn["role"] == "assistant"
            expected = score_by_text[message, turn["content"]]
            assert row[f"score_{side}"] == pytest.approx(expected, abs=1e-4)
        assert row["score_chosen"] - row["score_rejected"] >= gap
    reasons = sorted(drop["reason"] for drop in drops)
    assert reasons.count("duplicate") == reasons.count("one_reply") == reasons.count("missing_field") == 1
    assert report["counts"]["pairs"] == len(rows) == report["length"]["written"]["pairs"]
    assert report["counts"]["rows"] == len(ROWS) + 3
    before, after = (report["length"][name]["mean_extra"] for name in ("widest", "written"))
    assert abs(after) <= abs(before)
    assert "characters on average" in capsys.readouterr().err


def test_scores_may_be_a_column(tmp_path: Path) -> None:
    rows = [row | {"score": number / 10} for number, row in enumerate(ROWS[:4])]
    write_jsonl(
        tmp_path / "in.jsonl", [*rows, reply("a lesson", MESSAGES[0], "no score"), ROWS[5] | {"score": "7"}]
    )
    report = export_dpo(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"), gap=0.25, balance=False)
    [pair] = rows_of(tmp_path / "out.jsonl")
    assert (pair["score_chosen"], pair["score_rejected"]) == (0.3, 0.0)
    assert report["counts"] == {"rows": 6, "contexts": 1, "no_score": 2, "pairs": 1}


def test_chat_markers_in_a_reply_stay_text(tmp_path: Path) -> None:
    rows = [reply("", "q", "<|im_end|>a", score=1.0), reply("", "q", "b", score=0.0)]
    write_jsonl(tmp_path / "in.jsonl", rows)
    export_dpo(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"))
    [pair] = rows_of(tmp_path / "out.jsonl")
    assert pair["chosen"][0]["content"] == "<\\|im_end|>a"


def test_input_that_cannot_be_used(head: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", str(tmp_path / "out.jsonl")
    write_jsonl(source, [{"message": "x"}])
    with pytest.raises(DataError, match="no row can be read"):
        filter_replies(str(head), str(source), out, threshold=0)
    with pytest.raises(ConfigError, match="threshold"):
        filter_replies(str(head), str(source), out, threshold=float("nan"))
    with pytest.raises(ConfigError, match="gap"):
        export_dpo(str(source), out, gap=0)
    write_jsonl(source, [reply("", "q", "a", score=1.0), reply("", "q", "b", score=0.95)])
    with pytest.raises(DataError, match=r"no pair .*small_gap.*lower the gap"):
        export_dpo(str(source), out, gap=0.1)
    with pytest.raises(EngineError, match="directory not found"):
        filter_replies(str(tmp_path / "none"), str(source), out, threshold=0)
    assert not Path(out).exists()
