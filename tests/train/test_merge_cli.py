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
        (["--weights", "1,x"], "merge.weights"),
        (["--weights", "1,nan"], "weights: not all are finite numbers"),
        (["--weights=-inf,1"], "weights: not all are finite numbers"),
        (["--density", "2", "--method", "ties"], "merge.density"),
        (["--density", "0.5"], "density: linear keeps all"),
        (["--method", "slerp", "--weights", "0,0"], "slerp takes two"),
        (["--base", "./none"], "--base: directory not found: ./none"),
        (["--shard-size", "2 GB"], "merge.shard_size"),
    ],
)
def test_errors_name_the_option(
    words: list[str], message: str, adapters: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["merge", *adapters, "--out", str(tmp_path / "m"), *words]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and not (tmp_path / "m").exists()


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
