"""The explanation of the scalar reward model: its numbers, pictures, and a notebook that holds no logic."""

from __future__ import annotations

import ast
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reasongenrm.errors import DataError
from reasongenrm.scalar.explain import (
    PAIRS,
    centering,
    compare_scores,
    comparisons_markdown,
    error_curve,
    gradient,
    loss,
    loss_markdown,
    loss_table,
    probability,
    recover_reward,
    slope,
)
from reasongenrm.scalar.figures import (
    loss_figure,
    margin_figure,
    scores_figure,
    simulation_figure,
    write_figures,
)

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "analyse.ipynb"
PAGE = ROOT / "docs" / "reward-modeling.md"

differences = st.floats(-500, 500)
margins = st.floats(0, 5)


def test_the_table() -> None:
    rows = loss_table()
    assert [row.delta for row in rows] == [0, 1, 2, 5]
    assert [round(row.probability, 4) for row in rows] == [0.5, 0.7311, 0.8808, 0.9933]
    assert [round(row.loss, 4) for row in rows] == [0.6931, 0.3133, 0.1269, 0.0067]
    assert [round(row.gradient, 4) for row in rows] == [-0.5, -0.2689, -0.1192, -0.0067]
    assert loss_markdown(rows) in PAGE.read_text(encoding="utf-8")
    assert loss_table((1,), margin=1)[0][1:] == rows[0][1:]


@given(differences, margins)
def test_the_loss_is_the_negative_logarithm_of_the_probability(delta: float, margin: float) -> None:
    assert float(loss(delta)) == pytest.approx(-math.log(probability(delta)), rel=1e-9, abs=1e-15)
    assert float(loss(delta, margin)) == loss(delta - margin)


@given(st.floats(-30, 30), margins)
def test_the_gradient_is_the_slope_of_the_loss(delta: float, margin: float) -> None:
    step = 1e-5
    finite = (loss(delta + step, margin) - loss(delta - step, margin)) / (2 * step)
    assert float(gradient(delta, margin)) == pytest.approx(float(finite), abs=1e-8)
    assert float(gradient(delta)) == pytest.approx(-(1 - float(probability(delta))), abs=1e-15)


@given(st.floats(-1e4, 1e4))
def test_the_two_sides_share_one(delta: float) -> None:
    assert float(probability(delta) + probability(-delta)) == pytest.approx(1, abs=1e-15)


def test_far_out_nothing_overflows() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert loss([-1e4, 1e4]).tolist() == [1e4, 0]
        assert probability([-1e4, 1e4]).tolist() == [0, 1]
        assert gradient([-1e4, 1e4], margin=1).tolist() == [-1, 0]
    assert float(loss(50)) == pytest.approx(math.exp(-50))  # not lost beside 1
    assert loss(np.zeros((2, 3)), margin=np.ones(3)).shape == (2, 3)


def test_centering() -> None:
    assert centering([1.0, 2.0], [1.0, -2.0], 0.01) == pytest.approx(0.01 * (4 + 0) / 2)


def test_every_pair_of_scores_once() -> None:
    rows = compare_scores({"a": 1.0, "b": 0.0, "c": 3.0})
    assert [(row.first, row.second, row.delta) for row in rows] == [
        ("a", "b", 1),
        ("a", "c", -2),
        ("b", "c", -3),
    ]
    assert rows[0].probability == pytest.approx(0.7311, abs=1e-4)
    assert comparisons_markdown(rows).splitlines()[-1] == "| b | c | -3.000 | 0.047 |"


def test_the_simulation_recovers_the_reward() -> None:
    errors = error_curve(PAIRS, repeats=20, seed=0)
    assert -0.6 < slope(PAIRS, errors) < -0.4
    assert f"−{-slope(PAIRS, errors):.2f}" in PAGE.read_text(encoding="utf-8")
    assert errors[-1] < 0.05  # of a reward of length 1
    assert errors[:1] == error_curve(PAIRS[:1], repeats=20, seed=0)
    assert recover_reward(500, seed=1) != recover_reward(500, seed=2)
    with pytest.raises(ValueError, match="too few"):
        recover_reward(100, dim=8)


@given(st.floats(-2, 2), st.floats(0.1, 10))
@settings(max_examples=20)
def test_the_slope_of_a_power(exponent: float, scale: float) -> None:
    assert slope(PAIRS, [scale * n**exponent for n in PAIRS]) == pytest.approx(exponent, abs=1e-9)


def pixels(content: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return imread(io.BytesIO(content))[..., :3]


def test_figures_are_functions_of_their_numbers() -> None:
    errors = [0.2, 0.1, 0.05]
    for draw in (
        loss_figure,
        margin_figure,
        lambda: simulation_figure([500, 2000, 8000], errors),
        lambda: scores_figure({"good $": 1.0, "bad": -2.0}, "costs $1 or $2"),
    ):
        content = draw()
        assert content == draw()
        assert b"tEXt" not in content and b"tIME" not in content
        assert pixels(content).std() > 0.05  # something is drawn
    assert margin_figure(0.5) != margin_figure(1.0)


def test_the_committed_pictures_are_what_the_code_draws(tmp_path: Path) -> None:
    written = write_figures(tmp_path / "images")
    committed = sorted((ROOT / "docs" / "images").glob("reward-*.png"))
    assert [file.name for file in committed] == sorted(file.name for file in written)
    for file in written:
        drawn, kept = (pixels(path.read_bytes()) for path in (file, ROOT / "docs" / "images" / file.name))
        # Another version of matplotlib or of its fonts may move a letter.
        assert np.abs(np.subtract(drawn.shape, kept.shape)).max() <= 4, file.name
        if drawn.shape == kept.shape:
            assert np.abs(drawn - kept).mean() < 0.02, file.name
        assert f"images/{file.name}" in PAGE.read_text(encoding="utf-8")


def cells(kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == kind]


LOGIC: tuple[type[ast.AST], ...] = (
    ast.FunctionDef,
    ast.AsyncFunctionDef,
    ast.ClassDef,
    ast.Lambda,
    ast.For,
    ast.While,
    ast.If,
    ast.IfExp,
)
LOGIC += (ast.Try, ast.With, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def test_the_notebook_imports_calls_and_shows() -> None:
    for number, cell in enumerate(cells("code"), 1):
        body = ast.parse("".join(cell["source"])).body
        found = [type(node).__name__ for one in body for node in ast.walk(one) if isinstance(node, LOGIC)]
        assert found == [], cell["id"]
        assert cell["execution_count"] == number
        assert cell["metadata"] == {}  # no times
        imports = all(isinstance(one, ast.Import | ast.ImportFrom) for one in body)
        assert cell["outputs"] or imports, cell["id"]
        assert all(output["output_type"] == "execute_result" for output in cell["outputs"]), cell["id"]
    ids = [cell["id"] for cell in cells("code") + cells("markdown")]
    assert len(set(ids)) == len(ids)
    assert not any(re.fullmatch("[0-9a-f]{8}", one) for one in ids)  # as nbformat draws them


def test_the_notebook_says_what_the_demo_is() -> None:
    text = "\n".join("".join(cell["source"]) for cell in cells("markdown"))
    for said in ("head is a toy", "need not be right", r"[\omega;\hat\omega]", r"-\log \sigma(Z_a - Z_b)"):
        assert said in text
    assert "Which country owns Antarctica?" in "".join("".join(cell["source"]) for cell in cells("code"))


def stated(text: str, kind: str = "text/plain") -> Any:
    nbformat = pytest.importorskip("nbformat")
    output = nbformat.v4.new_output("display_data", data={kind: text})
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output])])


@pytest.mark.parametrize(
    "text",
    ["/srv/somebody/x", "at (/usr/lib/python3/a.py)", r"C:\Users\x", "file '/srv/main/a'", "=/tmp/x"],
)
def test_a_path_in_an_output_is_refused(text: str) -> None:
    from reasongenrm.scalar.notebook import plain_outputs

    with pytest.raises(DataError, match=r"^notebook, code cell 1: an output holds the path "):
        plain_outputs(stated(text))


@pytest.mark.parametrize(
    "text",
    ["1/2, a / b", "runs/demo/scalar", "https://arxiv.org/abs/1706.03741", "<b>x</b>/y", "and/or/not", "/"],
)
def test_other_slashes_are_none(text: str) -> None:
    from reasongenrm.scalar.notebook import plain_outputs

    plain_outputs(stated(text))
    plain_outputs(stated("/srv/somebody/x", "image/png"))


def test_the_committed_notebook_names_no_path() -> None:
    from reasongenrm.scalar.notebook import plain_outputs

    nbformat = pytest.importorskip("nbformat")
    plain_outputs(nbformat.read(NOTEBOOK, as_version=4))
    assert str(Path.home()) + "/" not in NOTEBOOK.read_text("utf-8")


def test_the_head_that_a_notebook_shows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from reasongenrm.scalar.notebook import scalar_folder

    monkeypatch.delenv("REASONGENRM_SCALAR", raising=False)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert scalar_folder() == tmp_path / "runs" / "demo" / "scalar"
    monkeypatch.setenv("REASONGENRM_SCALAR", "runs/mine/scalar")
    assert scalar_folder() == tmp_path / "runs" / "mine" / "scalar"
    monkeypatch.setenv("REASONGENRM_SCALAR", "/elsewhere/scalar")
    assert scalar_folder() == Path("/elsewhere/scalar")
