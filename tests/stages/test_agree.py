"""`reasongenrm agree`: verdicts of a file and of a server, the reports, and the gate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.cli import main
from reasongenrm.store import read_jsonl, write_jsonl
from support.html_pages import Page
from support.servers import ReceivedRequest, Reply, chat_reply, serving

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]


def labelled(count: int) -> list[dict[str, Any]]:
    """Rows of which people prefer the answer `good`; one in four is labelled the other way by one of three."""
    rows = []
    for number in range(count):
        first = number % 2 == 0
        label, other = ("A", "B") if first else ("B", "A")
        third = other if number % 4 == 3 else label
        answers = {"a": "good" if first else "bad", "b": "bad" if first else "good"}
        labels = {"ann": label, "ben": label, "eva": third}
        rows.append({"id": f"r{number}", "prompt": f"Question {number}?", **answers, "labels": labels})
    return rows


def reply(received: ReceivedRequest) -> Reply:
    """Answer as a judge that prefers `good`."""
    text = received.body["messages"][-1]["content"]
    letter = "A" if "[Answer A]\ngood" in text else "B"
    return chat_reply(f"It is better.\n[[{letter}]]")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(ROOT)
    write_jsonl(tmp_path / "labels.jsonl", labelled(24))
    return tmp_path


def agree(folder: Path, *words: str, out: str = "out") -> int:
    return main(["agree", str(folder / "labels.jsonl"), "--out", str(folder / out), *words])


def result(folder: Path, out: str = "out") -> dict[str, Any]:
    numbers: dict[str, Any] = json.loads((folder / out / "agreement.json").read_text())
    return numbers


def test_a_judge_on_a_server_judges_each_row_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(reply) as server:
        words = ["--model", "org/judge", "--server", f"{server.url}/v1"]
        assert agree(folder, *words, "--min-kappa", "0.9") == 0
        asked = len(server.received)
        assert asked == 48  # both orders
        write_jsonl(folder / "labels.jsonl", labelled(30))  # six more rows
        assert agree(folder, *words) == 0
        assert len(server.received) == asked + 12
        assert agree(folder, *words, "judging.max_tokens=77") == 2  # another judge under the same name
        assert "judge.judging changed" in capsys.readouterr().err
        assert len(server.received) == asked + 12
    judge = result(folder)["judges"]["judge"]
    assert (judge["rows"], judge["agreeing"], judge["kappa"]["value"]) == (30, 30, 1)
    assert judge["annotators"]["eva"]["value"] < 1 == judge["annotators"]["ann"]["value"]
    assert not list((folder / "out").rglob("*.rows.jsonl"))


def test_verdicts_of_a_file_and_the_gate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdicts = [
        {"id": f"r{number}", "winner": ("A", "B")[number % 2] if number < 16 else "A", "prob_a": 0.9}
        for number in range(22)
    ]
    verdicts[0]["winner"] = None
    write_jsonl(folder / "verdicts.jsonl", verdicts)
    words = ["--verdicts", f"mine={folder / 'verdicts.jsonl'}"]
    assert agree(folder, *words) == 0
    judge = result(folder)["judges"]["mine"]
    assert (judge["rows"], judge["agreeing"], judge["disagreeing"], judge["unread"]) == (22, 18, 3, 1)
    rows = list(read_jsonl(folder / "out" / "disagreements.jsonl"))
    assert [row["id"] for row in rows] == ["r17", "r21", "r0", "r19"]  # r19: two of three people
    assert agree(folder, *words, "--min-kappa", "0.9", out="strict") == 1
    assert "gate: mine: kappa" in capsys.readouterr().err
    baseline = str(folder / "out" / "agreement.json")
    assert agree(folder, *words, "--baseline", baseline, out="again") == 0
    for row in verdicts[:8]:
        row["winner"] = "B"
    write_jsonl(folder / "verdicts.jsonl", verdicts)
    assert agree(folder, *words, "--baseline", baseline, out="worse") == 1
    assert agree(folder, *words, "--baseline", baseline, "--max-drop", "1", out="lenient") == 0


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--min-kappa", "0.5"], "the gate has no judge to check"),
        (["--baseline", "nowhere.json"], "nowhere.json: file not found"),
        (["--verdicts", "mine"], "not NAME=FILE"),
        (["--judge", "base"], "no judge is named"),
        (["--columns", "labels=nothing"], "no labelled row can be read (24 dropped)"),
        (["--model", "x", "--min-kappa", "7"], "min_kappa"),
        (["configs/demo.yaml", "--model", "x"], "a recipe names its model itself"),
    ],
)
def test_errors_are_in_words(
    folder: Path, capsys: pytest.CaptureFixture[str], words: list[str], problem: str
) -> None:
    assert agree(folder, *words) == 2
    assert problem in capsys.readouterr().err


def test_texts_stay_texts(folder: Path) -> None:
    text = "</script><script>alert(1)</script><img src=x onerror=alert(1)> [[A]] {{ x }}"
    rows = [row | {"prompt": text, "a": text, "judges": {text: "A", "../x": "B"}} for row in labelled(24)]
    write_jsonl(folder / "labels.jsonl", rows)
    assert agree(folder) == 0
    page = Page((folder / "out" / "agreement.html").read_text(encoding="utf-8"))
    assert {"script", "img"}.isdisjoint(page.tags) and page.text.count(text) >= 24
    assert sorted(path.name for path in folder.iterdir()) == ["labels.jsonl", "out"]
