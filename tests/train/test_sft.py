"""Which attention trains a judge, and keys that the suite sets itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reasongenrm.config.loading import load_recipe
from reasongenrm.config.recipe import Recipe
from reasongenrm.errors import ConfigError
from reasongenrm.train.attention import PACKED
from reasongenrm.train.model import choose_attention
from reasongenrm.train.process import check_training

pytestmark = pytest.mark.unit
DEMO = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"


def recipe(**train: Any) -> Recipe:
    overrides = ["train.args.per_device_train_batch_size=null"]
    return load_recipe(DEMO, overrides + [f"train.{key}={value}" for key, value in train.items()])


def test_accumulation_is_not_a_key_of_its_own() -> None:
    with pytest.raises(
        ConfigError, match=r"gradient_accumulation_steps is set by the suite \(set train.batch"
    ):
        check_training(load_recipe(DEMO, ["train.args.gradient_accumulation_steps=2"]))


@pytest.mark.parametrize(("key", "value"), [("lora", "{r: 8}"), ("merge", "true"), ("quantization", "nf4")])
def test_a_training_of_all_weights_has_no_adapter(key: str, value: str) -> None:
    own = {"lora": "{}", "parameters": "all"}
    with pytest.raises(
        ConfigError, match=rf"train: .*{key} is of an adapter, and parameters: all trains none"
    ):
        recipe(**own | {key: value})
    whole, adapter = recipe(**own), recipe()
    assert whole.weights("genrm").parts[-2:] == ("genrm", "model")
    assert adapter.weights("genrm").parts[-2:] == ("genrm", "adapter")
    assert whole.serving("genrm")[0].path == str(whole.weights("genrm")) and whole.serving("genrm")[1] is None
    assert adapter.serving("genrm") == (adapter.model, adapter.weights("genrm"))


PLAIN, CAPPED = SimpleNamespace(), SimpleNamespace(attn_logit_softcapping=50.0)


@pytest.mark.parametrize(
    ("settings", "config", "expected"),
    [
        ({}, PLAIN, (PACKED, True)),
        ({"packing": "true"}, PLAIN, (PACKED, True)),
        ({"packing": "false"}, PLAIN, ("sdpa", False)),
        ({}, CAPPED, ("sdpa", False)),
        ({"attention": "sdpa"}, PLAIN, ("sdpa", False)),
        ({"attention": "sdpa", "packing": "true"}, PLAIN, ("sdpa", True)),
        ({"attention": "flex_attention"}, CAPPED, ("flex_attention", True)),
        ({"attention": "flash_attention_2"}, PLAIN, ("flash_attention_2", True)),
        ({"attention": "flash_attention_2", "packing": "false"}, PLAIN, ("flash_attention_2", False)),
    ],
)
def test_attention_and_packing(settings: dict[str, str], config: Any, expected: tuple[str, bool]) -> None:
    assert choose_attention(recipe(**settings), config) == expected


def test_packing_that_a_model_does_not_have_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"^train.packing: the model's attention is not plain"):
        choose_attention(recipe(packing="true"), CAPPED)
