"""ContextualJudgeBench: consistent accuracy per split, and where a row's split comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reasongenrm.benchmarks.contextualjudgebench import SPLITS, ContextualJudgeBench
from reasongenrm.records import Drop
from support.judged import good, judge_all, lines, score_all

pytestmark = pytest.mark.unit
BENCH = ContextualJudgeBench()


def row(number: int, **columns: Any) -> dict[str, Any]:
    texts = {"question": f"Who is {number}?", "context": "Ann is 1.", "question_id": str(number)}
    return texts | {"positive_response": "Ann.", "negative_response": "Ben.", **columns}


def folder(path: Path, splits: tuple[str, ...] = SPLITS) -> str:
    for split in splits:
        table = pa.Table.from_pylist([row(number) for number in range(2)])
        pq.write_table(table, path / f"{split}-00000-of-00001.parquet")
    return str(path)


def test_the_hubs_files_are_the_eight_splits(tmp_path: Path) -> None:
    rows = good(BENCH.rows(folder(tmp_path)))
    assert len(SPLITS) == 8 and [r.subset for r in rows[::2]] == list(SPLITS)
    assert rows[0].history[0]["content"] == "Context:\nAnn is 1.\n\nQuestion:\nWho is 0?"
    assert rows[0].answers == ("Ann.", "Ben.") and len({r.id for r in rows}) == 16
    assert [r.subset for r in good(BENCH.rows(str(tmp_path), split="conciseness_qa"))] == [
        "conciseness_qa"
    ] * 2


def test_only_pairs_that_are_right_in_both_orders_count(tmp_path: Path) -> None:
    # Upstream's compute_acc on judgements (1, 1), (1, 2), (2, 2), (1, 1): accuracies 1, 0, 0, 1; consistency 1, 0, 1, 1.
    raw = [row(number, split="faithfulness_qa") for number in range(4)]
    rows = good(BENCH.rows(lines(tmp_path / "x.jsonl", raw)))
    kinds = [("right", "right"), ("right", "wrong"), ("wrong", "wrong"), ("right", "right")]
    verdicts = dict(zip([r.id for r in rows], kinds, strict=True))
    scored = BENCH.score(rows, judge_all(rows, lambda r, *_: verdicts[r.id]))
    assert scored.score == scored.strict == 0.5 and scored.details["consistency"] == 0.75
    assert scored.details["QA"] == 0.5 and scored.details["summarization"] is None
    assert scored.partial and "refusal_answerable" in scored.missing
    tie = BENCH.score(rows[:1], judge_all(rows[:1], lambda *_: ("right", "tie")))
    assert tie.score == 0


def test_every_split_weighs_the_same_also_for_a_scalar_head(tmp_path: Path) -> None:
    raw = [row(n, split="completeness_qa") for n in range(3)] + [row(9, split="refusal_answerable")]
    rows = good(BENCH.rows(lines(tmp_path / "x.jsonl", raw)))
    scored = BENCH.score(
        rows, score_all(rows, lambda r, place: place if r.subset == "refusal_answerable" else -place)
    )
    assert scored.score == 0.5 and scored.details["refusal"] == 0


def test_fewer_rows_than_were_published_are_partial(tmp_path: Path) -> None:
    rows = good(BENCH.rows(folder(tmp_path)))
    scored = BENCH.score(rows, judge_all(rows, lambda *_: ("right", "right")))
    assert scored.score == 1 and scored.partial and scored.missing == ("1,984 of 2,000 rows",)


def test_a_row_of_no_split_is_a_drop(tmp_path: Path) -> None:
    items = list(BENCH.rows(lines(tmp_path / "x.jsonl", [row(1), row(2, split="conciseness_summ")])))
    assert [item.reason for item in items if isinstance(item, Drop)] == ["unknown_split"]
