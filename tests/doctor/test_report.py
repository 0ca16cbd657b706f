"""`reasongenrm doctor`: one line per check, and exit code 2 where one fails."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from reasongenrm import cli
from reasongenrm.config.recipe import Recipe
from reasongenrm.doctor import measure, report
from reasongenrm.doctor.checks import Check
from support.scripts import stage_server


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM, which takes ten seconds to import, is not asked for its kernels."""

    def kernels(recipe: Recipe) -> Iterator[Check]:
        yield Check("ok", "serving", "kernels")

    monkeypatch.setattr(report, "kernel_check", kernels)


@pytest.mark.unit
def test_a_recipe_that_can_run_ends_with_code_0(no_vllm: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "configs/demo.yaml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "warn") for line in lines)
    assert any(line.startswith("ok   vllm: ") for line in lines) and lines[-1] == "ok   serving: kernels"
    assert any("2 processes (CPU, ZeRO-2), 16 records each" in line for line in lines)


@pytest.mark.unit
def test_a_recipe_that_cannot_run_ends_with_code_2(no_vllm: None, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["doctor", "configs/demo.yaml", "engine.tensor_parallel=64", "train.batch=1"]
    assert cli.main(words) == 2
    output, error = capsys.readouterr()
    failed = [line for line in output.splitlines() if line.startswith("fail ")]
    assert [line.split()[1] for line in failed] == ["engine.tensor_parallel:", "engine.tensor_parallel:", "train.batch:"]  # fmt: skip
    assert "64 does not divide the model's 4 heads (give one of 1, 2, 4)" in failed[1]
    assert error == "reasongenrm: doctor: 3 checks failed (see the lines with fail)\n"
    assert output.splitlines()[-1] == "ok   serving: kernels"  # a failure hides no other line


@pytest.mark.unit
def test_an_unknown_model_is_a_failed_check(no_vllm: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "configs/demo.yaml", "model.path=./none"]) == 2
    assert "fail model.path: directory not found: ./none (give an existing" in capsys.readouterr().out


@pytest.mark.unit
def test_measure_gets_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Path | None, bool]] = []
    monkeypatch.setattr(measure, "measure", lambda recipe, out, tiny: calls.append((recipe.name, out, tiny)))
    assert cli.main(["doctor", "configs/demo.yaml", "--measure", "--out", "x.json", "--tiny"]) == 0
    assert cli.main(["doctor", "configs/demo.yaml", "--measure", "name=other"]) == 0
    assert calls == [("demo", Path("x.json"), True), ("other", None, False)]


KERNELS = """
import json
from support.forked_programs import start_spawner
start_spawner()
from reasongenrm.config.loading import load_recipe
from reasongenrm.doctor.report import kernel_check
recipes = load_recipe("configs/qwen2.5-7b.yaml"), load_recipe("configs/demo.yaml", ["model.path=./none"])
print(json.dumps([(check.status, check.text) for recipe in recipes for check in kernel_check(recipe)]))
"""


@pytest.mark.engine
@pytest.mark.slow
def test_vllm_names_its_kernels_without_weights() -> None:
    import torch

    done = stage_server().run([], code=KERNELS)
    assert done.code == 0, done.stderr
    (status, text), (other_status, other_text) = json.loads(done.stdout)
    assert status == "ok", text
    device = "cuda" if torch.cuda.is_available() else "cpu"
    assert text.startswith(f"vLLM on {device}, model runner V") and ", attention " in text
    assert other_status == "warn" and "directory not found: ./none" in other_text
