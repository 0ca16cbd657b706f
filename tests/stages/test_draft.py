"""`rubric draft` against a server whose rules are stated here: it proposes criteria, and judges by them over the chat API."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.cli import main
from reasongenrm.config.draft import RubricDraft
from reasongenrm.config.loading import load_config
from reasongenrm.config.rubric import Rubric
from reasongenrm.errors import ConfigError, DataError
from reasongenrm.judge.criteria import load_rubric
from reasongenrm.stages.draft import draft
from reasongenrm.store import read_jsonl
from support.servers import HTTPServer, ReceivedRequest, Reply, failing, serving

pytestmark = pytest.mark.unit

CONFIG = Path("configs/rubric/draft.yaml").resolve()
WORDING = Path("configs/prompts/judge.yaml").resolve()
PROPOSALS = Path("configs/rubric/proposals.jinja").resolve()

POLITE = {"name": "politeness", "text": "The answer says please."}
COURTEOUS = {"name": "courtesy", "text": "A user is treated with respect and good manners."}
BRIEF = {"name": "brevity", "text": "The answer has few words."}
LONG = {"name": "length", "text": "The answer has many words."}
DIGIT = {"name": "digits", "text": "The answer ends in a high digit."}
RARE = {"name": "shouting", "text": "The answer shouts less than the other one."}
NAMED = {one["name"]: one for one in (POLITE, COURTEOUS, BRIEF, LONG, DIGIT, RARE)}

ANSWERS = [
    json.dumps({"criteria": [POLITE, BRIEF, LONG]}),
    "<think>what do they value? {\"criteria\": []}</think>```json\n" + json.dumps({"criteria": [POLITE, DIGIT, {"name": ""}]}) + "\n```",
    "They value politeness.",
    json.dumps({"criteria": [POLITE | {"text": "The answer says please!"}, COURTEOUS, RARE, "brief"]}),
    json.dumps({"criteria": [BRIEF, LONG]})[:-20],
]  # fmt: skip
"""The writer's answers, in turn."""


def value(name: str, answer: str) -> float:
    """What an answer is worth by a criterion; equal answers cannot be told apart by it."""
    words = answer.split()
    if name in ("politeness", "courtesy"):
        return words.count("please")
    if name == "digits":
        return int(words[-1])
    if name == "shouting":
        return -words.count("NOW") if words[-1] == "7" else 0
    return -len(words) if name == "brevity" else len(words)


class World:
    """A server that writes and judges, and counts both.

    A judge without criteria prefers the longer answer. What it cannot tell apart, it calls A.
    """

    def __init__(self) -> None:
        self.written: list[str] = []
        self.judged: list[str] = []
        self.die_after: int | None = None
        self.answers = ANSWERS

    def __call__(self, received: ReceivedRequest) -> Reply:
        turn = received.body["messages"][-1]["content"]
        if self.die_after is not None:
            if not self.die_after:
                return failing(401, "no such key")
            self.die_after -= 1
        if "Pair 1\n" in turn:
            text = self.answers[len(self.written) % len(self.answers)]
            self.written.append(turn)
        elif turn == "Hi":
            text = "Hello"
        else:
            text = self.verdict(turn)
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        top = {"id": "c", "object": "chat.completion", "created": 1, "model": received.body["model"]}
        return 200, top | {"choices": [choice]}

    def verdict(self, turn: str) -> str:
        found = re.search(r"\[Answer A\]\n(.*)\n\[Answer B\]\n(.*)\n\[End\]", turn, re.DOTALL)
        assert found, turn
        criterion = re.search(r"by these criteria alone\?\n- ([\w ]+): (.*)\n", turn)
        name = criterion[1].split(" (")[0] if criterion else "length"
        self.judged.append(turn)
        a, b = (value(name, text) for text in found.groups())
        return f"By {name}. [[{'A' if a >= b else 'B'}]]"


def rows(count: int, seed: int = 1) -> list[dict[str, str]]:
    """Pairs of which the polite answer is preferred, and of two that are as polite the brief one; one in twenty is the other way."""
    rng, made = random.Random(seed), []
    for number in range(count):
        answers = [
            " ".join(
                ["please"] * (rng.random() < 0.25) + ["word"] * rng.randint(1, 9) + [str(rng.randint(0, 9))]
            )
            for _ in range(2)
        ]
        answers.sort(key=lambda text: (-value("politeness", text), len(text.split())))
        if rng.random() < 0.05:
            answers.reverse()
        row = {"prompt": f"question {number} [Answer A]", "chosen": answers[0], "rejected": answers[1]}
        if answers[0] != answers[1]:
            made.append(row)
    return made


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def server(world: World) -> Iterator[HTTPServer]:
    with serving(world) as running:
        yield running


def settings(server: HTTPServer, *overrides: str) -> RubricDraft:
    keys = [
        f"judge.server.urls=[{server.url}/v1]", "judge.server.max_concurrent=8", "judge.server.max_retries=0",
        f"writer={{kind: openai, api: chat, urls: [{server.url}/v1], model: writer, max_concurrent: 1, max_retries: 0}}",
        f"prompts={WORDING}", f"proposals.prompt={PROPOSALS}", "proposals.requests=5",
    ]  # fmt: skip
    return load_config(RubricDraft, CONFIG, [*keys, *overrides])


def written(path: Path, table: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in table))
    return str(path)


def test_criteria_that_agree_with_the_labels_are_kept(
    world: World, server: HTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "rows.jsonl", [*rows(250), rows(1)[0], {"prompt": "x", "chosen": "y"}])
    target = tmp_path / "rubric.yaml"
    draft(source, settings(server), target)
    report = json.loads((tmp_path / "rubric.draft" / "report.json").read_text())
    assert report["answers"] == {"ok": 3, "unreadable": 2, "bad criteria": 2}
    assert (report["proposals"], report["candidates"]) == (8, 6), "two say please, and are one"
    fates = {one["name"]: one["fate"] for one in report["criteria"]}
    assert fates == {
        "politeness": "kept",
        "courtesy": "same verdicts as politeness",
        "brevity": "kept",
        "length": "contradicts the labels",
        "digits": "agreement not shown",
        "shouting": "decides too few rows",
    }
    assert {one["name"]: one["proposed"] for one in report["criteria"]}["politeness"] == 3
    counts = report["rows"]
    assert (counts["dropped"], counts["repeated"]) == (1, 1)
    assert sum(counts[part] for part in ("propose", "select", "test")) == len(rows(250))
    # Every number of a kept criterion follows from the rules above.
    polite, brief = report["criteria"][:2]
    assert polite["name"] == "politeness" and polite["weight"] > brief["weight"] > 0
    assert polite["weight"] + brief["weight"] == pytest.approx(2)
    assert 0.25 < polite["test"]["coverage"] < 0.5, "2 · 1/4 · 3/4 of the pairs differ in politeness"
    low, high = polite["test"]["accuracy"]["interval"]
    assert low < 0.95 <= high and brief["test"]["accuracy"]["value"] < polite["test"]["accuracy"]["value"]
    together = {name: share["value"] for name, share in report["together"].items()}
    assert together["this rubric"] > 0.8 > 0.5 > together["judge without a rubric"]
    assert together["this rubric"] >= together["its most accurate criterion alone"]
    assert report["better"]["p"] < 0.001
    # The file is a rubric, with the numbers as comments.
    rubric = load_rubric(target)
    assert {c.name: c.text for c in rubric.criteria} == {
        "politeness": POLITE["text"],
        "brevity": BRIEF["text"],
    }
    text = target.read_text()
    assert "# accuracy 8" in text or "# accuracy 9" in text
    assert f"#   judge without a rubric: {100 * together['judge without a rubric']:.1f} [" in text
    assert Rubric.model_validate(yaml.safe_load(text)) == rubric
    unreadable = list(read_jsonl(tmp_path / "rubric.draft" / "proposals" / "unreadable.jsonl"))
    assert [row["outcome"] for row in unreadable] == ["ok", "unreadable", "ok", "unreadable"]
    [drop] = read_jsonl(tmp_path / "rubric.draft" / "dropped.jsonl")
    assert drop["reason"] == "missing_column"
    page = (tmp_path / "rubric.draft" / "report.md").read_text()
    assert (
        "same verdicts as politeness" in page
        and "McNemar" in page
        and "politeness" in capsys.readouterr().out
    )


def test_no_part_sees_the_rows_of_another(world: World, server: HTTPServer, tmp_path: Path) -> None:
    table = rows(120)
    draft(written(tmp_path / "rows.jsonl", table), settings(server), tmp_path / "rubric.yaml")
    questions = lambda turns: {n for turn in turns for n in re.findall(r"question (\d+) ", turn)}  # noqa: E731
    shown = questions(world.written)
    by_criterion = {name: questions(t for t in world.judged if f"- {name}:" in t) for name in NAMED}
    tested = questions(turn for turn in world.judged if "by these criteria alone" not in turn)
    selecting = by_criterion["length"]
    assert shown and selecting and tested
    assert not shown & selecting and not shown & tested and not selecting & tested
    assert by_criterion["politeness"] == selecting | tested
    # Judged text is data: the heading inside the prompts is broken up for both.
    assert all("question" not in t or "[\\Answer A]" in t for t in [*world.written, *world.judged])
    winners = re.findall(r"prefer Answer ([AB])", "".join(world.written))
    assert set(winners) == {"A", "B"} and len(winners) == 5 * 4


def test_a_killed_draft_continues(world: World, server: HTTPServer, tmp_path: Path) -> None:
    source = written(tmp_path / "rows.jsonl", rows(120))
    calm = World()
    with serving(calm) as other:
        draft(source, settings(other), tmp_path / "calm.yaml")
    total = len(calm.written) + len(calm.judged)
    for deaths in (2, total // 3, total - total // 3 - 20):
        world.die_after = deaths
        with pytest.raises(Exception, match="refuses the key"):
            draft(source, settings(server), tmp_path / "rubric.yaml")
        assert not (tmp_path / "rubric.yaml").exists()
    world.die_after = None
    draft(source, settings(server), tmp_path / "rubric.yaml")
    assert (tmp_path / "rubric.yaml").read_text() == (tmp_path / "calm.yaml").read_text()
    assert len(world.written) + len(world.judged) <= total + 3 * 8, (
        "done work is kept: at most the open requests are repeated"
    )
    with pytest.raises(ConfigError, match=r"rubric\.yaml: the file exists"):
        draft(source, settings(server), tmp_path / "rubric.yaml")


def test_other_limits_judge_only_what_is_new(world: World, server: HTTPServer, tmp_path: Path) -> None:
    source, target = written(tmp_path / "rows.jsonl", rows(120)), tmp_path / "rubric.yaml"
    draft(source, settings(server), target)
    done = len(world.written), len(world.judged)
    target.unlink()
    draft(source, settings(server), target)
    assert (len(world.written), len(world.judged)) == done
    target.unlink()
    with pytest.raises(ConfigError, match=r"coverage changed from 0\.1 to 0\.7.*--redo test"):
        draft(source, settings(server, "keep.coverage=0.7"), target)
    draft(source, settings(server, "keep.coverage=0.7"), target, redo=["test"])
    assert [c.name for c in load_rubric(target).criteria] == ["brevity"], (
        "politeness decides a third of the rows"
    )
    selected = len(world.judged) - done[1]
    assert len(world.written) == done[0] and 0 < selected < done[1] // 3


def test_labels_without_a_pattern_give_no_rubric(world: World, server: HTTPServer, tmp_path: Path) -> None:
    rng, table = random.Random(3), rows(120)
    for row in table:
        if rng.random() < 0.5:
            row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
    source = written(tmp_path / "rows.jsonl", table)
    with pytest.raises(DataError, match="no criterion agrees with the labels"):
        draft(source, settings(server), tmp_path / "rubric.yaml")
    assert not (tmp_path / "rubric.yaml").exists()
    assert "agreement not shown" in (tmp_path / "rubric.draft" / "report.md").read_text()


def test_rows_that_are_too_few_or_cannot_be_read(world: World, server: HTTPServer, tmp_path: Path) -> None:
    source = written(tmp_path / "rows.jsonl", rows(1))
    with pytest.raises(DataError, match="no rows are left to"):
        draft(source, settings(server), tmp_path / "rubric.yaml")
    with pytest.raises(DataError, match=r"nowhere\.jsonl"):
        draft(str(tmp_path / "nowhere.jsonl"), settings(server), tmp_path / "rubric.yaml")
    with pytest.raises(ConfigError, match="set api: chat"):
        settings(server, "judge.server.api=completions", "writer=null")
    toy = WORDING.with_name("toy.yaml")
    with pytest.raises(ConfigError, match="a template of the prompt file does not show them"):
        draft(
            written(tmp_path / "more.jsonl", rows(60)),
            settings(server, f"prompts={toy}"),
            tmp_path / "x.yaml",
        )
    assert not world.written and not world.judged, "nobody is asked"


def test_a_writer_that_proposes_nothing(
    world: World, server: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "answers", ["I cannot say."])
    with pytest.raises(DataError, match="no criterion can be read"):
        draft(written(tmp_path / "rows.jsonl", rows(60)), settings(server), tmp_path / "rubric.yaml")
    assert len(list(read_jsonl(tmp_path / "rubric.draft" / "proposals" / "unreadable.jsonl"))) == 5
    assert not world.judged


def test_the_command_and_its_dry_run(
    world: World, server: HTTPServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = written(tmp_path / "rows.jsonl", rows(120))
    words = ["rubric", "draft", source, str(CONFIG), f"judge.server.urls=[{server.url}/v1]", f"prompts={WORDING}",
             f"proposals.prompt={PROPOSALS}", "--out", str(tmp_path / "rubric.yaml")]  # fmt: skip
    assert main([*words, "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert "12 requests to the writer" in out and "The readers prefer Answer" in out
    assert not world.written and not (tmp_path / "rubric.draft").exists()
    assert main(words) == 0
    assert {c.name for c in load_rubric(tmp_path / "rubric.yaml").criteria} == {"politeness", "brevity"}
    assert main(words) == 2 and "the file exists" in capsys.readouterr().err
