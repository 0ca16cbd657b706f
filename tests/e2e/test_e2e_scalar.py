"""The commands of the classic reward model: generate, rank, train, evaluate, notebook."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.scripts import ROOT, Done, Fork, kill_at, stage_server

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

NAME = f"test-{os.getpid()}-scalar"


def run(*words: str, given: str = "", code: int = 0) -> Done:
    """Run the command line at the root of the repository."""
    done = stage_server().run(words, given)
    assert done.code == code, (done.stdout[-2000:], done.stderr[-3000:])
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy-world")
    run("toy", "build", "--out", str(folder), "--rows", "5")
    return folder


@pytest.fixture(scope="module")
def recipe(toy: Path) -> Iterator[list[str]]:
    """The demo's, with the run in a folder of its own."""
    words = [f"sources.1.path={toy / 'train.jsonl'}", f"scalar.model={toy / 'distilbert'}"]
    yield ["configs/scalar/demo.yaml", f"name={NAME}", *words]
    for folder in (ROOT / "runs").glob(NAME + "*"):
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def trained(recipe: list[str]) -> Path:
    stderr_text = run("scalar", "train", *recipe).stderr
    assert "700 pairs" not in stderr_text and "2100 unwanted_source" in stderr_text, stderr_text
    return ROOT / "runs" / NAME


def test_collect_and_rank(tiny_model: Path, tmp_path: Path) -> None:
    answers, ranked = tmp_path / "answers.jsonl", tmp_path / "answers.csv"
    words = ["configs/answers/demo.yaml", f"model.path={tiny_model}", "--out", str(answers)]
    run("answers", "generate", *words)
    rows = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
    drops = answers.with_name("answers.jsonl.dropped.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rows) + len(drops) == 6, "every requested answer is accounted for"
    assert {row["temperature"] for row in rows} <= {0.5, 1.0, 1.5} and len(
        {row["seed"] for row in rows}
    ) == len(rows)
    before = answers.read_bytes()
    run("answers", "generate", *words)
    assert answers.read_bytes() == before, "a finished file is not generated again"
    stderr_text = run("answers", "generate", *words, "seed=18", code=2).stderr
    assert stderr_text.count("\n") == 1 and "holds other answers" in stderr_text

    per_prompt = {p: sum(row["prompt"] == p for row in rows) for p in {row["prompt"] for row in rows}}
    line = {1: "", 2: "2 1\n", 3: "2 1=3\n"}
    typed = "".join(line[count] for count in per_prompt.values())
    if len({*per_prompt.values()}) == 1:
        run("answers", "rank", str(answers), "--out", str(ranked), "--annotator", "ann", given=typed)
        with ranked.open(encoding="utf-8", newline="") as file:
            table = list(csv.DictReader(file))
        assert {row["annotator"] for row in table} == {"ann"} and len(table) == len(rows)
        assert {row["rank"] for row in table} <= {"1", "2"}


def test_train_and_evaluate_in_the_toy_world(trained: Path, recipe: list[str]) -> None:
    folder = trained / "scalar"
    assert {"config.json", "tokenizer.json", "model.safetensors", "training_args.json", "README.md"} <= {
        file.name for file in folder.iterdir()
    }
    stderr_text = run("scalar", "evaluate", *recipe).stderr
    out = trained / "evaluation"
    names = {file.name for file in out.iterdir()}
    assert {name for name in names if "answers-" not in name} == {
        "evaluation_results.csv", "reward_scores.png", "summary.md", "metrics.json", "dropped.jsonl",
    }  # fmt: skip
    with (out / "evaluation_results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    new = [row for row in rows if row["origin"] == "generated"]
    assert 8 <= len(new) <= 24 and len({row["prompt"] for row in new}) == 6, "new answers to six prompts"
    assert not any(row["rank"] for row in new) and "are in the training" not in stderr_text
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["metrics"]
    assert metrics["accuracy"]["value"] >= 0.9 and metrics["pairs"] >= 100, stderr_text
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    run("scalar", "evaluate", *recipe)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    error_text = run("scalar", "evaluate", *recipe, "seed=18", code=2).stderr
    assert "seed changed from 17 to 18" in error_text


def test_evaluate_on_a_file_and_on_new_answers(
    trained: Path, recipe: list[str], tiny_model: Path, tmp_path: Path
) -> None:
    answers = tmp_path / "answers.csv"
    answers.write_text("prompt,answer\nsay hi,hi\nsay hi,no\nsay bye,bye\n", encoding="utf-8")
    for number, words in enumerate(
        [
            [f"evaluate.answers={answers}", "evaluate.generate=null"],
            [f"evaluate.generate={{prompts: [{{prompt: say hi}}], model: {{path: {tiny_model}}}, max_tokens: 8, engine: {{max_model_len: 256, cpu_kv_gib: 1, enforce_eager: true}}}}"],
        ]
    ):  # fmt: skip
        run("scalar", "evaluate", *recipe, "evaluate.held_out=false", *words)
        with (trained / "evaluation" / "evaluation_results.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["answer"] for row in rows] == ["hi", "no", "bye"] if number == 0 else 1 <= len(rows) <= 4
        assert all(row["score"] and not row["rank"] for row in rows)


def test_the_jsonl_verbs_and_their_errors(trained: Path, recipe: list[str], tmp_path: Path) -> None:
    model = str(trained / "scalar")
    rows = [{"id": "a", "prompt": "say hi", "answer": "hi"}, {"prompt": "no answer"}]
    given = "".join(json.dumps(row) + "\n" for row in rows)
    done = run("scalar", "score", model, given=given)
    [scored] = map(json.loads, done.stdout.splitlines())
    assert scored["id"] == "a" and isinstance(scored["score"], float) and "missing_column" in done.stderr
    several = json.dumps({"id": "b", "prompt": "say hi", "answers": ["hi", "no", "well"]}) + "\n"
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(several, encoding="utf-8")
    run("scalar", "rank", model, "--in", str(source), "--out", str(target))
    [ranked] = map(json.loads, target.read_text(encoding="utf-8").splitlines())
    [best] = map(json.loads, run("scalar", "best", model, given=several).stdout.splitlines())
    assert ranked["order"][0] == best["index"] and ranked["scores"] == best["scores"]
    assert ranked["scores"][best["index"]] == max(ranked["scores"])
    assert (
        "the file exists"
        in run("scalar", "rank", model, "--in", str(source), "--out", str(target), code=2).stderr
    )
    assert (
        "directory not found" in run("scalar", "rank", str(tmp_path / "none"), given=several, code=2).stderr
    )
    assert "no config.json" in run("scalar", "best", str(tmp_path), given=several, code=2).stderr
    empty = tmp_path / "empty.csv"
    empty.write_bytes(b"")
    error_text = run(
        "scalar", "train", *recipe, f"name={NAME}-bad", f"sources=[{{path: {empty}, kind: ranked}}]", code=2
    ).stderr
    assert "empty.csv:1: missing column prompt, answer, rank" in error_text and error_text.count("\n") == 1


def test_the_notebook_runs_with_the_trained_head(trained: Path, recipe: list[str]) -> None:
    run("scalar", "notebook", *recipe)
    notebook = json.loads((trained / "analyse.ipynb").read_text(encoding="utf-8"))
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert code and all(cell["execution_count"] for cell in code)


def test_a_killed_training_ends_with_the_same_head(recipe: list[str]) -> None:
    calm, killed = (ROOT / "runs" / f"{NAME}-{name}" for name in ("calm", "killed"))
    words = ["scalar", "train", *recipe, "scalar.args.max_steps=40", "scalar.args.save_steps=10"]
    run(*words, f"name={calm.name}")
    process = Fork(stage_server(), [*words, f"name={killed.name}"])
    kill_at(process, lambda: any(killed.glob("scalar.partial/checkpoints/*/whole")), 0.2, group=False, seed=5)
    assert not (killed / "scalar").exists()
    run(*words, f"name={killed.name}")
    for file in ("model.safetensors", "loss.json", "README.md"):
        assert (killed / "scalar" / file).read_bytes() == (calm / "scalar" / file).read_bytes(), file


def test_long_and_odd_files_are_read_completely(toy: Path, recipe: list[str], tmp_path: Path) -> None:
    """A BOM, CRLF, quotes, newlines inside answers, and an answer of more than 512 tokens."""
    rows: list[tuple[Any, ...]] = [
        (f"question {n}", text, rank)
        for n in range(6)
        for rank, text in ((1, f'first "line"\r\nsecond, line {n}'), (2, "word " * 700 + str(n)))
    ]
    path = tmp_path / "awkward.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerows([("prompt", "answer", "rank"), *rows])
    words = [
        *recipe,
        f"name={NAME}-awkward",
        f"sources=[{{path: {path}, kind: ranked}}]",
        "scalar.args.max_steps=5",
    ]
    stderr_text = run("scalar", "train", *words).stderr
    assert "6 pairs" in stderr_text and "cut to 512 tokens" in stderr_text and " 6 cut " in stderr_text, (
        stderr_text
    )
    stderr_text = run("scalar", "train", *words, f"name={NAME}-nan", "scalar.args.learning_rate=1.0e+30", "scalar.args.max_grad_norm=0.0", "scalar.args.logging_steps=1", code=2).stderr  # fmt: skip
    assert "scalar.args.learning_rate" in stderr_text and "lower it" in stderr_text
