"""A run folder has one writer at a time, and files made with one set of settings."""

from __future__ import annotations

import errno
import json
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm import redaction
from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.console import say
from reasongenrm.engines.keys import Secret
from reasongenrm.errors import ConfigError, DataError, EngineError
from reasongenrm.run import Run, file_hash
from reasongenrm.stages.fingerprints import train_steps
from reasongenrm.steps import Step
from reasongenrm.store import PartStore, end_mark, write_json, write_jsonl, write_text
from reasongenrm.train.launch import record_failure

pytestmark = pytest.mark.unit

RECIPE: dict[str, Any] = {
    "name": "r",
    "model": {"path": "m"},
    "data": {"sources": [{"path": "a.jsonl"}]},
    "judges": {"mine": {}},
    "train": {"launch": "l.yaml", "args": {"learning_rate": 5e-5}},
}
SETTINGS: dict[str, Any] = {
    "train.args.learning_rate": 5e-5,
    "train.args.list": [1, [2.5, "x"], None, True],
    "text": "é 😀 1e-5 ~ no \u2028",
    "file a/b.c: d": "absent",
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


def step(*outputs: str, after: tuple[str, ...] = (), marker: str = "", **settings: Any) -> Step:
    return Step(settings, outputs, after, marker)


def chain(*, data: int = 1, student: int = 1, other: int | None = None, choice: int = 1) -> dict[str, Step]:
    """The steps of a stage like the first: two of them read others, and the last costs nothing."""
    steps = {"pairs": step("pairs.jsonl", data=data)}
    for name, value in {"student": student, "other": other}.items():
        if value is not None:
            steps[f"reasons.{name}"] = step(f"reasons/{name}.*", after=("pairs",), samples=value)
    steps["scores"] = step("scored.jsonl", after=tuple(name for name in steps if name != "pairs"))
    steps["records"] = step(
        "sft.jsonl", "report.json", after=tuple(steps), marker="report.json", choice=choice
    )
    return steps


def work(steps: dict[str, Step]) -> None:
    """Write the files of all steps, those that are not there yet."""
    for name in (
        "pairs.jsonl",
        *(f"reasons/{s[8:]}.jsonl" for s in steps if "." in s),
        "scored.jsonl",
        "sft.jsonl",
        "report.json",
    ):
        path = run().path(name)
        path.parent.mkdir(exist_ok=True)
        if not path.exists():
            path.write_text(f"{len(list(run().path('replaced').glob('*')))}")


def files() -> dict[str, str]:
    found = (path for path in run().folder.rglob("*") if path.is_file() and path.suffix != ".log")
    names = {str(path.relative_to(run().folder)): path.read_text() for path in found}
    return {name: text for name, text in sorted(names.items()) if not name.startswith(("manifest", ".lock"))}


def claim(steps: dict[str, Step], stage: str = "prepare", redo: tuple[str, ...] = ()) -> Any:
    """Claim the run folder and release it; return the manifest."""
    with run(stage).claim(steps, redo):
        pass
    return json.loads(run().path("manifest", f"{stage}.json").read_text())


def failing(steps: dict[str, Step], begin: Callable[[], object]) -> None:
    """Begin a stage that then ends with an error."""
    with run().claim(steps):
        begin()
        raise DataError("too few", location="choice", hint="lower it")


def refused(steps: dict[str, Step], **options: Any) -> ConfigError:
    before, manifest = files(), run().path("manifest", "prepare.json").read_bytes()
    with pytest.raises(ConfigError) as caught:
        claim(steps, **options)
    assert files() == before and run().path("manifest", "prepare.json").read_bytes() == manifest
    assert "\n" not in str(caught.value)
    return caught.value


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
    claim(chain(), "train")


def test_a_killed_process_releases_the_folder(holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait(timeout=30)
    claim(chain(), "train")


def test_an_error_frees_the_folder() -> None:
    with pytest.raises(RuntimeError), run().claim(chain()):
        raise RuntimeError
    claim(chain())


def test_settings_may_change_until_a_file_was_made_with_them() -> None:
    def fail() -> None:
        run().path("reasons").mkdir()
        run().path("reasons", "student.part.jsonl").touch()  # the store is opened before the engine starts
        raise EngineError("no folder")

    with pytest.raises(EngineError), run().claim(chain(student=1)):
        fail()
    claim(chain(student=2))
    run().path("reasons", "student.part.jsonl").write_text("{}")
    assert "samples changed from 2 to 3; the step reasons.student would be done again" in str(
        refused(chain(student=3))
    )


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
    steps = {"one": Step(SETTINGS, ("x",))}
    claim(steps)
    run().path("x").write_text("made")
    assert claim(steps)["steps"]["one"]["settings"] == SETTINGS


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 2}, "seed changed from 1 to 2"),
        ({"model.dtype": "float16"}, "model.dtype changed from bfloat16 to float16"),
        ({"rate": 1e-5}, "rate changed from 5e-05 to 1e-05"),
        ({"list": [1, 2, 3]}, "list changed from [1, 2] to [1, 2, 3]"),
        ({"new": "x"}, "new changed from null to x"),
        ({"file a.jsonl": "bb"}, "a.jsonl changed; "),
    ],
    ids=lambda item: item if isinstance(item, str) else None,
)
def test_changed_settings_are_refused_by_key(change: dict[str, Any], named: str) -> None:
    before = {"seed": 1, "model.dtype": "bfloat16", "rate": 5e-5, "list": [1, 2], "file a.jsonl": "aa"}
    claim({"one": Step(before, ("x",))})
    run().path("x").write_text("made")
    text = str(refused({"one": Step(before | change, ("x",))}))
    word = "file" if "file a.jsonl" in change else "value"
    assert text.startswith(f"runs/r: {named}")
    assert text.endswith(
        f"the step one would be done again (add --redo one, or restore the {word}, or set name=… for a new run)"
    )
    claim({"one": Step(before | change, ("x",))}, "train")  # another stage has steps of its own
    claim({"one": Step(before, ("x",))})


def test_many_changes_are_cut_short() -> None:
    claim({"one": Step(dict.fromkeys("abcdefgh", 1), ("x",))})
    run().path("x").write_text("made")
    error = refused({"one": Step(dict.fromkeys("abcdefgh", 2), ("x",))})
    assert (
        error.problem.startswith("a changed from 1 to 2, b ")
        and "d changed from 1 to 2, …; the step one" in error.problem
    )


def test_an_error_names_all_that_follows_and_the_command_that_does_just_that() -> None:
    claim(chain(other=1))
    work(chain(other=1))
    error = refused(chain(other=1, data=2))
    assert error.problem == (
        "data changed from 1 to 2; the steps pairs, reasons.student, reasons.other, scores, records would be done again"
    )
    assert error.hint == "add --redo pairs, or restore the value, or set name=… for a new run"
    assert refused(chain(other=2)).hint.startswith("add --redo reasons.other,")
    assert refused(chain(other=2, student=2)).hint.startswith("add --redo reasons,")


def test_a_redo_moves_the_files_of_its_steps_and_of_those_that_read_them() -> None:
    claim(chain(other=1))
    work(chain(other=1))
    before = files()
    assert "reasons.student" in claim(chain(other=2), redo=("reasons.other",))["steps"]
    moved = {"reasons/other.jsonl", "scored.jsonl", "sft.jsonl", "report.json"}
    assert files() == {f"replaced/1/{name}" if name in moved else name: text for name, text in before.items()}
    work(chain(other=2))
    claim(chain(other=2))  # now without the option
    claim(chain(other=2), redo=("scores",))
    assert {"replaced/2/scored.jsonl", "replaced/2/sft.jsonl", "reasons/other.jsonl"} <= files().keys()


def test_a_quick_step_may_be_named_with_others() -> None:
    def judged(tokens: int) -> dict[str, Step]:
        names = ("evaluate.toy.base", "evaluate.toy.mine", "evaluate.other.base")
        steps = {name: step(name.replace(".", "/"), tokens=tokens) for name in names}
        return steps | {"evaluate.toy.scalar": step("evaluate/toy/scalar", marker="evaluate/toy/scalar/*")}

    def changed(*names: str) -> dict[str, Step]:
        return {name: judged(2 if name in names else 1)[name] for name in judged(1)}

    claim(judged(1))
    for name in judged(1):
        run().path(*name.split("."), "completions.jsonl").parent.mkdir(parents=True)
        run().path(*name.split("."), "completions.jsonl").write_text("made")
    assert refused(judged(2)).hint.startswith("add --redo evaluate, or")
    assert refused(changed("evaluate.toy.base", "evaluate.toy.mine")).hint.startswith(
        "add --redo evaluate.toy, or"
    )
    assert refused(changed("evaluate.toy.mine")).hint.startswith("add --redo evaluate.toy.mine, or")


def test_an_unknown_step_is_named_with_those_that_there_are() -> None:
    claim(chain())
    error = refused(chain(), redo=("reason",))
    assert (
        str(error)
        == "--redo: there is no step 'reason' (this stage has the steps pairs, reasons.student, scores, records)"
    )


def test_a_step_that_costs_nothing_is_done_again_after_a_change() -> None:
    claim(chain())
    work(chain())
    claim(chain(choice=2))
    assert "report.json" not in files() and files()["sft.jsonl"] == "0"


def test_an_error_before_a_quick_step_is_done_again_leaves_its_old_files_whole() -> None:
    claim(chain())
    work(chain())
    before = files()
    for _ in range(2):
        with pytest.raises(DataError, match="too few"):
            failing(
                chain(choice=2), lambda: "report.json" not in files() or pytest.fail("it is not done again")
            )
        assert files() == before
    claim(chain(choice=2))
    assert "report.json" not in files(), "not yet done with these settings"
    work(chain(choice=2))
    claim(chain(choice=2))
    assert "report.json" in files()


def test_an_error_in_the_middle_of_a_quick_step_leaves_it_to_be_done_again() -> None:
    claim(chain())
    work(chain())
    with pytest.raises(DataError, match="too few"):
        failing(chain(choice=2), lambda: run().path("sft.jsonl").write_text("new"))
    assert files()["sft.jsonl"] == "new" and "report.json" not in files()
    claim(chain())
    assert "report.json" not in files(), "nor do these files belong to the old settings"


def test_what_a_redo_would_do_is_known_before() -> None:
    assert run().steps_to_redo(chain(), ()) == {}
    assert run().steps_to_redo(chain(), ("scores",)) == {"scores": [], "records": []}
    claim(chain(other=1))
    work(chain(other=1))
    before = files()
    redone = run().steps_to_redo(chain(), ("reasons",))
    names = {step: [str(p.relative_to(run().folder)) for p in paths] for step, paths in redone.items()}
    assert names == {
        "reasons.student": ["reasons/student.jsonl"],
        "scores": ["scored.jsonl"],
        "records": ["sft.jsonl", "report.json"],
    }
    assert files() == before
    claim(chain(), redo=("reasons",))
    moved = {name for name in files() if name.startswith("replaced/1/")}
    assert moved == {f"replaced/1/{name}" for paths in names.values() for name in paths}
    with pytest.raises(ConfigError, match="there is no step 'nothing'"):
        run().steps_to_redo(chain(), ("nothing",))


def test_new_steps_are_added_and_old_ones_stay() -> None:
    claim(chain())
    work(chain())
    assert "reasons.other" in claim(chain(other=1))["steps"]
    assert "report.json" not in files(), "the records have to be made again"
    assert files().keys() == {"pairs.jsonl", "reasons/student.jsonl", "scored.jsonl", "sft.jsonl"}
    work(chain(other=1))
    assert "reasons.other" in claim(chain())["steps"], "it may come back"
    assert "reasons/other.jsonl" in files()


def test_a_redo_also_moves_the_files_of_steps_that_the_recipe_no_longer_has() -> None:
    claim(chain(other=1))
    work(chain(other=1))
    assert "reasons.other" not in claim(chain(data=2), redo=("pairs",))["steps"]
    assert all(name.startswith("replaced/1/") for name in files())
    claim(chain(data=2, other=7))  # nothing of the old one is left to compare with


@pytest.mark.parametrize("kill", range(1, 6))
def test_a_kill_in_the_middle_of_a_redo(kill: int, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(chain())
    work(chain())
    before, rename, moves = files(), Path.rename, iter(range(1, 99))

    class Killed(BaseException):
        pass

    def dying(path: Path, target: Path) -> Path:
        if "replaced" in str(target) and next(moves) == kill:
            raise Killed
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", dying)
    with pytest.raises(Killed):
        claim(chain(data=2), redo=("pairs",))
    monkeypatch.setattr(Path, "rename", rename)
    claim(chain(data=2))  # the same command without the option
    assert files() == {f"replaced/1/{name}": text for name, text in before.items()}
    assert "redo" not in json.loads(run().path("manifest", "prepare.json").read_text())


def test_a_manifest_without_steps_is_refused() -> None:
    claim(chain())
    run().path("manifest", "prepare.json").write_text('{"settings": {}}')
    with pytest.raises(
        DataError, match=r"manifest/prepare.json: not a manifest: it has no steps \(restore it"
    ):
        claim(chain())


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "\xff", '{"steps": 1}', '{"steps": {"a": 1}}', '{"steps": {"a": {"settings": []}}}',
     '{"steps": {}, "redo": 5}', '{"steps": {}, "redo": {"steps": [1]}}', "[" * 100_000],
)  # fmt: skip
def test_a_broken_manifest_is_an_error_with_its_file(text: str) -> None:
    claim(chain())
    run().path("manifest", "prepare.json").write_text(text, encoding="latin-1")
    for work_with_it in (lambda: claim(chain()), lambda: run().steps_to_redo(chain(), ())):
        with pytest.raises(DataError) as caught:
            work_with_it()
        assert caught.value.location == "runs/r/manifest/prepare.json" and caught.value.hint


def test_an_end_mark_moves_with_its_file() -> None:
    claim(chain())
    work(chain())
    store = PartStore(run().path("reasons", "student.jsonl"))
    end_mark(store.final).write_text("the mark")
    claim(chain(student=2), redo=("reasons",))
    assert files()["replaced/1/reasons/.student.jsonl.end"] == "the mark"
    assert not end_mark(store.final).exists()


def test_a_file_in_the_home_of_nobody_is_absent() -> None:
    assert file_hash("~nouser-here/x.jsonl") == "absent"


KEY = "kEy-5f1c77e0a9b2-d4"
KEYS: dict[str, Any] = {
    "train": {"launch": "l.yaml", "launch_args": f"--api-key {KEY}", "args": {"hub_token": f"{KEY}-1"}},
    "data": {"sources": [{"path": f"https://ann:{KEY}-2@host/a.jsonl?api-key={KEY}-3"}]},
    "engine": {"args": {"hf_token": f"{KEY}-4", "deep": [{"password": f"{KEY}-5"}]}},
    "scalar": {"args": {"hub_token": f"{KEY}-6"}},
    "evaluate": {
        "others": {
            "o": {"server": {"kind": "openai", "urls": [f"https://ann:{KEY}-7@h/v1?api-key={KEY}-8"], "model": "m"}}
        }
    },
}  # fmt: skip
CHILD = "import sys; print('arguments:', sys.argv[1:]); print('warning:', *sys.argv[1:], file=sys.stderr)"


def write_everywhere(made: Run, recipe: Recipe, raw: dict[str, Any], values: list[str]) -> None:
    """Write keys in all ways in which a stage writes, then fail with a message that holds them."""
    made.path("logs").mkdir()  # which a stage makes where its console is redirected
    with made.path("logs", "train-mine.log").open("wb") as log:  # a library that logs its arguments
        subprocess.run([sys.executable, "-c", CHILD, *values], stdout=log, stderr=log, check=True)
    write_json(made.path("report.json"), raw)
    write_text(made.path("report.md"), f"{raw}")
    write_jsonl(made.path("rows.jsonl"), [{"error": value} for value in values])
    made.path("recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    say(f"{KEYS} {values}")
    raise EngineError(f"refused: {values}", location=recipe.data.sources[0].path)


def test_no_file_of_a_run_holds_a_key(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setenv("JUDGE_KEY", f"{KEY}-9")
    monkeypatch.setenv("HF_TOKEN", "")
    raw = RECIPE | KEYS
    Path("r.yaml").write_text(json.dumps(raw))
    recipe = load_recipe("r.yaml", [f"judges.mine.args.hub_token={KEY}-10"])
    Secret("JUDGE_KEY", location="api_key_env")
    values = [f"{KEY}-{number}" for number in range(1, 11)]
    made = Run(recipe, "train")
    steps = train_steps(recipe)
    with pytest.raises(EngineError) as caught, made.claim(steps):
        write_everywhere(made, recipe, raw, values)
    record_failure(made.folder, caught.value)
    written = [path for path in made.folder.rglob("*") if path.is_file()]
    assert len(written) >= 8
    for path in written:
        assert KEY.encode() not in path.read_bytes(), path
    shown = capsys.readouterr()
    assert KEY not in shown.err + shown.out + str(caught.value)


def test_a_manifest_holds_everything_needed_to_repeat_the_stage() -> None:
    manifest = claim(chain())
    assert manifest["steps"]["scores"]["after"] == ["reasons.student"]
    assert run().recorded_steps() == chain()
    assert Recipe.model_validate(manifest["recipe"]) == Recipe.model_validate(RECIPE)
    assert manifest["python"] == platform.python_version()
    assert {"transformers", "trl", "peft", "torch"} <= manifest["versions"].keys()
    assert manifest["git"] == "unknown"  # this folder is no repository


def test_a_home_folder_is_hashed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a").write_bytes(b"abc")
    assert file_hash("~/a") == file_hash(tmp_path / "a") != "absent"


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
