"""Tables: cells, escapes and footnotes."""

from __future__ import annotations

import io

import pytest

from reasongenrm.benchmarks.base import judge_result, scalar_result
from reasongenrm.metrics.scores import BenchmarkScore
from reasongenrm.records import Verdict
from reasongenrm.report.tables import escape_markdown, grid, score_table
from support.judged import rewardbench_score

pytestmark = pytest.mark.unit

TOY_SUBSETS = ("toy-chat", "toy-chat-hard", "toy-safety", "toy-reasoning")


def entries() -> dict[str, BenchmarkScore]:
    scalar = rewardbench_score(
        [scalar_result(f"{s}{i}", s, float(i < 3), 0.5) for s in TOY_SUBSETS for i in range(4)]
    )
    verdicts = [
        Verdict("v", "p", "AB", "A", None, "ok", "", True),
        Verdict("v", "p", "BA", None, None, "truncated", ""),
    ]
    judge = rewardbench_score([judge_result("p", "hep-go", verdicts)])
    return {"a|b *c*\nd": scalar, "[red]judge[/red]": judge}


def test_markdown() -> None:
    lines = score_table(entries()).markdown().splitlines()
    cells = [[cell.strip() for cell in line.replace("\\|", "¦").strip("|").split("|")] for line in lines[:4]]
    assert cells[0] == [
        "model",
        "Chat",
        "Chat Hard",
        "Safety",
        "Reasoning",
        "score \\[95%\\]",
        "strict",
        "n",
        "correct",
        "wrong",
        "tie",
        "unparsed",
        "truncated",
        "error",
        "rescued",
    ]
    assert cells[2][:5] == ["a¦b \\*c\\* d", "75.0", "75.0", "75.0", "75.0"]
    assert cells[2][5].startswith("75.0 \\[") and cells[2][5].endswith("\\]‡")
    assert cells[2][6:] == ["75.0", "16", "12", "4", "0", "0", "0", "0", "0"]
    assert cells[3][:6] == ["\\[red\\]judge\\[/red\\]", "–", "–", "–", "75.0", "75.0 \\[75.0, 75.0\\]†"]
    assert cells[3][6:] == ["0.0", "2", "1", "0", "0", "0", "1", "0", "1"]
    assert lines[4] == "" and lines[5].startswith("† partial benchmark") and "alpacaeval-easy" in lines[5]
    assert lines[7].startswith("‡ toy")


def test_escapes() -> None:
    assert escape_markdown("mt_bench_human, f(a_1)") == "mt_bench_human, f(a_1)"
    assert escape_markdown("_a_ __b__ a_\tb\n~~c~~ &lt; [x](y) \\|") == (
        r"\_a\_ \_\_b\_\_ a\_ b \~\~c\~\~ \&lt; \[x\](y) \\\|"
    )
    assert grid(["t", "u", "n"], [["", "|", 1]], text_columns=2) == (
        "| t | u | n |\n| --- | --- | ---: |\n| (empty) | \\| | 1 |"
    )


def test_a_whole_real_benchmark_has_no_footnote() -> None:
    from reasongenrm.benchmarks.rewardbench import REWARDBENCH

    rows = [
        scalar_result(f"{s}{i}", s, 1.0, 0.0)
        for s in REWARDBENCH.subsets
        for i in range(REWARDBENCH.published_rows[s])
    ]
    text = score_table({"m": rewardbench_score(rows)}).markdown()
    assert len(text.splitlines()) == 3 and "†" not in text and "100.0 \\[100.0, 100.0\\]" in text


def test_rich_shows_names_as_they_are() -> None:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=400).print(score_table(entries()).rich())
    assert "[red]judge[/red]" in out.getvalue() and "a|b *c* d" in out.getvalue()
    assert "† partial benchmark" in out.getvalue() and "‡ toy" in out.getvalue()
