"""Leave one prompt out: real heads on the tiny base, equal to trainings by hand, and killed ones."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.cli import main
from reasongenrm.config.scalar import ScalarRecipe
from reasongenrm.errors import ConfigError
from reasongenrm.records import PreferencePair, content_id
from reasongenrm.run import Run
from reasongenrm.scalar.model import ScalarRewardModel
from reasongenrm.stages.leave_one_out import check_prompts, leave_one_out
from reasongenrm.stages.scalar import evaluate
from reasongenrm.stages.scalar_answers import EVALUATE, load
from reasongenrm.train.scalar import train_scalar
from support.scripts import Fork, kill_at, lines, stage_server

PROMPTS = 3
WORDS = ("good", "so", "bad")


@pytest.fixture
def recipe(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ScalarRecipe:
    """Three prompts with three ranked answers each, and one plain pair of a fourth prompt."""
    monkeypatch.chdir(tmp_path)
    rows = [f"what {n},{word} {n},{rank}" for n in range(PROMPTS) for rank, word in enumerate(WORDS, 1)]
    Path("ranked.csv").write_text("prompt,answer,rank\n" + "\n".join(rows) + "\n", encoding="utf-8")
    prompt = {"role": "user", "content": "plain"}
    sides = {"chosen": "good", "rejected": "bad"}
    pair = {side: [prompt, {"role": "assistant", "content": text}] for side, text in sides.items()}
    Path("pairs.jsonl").write_text(json.dumps(pair) + "\n", encoding="utf-8")
    args = {"max_steps": 6, "save_steps": 3, "learning_rate": 1e-3}
    return ScalarRecipe.model_validate(
        {
            "name": "few",
            "sources": [{"path": "ranked.csv", "kind": "ranked"}, {"path": "pairs.jsonl"}],
            "scalar": {"model": str(base), "validation": 0.5, "patience": 1, "args": args},
            "evaluate": {"leave_one_out": True},
        }
    )


def results() -> list[dict[str, str]]:
    with Path("runs/few/evaluation/evaluation_results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.engine
def test_each_prompt_is_scored_by_a_head_that_has_not_seen_it(
    recipe: ScalarRecipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(recipe)
    said = capsys.readouterr().err
    assert "head 4 of 4: trained without 'plain'" in said and "10 pairs of 4 prompts" in said
    rows = results()
    assert len(rows) == 3 * PROMPTS + 2 and all(row["rank"] for row in rows)
    pairs, _ = load(recipe)
    prompt = content_id(({"role": "user", "content": "what 1"},))
    others = [pair for pair in pairs if content_id(pair.history) != prompt]
    assert len(others) == len(pairs) - 3
    config = recipe.scalar.model_copy(update={"validation": 0.0, "patience": None})
    train_scalar(others, config, output_dir=tmp_path / "by-hand", seed=recipe.seed)
    head = ScalarRewardModel.from_pretrained(tmp_path / "by-hand")
    own = [row for row in rows if row["prompt"] == "what 1"]
    expected = head.score_batch(["what 1"] * 3, [row["answer"] for row in own])
    assert [float(row["score"]) for row in own] == pytest.approx(expected, abs=1e-6)
    summary = Path("runs/few/evaluation/summary.md").read_text(encoding="utf-8")
    assert "heads: 4, each trained without the prompt" in summary and "compare within a prompt" in summary
    left = {file.name for file in Path("runs/few/evaluation").iterdir() if file.is_dir()}
    assert not left, "heads are removed"
    before = Path("runs/few/evaluation/metrics.json").read_bytes()
    evaluate(recipe)
    assert "head 1 of 4" not in capsys.readouterr().err, "scores are kept"
    assert Path("runs/few/evaluation/metrics.json").read_bytes() == before


KILLED = """
import sys
from reasongenrm.config.scalar import ScalarRecipe
from reasongenrm.stages.scalar import evaluate
evaluate(ScalarRecipe.model_validate_json(sys.argv[1]))
"""


@pytest.fixture
def small(recipe: ScalarRecipe) -> ScalarRecipe:
    """Two prompts only."""
    lines = Path("ranked.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    Path("two.csv").write_text("".join(lines[:7]), encoding="utf-8")
    return ScalarRecipe.model_validate(
        recipe.model_dump() | {"sources": [{"path": "two.csv", "kind": "ranked"}]}
    )


@pytest.mark.engine
@pytest.mark.slow
def test_a_killed_one_continues_with_the_same_scores(small: ScalarRecipe) -> None:
    code = f"import sys\nsys.argv = {['', small.model_dump_json()]}\n{KILLED}"
    folder = Path("runs/few/evaluation")
    process = Fork(stage_server(), code=code, folder=Path.cwd())
    kill_at(
        process, lambda: any(map(lines, folder.glob("leave-one-out-*.part.jsonl"))), 0, group=False, seed=1
    )
    assert not (folder / "metrics.json").exists()
    evaluate(small)
    resumed = results()
    shutil.rmtree(folder)
    evaluate(small)
    assert results() == resumed


@pytest.mark.engine
def test_other_settings_have_heads_of_their_own(small: ScalarRecipe) -> None:
    def scores(**changes: Any) -> list[float]:
        changed = ScalarRecipe.model_validate(small.model_dump() | changes)
        return [one.score for one in leave_one_out(changed, Run(changed, EVALUATE))[0]]

    first = scores()
    assert len(first) == 6 and scores(seed=3) != first
    assert scores() == first, "a finished one is read again"
    assert len([*Path("runs/few/evaluation").glob("leave-one-out-????????.jsonl")]) == 2


@pytest.mark.unit
def test_too_few_and_too_many_prompts_are_refused() -> None:
    def pairs(count: int) -> list[PreferencePair]:
        prompts = [({"role": "user", "content": f"{n}"},) for n in range(count)]
        return [PreferencePair.make(prompt, "a", "b", "s") for prompt in prompts]  # type: ignore[arg-type]

    assert len(check_prompts(pairs(2))) == 2
    with pytest.raises(ConfigError, match="no prompt is left to train on"):
        check_prompts(pairs(1))
    with pytest.raises(ConfigError, match=r"101 prompts: one head.*evaluate\.held_out"):
        check_prompts(pairs(101))


@pytest.mark.engine
def test_its_preview_trains_nothing(recipe: ScalarRecipe, capsys: pytest.CaptureFixture[str]) -> None:
    Path("recipe.yaml").write_text(json.dumps(recipe.model_dump(mode="json")), encoding="utf-8")
    assert main(["scalar", "evaluate", "recipe.yaml", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "ranked.csv: 9 ranked answers" in shown and "pairs: 10 pairs of 4 prompts" in shown
    assert "heads to train: 4, optimizer steps of each: 6 of 4 pairs, 3.0 epochs of 7 pairs" in shown
    assert shown.count("--- input of") == 2 and not Path("runs").exists()
