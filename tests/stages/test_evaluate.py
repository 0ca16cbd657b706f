"""Checks of stage 3 that need no model."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from reasongenrm.config.loading import load_recipe
from reasongenrm.errors import ConfigError
from reasongenrm.run import Run
from reasongenrm.stages.evaluate import evaluate
from reasongenrm.stages.judges import load_judges
from reasongenrm.steps import Step
from reasongenrm.store import write_json

pytestmark = pytest.mark.unit
DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"


def test_every_benchmark_has_a_record_of_its_own_of_a_judges_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise `--redo evaluate.toy.claude` would forget batches of other benchmarks, and pay for them again."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-none")
    claude = "{server: {kind: anthropic, model: claude, url: 'http://127.0.0.1:1'}}"
    recipe = load_recipe(DEMO, ["judges={reasongenrm: {}}", "evaluate.base=false", f"evaluate.others={{claude: {claude}}}"])  # fmt: skip
    with ExitStack() as stack:
        judge = load_judges(recipe, Run(recipe, "evaluate"), stack)[-1]
        folders = [tmp_path / benchmark / judge.name for benchmark in ("toy", "other")]
        for engine, folder in zip(map(judge.engine, folders), folders, strict=True):
            engine._ledger.add(["request"], None)
            assert [path.name for path in folder.iterdir()] == ["batches.jsonl"]


def test_adapters_of_another_base_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(DEMO, ["name=moved", "scalar=null"])
    for judge in recipe.judges:
        (recipe.folder / "judges" / judge / "adapter").mkdir(parents=True)
    step = Step({"model.path": "data/other-base"}, ("judges/genrm",))
    write_json(recipe.folder / "manifest" / "train.json", {"steps": {"judges.genrm": step.to_json()}})
    with pytest.raises(ConfigError, match="trained from data/other-base") as refused:
        evaluate(recipe)
    assert refused.value.location == "model"
