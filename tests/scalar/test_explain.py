"""The explanation of the scalar reward model: numbers, tables, figures, and a notebook without logic."""

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
from hypothesis import given
from hypothesis import strategies as st

from reasongenrm.errors import DataError
from reasongenrm.scalar.explain import (
    difference_table,
    example_sequences,
    families_figure,
    logarithm_figure,
    loss_figure,
    margin_figure,
    write_figures,
)
from reasongenrm.scalar.losses import families_table, gradient, loss, loss_table, probability
from reasongenrm.scalar.notebook import base_name, check_outputs, scalar_folder
from reasongenrm.scalar.simulation import PAIR_COUNTS, error_curve, error_figure, log_slope

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGE = ROOT / "docs" / "reward-modeling.md"

differences = st.floats(-500, 500)
margins = st.floats(0, 5)


def test_the_loss_table() -> None:
    deltas = np.array([0, 1, 2, 5])
    assert probability(deltas).round(4).tolist() == [0.5, 0.7311, 0.8808, 0.9933]
    assert loss(deltas).round(4).tolist() == [0.6931, 0.3133, 0.1269, 0.0067]
    assert gradient(deltas).round(4).tolist() == [-0.5, -0.2689, -0.1192, -0.0067]
    assert loss_table() in PAGE.read_text(encoding="utf-8")
    assert loss_table([2]).splitlines()[-1] == "| 2 | 0.881 | 0.127 | -0.119 |"


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
def test_the_probabilities_of_both_sides_add_up_to_one(delta: float) -> None:
    assert float(probability(delta) + probability(-delta)) == pytest.approx(1, abs=1e-15)


def test_large_differences_do_not_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert loss([-1e4, 1e4]).tolist() == [1e4, 0]
        assert probability([-1e4, 1e4]).tolist() == [0, 1]
        assert gradient([-1e4, 1e4], margin=1).tolist() == [-1, 0]
    assert float(loss(50)) == pytest.approx(math.exp(-50))  # not lost beside 1
    assert loss(np.zeros((2, 3)), margin=np.ones(3)).shape == (2, 3)


def test_the_difference_table_holds_every_pair_once() -> None:
    assert difference_table({"a": 1.0, "b": 0.0, "c": 3.0}).splitlines()[2:] == [
        "| a | b | +1.000 | 0.731 |",
        "| a | c | -2.000 | 0.119 |",
        "| b | c | -3.000 | 0.047 |",
    ]


def test_the_page_has_the_tables_and_numbers_of_the_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert families_table() in page
    slope = log_slope(PAIR_COUNTS, error_curve(PAIR_COUNTS, repeats=20, seed=0))
    assert f"−{-slope:.2f}" in page


def pixels(content: bytes) -> np.ndarray:
    from matplotlib.image import imread

    return imread(io.BytesIO(content))[..., :3]


def test_figures_are_functions_of_their_numbers() -> None:
    errors = [0.2, 0.1, 0.05]
    for draw in (
        loss_figure,
        margin_figure,
        logarithm_figure,
        families_figure,
        example_sequences,
        lambda: error_figure([500, 2000, 8000], errors),
    ):
        content = draw()
        assert content == draw()
        assert b"tEXt" not in content and b"tIME" not in content
        assert pixels(content).std() > 0.05  # something is drawn
    assert margin_figure(0.5) != margin_figure(1.0)


def test_the_committed_pictures_equal_the_drawn_ones(tmp_path: Path) -> None:
    written = write_figures(tmp_path / "images")
    committed = sorted((ROOT / "docs" / "images").glob("reward-*.png"))
    assert [file.name for file in committed] == sorted(file.name for file in written)
    for file in written:
        drawn, committed_pixels = (
            pixels(path.read_bytes()) for path in (file, ROOT / "docs" / "images" / file.name)
        )
        # Another version of matplotlib or of its fonts may move a letter.
        assert np.abs(np.subtract(drawn.shape, committed_pixels.shape)).max() <= 4, file.name
        if drawn.shape == committed_pixels.shape:
            assert np.abs(drawn - committed_pixels).mean() < 0.02, file.name
        assert f"images/{file.name}" in PAGE.read_text(encoding="utf-8")


def cells(notebook: Path, kind: str) -> list[dict[str, Any]]:
    return [cell for cell in json.loads(notebook.read_text("utf-8"))["cells"] if cell["cell_type"] == kind]


every_notebook = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)


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


@every_notebook
def test_a_notebook_imports_calls_and_shows(notebook: Path) -> None:
    for number, cell in enumerate(cells(notebook, "code"), 1):
        body = ast.parse("".join(cell["source"])).body
        logic = [type(node).__name__ for one in body for node in ast.walk(one) if isinstance(node, LOGIC)]
        assert logic == [], cell["id"]
        assert cell["execution_count"] == number
        assert cell["metadata"] == {}  # no times
        imports = all(isinstance(one, ast.Import | ast.ImportFrom) for one in body)
        assert cell["outputs"] or imports, cell["id"]
        assert all(output["output_type"] == "execute_result" for output in cell["outputs"]), cell["id"]
    ids = [cell["id"] for cell in cells(notebook, "code") + cells(notebook, "markdown")]
    assert len(set(ids)) == len(ids)
    assert not any(re.fullmatch("[0-9a-f]{8}", one) for one in ids)  # as nbformat draws them


@every_notebook
def test_the_sections_of_a_notebook_are_numbered(notebook: Path) -> None:
    texts = ["".join(cell["source"]) for cell in cells(notebook, "markdown")]
    numbers = [int(n) for text in texts for n in re.findall(r"^## (\d+)\.", text, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1)) and numbers


def test_the_command_knows_every_notebook() -> None:
    from reasongenrm.cli import command_parser

    parser = command_parser()
    for notebook in NOTEBOOKS:
        words = ["scalar", "notebook", "configs/scalar/demo.yaml", "--notebook", notebook.stem]
        assert parser.parse_args(words).notebook == notebook.stem
    assert parser.parse_args(words[:3]).notebook == "analyse"


def test_the_notebook_explains_that_the_demo_is_a_toy() -> None:
    notebook = ROOT / "notebooks" / "analyse.ipynb"
    text = "\n".join("".join(cell["source"]) for cell in cells(notebook, "markdown"))
    for phrase in ("head is a toy", "need not be right", r"[\omega;\hat\omega]", r"-\log \sigma(Z_a - Z_b)"):
        assert phrase in text
    code = "".join("".join(cell["source"]) for cell in cells(notebook, "code"))
    assert "Which country owns Antarctica?" in code


def notebook_with_output(text: str, kind: str = "text/plain") -> Any:
    nbformat = pytest.importorskip("nbformat")
    output = nbformat.v4.new_output("display_data", data={kind: text})
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output])])


@pytest.mark.parametrize(
    "text",
    ["/srv/somebody/x", "at (/usr/lib/python3/a.py)", r"C:\Users\x", "file '/srv/main/a'", "=/tmp/x"],
)
def test_a_path_in_an_output_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"^notebook, code cell 1: an output holds the path "):
        check_outputs(notebook_with_output(text))


@pytest.mark.parametrize(
    "text",
    ["1/2, a / b", "runs/demo/scalar", "https://arxiv.org/abs/1706.03741", "<b>x</b>/y", "and/or/not", "/"],
)
def test_other_slashes_are_accepted(text: str) -> None:
    check_outputs(notebook_with_output(text))
    check_outputs(notebook_with_output("/srv/somebody/x", "image/png"))


@every_notebook
def test_a_committed_notebook_holds_no_path(notebook: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    check_outputs(nbformat.read(notebook, as_version=4))
    assert str(Path.home()) + "/" not in notebook.read_text("utf-8")


def test_the_base_of_the_practice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REASONGENRM_BASE", raising=False)
    assert base_name() is None
    monkeypatch.setenv("REASONGENRM_BASE", "distilbert-base-uncased")
    assert base_name() == "distilbert-base-uncased"


def test_the_folder_of_the_notebooks_head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("REASONGENRM_SCALAR", raising=False)
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert scalar_folder() == tmp_path / "runs" / "scalar-demo" / "scalar"
    monkeypatch.setenv("REASONGENRM_SCALAR", "runs/mine/scalar")
    assert scalar_folder() == tmp_path / "runs" / "mine" / "scalar"
    monkeypatch.setenv("REASONGENRM_SCALAR", "/elsewhere/scalar")
    assert scalar_folder() == Path("/elsewhere/scalar")
