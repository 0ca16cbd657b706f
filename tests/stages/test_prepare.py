"""Settings of stage 1: what a run folder depends on, and what may change between two starts."""

from __future__ import annotations

from typing import Any

import pytest

from reasongenrm.config.recipe import Recipe
from reasongenrm.stages.prepare import settings

pytestmark = pytest.mark.unit


def recipe(**sections: Any) -> Recipe:
    server = {"kind": "openai", "urls": ["http://127.0.0.1:1/v1"], "model": "teacher"}
    values = {
        "name": "settings",
        "model": {"path": "data/toy-base", "dtype": "float32"},
        "prompts": "configs/prompts/toy.yaml",
        "data": {"sources": [{"path": "train.jsonl"}]},
        "teachers": {"fleet": {"server": server}},
        "judges": {"reasongenrm": {}},
        "train": {"launch": "configs/accelerate/cpu-2proc.yaml"},
    }
    return Recipe.model_validate(values | sections)


def fleet(**changes: Any) -> dict[str, Any]:
    server = {"kind": "openai", "urls": ["http://127.0.0.1:1/v1"], "model": "teacher"}
    return {"fleet": {"server": server | changes}}


@pytest.mark.parametrize(
    "sections",
    [
        {"teachers": fleet(urls=["http://127.0.0.1:2/v1"], max_concurrent=3, api_key_env="KEY")},
        {"select": {"selector": "longest_correct", "threshold": 0.5, "formula": "verdict"}},
        {"records": {"dpo": {}}},
        {"judges": {"another": {}}},
        {"train": {"launch": "configs/accelerate/zero2.yaml"}},
        {"name": "other"},
    ],
)
def test_a_run_continues_with_other_servers_selectors_and_trainings(sections: dict[str, Any]) -> None:
    assert settings(recipe(**sections)) == settings(recipe())


@pytest.mark.parametrize(
    "sections",
    [
        {"teachers": fleet(model="another teacher")},
        {"select": {"giveaway_words": 2}},
        {"data": {"sources": [{"path": "train.jsonl", "weight": 0.5}]}},
        {"judges": {"reasongenrm": {}, "genrm": {"template": "direct"}}},
        {"limit": 5},
        {"seed": 18},
        {"prompts": "configs/prompts/judge.yaml"},
    ],
)
def test_other_pairs_or_reasons_need_another_run(sections: dict[str, Any]) -> None:
    assert settings(recipe(**sections)) != settings(recipe())
