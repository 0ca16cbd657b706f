"""The order of work of `distil`: recipe and judge file, what a change costs, what a dry run writes, errors of the user."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reasongenrm.cli import main
from reasongenrm.engines import anthropic as batches_engine
from reasongenrm.errors import ConfigError
from reasongenrm.stages.distil import EVALUATE, JUDGE, TRAIN, judge, load_distil_recipe, stage_steps
from support.rubric_server import KEY, RubricServer, Texts

pytestmark = pytest.mark.unit

ROOT = Path(__file__).parents[2]
PROMPT = ROOT / "configs" / "distil" / "prompt.jinja"


def rule(texts: Texts) -> dict[str, int]:
    return {"tone": 1 + len(texts.response) % 5}


def rows(count: int) -> list[dict[str, str]]:
    return [{"context": "", "message": f"question {n}", "response": "x" * (n + 1)} for n in range(count)]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RubricServer]:
    """A judge, and a folder with a recipe, the file of its judge, and rows of which two are bad."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setattr(batches_engine, "sleep", lambda seconds: time.sleep(min(seconds, 0.01)))
    monkeypatch.chdir(tmp_path)
    Path("rows.json").write_text(json.dumps([*rows(6), {"context": ""}, rows(1)[0]]))
    with RubricServer(rule) as running:
        url = {"kind": "anthropic", "model": "m", "url": running.url, "mode": "direct"}
        judge_file = {"rubric": [{"name": "tone"}], "server": url, "prompt": str(PROMPT)}
        Path("judge.yaml").write_text(yaml.safe_dump(judge_file))
        recipe = {"name": "r", "conversations": "rows.json", "judge": "judge.yaml", "head": {"model": "base"}}
        Path("r.yaml").write_text(yaml.safe_dump(recipe))
        yield running


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path("runs/r", name).read_text(encoding="utf-8").splitlines()]


def test_a_recipe_takes_the_keys_of_its_judge_file_and_overrides_of_both(server: RubricServer) -> None:
    words = [
        "judge.samples=2",
        "judge.temperature=0.5",
        "judge.rubric.0.weight=2",
        "split.test=0.3",
        "seed=3",
    ]
    recipe = load_distil_recipe("r.yaml", words)
    assert (recipe.judge.samples, recipe.judge.rubric.criteria[0].weight) == (2, 2.0)
    assert (recipe.split.test, recipe.seed, recipe.judge.prompt) == (0.3, 3, str(PROMPT))
    other = yaml.safe_load(Path("judge.yaml").read_text()) | {"max_tokens": 7}
    Path("other.yaml").write_text(yaml.safe_dump(other))
    assert load_distil_recipe("r.yaml", ["judge.max_tokens=9", "judge=other.yaml"]).judge.max_tokens == 9
    inline = yaml.safe_load(Path("r.yaml").read_text()) | {"judge": other}
    Path("inline.yaml").write_text(yaml.safe_dump(inline))
    assert load_distil_recipe("inline.yaml") == load_distil_recipe("r.yaml", ["judge=other.yaml"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["judge.sampels=2"], r"r\.yaml: judge\.sampels: unknown key \(did you mean 'samples'"),
        (["judge=none.yaml"], r"none\.yaml: judge not found"),
        (["judge=r.yaml"], r"r\.yaml: judge\.\w+: unknown key"),
        (["judge.rubric=[]"], r"judge\.rubric"),
        (["split.test=1"], r"split\.test"),
        (["name=../other"], "name"),
    ],
)
def test_a_wrong_key_is_named(server: RubricServer, words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_distil_recipe("r.yaml", words)


def test_judging_keeps_every_row_and_asks_for_new_ones_alone(
    server: RubricServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distil", "judge", "r.yaml"]) == 0
    assert len(server.asked()) == len(lines("judgments.jsonl")) == len(lines("conversations.jsonl")) == 6
    assert [(drop["location"], drop["reason"]) for drop in lines("dropped.jsonl")] == [
        ("rows.json[6]", "missing_field"),
        ("rows.json[7]", "duplicate"),
    ]
    assert "rows: 8, 6 usable, 2 dropped" in capsys.readouterr().err
    before = {f: f.read_bytes() for f in Path("runs/r").glob("*.json*")}
    assert main(["distil", "judge", "r.yaml"]) == 0
    assert len(server.asked()) == 6 and {f: f.read_bytes() for f in before} == before

    Path("rows.json").write_text(json.dumps(rows(9)))
    assert main(["distil", "judge", "r.yaml"]) == 0
    assert sorted(len(texts.response) for texts in server.asked()[6:]) == [7, 8, 9]
    assert [row["id"] for row in lines("judgments.jsonl")] == [
        row["id"] for row in lines("conversations.jsonl")
    ]
    assert not lines("dropped.jsonl")

    Path("rows.json").write_text(json.dumps(rows(4)))
    assert main(["distil", "judge", "r.yaml", "judge.rubric.0.weight=3"]) == 0
    assert len(server.asked()) == 9 and len(lines("judgments.jsonl")) == 4


def test_a_change_of_the_judge_is_refused_and_redo_asks_again(
    server: RubricServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distil", "judge", "r.yaml"]) == 0
    changed = ["distil", "judge", "r.yaml", "judge.server.model=other"]
    assert main(changed) == 2
    message = (
        "judge.server.model changed from m to other; the step judge would be done again (add --redo judge"
    )
    assert message in " ".join(capsys.readouterr().err.split())
    assert main([*changed, "--redo", "judge"]) == 0
    assert len(server.asked()) == 12 and Path("runs/r/replaced/1/judgments.jsonl").exists()
    assert main(["distil", "run", "r.yaml", "--redo", "scaler"]) == 2
    assert (
        "there is no step 'scaler' (this stage has the steps conversations, judge, scalar, evaluation)"
        in (" ".join(capsys.readouterr().err.split()))
    )


def test_a_changed_copy_of_the_rows_is_refused(
    server: RubricServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distil", "judge", "r.yaml"]) == 0
    path = Path("runs/r/conversations.jsonl")
    path.write_text(path.read_text(encoding="utf-8").replace("question 1", "question 7"), encoding="utf-8")
    assert main(["distil", "judge", "r.yaml"]) == 2
    assert "conversations.jsonl: this finished file was changed" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["judge", "run"])
def test_a_dry_run_shows_everything_and_writes_nothing(
    server: RubricServer, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert main(["distil", verb, "r.yaml", "--dry-run", "judge.prices={input: 2, output: 10}"]) == 0
    shown = capsys.readouterr().out
    assert "conversations: rows.json" in shown and "rows: 8, 6 usable, 2 dropped" in shown
    assert "question 0" in shown and "tone" in shown, "a prompt is shown"
    assert not Path("runs").exists() and not server.calls
    assert main(["distil", "judge", "r.yaml"]) == 0
    files = sorted(Path("runs").rglob("*"))
    capsys.readouterr()
    assert main(["distil", verb, "r.yaml", "--dry-run", "--redo", "judge"]) == 0
    shown = capsys.readouterr().out
    assert "to do again: judge: judge, judgments.jsonl" in shown
    assert ("to do again: scalar: no files yet" in shown) == (verb == "run")
    assert sorted(Path("runs").rglob("*")) == files


def test_a_file_without_a_usable_row_is_an_error(
    server: RubricServer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.json").write_text('[{"context": ""}, 5]')
    for words in (["judge", "r.yaml"], ["run", "r.yaml", "--dry-run"]):
        assert main(["distil", *words]) == 2
        assert "rows.json: none of 2 rows can be used (reasongenrm distil validate" in capsys.readouterr().err
    assert [drop["reason"] for drop in lines("dropped.jsonl")] == ["missing_field", "broken_json"]
    Path("rows.json").write_text(json.dumps(rows(2)))
    assert main(["distil", "judge", "r.yaml"]) == 0 and len(lines("judgments.jsonl")) == 2


def test_training_before_judging_and_evaluating_before_training_are_errors(
    server: RubricServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distil", "train", "r.yaml"]) == 2
    assert "judgments.jsonl: not found (run reasongenrm distil judge first)" in capsys.readouterr().err
    assert main(["distil", "evaluate", "r.yaml"]) == 2
    assert "scalar: not found (run reasongenrm distil train first)" in capsys.readouterr().err


def test_a_wrong_trainer_key_is_found_before_the_judge_is_paid(
    server: RubricServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["distil", "run", "r.yaml", "head.args={learning_rat: 1}"]) == 2
    assert "head.args.learning_rat" in capsys.readouterr().err and not server.calls


def test_fingerprints_hold_what_changes_a_result_and_nothing_else(server: RubricServer) -> None:
    judge(load_distil_recipe("r.yaml"))

    def settings(stage: str, *words: str) -> list[Any]:
        return [step.settings for step in stage_steps(load_distil_recipe("r.yaml", words), stage).values()]

    same = {
        JUDGE: [
            "judge.server.max_concurrent=2",
            "judge.rubric.0.weight=5",
            "split.test=0.4",
            "judge.samples=1",
        ],
        TRAIN: ["judge.server.model=other", "judge.server.timeout=5", "people=none.jsonl"],
        EVALUATE: ["judge.server.timeout=5", "head.args.logging_steps=1"],
    }
    other = {
        JUDGE: [
            "judge.max_tokens=7",
            "judge.server.effort=low",
            "judge.rubric.0.text=new",
            "conversations=none.json",
        ],
        TRAIN: ["split.test=0.4", "seed=3", "objective=ordinal", "huber=1.0", "head.args.max_steps=3"],
        EVALUATE: ["people=r.yaml", "seed=3"],
    }
    for stage in (JUDGE, TRAIN, EVALUATE):
        assert all(settings(stage, word) == settings(stage) for word in same[stage]), stage
        assert all(settings(stage, word) != settings(stage) for word in other[stage]), stage
    before = settings(TRAIN)
    Path("runs/r/judgments.jsonl").write_text("changed\n")
    assert settings(TRAIN) != before


def test_the_script_reads_keys_from_env_and_leaves_those_of_the_environment(tmp_path: Path) -> None:
    folder = tmp_path / "checkout" / "examples" / "tutor"
    folder.mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "tutor" / "run.sh", folder)
    command = tmp_path / "venv" / "bin" / "reasongenrm"
    command.parent.mkdir(parents=True)
    command.write_text('#!/bin/sh\necho "$@"; echo "$ANTHROPIC_API_KEY $OPENAI_API_KEY $HF_TOKEN."\n')
    command.chmod(0o755)
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    keys = example.replace("ANTHROPIC_API_KEY=\n", "ANTHROPIC_API_KEY=from=file\n").replace(
        "HF_TOKEN=\n", "HF_TOKEN=file"
    )
    (tmp_path / "checkout" / ".env").write_text(keys)
    environment = {"PATH": os.environ["PATH"], "VIRTUAL_ENV": str(tmp_path / "venv"), "HF_TOKEN": "mine"}

    def shown(*words: str) -> list[str]:
        done = subprocess.run(
            [str(folder / "run.sh"), *words], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    assert shown("seed=3", "--dry-run") == [
        "distil run configs/distil/reward_model.yaml seed=3 --dry-run",
        "from=file  mine.",
    ]
    assert shown("my.yaml", "seed=3")[0] == "distil run my.yaml seed=3"
    (tmp_path / "checkout" / ".env").unlink()
    assert shown()[1] == "  mine."


def test_too_few_conversations_are_an_error_before_the_judge_is_paid(
    server: RubricServer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.json").write_text(json.dumps(rows(2)))
    assert main(["distil", "run", "r.yaml"]) == 2
    assert "split: 2 conversation(s): too few to hold out 2" in capsys.readouterr().err
    assert not Path("runs/r").exists()
