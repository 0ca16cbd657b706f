"""The command line: quick help, lazy imports, a clean console, and one line for every error of the user."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.cli import main
from reasongenrm.config.recipe import Recipe
from reasongenrm.verbs import stages

pytestmark = pytest.mark.unit

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = ROOT / "configs" / "prompts"
ROW = '{"chosen": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "good"}], "rejected": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "bad"}], "source": "s"}\n'
LOADED = """
import sys
from reasongenrm.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
    sys.exit(end.code)
"""
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a recipe whose data are there, and whose model, adapters and launch file are not."""
    recipe = {
        "name": "r",
        "model": {"path": "./model"},
        "prompts": str(PROMPTS / "toy.yaml"),
        "templates": {"reason": str(PROMPTS / "reason.jinja"), "direct": str(PROMPTS / "direct.jinja")},
        "data": {"sources": [{"path": "pairs.jsonl"}]},
        "judges": {"mine": {"template": "reason"}},
        "train": {"launch": "launch.yaml"},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "pairs.jsonl").write_text(ROW)
    monkeypatch.chdir(tmp_path)
    environment = dict(os.environ)
    with warnings.catch_warnings():  # the command line quiets its libraries for good
        yield tmp_path
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main(list(words))
        return code, *capsys.readouterr()

    return call


def modules_after(*words: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", LOADED, *words], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: reasongenrm")
    return set(yaml.safe_load(done.stderr))


# --- help


@pytest.mark.parametrize(
    "words", [["--help"], ["prepare", "--help"], ["merge", "--help"], ["toy", "base", "--help"]], ids=" ".join
)
def test_help_loads_no_heavy_library(words: list[str]) -> None:
    loaded = modules_after(*words)
    assert "argparse" in loaded
    heavy = {"torch", "vllm", "transformers", "trl", "peft", "accelerate", "deepspeed", "datasets", "tokenizers", "numpy", "pydantic", "yaml", "rich"}  # fmt: skip
    assert not loaded & heavy


def test_help_answers_in_half_a_second() -> None:
    def seconds() -> float:
        """Return its CPU time: another program may use the same core."""
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "reasongenrm.cli", "--help"]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert all(verb in text for verb in stages.STAGES)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(3)) < 0.5


def test_the_public_face_loads_what_is_used() -> None:
    code = (
        "import sys, reasongenrm\n"
        "assert set(reasongenrm.__all__) == {'Judge', 'ScalarRewardModel', 'load_recipe', 'load_rubric'} <= set(dir(reasongenrm))\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'numpy', 'yaml', 'rich'}\n"
        "assert not heavy & sys.modules.keys()\n"
        "from reasongenrm import load_recipe\n"
        "assert 'pydantic' in sys.modules and not {'torch', 'transformers'} & sys.modules.keys()\n"
        "from reasongenrm import Judge, ScalarRewardModel\n"
        "assert (Judge.__name__, ScalarRewardModel.__name__) == ('Judge', 'ScalarRewardModel')\n"
        "reasongenrm.unknown_name\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.endswith("AttributeError: module 'reasongenrm' has no attribute 'unknown_name'\n"), (
        done.stderr
    )


# --- errors that a user can correct

ERRORS: list[tuple[str, list[str], str]] = [
    ("no recipe", ["prepare", "none.yaml"], "none.yaml: recipe not found (see configs/"),
    ("unknown key", ["prepare", "r.yaml", "teachers.student.sample=2"], "r.yaml: teachers.student.sample: unknown key (did you mean 'samples'?)"),
    ("bad value", ["evaluate", "r.yaml", "evaluate.max_tokens=0"], "r.yaml: evaluate.max_tokens: "),
    ("no override", ["train", "r.yaml", "seed"], "command line: 'seed' is not an override (write key=value)"),
    ("limit", ["prepare", "r.yaml", "--limit", "0"], "r.yaml: limit: "),
    ("no data", ["prepare", "r.yaml", "--dry-run", "data.sources.0.path=./none.jsonl"], "./none.jsonl"),
    ("no prompts", ["prepare", "r.yaml", "--dry-run", "prompts=none.yaml"], "none.yaml: prompt file not found"),
    ("no adapter", ["evaluate", "r.yaml"], "runs/r/judges/mine/adapter: directory not found (run 2_train.sh first)"),
    ("no model", ["prepare", "r.yaml"], "model.path: directory not found: ./model"),
    ("no hub name", ["prepare", "r.yaml", "model.path=runs/old"], "model.path: directory not found: runs/old"),
    ("empty model", ["prepare", "r.yaml", "model.path=."], "model.path: config.json not found in ."),
    ("no launch file", ["train", "r.yaml"], "train.launch: file not found: launch.yaml (see configs/accelerate/)"),
    ("not prepared", ["train", "r.yaml", "train.launch=r.yaml"], "(run 1_prepare.sh first)"),
    ("typo for TRL", ["prepare", "r.yaml", "model.path=hub/id", "train.args.learning_rat=1"], "train.args.learning_rat: SFTConfig has no key 'learning_rat' (did you mean 'learning_rate'?)"),
    ("typo for peft", ["train", "r.yaml", "train.lora.alpha=1"], "train.lora.alpha: LoraConfig has no key 'alpha'"),
    ("set by us", ["prepare", "r.yaml", "model.path=hub/id", "judges.mine.args.max_length=1"], "judges.mine.args.max_length: max_length is set by the suite"),
    ("no rubric", ["judge", "rate", "r.yaml", "--rubric", "none.yaml"], "none.yaml: rubric not found (write criteria: "),
    ("no criteria", ["judge", "compare", "r.yaml", "--rubric", "r.yaml"], "r.yaml: "),
    ("no draft settings", ["rubric", "draft", "rows.jsonl", "none.yaml", "--out", "x.yaml"], "none.yaml: recipe not found"),
    ("text for a number", ["prepare", "r.yaml", "model.path=hub/id", "train.args.learning_rate=1e-5"], "train.args.learning_rate: '1e-5' is text, not a number"),
]  # fmt: skip


@pytest.mark.parametrize(("words", "message"), [e[1:] for e in ERRORS], ids=[e[0] for e in ERRORS])
def test_errors_of_the_user_are_one_line(words: list[str], message: str, run: Cli) -> None:
    code, _, stderr = run(*words)
    assert code == 2
    assert stderr.startswith("reasongenrm: ") and stderr.count("\n") == 1 and stderr.endswith("\n")
    assert message in stderr


def test_an_error_ends_the_process_with_code_2_and_no_traceback(workplace: Path) -> None:
    command = [sys.executable, "-m", "reasongenrm.cli", "prepare", "none.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "reasongenrm: none.yaml: recipe not found (see configs/ for examples)\n"


DRY_RUN = [sys.executable, "-m", "reasongenrm.cli", "prepare", "r.yaml", "--dry-run"]
NO_RECIPE = [sys.executable, "-m", "reasongenrm.cli", "prepare", "none.yaml"]


def test_a_closed_pipe_ends_the_process_without_a_message(workplace: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(DRY_RUN, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")
    assert subprocess.run(NO_RECIPE, stdout=writer, stderr=writer, check=False).returncode == 141
    os.close(writer)


def test_a_full_disk_under_stdout_is_one_line(workplace: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(DRY_RUN, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
        message = "reasongenrm: stdout: cannot be written: No space left on device\n"
        assert (done.returncode, done.stderr) == (2, message)
        assert subprocess.run(NO_RECIPE, stderr=full, check=False).returncode == 2


def test_a_closed_stdin_has_no_rows(workplace: Path) -> None:
    words = [sys.executable, "-m", "reasongenrm.cli", "judge", "compare", "r.yaml"]
    command = ["sh", "-c", 'exec "$@" <&-', "sh", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "0 done" in done.stderr, done.stderr


@pytest.mark.parametrize(
    "words",
    [[], ["prepar", "r.yaml"], ["prepare", "r.yaml", "--limt", "3"], ["prepare", "r.yaml", "--limit", "x"],
     ["toy"], ["toy", "base"], ["toy", "build", "x=1"], ["prepare", "r.yaml", "-v"]],
    ids=" ".join,
)  # fmt: skip
def test_an_invalid_command_line_prints_the_usage(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: reasongenrm")


# --- what reaches the stage


def test_overrides_reach_the_stage_from_both_sides_of_an_option(
    run: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import reasongenrm.stages.train as stage

    seen: list[tuple[Recipe, list[str]]] = []
    monkeypatch.setattr(stage, "train", lambda *arguments: seen.append(arguments))
    words = (
        "seed=1",
        "--limit",
        "7",
        "name=other",
        "--redo",
        "judges.mine",
        "scalar=null",
        "--redo",
        "scalar",
    )
    assert run("train", "r.yaml", *words)[0] == 0
    [(recipe, redo)] = seen
    assert redo == ["judges.mine", "scalar"]
    assert (recipe.seed, recipe.limit, recipe.name, recipe.scalar) == (1, 7, "other", None)


@pytest.mark.parametrize(
    ("words", "variable", "line", "name"),
    [
        (["name=x"], "r.yaml", "recipe: r.yaml (from $RECIPE)", "x"),
        ([], "r.yaml", "recipe: r.yaml (from $RECIPE)", "r"),
        (["--limit", "7", "name=y"], "", "recipe: configs/qwen2.5-7b.yaml (the default)", "y"),
        (["r.yaml", "name=z"], "none.yaml", "", "z"),
        (["./r=1/r.yaml"], "none.yaml", "", "r"),
    ],
)
def test_a_missing_recipe_is_the_one_of_the_environment_or_the_default(
    words: list[str],
    variable: str,
    line: str,
    name: str,
    run: Cli,
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import reasongenrm.stages.train as stage

    for copy in (workplace / "configs" / "qwen2.5-7b.yaml", workplace / "r=1" / "r.yaml"):
        copy.parent.mkdir()
        copy.write_text((workplace / "r.yaml").read_text())
    seen: list[Recipe] = []
    monkeypatch.setattr(stage, "train", lambda recipe, redo: seen.append(recipe))
    monkeypatch.setenv("RECIPE", variable)
    code, _, stderr = run("train", *words)
    assert (code, stderr) == (0, f"{line}\n" if line else "")
    assert [recipe.name for recipe in seen] == [name]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("1_prepare.sh", "recipe not found"),
        ("2_train.sh", "recipe not found"),
        ("3_eval_reward_bench.sh", "recipe not found"),
    ],
)
def test_the_scripts_take_overrides_without_a_recipe(script: str, message: str) -> None:
    environment = os.environ | {"VIRTUAL_ENV": sys.prefix, "RECIPE": "none.yaml"}
    done = subprocess.run(
        [str(ROOT / script), "name=x"], env=environment, capture_output=True, text=True, check=False
    )
    first, second = done.stderr.splitlines()
    assert done.returncode == 2 and first == "recipe: none.yaml (from $RECIPE)"
    assert second.startswith(f"reasongenrm: none.yaml: {message}")


def test_a_dry_run_writes_nothing(run: Cli, workplace: Path) -> None:
    before = sorted(workplace.rglob("*"))
    code, stdout, _ = run("prepare", "r.yaml", "--dry-run", "seed=5")
    assert code == 0
    assert "seed: 5\n" in stdout and "rows: 1\n" in stdout and "[Answer A]\n" in stdout
    assert sorted(workplace.rglob("*")) == before


def test_a_dry_run_prints_no_control_character(run: Cli, workplace: Path) -> None:
    """ESC begins OSC, which sets titles and the clipboard; C1 has one-byte forms of both; U+202E turns the text around."""
    attack = "\x1b]52;c;eA==\x07\x1b[2J\x9b31m\x90q\x9c\x7f\r\u202egood"
    row = ROW.replace('"good"', json.dumps(attack)).replace('"s"', json.dumps(f"s{attack}"))
    (workplace / "pairs.jsonl").write_text(row)
    code, stdout, stderr = run("prepare", "r.yaml", "--dry-run")
    assert (
        code == 0
        and stdout.count(
            "\\u001b]52;c;eA==\\u0007\\u001b[2J\\u009b31m\\u0090q\\u009c\\u007f\\u000d\\u202egood"
        )
        == 2
    )
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", stdout + stderr)


@pytest.mark.parametrize(
    ("code", "words"),
    [(errno.EACCES, "Permission denied"), (errno.EROFS, "Read-only file system"), (errno.ENAMETOOLONG, "File name too long")],
)  # fmt: skip
def test_a_folder_that_cannot_be_written_is_one_line(
    code: int, words: str, run: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(options: Any) -> None:
        raise OSError(code, os.strerror(code), "some/folder")

    monkeypatch.setattr(stages, "_stage", refuse)
    exit_code, _, stderr = run("prepare", "r.yaml")
    assert exit_code == 2
    assert stderr == f"reasongenrm: some/folder: {words} (check the path and its permissions)\n"


def obey_permissions() -> None:
    """Make Linux check file permissions for root, too, from the next exec on (capabilities(7), CAP_DAC_OVERRIDE)."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)  # PR_CAPBSET_DROP


WRITERS = [
    ["toy", "build", "--out", "closed/toy", "--pairs", "1", "--rows", "1"],
    ["export", "r.yaml", "--to", "trl", "--out", "closed/export"],
    ["answers", "rank", "answers.csv", "--out", "closed/ranked.csv", "--annotator", "ann"],
    ["scalar", "score", "closed/head", "--in", "pairs.jsonl", "--out", "closed/scores.jsonl"],
]


@pytest.mark.parametrize("words", WRITERS, ids=lambda words: words[0])
def test_a_read_only_folder_gives_no_traceback(words: list[str], workplace: Path) -> None:
    (workplace / "answers.csv").write_text("prompt,answer\nq,1\nq,2\n")
    (workplace / "runs" / "r").mkdir(parents=True)
    (workplace / "runs" / "r" / "sft.jsonl").write_text("")
    (workplace / "closed").mkdir(mode=0o555)
    command = [sys.executable, "-m", "reasongenrm.cli", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=obey_permissions)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert (
        "closed/" in done.stderr and "Permission denied (check the path and its permissions)" in done.stderr
    )


def test_an_interrupt_prints_one_line(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stages, "_stage", interrupted)
    code, _, stderr = run("prepare", "r.yaml")
    assert code == 130 and stderr.count("\n") == 1


def test_a_programming_error_keeps_its_traceback(run: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(options: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(stages, "_stage", broken)
    with pytest.raises(ZeroDivisionError):
        run("prepare", "r.yaml")
