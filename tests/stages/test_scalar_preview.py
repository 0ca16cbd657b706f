"""`--dry-run` of the classic reward model: settings, counts, inputs, steps; nothing is written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from reasongenrm.cli import main
from reasongenrm.config.scalar import ScalarRecipe
from reasongenrm.records import PreferencePair
from reasongenrm.stages.scalar import evaluate, train
from support.heads import WORDS

pytestmark = pytest.mark.engine

TOY_BASE = Path(__file__).parents[2] / "data" / "toy-base"


@pytest.fixture
def recipe(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Eight prompts with two answers, one row of which nothing can be made, and new answers of the toy base."""
    monkeypatch.chdir(tmp_path)
    rows = [
        f"what {word},{answer},{rank}" for word in WORDS[:8] for rank, answer in ((1, "good"), (2, "bad"))
    ]
    lines = ["prompt,answer,rank", *rows, "what now,good,"]
    Path("ranked.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    generate = {
        "model": {"path": str(TOY_BASE)},
        "engine": {"kind": "transformers", "max_model_len": 256},
        "prompts": [{"prompt": "repeat the word lamp 3 times"}, {"prompt": f"what {WORDS[0]}"}],
        "answers": 2,
        "max_tokens": 8,
    }
    values: dict[str, object] = {
        "name": "dry",
        "sources": [{"path": "ranked.csv", "kind": "ranked"}],
        "scalar": {
            "model": str(base),
            "validation": 0.25,
            "args": {"max_steps": 4, "save_steps": 4, "num_train_epochs": 2},
        },
        "evaluate": {"held_out": True, "generate": generate},
    }
    Path("recipe.yaml").write_text(json.dumps(values), encoding="utf-8")
    return values


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["scalar", *words, "--dry-run"]) == 0
    return capsys.readouterr().out


def test_a_training_and_an_evaluation_are_previewed(
    recipe: dict[str, object], capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys, "train", "recipe.yaml", "scalar.max_length=8")
    assert "max_length: 8" in text, "with the overrides"
    assert "ranked.csv: 16 ranked answers" in text and "pairs: 8 pairs of 8 prompts" in text
    assert "dropped: missing_rank: 1" in text
    assert "trained on: 6 pairs of 6 prompts; held out: 2 pairs of 2 prompts" in text
    assert "optimizer steps: 4 of 4 pairs, 2.0 epochs of 6 pairs" in text
    assert text.count("--- input of") == 2 and "good" in text.split("--- input of")[1]
    assert not Path("runs").exists()
    text = shown(capsys, "train", "recipe.yaml", "scalar.args={num_train_epochs: 3}")
    assert "optimizer steps: 6 of 4 pairs, 3.0 epochs of 6 pairs" in text
    assert main(["scalar", "evaluate", "recipe.yaml", "--dry-run"]) == 2
    assert "no scalar head" in capsys.readouterr().err

    run = ScalarRecipe.model_validate(recipe)
    train(run)
    files = sorted(Path("runs").rglob("*"))
    text = shown(capsys, "evaluate", "recipe.yaml")
    assert "held-out answers: 4" in text and "forward passes: 1" in text
    assert "prompts: 2, answers to generate: 4, there already: 0" in text
    assert "repeat the word lamp 3 times" in text.split("--- input to")[1]
    assert sorted(Path("runs").rglob("*")) == files, "nothing is written"
    text = shown(capsys, "train", "recipe.yaml", "--redo", "scalar")
    assert "to do again: scalar: scalar" in text and Path("runs/dry/scalar").is_dir()

    evaluate(run)
    said = capsys.readouterr().err
    # Of four samples some may be empty or repeated; which ones depends on the machine's rounding.
    assert re.search(r"\b[2-4] answers", said), said
    assert "there already: 4" in shown(capsys, "evaluate", "recipe.yaml")
    table = Path("runs/dry/evaluation/evaluation_results.csv").read_text(encoding="utf-8")
    assert table.count("prompts held out of the training") == 4 and table.count("generated") >= 2
    summary = Path("runs/dry/evaluation/summary.md").read_text(encoding="utf-8")
    trained = "1 of 2 prompts are in the training"
    held = {pair.history[-1]["content"] for pair in held_out(run)}
    assert (trained in summary) == (trained in said) == (f"what {WORDS[0]}" not in held)


def held_out(recipe: ScalarRecipe) -> list[PreferencePair]:
    from reasongenrm.data.split import split_pairs
    from reasongenrm.stages.scalar_answers import load

    return split_pairs(load(recipe)[0], recipe.scalar.validation, recipe.seed)[1]


def test_a_generation_is_previewed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "answers.jsonl"
    words = ["configs/answers/demo.yaml", "--out", str(out), "--dry-run"]
    assert main(["answers", "generate", *words]) == 0
    text = capsys.readouterr().out
    assert "kind: transformers" in text and "prompts: 2, answers to generate: 6, there already: 0" in text
    assert text.count("--- input to data/toy-base, temperature 0.5") == 2
    assert "which country owns antarctica" in text and not out.parent.exists()
    server = "server={kind: anthropic, model: some-model}"
    assert main(["answers", "generate", *words, server]) == 0
    assert "--- input to some-model" in (text := capsys.readouterr().out) and "user: repeat the word" in text
