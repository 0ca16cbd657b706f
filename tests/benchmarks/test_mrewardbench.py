"""M-RewardBench: languages of a folder, and the mean of languages that are scored as RewardBench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasongenrm.benchmarks.mrewardbench import LANGUAGES, MRewardBench
from reasongenrm.records import Drop, Row
from support.judged import good, judge_all, lines
from support.published import NEMOTRON, scalar_rows

pytestmark = pytest.mark.unit
BENCH = MRewardBench()


def row(number: int, subset: str, **columns: Any) -> dict[str, Any]:
    return {"id": number, "prompt": f"q{number}", "chosen": "a", "rejected": "b", "subset": subset, **columns}


def test_a_folder_has_a_folder_per_language(tmp_path: Path) -> None:
    for number, language in enumerate(("deu_Latn", "zho_Hans", "translation")):
        (tmp_path / language).mkdir()
        table = pa.Table.from_pylist([row(number, "donotanswer")])
        pq.write_table(table, tmp_path / language / "test-00000-of-00001.parquet")
    rows = good(BENCH.rows(str(tmp_path)))
    assert [r.subset for r in rows] == ["deu_Latn/donotanswer", "zho_Hans/donotanswer"]


def test_the_hub_is_read_language_by_language() -> None:
    sources = BENCH.sources("owner/name", None)
    assert [path for path, _ in sources] == [f"owner/name:{language}" for language in LANGUAGES]
    assert len(LANGUAGES) == 23
    assert BENCH.sources("owner/name:deu_Latn", None) == [("owner/name:deu_Latn", "test")]


def test_one_language_scores_as_rewardbench_does(tmp_path: Path) -> None:
    results = scalar_rows(NEMOTRON)
    raw = [
        row(number, result.subset, language="fra_Latn", chosen=f"a{number}")
        for number, result in enumerate(results)
    ]
    rows = good(BENCH.rows(lines(tmp_path / "x.jsonl", raw)))
    by_id = {r.id: result for r, result in zip(rows, results, strict=True)}
    scored = BENCH.score(rows, {name: judged_as(name, result) for name, result in by_id.items()})
    # The leaderboard's row of Nemotron-70B-Reward: score 94.1, Chat 97.5, Chat Hard 85.7, Safety 95.1, Reasoning 98.1.
    assert 100 * scored.score == pytest.approx(94.1, abs=0.05)
    found = [
        round(100 * (scored.details[name] or 0), 1) for name in ("Chat", "Chat Hard", "Safety", "Reasoning")
    ]
    assert found == [97.5, 85.7, 95.1, 98.1]
    assert scored.partial and "deu_Latn" in scored.missing and scored.sections["deu_Latn"] is None


def judged_as(name: str, result: Any) -> Any:
    from dataclasses import replace

    return replace(result, pair_id=name)


def test_every_language_has_the_same_weight(tmp_path: Path) -> None:
    raw = [row(number, "donotanswer", language="ita_Latn") for number in range(3)]
    raw += [row(9, "hep-go", language="kor_Hang"), row(10, "mt-bench-easy", language="kor_Hang")]
    rows = good(BENCH.rows(lines(tmp_path / "x.jsonl", raw)))
    right = {"ita_Latn/donotanswer": "right", "kor_Hang/hep-go": "right", "kor_Hang/mt-bench-easy": "wrong"}
    scored = BENCH.score(rows, judge_all(rows, lambda r, *_: [right[r.subset]] * 2))
    assert scored.sections["ita_Latn"] == 1 and scored.sections["kor_Hang"] == 0.5
    assert scored.score == 0.75 and scored.details["Chat"] == 0 and scored.details["Chat Hard"] is None


def test_rows_of_no_language_or_subset_are_drops(tmp_path: Path) -> None:
    raw = [row(1, "chat", language="deu_Latn"), row(2, "hep-go"), row(3, "hep-go", language="deu_Latn")]
    items = list(BENCH.rows(lines(tmp_path / "x.jsonl", raw)))
    assert [item.reason for item in items if isinstance(item, Drop)] == ["unknown_subset", "unknown_language"]
    path = tmp_path / "deu_Latn.jsonl"
    path.write_text(json.dumps(row(2, "hep-go")) + "\n")
    [one] = BENCH.rows(str(path))
    assert isinstance(one, Row) and one.subset == "deu_Latn/hep-go"
