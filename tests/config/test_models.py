"""The settings of `evaluate --model`: what a command line asks for, and what it cannot."""

from __future__ import annotations

from typing import Any

import pytest

from reasongenrm.config.models import ModelsRecipe, models_recipe
from reasongenrm.errors import ConfigError

pytestmark = pytest.mark.unit


def asked(*overrides: str, benchmarks: str = "rewardbench", **models: str) -> ModelsRecipe:
    options: dict[str, Any] = dict.fromkeys(("model", "adapter", "server", "api_key_env", "scalar"))
    return models_recipe(**options | models, benchmarks=benchmarks, overrides=overrides)


def test_a_chat_model_with_an_adapter_and_a_head() -> None:
    recipe = asked(
        "engine.max_model_len=4096",
        model="Qwen/Qwen2.5-7B-Instruct",
        adapter="runs/mine/judges/reasongenrm/adapter/",
        scalar="Skywork/Skywork-Reward-V2",
        benchmarks="rewardbench2,pairs:mine.jsonl,pairs:yours.jsonl",
    )
    assert recipe.name == "evaluate-Qwen2.5-7B-Instruct-adapter-Skywork-Reward-V2"
    assert recipe.local_names == ["Qwen2.5-7B-Instruct", "Qwen2.5-7B-Instruct-direct", "reasongenrm"]
    locations = {name: one.location for name, one in recipe.evaluate.benchmarks.items()}
    assert locations == {
        "rewardbench2": "allenai/reward-bench-2", "pairs": "mine.jsonl", "pairs-2": "yours.jsonl"
    }  # fmt: skip
    assert recipe.engine.max_model_len == 4096 and recipe.seed == 17
    assert asked("evaluate.base=false", model="a/b", adapter="c/d").local_names == ["d"]


def test_a_model_on_a_server_is_asked_with_and_without_reasons() -> None:
    others = asked(model="org/gpt", server="http://127.0.0.1:1/v1", api_key_env="KEY").evaluate.others
    assert {name: one.reasons for name, one in others.items()} == {"gpt": True, "gpt-direct": False}
    server = others["gpt"].server
    assert (server.kind, server.model, server.api_key_env) == ("openai", "org/gpt", "KEY")
    assert getattr(server, "api", "") == "chat"
    assert asked(model="claude", server="anthropic").evaluate.others["claude"].server.kind == "anthropic"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "there is no model to evaluate"),
        ({"adapter": "a"}, "an adapter needs its base"),
        ({"server": "http://a/v1"}, "--server: no model is named"),
        ({"model": "a/b", "benchmarks": "rewardbanch"}, "--benchmark: unknown benchmark 'rewardbanch'"),
        ({"model": "a/b", "benchmarks": "llmbar"}, "a benchmark of kind llmbar needs a path"),
        ({"model": "a/b", "adapter": "x/b"}, "two models have one name: b, b-direct, b"),
    ],
)
def test_what_cannot_be_evaluated_is_an_error(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        asked(**options)
    assert "\n" not in str(caught.value)


def test_an_unknown_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"evaluate: modle: unknown key.*did you mean 'model'"):
        asked("modle=x", model="a/b")
