"""The demo's toy judge, trained by the stages to rate one answer, scores conversations of the toy world on vLLM; a head learns from it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
import yaml

from support.scripts import ROOT, rows_of, stage_server, value_of

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAMES = (f"test-{os.getpid()}-rater", f"test-{os.getpid()}-rated")
FAMILY = "toy-safety"
"""The family that a judge without reasons learns soonest."""

CRITERION = "- right"
"""What the judge reads of the rubric's one criterion (`judge.criteria.rating_text`), in training, too."""


def command(*words: str) -> str:
    """Run a command, and return what it said."""
    done = stage_server().run(words)
    assert done.code == 0, done.stderr[-3000:]
    return done.stderr


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[list[str]]:
    """Overrides of the demo for a judge that rates, with a wording and pairs that have the criterion."""
    command("toy", "build", "--out", str(tmp_path / "toy"), "--pairs", "200", "--rows", "30")
    prompts = yaml.safe_load((ROOT / "configs/prompts/toy.yaml").read_text(encoding="utf-8"))
    for wording in (prompts, prompts["direct"]):
        wording["judge"] = wording["judge"].replace("which answer", "{{ criteria }}\nwhich answer")
    prompts["rating"] = (
        "[Question]\n{{ conversation }}\n[Answer A]\n{{ answer }}\n[End]\n{{ criteria }}\nhow good ?"
    )
    (tmp_path / "prompts.yaml").write_text(yaml.safe_dump(prompts), encoding="utf-8")
    rows = [
        row | {"criteria": CRITERION}
        for row in rows_of(tmp_path / "toy" / "train.jsonl")
        if row["source"] == FAMILY
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    yield [
        f"name={NAMES[0]}", f"prompts={tmp_path / 'prompts.yaml'}", "judges={rater: {template: pointwise}}", "scalar=null",
        "records={}", f"data.sources=[{{path: {tmp_path / 'train.jsonl'}}}]", "train.tokens=null", "train.args.max_steps=60",
        f"evaluate.benchmarks.toy.path={tmp_path / 'toy' / 'rewardbench.jsonl'}",
    ]  # fmt: skip
    for name in NAMES:
        shutil.rmtree(ROOT / "runs" / name, ignore_errors=True)


def test_the_toy_judge_scores_conversations_and_a_head_learns_from_it(
    settings: list[str], tmp_path: Path
) -> None:
    command("prepare", "configs/demo.yaml", *settings)
    command("train", "configs/demo.yaml", *settings)
    rows = [
        {"context": "", "message": row["prompt"], "response": row[side], "side": side}
        for row in rows_of(tmp_path / "toy" / "rewardbench.jsonl")
        if row["subset"] == FAMILY
        for side in ("chosen", "rejected")
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    recipe = {
        "name": NAMES[1],
        "conversations": str(tmp_path / "rows.json"),
        "judge": {
            "rubric": [{"name": CRITERION.removeprefix("- ")}],
            "judge": {"recipe": "configs/demo.yaml", "overrides": settings},
            "max_tokens": 8,
        },
        "head": {"model": str(tmp_path / "toy" / "distilbert"), "args": {"max_steps": 20}},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command("distil", "run", str(tmp_path / "recipe.yaml"))

    run = ROOT / "runs" / NAMES[1]
    score_by_id = {row["id"]: row["score"] for row in rows_of(run / "judgments.jsonl")}
    assert None not in score_by_id.values(), "a judge that has learned to rate is always readable"
    side_by_texts = {(row["message"], row["response"]): row["side"] for row in rows}
    scores: dict[str, list[float]] = {"chosen": [], "rejected": []}
    for row in rows_of(run / "conversations.jsonl"):
        scores[side_by_texts[row["message"], row["response"]]].append(score_by_id[row["id"]])
    assert fmean(scores["chosen"]) > fmean(scores["rejected"]) + 0.2, "it has learned more than the form"
    assert value_of(run / "evaluation" / "metrics.json")["replies"] > 10
