"""Stage 3 on real rows of four benchmarks, judged by a trained judge, a scalar head and somebody else's server."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from support.scripts import EVALUATE, Chain, rows_of, value_of
from support.servers import ReceivedRequest, Reply, serving

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ROWS = 3
OUTCOMES = ("correct", "wrong", "tie", "unparsed", "truncated", "error")


def longer(received: ReceivedRequest) -> Reply:
    """A judge that prefers the longer answer, and says so before its verdict."""
    text = received.body["messages"][0]["content"]
    a, b = re.findall(r"\[Answer A\]\n(.*)\n\[Answer B\]\n(.*)\n\[End\]", text, re.DOTALL)[-1]
    verdict = "[[A]]" if len(a) > len(b) else "[[B]]"
    message = {"role": "assistant", "content": f"One is longer; [[A]] or [[B]]? {verdict}"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 90, "completion_tokens": 12, "total_tokens": 102}
    return 200, {"id": "c", "object": "x", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def test_every_benchmark_is_judged_and_every_row_accounted_for(chain: Chain, shared: Path) -> None:
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
    with serving(longer) as server:
        other = (
            f"{{server: {{kind: openai, urls: ['{server.url}/v1'], model: m, api: chat, max_retries: 0}}}}"
        )
        done = chain.bench.good(
            EVALUATE, "real", f"evaluate.benchmarks={{{described}}}", f"limit={ROWS}", f"evaluate.others={{length: {other}}}",
            "judges={genrm: {template: direct}}", "evaluate.base=false", "evaluate.server={kind: vllm, startup_seconds: 300}", "prompts=configs/prompts/judge.yaml",
            "engine.max_model_len=8000", "scalar.max_length=512", "teachers={student: {max_tokens: 48}}",
            "records={}", "data.max_tokens=4000",
        )  # fmt: skip
    assert chain.bench.processes("real") == {}, "the server is gone"
    assert "startup complete" in (folder / "servers" / "server-0.log").read_text(
        encoding="utf-8", errors="replace"
    )
    scores = value_of(folder / "scores.json")["benchmarks"]
    assert scores.keys() == files.keys()
    for name, found in scores.items():
        pairs = ROWS * (9 if found["kind"] == "rmbench" else 1)
        assert found["rows"] == ROWS and found["unreadable_rows"] == 0
        assert len(rows_of(folder / "evaluate" / name / "rows.jsonl")) == ROWS
        assert found["models"].keys() == {"genrm", "length", "scalar"}
        for model, told in found["models"].items():
            counts = told["score"]["counts"]
            assert counts["n"] == pairs * (1 if model == "scalar" else 2) == sum(counts[o] for o in OUTCOMES)
            assert len(rows_of(folder / "evaluate" / name / model / "results.jsonl")) == pairs
            assert told["score"]["partial"]
        length = found["models"]["length"]
        assert length["diagnostics"]["length_bias"] is not None and length["score"]["counts"]["error"] == 0
        assert length["score"]["counts"]["unparsed"] == 0, "the verdict that closes the text counts"
        assert length["diagnostics"]["ece"] is None, "a chat server gives no P(A)"
        assert name in (folder / "report.md").read_text(encoding="utf-8")
    board = value_of(folder / "evaluate" / "rewardbench" / "genrm" / "leaderboard" / "eval-set.json")
    assert board["model_type"] == "Generative RM" and "llmbar-natural" in board
    assert "RM-Bench" in done.stdout or "Chat" in done.stdout
