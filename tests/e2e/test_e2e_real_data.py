"""Real preference pairs and real benchmark rows through all three scripts: long rows follow the stated policies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from reasongenrm.benchmarks.rewardbench import RewardBench
from reasongenrm.chat.encoder import ChatEncoder
from reasongenrm.chat.prompts import PromptFile, judge_prompt
from reasongenrm.records import Row
from support.scripts import EVALUATE, PREPARE, TRAIN, Bench, Done, rows_of, value_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

CONTEXT, RECORD, ROWS = 1440, 2200, 36


@pytest.fixture(scope="module")
def real(
    bench: Callable[[str, Sequence[str]], Bench], shared: Path, toy_overrides: list[str]
) -> tuple[Bench, Path, dict[str, Done]]:
    pairs = shared / "preferences" / "real_pairs_skywork_schema.jsonl"
    benchmark = shared / "benchmarks" / "rewardbench_llmbar.jsonl"
    made = bench(
        "real",
        [
            *toy_overrides,
            f"data.sources.0.path={pairs}",
            f"evaluate.benchmarks={{llmbar: {{kind: rewardbench, path: {benchmark}}}}}",
            "prompts=configs/prompts/judge.yaml",
            "judges={reasongenrm: {template: reason}}",
            f"engine.max_model_len={CONTEXT}",
            "engine.max_num_seqs=16",
            f"data.max_tokens={RECORD}",
            "select.threshold=-2",
            "select.batch_tokens=8192",
            "train.tokens=null",
            "train.args.max_steps=3",
            "scalar.args.max_steps=3",
            "evaluate.base=false",
            "evaluate.max_tokens=8",
        ],
    )
    done = {
        PREPARE: made.good(PREPARE, "run", "--limit", str(ROWS)),
        TRAIN: made.good(TRAIN, "run", "--limit", str(ROWS)),
        EVALUATE: made.good(EVALUATE, "run"),  # all rows of the benchmark
    }
    return made, made.folder("run"), done


def test_real_pairs_are_kept_or_dropped_by_the_length_policies(
    real: tuple[Bench, Path, dict[str, Done]],
) -> None:
    _, folder, _ = real
    report = value_of(folder / "data_report.json")
    assert report["total"]["in"] == ROWS == report["total"]["kept"] + report["total"]["dropped"]
    drops = rows_of(folder / "dropped.jsonl")
    assert len(drops) == report["total"]["dropped"]
    slugs = Counter(drop["reason"] for drop in drops)
    assert slugs["prompt_too_long"] > 3 and slugs["longer_than_context"] > 3
    for drop in drops:
        if drop["reason"] == "prompt_too_long":
            assert int(drop["detail"].split()[0]) > RECORD and "data.max_tokens" in drop["detail"]
        if drop["reason"] == "longer_than_context":
            assert int(drop["detail"].split()[0]) > CONTEXT and "engine.max_model_len" in drop["detail"]
    pairs = rows_of(folder / "pairs.jsonl")
    assert 5 < len(pairs) == ROWS - len(drops)
    assert slugs.keys() <= {
        "prompt_too_long",
        "longer_than_context",
        "contaminated_prompt",
        "contaminated_answer",
    }
    listed = {match["pair_id"] for match in rows_of(folder / "contamination.jsonl")}
    assert {drop["location"] for drop in drops if drop["reason"].startswith("contaminated")} <= listed
    assert any(len(pair["history"]) > 1 for pair in pairs), "conversations of several turns too"
    shown = (folder / "data_report.html").read_text(encoding="utf-8")
    assert "prompt_too_long" in shown and "longer_than_context" in shown
    reasons = report["reasons"]
    assert reasons["sampled"] == 4 * len(pairs) == reasons["kept"] + sum(reasons["dropped"].values())


def test_every_real_record_is_trained_on(real: tuple[Bench, Path, dict[str, Done]]) -> None:
    _, folder, done = real
    training = value_of(folder / "judges" / "reasongenrm" / "training.json")
    assert training["records"] == len(rows_of(folder / "sft.jsonl")) > 0 and training["steps"] == 3
    scalar = value_of(folder / "scalar" / "done.json")["report"]
    pairs = len(rows_of(folder / "pairs.jsonl"))
    assert scalar["pairs"] == pairs == scalar["trained"] + len(scalar["dropped_identical"])
    assert 0 < scalar["truncated"] <= pairs
    assert f"{scalar['truncated']} cut to 512 tokens" in done[TRAIN].stderr


def test_every_benchmark_row_is_in_the_table(real: tuple[Bench, Path, dict[str, Done]], shared: Path) -> None:
    from transformers import AutoTokenizer

    _, folder, done = real
    adapter = folder / "judges" / "reasongenrm" / "adapter"
    tokenizer = AutoTokenizer.from_pretrained(adapter)
    encoder = ChatEncoder(tokenizer, tokenizer.chat_template)
    prompts = PromptFile.load("configs/prompts/judge.yaml")
    rows = RewardBench().rows(str(shared / "benchmarks" / "rewardbench_llmbar.jsonl"))
    lengths = [len(encoder.encode(judge_prompt(row.pairs[0], order, prompts).messages, generation=True)) for row in rows if isinstance(row, Row) for order in ("AB", "BA")]  # fmt: skip
    too_long = sum(length >= CONTEXT for length in lengths)
    assert len(lengths) == 468 and too_long > 10
    scores = value_of(folder / "scores.json")
    llmbar = scores["benchmarks"]["llmbar"]
    judge, scalar = (llmbar["models"][name]["score"] for name in ("reasongenrm", "scalar"))
    counts = judge["counts"]
    assert llmbar["unreadable_rows"] == 0 and judge["rows"] == scalar["rows"] == 234
    assert counts["n"] == 468 and scalar["counts"]["n"] == 234
    assert counts["error"] == too_long, "a prompt that fills the context is counted, and is no verdict"
    outcomes = ("correct", "wrong", "tie", "unparsed", "truncated", "error")
    assert sum(counts[key] for key in outcomes) == 468
    assert judge["partial"] and set(judge["subsets"]) == {"llmbar-natural", "llmbar-adver-neighbor"}
    verdicts = rows_of(folder / "evaluate" / "llmbar" / "reasongenrm" / "verdicts.jsonl")
    assert sum(verdict["outcome"] == "error" for verdict in verdicts) == too_long
    assert all(verdict["winner"] is None for verdict in verdicts if verdict["outcome"] == "error")
    for text in (done[EVALUATE].stdout, (folder / "table.md").read_text(encoding="utf-8")):
        assert "partial benchmark" in text and " 468 " in text and f" {too_long} " in text
