"""Stage 3 on real rows of four benchmarks and four-way mode, by a trained judge, a scalar head and somebody else's server."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.judged import lines
from support.scripts import EVALUATE, Chain, rows_of, value_of
from support.servers import ReceivedRequest, Reply, serving

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROWS = 3
OUTCOMES = ("correct", "wrong", "tie", "unparsed", "truncated", "error")


def longer(received: ReceivedRequest) -> Reply:
    """A judge that prefers the longest answer, says so before its verdict, and rates an answer by its length."""
    text = received.body["messages"][0]["content"]
    answers = re.split(r"\n?\[Answer ([A-H])\]\n", text.rpartition("\n[End]")[0])[1:]
    if answers:
        letter = max(zip(answers[::2], answers[1::2], strict=True), key=lambda answer: len(answer[1]))[0]
        verdict = f"[[{letter}]]"
    else:
        verdict = f"[[{min(10, 1 + len(text) // 400)}]]"
    message = {"role": "assistant", "content": f"Another one is shorter.\n\n{verdict}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 90, "completion_tokens": 12, "total_tokens": 102}
    return 200, {"id": "c", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def four_way_rows() -> list[dict[str, Any]]:
    """Two rows of four answers, of which the right one is the longest in the first, and a question of Ties."""
    rows = [
        {"id": str(n), "prompt": f"question {n}", "chosen": [right], "rejected": ["b", "cc", "ddd"], "subset": "Math"}
        for n, right in enumerate(("the longest answer", "a"))
    ]  # fmt: skip
    ties = {"id": "ref:1", "prompt": "name one", "chosen": ["y" * 900], "rejected": ["no"], "subset": "Ties"}
    return [*rows, ties]


def check_four_way(folder: Path, found: dict[str, Any]) -> None:
    """One prompt per row of four answers, and one per answer of Ties; the answers have their own seeded order."""
    length, genrm = (found["models"][name]["score"] for name in ("length", "genrm"))
    assert length["subsets"]["Math"]["accuracy"] == 0.5 and length["details"]["Ties ref accuracy"] == 1
    assert length["counts"]["n"] == genrm["counts"]["n"] == 7 == sum(genrm["counts"][o] for o in OUTCOMES)
    verdicts = rows_of(folder / "length" / "list_verdicts.jsonl")
    assert [verdict["winner"] for verdict in verdicts] == [0, 3]
    assert found["models"]["length"]["cost"]["requests"] == 4
    judged = rows_of(folder / "genrm" / "list_verdicts.jsonl")
    assert all(len(one["probs"]) == 4 and abs(sum(one["probs"]) - 1) < 1e-6 for one in judged)
    assert len(rows_of(folder / "genrm" / "ties" / "ratings.jsonl")) == 2
    assert found["models"]["length"]["protocols"]["single order"] is None


def test_every_benchmark_is_judged_and_every_row_accounted_for(
    chain: Chain, shared: Path, tmp_path: Path
) -> None:
    folder = chain.bench.folder("real")
    chain.bench.names.add(chain.bench.name("real"))
    for part in ("judges", "scalar", "manifest/train.json"):
        source, target = chain.folder / part, folder / part
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)
    files = {
        "rewardbench": ("rewardbench", "rewardbench_llmbar.jsonl"),
        "judgebench": ("judgebench", "judgebench_claude.jsonl"),
        "rm-chat": ("rmbench", "rmbench_chat.json"),
        "rm-refuse": ("rmbench", "rmbench_safety_refuse.json"),
    }
    described = ", ".join(
        f"{name}: {{kind: {kind}, path: {shared / 'benchmarks' / file}}}"
        for name, (kind, file) in files.items()
    )
    four = lines(tmp_path / "four.jsonl", four_way_rows())
    described += f", four: {{kind: rewardbench2, path: {four}, mode: fourway}}"
    with serving(longer) as server:
        other = (
            f"{{server: {{kind: openai, urls: ['{server.url}/v1'], model: m, api: chat, max_retries: 0}}}}"
        )
        done = chain.bench.good(
            EVALUATE, "real", f"evaluate.benchmarks={{{described}}}", f"limit={ROWS}", f"evaluate.others={{length: {other}}}",
            "judges={genrm: {template: direct}}", "evaluate.base=false", "engine.workers=2", "prompts=configs/prompts/judge.yaml",
            "engine.max_model_len=8000", "scalar.max_length=512", "teachers={student: {max_tokens: 48}}",
            "records={}", "data.max_tokens=4000",
        )  # fmt: skip
    assert chain.bench.processes("real") == {}, "the workers are gone"
    assert sum(worker["blocks"] for worker in value_of(folder / "logs" / "workers.json")["judging"]) >= len(
        files
    )
    scores = value_of(folder / "scores.json")["benchmarks"]
    check_four_way(folder / "evaluate" / "four", scores.pop("four"))
    assert scores.keys() == files.keys()
    for name, found in scores.items():
        pairs = ROWS * (9 if found["kind"] == "rmbench" else 1)
        assert found["rows"] == ROWS and found["unreadable_rows"] == 0
        assert len(rows_of(folder / "evaluate" / name / "rows.jsonl")) == ROWS
        assert found["models"].keys() == {"genrm", "length", "scalar"}
        for model, numbers in found["models"].items():
            counts = numbers["score"]["counts"]
            assert counts["n"] == pairs * (1 if model == "scalar" else 2) == sum(counts[o] for o in OUTCOMES)
            assert len(rows_of(folder / "evaluate" / name / model / "results.jsonl")) == pairs
            assert numbers["score"]["partial"]
        length = found["models"]["length"]
        assert length["diagnostics"]["length_bias"] is not None and length["score"]["counts"]["error"] == 0
        assert length["score"]["counts"]["unparsed"] == 0, "the verdict that closes the text counts"
        assert length["diagnostics"]["ece"] is None, "a chat server gives no P(A)"
        for model in ("genrm", "length"):
            matrix = found["models"][model]["protocols"]
            assert matrix["official"]["score"] == found["models"][model]["score"]["score"]
            assert matrix["single order"]["counts"]["n"] == pairs and matrix["majority of k"] is None
        assert found["models"]["scalar"]["protocols"]["single order"] is None
        assert name in (folder / "report.md").read_text(encoding="utf-8")
    board = folder / "evaluate" / "rewardbench" / "genrm" / "leaderboard"
    [accuracies] = (board / "eval-set").glob("*/*.json")
    content = value_of(accuracies)
    assert content["model_type"] == "Generative RM" and content["chat_template"] == "direct"
    assert content["model"] == f"{chain.bench.name('real')}/genrm" and "llmbar-natural" in content
    assert (
        len(value_of(board / "eval-set-scores" / accuracies.relative_to(board / "eval-set"))["results"])
        == ROWS
    )
    assert "RM-Bench" in done.stdout or "Chat" in done.stdout
