"""Samples of our own judge: one per vote, with a rating by every criterion or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.config.distil import DistilRecipe
from reasongenrm.errors import ConfigError
from reasongenrm.judge.conversations import preview_judging
from reasongenrm.judge.rubric import Sample
from reasongenrm.judge.scoring import OwnScoring
from reasongenrm.records import Conversation, Rating
from reasongenrm.store import PartStore, to_json

pytestmark = pytest.mark.unit

ROW = Conversation.make("", "message", "reply")


def own_recipe(count: int, **own: Any) -> DistilRecipe:
    judge: dict[str, Any] = {
        "rubric": ["accuracy", {"name": "tone", "scale": [0, 9]}],
        "judge": {"recipe": "configs/demo.yaml"} | own,
        "samples": count,
        "temperature": 1,
    }
    return DistilRecipe.model_validate({"name": "own", "conversations": "c.json", "judge": judge})


def samples(tmp_path: Path, accuracy: Rating, tone: Rating, count: int) -> list[Sample]:
    recipe = own_recipe(count)
    work, store = OwnScoring(recipe, [ROW]), PartStore(tmp_path / "completions.jsonl")
    assert work.ids == [f"{ROW.id}.0", f"{ROW.id}.1"]
    store.append(to_json(one) | {"id": name} for one, name in zip((accuracy, tone), work.ids, strict=True))
    return work.samples(store, ROW)


def test_each_vote_is_a_sample_of_all_criteria(tmp_path: Path) -> None:
    accuracy = Rating("x", 5.5, "ok", "because", 3, 20, votes=(1.0, 10.0, 4.0))
    tone = Rating("y", 2.5, "ok", "so", 4, 30, rescued=True, votes=(4.0, None, 1.0))
    first, second, third = samples(tmp_path, accuracy, tone, 3)
    assert first.scores == {"accuracy": 1, "tone": 3} and third.scores["tone"] == 0
    assert first.rationale == "accuracy: because\ntone: so"
    assert (second.outcome, second.scores, second.problem) == ("unreadable", {}, "no rating by tone: ok")
    assert first.usage == {"input": 50, "output": 7, "cached_input": 0, "cache_write": 0}
    assert second.usage == third.usage == {}, "tokens are counted once"


@pytest.mark.parametrize("outcome", ["truncated", "error", "unparsed"])
def test_a_rating_that_failed_says_how(tmp_path: Path, outcome: Any) -> None:
    error = "engine died" if outcome == "error" else None
    failed = Rating("x", None, outcome, "", error=error)
    [sample] = samples(tmp_path, Rating("y", 3.0, "ok", ""), failed, 1)
    assert sample.outcome == ("unreadable" if outcome == "unparsed" else outcome)
    assert sample.problem == (error or f"no rating by tone: {outcome}")


@pytest.mark.parametrize(
    ("name", "closing"), [("reasongenrm", "Reason first"), ("base-direct", "rating alone")]
)
def test_a_preview_shows_the_wording_of_the_judge(
    name: str, closing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = own_recipe(2, name=name, overrides=["prompts=configs/prompts/judge.yaml"])
    preview_judging(own, [ROW])
    shown = capsys.readouterr().out
    assert "--- prompt for tone\n" in shown and "- accuracy" in shown and closing in shown
    assert "0 of 2 answers are there" in shown and "estimate: 4 requests" in shown


@pytest.mark.parametrize(
    ("prompts", "problem"),
    [(None, "the prompt file has no key `rating`"), ("no criteria", "a row has criteria, and a template")],
)
def test_a_wording_without_ratings_by_criteria_fails_before_an_engine_starts(
    tmp_path: Path, prompts: str | None, problem: str
) -> None:
    overrides = []
    if prompts:
        toy = yaml.safe_load(Path("configs/prompts/toy.yaml").read_text(encoding="utf-8"))
        wording = "[Question]\n{{ conversation }}\n[Answer A]\n{{ answer }}\n[End]"
        path = tmp_path / "prompts.yaml"
        path.write_text(yaml.safe_dump(toy | {"rating": wording}), encoding="utf-8")
        overrides = [f"prompts={path}"]
    work = OwnScoring(own_recipe(1, overrides=overrides), [ROW])
    with pytest.raises(ConfigError, match=problem):
        work.complete_missing(PartStore(tmp_path / "completions.jsonl"))
