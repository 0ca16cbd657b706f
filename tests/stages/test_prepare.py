"""Stage 1 looks first whether its work is done."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from reasongenrm.config.loading import load_recipe
from reasongenrm.stages import prepare
from reasongenrm.store import write_json

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
