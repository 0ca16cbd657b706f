"""Checks of stage 3 that need no model."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasongenrm.config.loading import load_recipe
from reasongenrm.errors import ConfigError
from reasongenrm.stages.evaluate import evaluate
from reasongenrm.steps import Step
from reasongenrm.store import write_json

pytestmark = pytest.mark.unit
DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"


def test_adapters_of_another_base_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(DEMO, ["name=moved", "scalar=null"])
    for judge in recipe.judges:
        (recipe.folder / "judges" / judge / "adapter").mkdir(parents=True)
    step = Step({"model.path": "data/other-base"}, ("judges/genrm",))
    write_json(recipe.folder / "manifest" / "train.json", {"steps": {"judges.genrm": step.to_json()}})
    with pytest.raises(ConfigError, match="trained on data/other-base") as refused:
        evaluate(recipe)
    assert refused.value.location == "model"
