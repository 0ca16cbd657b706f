"""A run folder has one writer at a time, and files made with one set of settings."""

from __future__ import annotations

import errno
import json
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.recipe import Recipe
from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.run import Run, file_hash

pytestmark = pytest.mark.unit

RECIPE: dict[str, Any] = {
    "name": "r",
    "model": {"path": "m"},
    "data": {"sources": [{"path": "a.jsonl"}]},
    "judges": {"mine": {}},
    "train": {"launch": "l.yaml", "args": {"learning_rate": 5e-5}},
}
SETTINGS: dict[str, Any] = {
    "train": {
        "args": {"learning_rate": 5e-5, "seed": 1e300, "on": True, "none": None, "list": [1, [2.5, "x"]]}
    },
    "text": "é 😀 1e-5 ~ no \u2028",
    "files": {"a/b.c: d": "absent"},
}
HOLDER = """
import sys
from reasongenrm.config.recipe import Recipe
from reasongenrm.run import Run
recipe = Recipe.model_validate_json(sys.argv[1])
with Run(recipe, "prepare").claim({}):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def holder() -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the run folder until it is killed or its input ends."""
    command = [sys.executable, "-c", HOLDER, json.dumps(RECIPE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def run(stage: str = "prepare") -> Run:
    return Run(Recipe.model_validate(RECIPE), stage)


def claim(settings: dict[str, Any], stage: str = "prepare") -> Any:
    """Claim the run folder and release it; return the settings in the manifest."""
    with run(stage).claim(settings):
        pass
    return json.loads(run().path("manifest", f"{stage}.json").read_text())["settings"]


def test_a_second_process_is_refused_until_the_first_one_ends(holder: subprocess.Popen[str]) -> None:
    for stage in ("prepare", "train"):
        with pytest.raises(ConfigError) as caught:
            claim({}, stage)
        assert (
            str(caught.value) == "runs/r: another process is working in this run folder (wait for it to end)"
        )
    assert holder.stdin is not None
    holder.stdin.close()
    assert holder.wait(timeout=30) == 0
    assert claim({"seed": 1}, "train") == {"seed": 1}


def test_a_killed_process_releases_the_folder(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait(timeout=30)
    assert claim({"seed": 1}, "train") == {"seed": 1}


def test_an_error_frees_the_folder() -> None:
    with pytest.raises(RuntimeError), run().claim(SETTINGS):
        raise RuntimeError
    assert claim(SETTINGS) == SETTINGS


def test_settings_that_failed_before_any_file_was_written_may_change() -> None:
    with pytest.raises(EngineError), run().claim({"model": "modle"}):
        raise EngineError("no folder")
    assert claim({"model": "model"}) == {"model": "model"}


def test_settings_of_written_files_are_kept_after_a_failure() -> None:
    def fails_late() -> None:
        run().path("pairs.jsonl").touch()
        raise EngineError("no memory")

    for _ in range(2):  # the second time nothing new is made, but something had been
        with pytest.raises(EngineError), run().claim({"model": "model"}):
            fails_late()
    with pytest.raises(ConfigError, match="model changed from model to other"):
        claim({"model": "other"})


@pytest.mark.parametrize(
    ("file", "problem"), [("runs/r", "File exists"), ("runs", "Not a directory"), ("", "No space left")]
)
def test_a_run_folder_that_cannot_be_made(
    file: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if file:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    else:

        def mkdir(path: Path, **_: Any) -> None:
            raise OSError(errno.ENOSPC, problem)

        monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(ConfigError) as caught:
        claim({})
    assert str(caught.value).startswith(f"runs/r: the run folder cannot be written: {problem} (")
    assert ("make room" in caught.value.hint) == (not file)


def test_equal_settings_are_accepted_again() -> None:
    claim(SETTINGS)
    assert claim(json.loads(json.dumps(SETTINGS))) == SETTINGS


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 2}, "seed changed from 1 to 2"),
        ({"model": {"path": "m", "dtype": "float16"}}, "model.dtype changed from bfloat16 to float16"),
        ({"rate": 1e-5}, "rate changed from 5e-05 to 1e-05"),
        ({"scalar": None}, 'scalar changed from {"args": {}} to null'),
        ({"list": [1, 2, 3]}, "list changed from [1, 2] to [1, 2, 3]"),
        ({"new": "x"}, "new changed from null to x"),
    ],
    ids=lambda item: item if isinstance(item, str) else None,
)
def test_changed_settings_are_refused_by_key(change: dict[str, Any], named: str) -> None:
    before = {
        "seed": 1, "model": {"path": "m", "dtype": "bfloat16"}, "rate": 5e-5, "scalar": {"args": {}}, "list": [1, 2],
    }  # fmt: skip
    claim(before)
    manifest = run().path("manifest", "prepare.json").read_bytes()
    with pytest.raises(ConfigError) as caught:
        claim(before | change)
    text = str(caught.value)
    assert named in text and text.startswith("runs/r: ")
    assert "name=" in text and "\n" not in text
    assert run().path("manifest", "prepare.json").read_bytes() == manifest
    claim(before, "train")  # another stage has settings of its own
    claim(before)


def test_many_changes_are_cut_short() -> None:
    claim(dict.fromkeys("abcdefgh", 1))
    with pytest.raises(ConfigError, match=r"a changed from 1 to 2, b .*, c .*, d changed from 1 to 2, … \("):
        claim(dict.fromkeys("abcdefgh", 2))


def test_a_manifest_holds_everything_needed_to_repeat_the_stage() -> None:
    claim(SETTINGS)
    manifest = json.loads(run().path("manifest", "prepare.json").read_text())
    assert manifest["settings"] == SETTINGS
    assert Recipe.model_validate(manifest["recipe"]) == Recipe.model_validate(RECIPE)
    assert manifest["python"] == platform.python_version()
    assert {"transformers", "trl", "peft", "torch"} <= manifest["versions"].keys()
    assert manifest["git"] == "unknown"  # this folder is no repository


def test_the_hash_of_a_file_depends_on_its_content(tmp_path: Path) -> None:
    assert file_hash("a") == "absent"
    Path("a").write_bytes(b"abc")
    assert file_hash("a") == "ba7816bf8f01cfea"  # SHA-256 of "abc", FIPS 180-2
    Path("a").write_bytes(b"abd")
    assert file_hash("a") not in ("absent", "ba7816bf8f01cfea")


def test_a_path_that_cannot_be_hashed_is_named() -> None:
    with pytest.raises(DataError) as caught:
        file_hash("x" * 300)
    assert caught.value.location == "x" * 300
    assert caught.value.problem == "cannot be read: File name too long" and caught.value.hint


def test_the_hash_of_a_folder_depends_on_names_and_contents() -> None:
    folder = Path("model")
    (folder / "deep").mkdir(parents=True)
    seen = {file_hash(folder)}
    (folder / "deep" / "x").write_bytes(b"1")
    seen.add(file_hash(folder))
    (folder / "deep" / "x").write_bytes(b"12")
    seen.add(file_hash(folder))
    (folder / "deep" / "x").rename(folder / "deep" / "y")
    seen.add(file_hash(folder))
    assert len(seen) == 4
    assert file_hash(folder) in seen


def test_weights_of_equal_size_have_different_hashes(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    before = file_hash(tmp_path)
    weights.write_bytes(b"two")
    assert file_hash(tmp_path) != before
