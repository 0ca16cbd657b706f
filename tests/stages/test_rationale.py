"""`reasongenrm rationale`: real verdict files, a second judge on a real server, its answers kept."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.cli import main
from reasongenrm.store import write_jsonl
from support.servers import ReceivedRequest, Reply, chat_reply, serving

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
BOX = re.compile(r"\[Points\]\n(.*)\[Reason\]\n(.*)\[End\]", re.DOTALL)


def second_judge(received: ReceivedRequest) -> Reply:
    """Match a point with the sentences that say the same of the answer that it speaks of; garbage where a point says so."""
    text = received.body["messages"][-1]["content"]
    found = BOX.search(text)
    assert found
    names = {"Response 1": "Answer A", "Response 2": "Answer B"}
    if 'the judge calls Response 2 "Answer A"' in text:
        names = {"Response 1": "Answer B", "Response 2": "Answer A"}
    points, sentences = ([line.partition(": ")[2] for line in part.splitlines()] for part in found.groups())
    matches = []
    for p, point in enumerate(points, 1):
        shown = re.sub("Response [12]", lambda match: names[match[0]], point)
        matches += [
            {"point": p, "sentence": s} for s, sentence in enumerate(sentences, 1) if shown in sentence
        ]
    content = "garbage" if "garbage" in points[0] else json.dumps({"matches": matches})
    return chat_reply(content)


def verdict(pair: str, order: str, winner: str, reason: str) -> dict[str, Any]:
    return {
        "id": f"{pair}{order}",
        "pair_id": pair,
        "order": order,
        "winner": winner,
        "outcome": "ok",
        "reason": reason,
    }


def run(folder: Path) -> Path:
    """A run in which Response 2 is right: in order AB it is the judge's Answer A."""
    points = ["Response 2 is short", "Response 1 rambles"]
    rows = [
        {"id": name, "subset": "general", "details": {"points": wanted, "chosen_is_response_1": False}}
        for name, wanted in (("p1", points), ("p2", ["garbage"]), ("p3", []))
    ]
    place = folder / "evaluate" / "helpsteer3"
    write_jsonl(place / "rows.jsonl", rows)
    write_jsonl(
        place / "good" / "verdicts.jsonl",
        [
            verdict("p1", "AB", "A", "Answer A is short. Answer B rambles. So A."),
            verdict("p1", "BA", "B", "Answer A rambles. So B."),
            verdict("p2", "AB", "A", "Nice."),
            verdict("p3", "AB", "A", "No points here."),
        ],
    )
    write_jsonl(
        place / "shallow" / "verdicts.jsonl",
        [verdict("p1", "AB", "A", "A is nicer."), verdict("p1", "BA", "A", "")],
    )
    write_jsonl(place / "direct" / "verdicts.jsonl", [verdict("p1", "AB", "A", "")])
    return folder


def test_right_verdicts_for_wrong_reasons_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    folder = run(tmp_path / "run")
    with serving(second_judge) as server:
        words = ["rationale", str(folder), "--model", "org/second", "--server", f"{server.url}/v1"]
        assert main(words) == 0
        assert len(server.received) == 4  # without the empty reason, and the row without points
        assert main(words) == 0 and len(server.received) == 4
    [file] = folder.glob("rationale/helpsteer3/second-*/rationale.json")
    models = json.loads(file.read_text())["models"]
    assert models.keys() == {"good", "shallow"}
    good, shallow = models["good"], models["shallow"]
    assert (good["reasons"], good["matched"], good["unread"], good["without_reason"]) == (3, 2, 1, 0)
    assert good["recall"]["value"] == pytest.approx((1 + 0.5) / 2)
    assert good["precision"]["value"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert good["right_without_a_point"]["value"] == 0 and good["accuracy"]["value"] == 1
    assert (shallow["recall"]["value"], shallow["without_reason"]) == (0, 1)
    assert shallow["accuracy"]["value"] == shallow["right_without_a_point"]["value"] == 0.5
    assert "good" in capsys.readouterr().out and "75.0" in file.with_suffix(".md").read_text()


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--benchmark", "other"], "rows.jsonl: file not found"),
        (["--prompt", "nowhere.jinja"], "nowhere.jinja"),
        (["--prompt", "configs/rubric/proposals.jinja"], "proposals.jinja"),
    ],
)
def test_errors_are_in_words(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    problem: str,
) -> None:
    monkeypatch.chdir(ROOT)
    base = ["rationale", str(run(tmp_path)), "--model", "m", "--server", "http://127.0.0.1:1/v1"]
    assert main(base + words) == 2
    assert problem in capsys.readouterr().err
