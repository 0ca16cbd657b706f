"""Stage 1 looks first whether its work is done."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.run import Run
from reasongenrm.stages import prepare
from reasongenrm.store import write_json, write_jsonl

pytestmark = pytest.mark.unit
DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"


def test_a_finished_run_is_known_before_a_library_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "trl", None)  # to import it is now an error
    recipe = load_recipe(DEMO, ["name=done", "model.path=hub/model", "data.decontaminate=null"])
    with pytest.raises(ImportError):
        prepare.prepare(recipe)
    for name in ("pairs_report.json", "data_report.json"):
        write_json(recipe.folder / name, {"compared": {}})
    prepare.prepare(recipe)
    assert "runs/done: already prepared" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["pairs.jsonl", "prompts.jsonl"])
def test_a_cut_file_of_pairs_is_refused_with_a_hint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(DEMO, ["name=cut", "model.path=hub/model", "data.decontaminate=null"])

    def write_pairs(_: Recipe, run: Run) -> dict[str, Any]:
        for file in prepare.PAIR_FILES:
            write_jsonl(run.path(file), [{"id": "a"}, {"id": "b"}])
        return {"compared": {}}

    def end(_: Recipe) -> None:
        raise EngineError("no engine")

    monkeypatch.setattr(prepare, "write_pairs", write_pairs)
    monkeypatch.setattr(prepare, "check_training", lambda recipe: None)
    with pytest.raises(KeyError, match="total"):  # the report of these pairs says nothing more
        prepare.prepare(recipe)
    monkeypatch.setattr(prepare, "check_training", end)
    with pytest.raises(EngineError):
        prepare.prepare(recipe)
    path = recipe.folder / name
    path.write_bytes(path.read_bytes()[:12])
    with pytest.raises(DataError) as caught:
        prepare.prepare(recipe)
    assert caught.value.location == str(path)
    assert "was changed: it had 2 rows" in caught.value.problem and "--redo" in caught.value.hint
    monkeypatch.setattr(prepare, "write_pairs", lambda recipe, run: end(recipe))
    with pytest.raises(EngineError):
        prepare.prepare(recipe, ["pairs"])


@pytest.mark.parametrize(
    ("keys", "points", "said"),
    [
        (["train.grpo.rewards.rationale=1"], {}, ["train.grpo.rewards.rationale"]),
        (["train.grpo.rewards.rationale=1", "train.round.rationale=0.5"], {}, ["train.round.rationale", "train.grpo.rewards.rationale"]),
        (["train.grpo.rewards.rationale=1"], {"pairs": 1, "points": 2}, []),
        ([], {}, []),
    ],
)  # fmt: skip
def test_points_that_no_pair_has_are_announced_before_reasons_are_sampled(
    keys: list[str],
    points: dict[str, int],
    said: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    steps = ["judges={judge: {steps: [sft, round, grpo]}}", "train.grpo.max_tokens=64"]
    words = ["name=points", "model.path=hub/model", "data.decontaminate=null", *steps, *keys]
    recipe = load_recipe(DEMO, words)
    total = {"kept": 2, "judge_prompts": {"A": 1, "B": 1}} | ({"reference_points": points} if points else {})

    def write_pairs(_: Recipe, run: Run) -> dict[str, Any]:
        for file in prepare.PAIR_FILES:
            write_jsonl(run.path(file), [{"id": "a"}, {"id": "b"}])
        return {"compared": {}, "total": total}

    def sample(*_: Any) -> None:
        raise EngineError("no engine")

    monkeypatch.setattr(prepare, "write_pairs", write_pairs)
    monkeypatch.setattr(prepare, "check_training", lambda recipe: None)
    monkeypatch.setattr(prepare, "_records", sample)
    with pytest.raises(EngineError):
        prepare.prepare(recipe)
    shown = capsys.readouterr().err
    assert "2 pairs, 2 judge prompts" in shown
    lines = [
        line for line in shown.splitlines() if line.startswith("no pair has reference_points: stage 2 needs")
    ]
    assert [line.split(" as ")[1] for line in lines] == [f"{key} is set" for key in said]
    if not points:  # a key of this stage is an error
        with pytest.raises(ConfigError, match=r"^select\.rationale: no pair has reference points"):
            prepare.prepare(load_recipe(DEMO, [*words, "name=select", "select.rationale=1"]))
