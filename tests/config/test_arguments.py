"""Keys among the arguments of libraries are neither shown nor saved, but reach the library."""

from __future__ import annotations

import os
from typing import Any

import pytest
import yaml
from pydantic import SecretStr

from reasongenrm import redaction
from reasongenrm.config.arguments import library_arguments
from reasongenrm.config.recipe import Recipe
from reasongenrm.stages.fingerprints import settings

pytestmark = pytest.mark.unit

TOKEN, S3, PASSWORD = "hf_QQQQQQQQQQQQQQQQQQ", "s3-PPPPPPPPPPPPPP", "pw-RRRRRRRRRR"
RECIPE: dict[str, Any] = {
    "name": "r",
    "model": {"path": "m"},
    "data": {"sources": [{"path": f"https://ann:{PASSWORD}@host/a.jsonl"}]},
    "engine": {"args": {"hf_token": TOKEN, "model_loader_extra_config": {"s3_secret_access_key": S3, "x": [1]}}},
    "judges": {"mine": {"args": {"hub_token": TOKEN}}},
    "scalar": {"args": {"hub_token": TOKEN, "eos_token": "</s>"}},
    "train": {"launch": "l.yaml", "launch_args": f"--api-key {S3}", "args": {"hub_token": TOKEN, "seed": 1}},
    "evaluate": {
        "others": {
            "o": {"server": {"kind": "openai", "urls": [f"https://ann:{PASSWORD}@h/v1?api-key={S3}"], "model": "m"}}
        }
    },
}  # fmt: skip


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setenv("HF_TOKEN", "of the environment")


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.model_validate(RECIPE)


def test_no_key_is_shown_or_saved(recipe: Recipe) -> None:
    for text in (yaml.safe_dump(recipe.model_dump(mode="json")), recipe.model_dump_json()):
        assert not any(key in text for key in (TOKEN, S3, PASSWORD))
        assert text.count("***") == 9
    assert TOKEN not in repr(recipe)


def test_the_other_keys_are_as_they_were(recipe: Recipe) -> None:
    saved = recipe.model_dump(mode="json")
    assert saved["scalar"]["args"] == {"hub_token": "***", "eos_token": "</s>"}
    assert saved["engine"]["args"]["model_loader_extra_config"]["x"] == [1]
    assert saved["evaluate"]["others"]["o"]["server"]["urls"] == ["https://***@h/v1?api-key=***"]
    assert recipe.evaluate.others["o"].server.urls == [f"https://ann:{PASSWORD}@h/v1?api-key={S3}"]
    assert Recipe.model_validate(recipe.model_dump()) == recipe


def test_a_library_gets_its_keys_and_the_hubs_token_by_the_environment(recipe: Recipe) -> None:
    assert library_arguments(recipe.engine.args) == {
        "model_loader_extra_config": {"s3_secret_access_key": S3, "x": [1]}
    }
    assert os.environ["HF_TOKEN"] == TOKEN


def test_a_saved_recipe_gives_no_key(recipe: Recipe) -> None:
    saved = Recipe.model_validate(recipe.model_dump(mode="json"))
    assert saved.train.args["hub_token"] == SecretStr("***")
    assert library_arguments(saved.train.args) == {"seed": 1}
    assert library_arguments(saved.engine.args) == {"model_loader_extra_config": {"x": [1]}}
    assert os.environ["HF_TOKEN"] == "of the environment"


def test_another_key_is_no_other_setting(recipe: Recipe) -> None:
    recorded = settings(recipe.model_dump(mode="json"))
    without = RECIPE | {"train": {"launch": "l.yaml", "args": {"seed": 1}}}
    changed = Recipe.model_validate(without).model_dump(mode="json")
    assert recorded == settings(changed)
    assert not any("token" in key and key != "scalar.args.eos_token" for key in recorded if "args" in key)
