"""The report of an agreement: the same bytes, escaped text, nothing from the network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.scalar.agreement import evaluate_agreement
from reasongenrm.scalar.agreement_report import SHOWN, agreement_line, write_agreement_report
from reasongenrm.scalar.reply_pairs import ScoredReply
from support.html_pages import Page

pytestmark = pytest.mark.unit

FACTS = {"judge": "nobody", "base": "tiny <b>"}


def rows(count: int = 24) -> list[ScoredReply]:
    return [
        ScoredReply(
            f"{n:03}", f"g{n // 2}", "", "<script>alert(1)</script> $x$", f"reply {n}", n / count, (n * 7 % count) / count,
            judge_criteria={"accuracy $": n}, samples=(n / count, (n + 1) / count), people=float(n % 5), rationale="because",
        )
        for n in range(count)
    ]  # fmt: skip


def write(folder: Path, some: list[ScoredReply], *, judge_scale: bool = True) -> dict[str, Any]:
    metrics = evaluate_agreement(some, seed=1, training_mean=0.5, judge_scale=judge_scale)
    write_agreement_report(folder, some, metrics, name="run", facts=FACTS)
    numbers: dict[str, Any] = json.loads((folder / "metrics.json").read_text())
    return numbers


@pytest.mark.parametrize("judge_scale", [True, False])
def test_the_page_is_whole_and_loads_nothing(tmp_path: Path, judge_scale: bool) -> None:
    write(tmp_path, rows(), judge_scale=judge_scale)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert page.inside["script"] == [] and "<script>alert(1)</script>" in page.text
    assert "default-src 'none'" in " ".join(page.values("meta", "content"))
    assert all(source.startswith("data:image/png;base64,") for source in page.values("img", "src"))
    assert {"Agreement", "Pairs", "Criteria", "The judge against itself", "People", "Calibration"} <= set(
        page.titles
    )
    assert sum(title.startswith("Judge ") for title in page.titles) == SHOWN
    assert "tiny <b>" in page.cells and "because" in page.text


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write(tmp_path / name, rows())
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert files == {"metrics.json", "report.html", "agreement.png", "scores.jsonl"}
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_numbers(tmp_path: Path) -> None:
    numbers = write(tmp_path, rows())
    assert {
        "pearson",
        "spearman",
        "kendall",
        "error",
        "criteria",
        "same_message",
        "retest",
        "facts",
    } <= numbers.keys()
    assert numbers["replies"] == 24 and numbers["level"] == 0.95
    scores = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert len(scores) == 24 and "message" not in scores[0], "texts are in conversations.jsonl"


def test_undefined_numbers_are_dashes(tmp_path: Path) -> None:
    bare = [
        replace(row, head=0.5, samples=(), people=None, judge_criteria={}, conversation=row.id)
        for row in rows(3)
    ]
    numbers = write(tmp_path, bare)
    assert numbers["spearman"]["value"] is None and numbers["retest"] is None
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "–" in page.cells and "People" not in page.titles and "Criteria" not in page.titles
    assert "judged once" in page.text
    metrics = evaluate_agreement(bare[:1], seed=1, training_mean=None, judge_scale=False)
    assert agreement_line(metrics) == "1 held-out replies of 1 conversations, Spearman –, Pearson –"
