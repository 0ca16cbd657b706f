"""Small run folders for real trainers on the toy base: the demo's recipe with other keys, and rows of `dpo.jsonl`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.records import JudgePrompt, Letter

ROOT = Path(__file__).resolve().parents[2]


def demo_recipe(changes: Mapping[str, Any]) -> Recipe:
    """Return the demo's recipe with other values of dotted keys."""
    overrides = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    return load_recipe(ROOT / "configs" / "demo.yaml", overrides)


def begin_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder with the repository's `configs` and `data`; return the folder of a run in it."""
    monkeypatch.chdir(tmp_path)
    for folder in ("configs", "data"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    return tmp_path / "runs" / name


def preference_row(prompt: JudgePrompt, reason: str) -> dict[str, Any]:
    """Return a row of `dpo.jsonl`; `{}` in the reason is the letter of each side."""
    other: Letter = "B" if prompt.winner == "A" else "A"
    sides = {
        side: [
            {"role": "reason", "content": reason.format(letter)},
            {"role": "assistant", "content": f"[[{letter}]]"},
        ]
        for side, letter in (("chosen", prompt.winner), ("rejected", other))
    }
    return {"prompt": list(prompt.messages), **sides}
