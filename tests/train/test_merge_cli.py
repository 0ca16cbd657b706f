"""`reasongenrm merge`: the command, and its errors in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from reasongenrm import cli
from reasongenrm.store import read_json
from support.merge_fixtures import MakeAdapter

pytestmark = pytest.mark.unit


@pytest.fixture(scope="module")
def adapters(make_adapter: MakeAdapter) -> list[str]:
    return [str(make_adapter(seed)) for seed in (1, 2)]


def test_the_command_writes_the_adapter(
    adapters: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "merged"
    words = [
        "merge",
        *adapters,
        "--out",
        str(out),
        "--method",
        "ties",
        "--weights",
        "1,0.5",
        "--density",
        "0.4",
    ]
    assert cli.main([*words, "--rank", "2", "--seed", "3"]) == 0
    assert f"{out}: adapter of rank 2, ties of" in capsys.readouterr().err
    settings = read_json(out / "merge.json")["settings"]
    assert settings == {
        "method": "ties", "weights": [1.0, 0.5], "density": 0.4, "rank": 2, "factors": False, "base": None, "seed": 3
    }  # fmt: skip


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "1"], "merge: 1 weights for 2 inputs (give one weight per input: --weights 0.7,0.3)"),
        (
            ["--weights", "1,x"],
            "--weights: Input should be a valid number, unable to parse string as a number (give one number per input, such as 0.7,0.3)",
        ),
        (
            ["--weights", "1,nan"],
            "--weights: the weights are not all finite numbers (give one number per input",
        ),
        (["--weights=-inf,1"], "--weights: the weights are not all finite numbers"),
        (
            ["--weights", "0,-0"],
            "--weights: all weights are 0, so that the result would be the base (give one number per input",
        ),
        (["--weights", "0,0", "--method", "ties"], "--weights: all weights are 0"),
        (
            ["--density", "2", "--method", "ties"],
            "--density: Input should be less than or equal to 1 (give a share",
        ),
        (["--density", "nan", "--method", "ties"], "--density: "),
        (
            ["--density", "0.5"],
            "--density: linear keeps all; only ties, dare_linear, dare_ties, magnitude_prune have a density (leave",
        ),
        (["--method", "slerp", "--weights", "0,0"], "--weights: slerp takes two"),
        (["--method", "slerp", "--factors"], "--factors: slerp merges the products"),
        (["--factors", "--rank", "2"], "--rank: with factors the rank is that of the inputs (leave out"),
        (["--rank", "0"], "--rank: Input should be greater than or equal to 1 (give a whole"),
        (
            ["--rank", "5000"],
            "--rank: 5000 is more than the sum of the inputs' ranks, 8 (give at most 8, or leave out --rank)",
        ),
        (
            ["--rank", "5000", "--method", "ties"],
            "--rank: 5000 is more than the rank of the largest weight, 64 (give",
        ),
        (
            ["--seed", "9" * 23, "--method", "dare_ties"],
            "--seed: Input should be less than 4294967296 (give a whole number from 0",
        ),
        (["--seed", "-1"], "--seed: Input should be greater than or equal to 0 (give"),
        (["--base", "./none"], "--base: directory not found: ./none"),
        (["--shard-size", "2 GB"], "--shard-size: String should match pattern"),
    ],
)
def test_errors_name_the_option(
    words: list[str], message: str, adapters: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["merge", *adapters, "--out", str(tmp_path / "m"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error, error
    assert list(tmp_path.iterdir()) == [], "no output and no unfinished folder"


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (1, "there is nothing to merge (give two adapters or models, or more)"),
        (3, "slerp goes from one input to another, and 3 are given"),
    ],
)
def test_the_number_of_inputs(
    inputs: int, message: str, adapters: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["merge", *(adapters * 2)[:inputs], "--out", str(tmp_path / "m"), "--method", "slerp"]
    assert cli.main(words) == 2 and message in capsys.readouterr().err


def test_a_missing_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["merge", "./a", "./b", "--out", str(tmp_path / "m")]) == 2
    assert "merge: directory not found: ./a" in capsys.readouterr().err
