"""From a run folder with judgments and a head to the report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reasongenrm.data.split import split_conversations
from reasongenrm.errors import DataError
from reasongenrm.run import Run
from reasongenrm.scalar.distilled import evaluate_distilled, read_people
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.store import to_json, write_jsonl
from reasongenrm.train.distilled import train_distilled
from support.distilled import distil_recipe, judged_conversations, unreadable


@pytest.mark.unit
def test_scores_by_people(tmp_path: Path) -> None:
    path = tmp_path / "people.jsonl"
    lines = [
        {"id": "a", "score": 3, "person": "x"},
        {"id": "a", "score": 4.5},
        {"id": "b", "score": True},
        {"id": "z", "score": 1},
        {"id": "b", "score": "4"},
        {"score": 1},
        {"id": "a", "score": 10**400},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + "\nbroken\n", encoding="utf-8")
    scores, drops = read_people(str(path), ["a", "b"])
    assert scores == {"a": 3.75}
    assert [(drop.location, drop.reason) for drop in drops] == [
        (f"{path}:3", "bad_score"),
        (f"{path}:4", "unknown_id"),
        (f"{path}:5", "bad_score"),
        (f"{path}:6", "unknown_id"),
        (f"{path}:7", "bad_score"),
        (f"{path}:8", "broken_json"),
    ]
    with pytest.raises(DataError):
        read_people(str(tmp_path / "none.jsonl"), ["a"])


@pytest.mark.engine
def test_the_held_out_part_is_scored_and_reported(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows, judgments = judged_conversations(20, samples=2, noise=0.5)
    people = tmp_path / "people.jsonl"
    write_jsonl(people, [{"id": row.id, "score": n % 7} for n, row in enumerate(rows)])
    recipe = distil_recipe(
        base, objective="dimensions", people=str(people), head={"args": {"max_steps": 3, "save_steps": 3}}
    )
    test = split_conversations(rows, recipe.split.validation, recipe.split.test, recipe.seed).test
    judgments = [unreadable(row) if row == test[0] else one for row, one in zip(rows, judgments, strict=True)]
    run = Run(recipe, "distil-train")
    write_jsonl(run.path("conversations.jsonl"), map(to_json, rows))
    write_jsonl(run.path("judgments.jsonl"), map(to_json, judgments))
    train_distilled(recipe, run, rows, judgments)
    metrics = evaluate_distilled(recipe, run)

    head, by_id = ScalarRewardModel.from_pretrained(run.path("scalar")), {one.id: one for one in judgments}
    scores = head.score_batch([row.history for row in test[1:]], [row.response for row in test[1:]])
    out = run.path("evaluation")
    written = {row["id"]: row for row in map(json.loads, (out / "scores.jsonl").read_text().splitlines())}
    assert written.keys() == {row.id for row in test[1:]}
    for row, score in zip(test[1:], scores, strict=True):
        assert written[row.id]["head"] == pytest.approx(score, abs=1e-5)
        assert written[row.id]["judge"] == by_id[row.id].score
        assert len(written[row.id]["samples"]) == 2 and written[row.id]["people"] is not None
    errors = [abs(score - by_id[row.id].score) for row, score in zip(test[1:], scores, strict=True)]  # type: ignore[operator]
    assert metrics.error is not None and metrics.error.value == pytest.approx(
        sum(errors) / len(errors), abs=1e-5
    )
    assert metrics.retest is not None and metrics.people is not None
    assert set(metrics.criteria) == {"accuracy", "tone"} and metrics.criteria["tone"].error is not None
    [drop] = map(json.loads, (out / "dropped.jsonl").read_text().splitlines())
    assert (drop["location"], drop["reason"]) == (test[0].id, "no_score")
    facts = json.loads((out / "metrics.json").read_text())["facts"]
    assert facts["replies for training, validation, test"] == "39, 9, 12" and facts["judge"] == "nobody"

    write_jsonl(run.path("judgments.jsonl"), map(to_json, map(unreadable, rows)))
    with pytest.raises(DataError, match="none of 12 test replies has a score"):
        evaluate_distilled(recipe, run)
